"""Makes the call of a case with the client of a case, and gives the error that comes out."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import inspect
import os
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.replay import frameworks, raw_http, remote_calls, sdks, websocket_calls
from tests.replay.calls import Call
from tests.replay.cases import Case
from tests.replay.server import STALLS, Server
from tests.replay.situations import SITUATIONS
from tests.support.server import HOST

# How long clients wait where waiting is the point, and everywhere else.
_SHORT = 0.3
_LONG = 20.0

# sdk: (module that must be there, who asks)
_HTTP: dict[str, tuple[str, Callable[[Call], Any]]] = {
    "aiohttp": ("aiohttp", raw_http.aiohttp),
    "anthropic": ("anthropic", sdks.anthropic),
    "azure-ai-inference": ("azure.ai.inference", sdks.azure_inference),
    "boto3": ("boto3", sdks.bedrock),
    "cerebras-cloud-sdk": ("cerebras.cloud.sdk", sdks.cerebras),
    "cohere": ("cohere", sdks.cohere),
    "fireworks-ai": ("fireworks", sdks.fireworks),
    "google-genai": ("google.genai", sdks.google),
    "groq": ("groq", sdks.groq),
    "httpx": ("httpx", raw_http.httpx),
    "httpx2": ("httpx2", raw_http.httpx),
    "huggingface_hub": ("huggingface_hub", sdks.huggingface),
    "ibm-watsonx-ai": ("ibm_watsonx_ai", sdks.watsonx),
    "instructor": ("instructor", frameworks.instructor),
    "langchain-openai": ("langchain_openai", frameworks.langchain),
    "litellm": ("litellm", frameworks.litellm),
    "mistralai": ("mistralai", sdks.mistral),
    "ollama": ("ollama", sdks.ollama),
    "openai": ("openai", sdks.openai),
    "pydantic-ai-slim": ("pydantic_ai", frameworks.pydantic_ai),
    "replicate": ("replicate", sdks.replicate),
    "requests": ("requests", raw_http.requests),
    "together": ("together", sdks.together),
    "urllib3": ("urllib3", raw_http.urllib3),
    "voyageai": ("voyageai", sdks.voyage),
    "websockets": ("websockets", websocket_calls.websockets),
}
_GRPC: dict[str, tuple[str, Callable[[Call, int], Any]]] = {
    "grpcio": ("grpc", remote_calls.grpcio),
    "xai-sdk": ("xai_sdk", remote_calls.xai),
}
# These clients speak TLS or not at all.
_TLS_ONLY = frozenset(("ibm-watsonx-ai",))

# Keys and proxies of whoever runs the tests.
_PRIVATE = re.compile(
    r"(key|token|secret|proxy)$|^(anthropic|aws|azure|google|openai|ollama)_", re.IGNORECASE
)
_SETTINGS = {
    "NO_PROXY": HOST,
    # Where there are no keys, none are to be looked for elsewhere.
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
    "GRPC_VERBOSITY": "NONE",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # not the newest one, from elsewhere
    "LITELLM_LOG": "ERROR",
    "WATSONX_MAX_RETRIES": "0",
}


class NotRaisedError(Exception):
    """The client returned although the case says that it fails."""


def missing(case: Case) -> str | None:
    """Return the first module that the case needs and that is not installed, or None."""
    return next((name for name in _needs(case) if not _is_there(name)), None)


def _needs(case: Case) -> Iterator[str]:
    for table in (_HTTP, _GRPC):
        if case.sdk in table:
            yield table[case.sdk][0]
    if case.api == "realtime":
        yield "websockets"
    if case.api == "bedrock":
        yield "boto3"
    if case.sdk in _TLS_ONLY or case.wire.get("fault") == "self_signed":
        yield "cryptography"
    if case.situation.get("name") in ("interrupted", "own_timeout", "closed_generator"):
        yield "httpx"
    if case.situation.get("name") == "trio_cancelled":
        yield from ("httpx", "trio")


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of what the module is in
        return False


def raised_by(case: Case) -> BaseException:
    """Return the error that the client of the case raises, the real one.

    Raises:
        NotRaisedError: If it returned.
    """
    with _undisturbed(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what clients say about themselves is not our business
        try:
            answer = _make(case)
        except KeyboardInterrupt as pressed:
            if case.situation.get("name") != "interrupted":
                raise
            return pressed
        except BaseException as error:
            return error
    raise NotRaisedError(f"{case.id}: the client returned {answer!r:.200}")


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in filter(_PRIVATE.search, list(os.environ)):
            patch.delenv(name)
        for name, value in _SETTINGS.items():
            patch.setenv(name, value)
        yield


def _make(case: Case) -> Any:
    if case.situation:
        return _finished(SITUATIONS[case.situation["name"]](case))
    timeout = _SHORT if case.wire.get("fault") in STALLS else _LONG
    before: dict[str, Any] = {}
    if case.protocol == "grpc":
        with remote_calls.grpc_server(case.wire) as port:
            return _finished(
                _GRPC[case.sdk][1](Call(case, f"http://{HOST}:{port}", timeout, before), port)
            )
    ask = websocket_calls.openai_realtime if case.api == "realtime" else _HTTP[case.sdk][1]
    with Server(case.wire, tls=case.sdk in _TLS_ONLY, before=before) as server:
        return _finished(ask(Call(case, server.url, timeout, before)))


def _finished(answer: Any) -> Any:
    return asyncio.run(_awaited(answer)) if inspect.isawaitable(answer) else answer


async def _awaited(answer: Any) -> Any:
    return await answer
