"""`SUPPORTED`: the versions of other libraries that the integrations are tested with.

``python resilient_llm/integrations/_supported.py langchain oldest`` prints the requirements of an
environment for one set of tests.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Versions:
    """The versions of one package with which an integration is tested.

    Attributes:
        oldest: The oldest release that all tests pass with.
        newest: The newest release that all tests pass with. Later ones are not refused.
    """

    oldest: str
    newest: str


SUPPORTED: Final[Mapping[str, Mapping[str, Versions]]] = MappingProxyType(
    {
        "wrap": {
            "openai": Versions("2.0.0", "3.57.0"),
            "anthropic": Versions("0.75.0", "2.14.0"),
            "groq": Versions("0.31.1", "1.7.0"),
            "google-genai": Versions("1.50.0", "3.6.1"),
            "mistralai": Versions("1.9.11", "3.7.0"),
        },
        "httpx": {"httpx": Versions("0.27.0", "0.28.1"), "httpx2": Versions("2.0.0", "2.16.2")},
        "langchain": {"langchain-core": Versions("1.0.0", "1.8.3")},
        "pydantic_ai": {"pydantic-ai-slim": Versions("1.0.0", "2.68.0")},
        "litellm": {"litellm": Versions("1.75.0", "1.110.2")},
        "starlette": {"starlette": Versions("0.40.0", "1.10.0")},
    }
)
"""``{integration: {package: versions}}``; the integration is named as its module."""


def requirements(integration: str, age: str) -> list[str]:
    """Return the packages of one set of tests, as pip takes them.

    Args:
        integration: A key of `SUPPORTED`.
        age: ``"oldest"`` or ``"newest"``.

    Raises:
        ValueError: If there is no such integration or age.
    """
    if integration not in SUPPORTED or age not in ("oldest", "newest"):
        raise ValueError(
            f"{integration} {age}: expected one of {', '.join(SUPPORTED)}, and oldest or newest"
        )
    packages = SUPPORTED[integration]
    return [f"{name}=={getattr(versions, age)}" for name, versions in packages.items()]


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in requirements(*sys.argv[1:]))
