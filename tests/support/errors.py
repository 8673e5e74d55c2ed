"""Errors as the real clients raise them, and errors shaped like those of clients that are not installed."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import anthropic
import httpx
import httpx2
import openai
import pytest

NOW = 1_795_262_400.0


class SomeSdkError(Exception):
    """An SDK's error by shape: a status and perhaps more."""

    def __init__(self, status: int | None = None, message: str = "", **facts: Any) -> None:
        super().__init__(message)
        if status is not None:
            self.status_code = status
        for name, value in facts.items():
            setattr(self, name, value)


def answered(status: int, message: str = "", **facts: Any) -> SomeSdkError:
    """Return an error that keeps the answer it was made from, without body and headers."""
    answer = SimpleNamespace(status_code=status, headers={})
    return SomeSdkError(status, message, response=answer, **facts)


def openai_error(
    status: int, error: dict[str, Any], headers: dict[str, str] | None = None
) -> openai.APIStatusError:
    """Return what the real client raises for an answer."""
    transport = httpx2.MockTransport(
        lambda _: httpx2.Response(status, json={"error": error}, headers=headers or {})
    )
    client = openai.OpenAI(
        api_key="k", max_retries=0, http_client=httpx2.Client(transport=transport)
    )
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model="m", messages=[])
    return caught.value


def anthropic_error(status: int, error: dict[str, Any]) -> anthropic.APIStatusError:
    """Return what the real client raises for an answer."""
    answer = {"type": "error", "error": error}
    transport = httpx2.MockTransport(lambda _: httpx2.Response(status, json=answer))
    client = anthropic.Anthropic(
        api_key="k", max_retries=0, http_client=httpx2.Client(transport=transport)
    )
    with pytest.raises(anthropic.APIStatusError) as caught:
        client.messages.create(model="m", messages=[], max_tokens=1)
    return caught.value


def httpx_error(
    status: int, body: Any = None, headers: dict[str, str] | None = None
) -> httpx.HTTPStatusError:
    request = httpx.Request("POST", "http://x")
    response = httpx.Response(status, json=body, headers=headers or {}, request=request)
    with pytest.raises(httpx.HTTPStatusError) as caught:
        response.raise_for_status()
    return caught.value


def raised(function: Callable[[], Any]) -> BaseException:
    try:
        function()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


class AppError(Exception):
    """The caller's own wrapper, which says nothing."""


def wrapped(inner: BaseException, times: int = 1) -> BaseException:
    for _ in range(times):
        outer = AppError("model call failed")
        outer.__cause__ = inner
        inner = outer
    return inner


def shaped(
    name: str, args: tuple[Any, ...] = (), base: type[Exception] = Exception, **facts: Any
) -> Exception:
    """Return an error that looks like one of an SDK which is not installed: ``package.module.Class``."""
    module, _, qualname = name.rpartition(".")
    cls = type(qualname, (base,), {"__module__": module})
    error: Exception = cls(*args)
    vars(error).update(facts)
    return error
