"""What the errors of this library mean to a guard further out."""

from __future__ import annotations

from typing import Final

from resilient_llm._values.errors import (
    CallRejectedError,
    ChainExhaustedError,
    ConfigurationError,
    ResilientLLMError,
    ResponseRejectedError,
)
from resilient_llm._values.kinds import ErrorKind
from resilient_llm._values.verdict import Verdict

_BUG: Final = Verdict(ErrorKind.CALLER_BUG)
_REJECTED: Final = Verdict(ErrorKind.REJECTED)
_BAD_RESPONSE: Final = Verdict(ErrorKind.BAD_RESPONSE)


def verdict_on_own(error: ResilientLLMError) -> Verdict:
    """Return the verdict on an error of this library."""
    # Users may raise these too, with fields that no verdict takes.
    if isinstance(error, ResponseRejectedError):
        try:
            return Verdict(ErrorKind(error.kind), error.reason)
        except ValueError:
            return _BAD_RESPONSE
    if isinstance(error, ConfigurationError):
        return _BUG  # no guard raises it: the configuration is wrong
    if (
        isinstance(error, (CallRejectedError, ChainExhaustedError))
        and error.retry_after is not None
    ):
        try:
            return Verdict(ErrorKind.REJECTED, retry_after=error.retry_after)
        except ConfigurationError:
            return _REJECTED
    return _REJECTED
