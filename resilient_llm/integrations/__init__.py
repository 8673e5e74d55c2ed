"""Guards what other libraries make: whole SDK clients, HTTP transports, models of frameworks.

    from resilient_llm.integrations import wrap

    client = wrap(
        {"groq": AsyncOpenAI(base_url=…, max_retries=0), "openai": AsyncOpenAI(max_retries=0)},
        chain=["groq/llama-3.3-70b-versatile", "openai/gpt-5-mini"],
    )

One module per library, named after it, which is imported by name and needs that library:
``resilient_llm.integrations.langchain`` needs LangChain. `wrap` needs the SDKs of the clients that
it is given. All of them use a `Failover` policy, so that benches, budgets and events are those of
the process. Which versions of each library are supported is in ``SUPPORTED``.

To add one: a module here, its versions in ``_supported.py``, and a folder in tests/integrations
whose tests use the real library against a server on loopback.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from resilient_llm.integrations._supported import SUPPORTED, Versions

if TYPE_CHECKING:
    from resilient_llm.integrations._wrapping import policy_of, wrap

__all__ = ["SUPPORTED", "Versions", "policy_of", "wrap"]


_MODULES = frozenset(SUPPORTED) - {"wrap"} | {"httpx2"}


def __getattr__(name: str) -> Any:
    # On first use: an application with one integration does not load the others.
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name not in ("policy_of", "wrap"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from resilient_llm.integrations import _wrapping

    value = globals()[name] = getattr(_wrapping, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
