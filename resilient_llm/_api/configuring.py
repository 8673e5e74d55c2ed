"""`configure` and `settings`: change and read the process-wide defaults."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from resilient_llm._runtime.runtime import runtime

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Unpack

    from resilient_llm._values.settings import BreakerOptions, Settings


class Changes(TypedDict, total=False):
    """Keywords of ``configure``."""

    breakers: Mapping[str, BreakerOptions]
    retry_budget: float | None
    max_wait: float
    logging: bool


def configure(**changes: Unpack[Changes]) -> None:
    """Change process-wide defaults, for calls that start afterwards, of all decorated functions.

    Args:
        **changes: ``breakers``, ``{"*" or key: {option: value}}``, merged by name;
            ``retry_budget=0.2``, retries as a share of first attempts, None for no limit;
            ``max_wait=60.0`` seconds; ``logging=True``.

    Raises:
        ConfigurationError: If a name is unknown or a value is out of range; nothing is changed.
    """
    runtime.configure(dict(changes))


def settings() -> Settings:
    """Return a frozen snapshot of the process-wide defaults."""
    return runtime.settings
