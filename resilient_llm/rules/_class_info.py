"""What the class of an error says. Computed once per class; SDKs are known by name, never imported.

Kept per class and weakly, so that thousands of short-lived classes are no leak.
"""

from __future__ import annotations

import sys
from typing import Any, Final

from resilient_llm._values.built_in import class_name
from resilient_llm._values.class_cache import ClassCache
from resilient_llm.rules import frameworks

# Top-level packages through which LLM calls are made. The messages of their errors are
# searched, and a JSON error raised inside them is a broken body.
CLIENTS: Final = frozenset(
    """
    ai21 aiobotocore aiohttp anthropic azure boto3 botocore cerebras cohere dashscope deepseek
    fireworks google google_genai groq grpc h11 h2 http httpcore httpx huggingface_hub
    ibm_watsonx_ai instructor langchain langchain_anthropic langchain_aws langchain_cohere
    langchain_community langchain_core langchain_google_genai langchain_groq langchain_mistralai
    langchain_ollama langchain_openai litellm llama_cpp llama_index mistralai ollama openai
    portkey_ai pydantic_ai replicate requests together torch urllib urllib3 vertexai voyageai
    websocket websockets xai_sdk zhipuai
    """.split()
)

# Attributes that are read. Most are in the instance; those of the class (properties, slots,
# class attributes) are found once per class.
_ATTRIBUTES: Final = (
    "status_code", "status", "http_status", "code", "type", "reason", "error_code", "error_type",
    "retry_after", "provider_error_code", "provider_error_type",
    "body", "details", "json_body", "http_body", "error", "detail", "title", "message",
    "response", "headers", "litellm_response_headers", "llm_provider", "rcvd",
    "trailing_metadata",
)  # fmt: skip
# An error without any of these has no body, codes or headers, and is not searched for them.
DETAILED: Final = frozenset(_ATTRIBUTES) - {"status_code", "http_status", "message", "retry_after"}
# Properties that warn when they are read, and repeat what is found elsewhere.
_WARNS: Final = {"websockets": ("code", "reason")}


def package_of(cls: type) -> str:
    """Return the top-level package of a class; ``httpx2`` counts as ``httpx``."""
    module: Any = cls.__module__  # a class may set it to anything
    return _family(module.partition(".")[0]) if isinstance(module, str) else ""


def _family(package: str) -> str:
    return package[:-1] if package in ("httpx2", "httpcore2") else package


class ErrorClass:
    """What the class of an error says, whatever the instance.

    Attributes:
        names: ``package.Class`` of every class in the MRO, the error's own class first.
        simple_names: The same without package.
        is_standard: Whether the class is from the standard library.
        is_client: Whether the class, or one it inherits from, is from a client library.
        of_framework: What it means if it is an exception of a framework of the application.
        read: Attributes that are held by the class itself.
        is_detailed: Whether one of those may hold a body, codes or headers.
        verdicts: ``{rule: its verdict on the class}``, filled in by rules.
    """

    __slots__ = (
        "is_client", "is_detailed", "is_standard", "names", "of_framework", "read", "simple_names",
        "verdicts",
    )  # fmt: skip

    def __init__(self, cls: type) -> None:
        self.names = tuple(f"{package_of(base)}.{class_name(base)}" for base in cls.__mro__[:-1])
        self.simple_names = tuple(class_name(base) for base in cls.__mro__[:-1])
        self.is_standard = package_of(cls) in sys.stdlib_module_names
        self.is_client = any(package_of(base) in CLIENTS for base in cls.__mro__)
        self.of_framework = frameworks.verdict_of[cls]
        held = {name for base in cls.__mro__ for name in vars(base)}
        warns = _WARNS.get(package_of(cls), ())
        self.read = tuple(name for name in _ATTRIBUTES if name in held and name not in warns)
        self.is_detailed = not DETAILED.isdisjoint(self.read)
        self.verdicts: dict[object, Any] = {}


class_of: Final = ClassCache(ErrorClass)
