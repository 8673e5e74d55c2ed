"""`CanCall`: what ``can_call()`` returns."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from resilient_llm._values.exported import exported
from resilient_llm._values.target import Target


@exported
@dataclass(frozen=True, slots=True)
class CanCall:
    """Whether a call on a chain would be sent now, and why not. True if it would.

    Attributes:
        allowed: Whether a target of the chain may be called now, without waiting.
        target: The one that would be called first; None if there is none.
        retry_after: Seconds until another question is worthwhile; None if it is allowed, or if
            that is not known.
        reasons: ``{key of a target: why it would be skipped now}``, in the order of the chain.
    """

    allowed: bool
    target: Target | None = None
    retry_after: float | None = None
    reasons: Mapping[str, str] = field(default_factory=dict[str, str])

    def __bool__(self) -> bool:
        return self.allowed
