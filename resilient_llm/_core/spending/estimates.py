"""The estimate of a call's tokens: what is reserved before it is sent.

The input is that of ``tokens=``, else of `contents`. This file has the output, and both together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from resilient_llm._core.held import held
from resilient_llm._values.usage import MOST_TOKENS

if TYPE_CHECKING:
    from collections.abc import Callable

OUTPUT: Final = ("max_tokens", "max_completion_tokens", "max_output_tokens")
"""What a call names its longest answer, in tokens."""
ANSWERS: Final = ("n", "candidate_count")
"""What it names the number of answers."""
CONFIG: Final = "config"
"""Where google-genai takes both."""
_NOT_GIVEN: Final = frozenset(("NotGiven", "Omit", "Unset"))
"""Classes of what SDKs pass for an argument that is not given."""
BOUNDS: Final = frozenset((*OUTPUT, *ANSWERS, CONFIG))
"""All names by which a call limits its answer."""


class Estimate(NamedTuple):
    """How many tokens a call may use.

    Attributes:
        input: Tokens of the request.
        output: Most tokens of all of its answers, or None if nothing limits them.
        unread: Name of an argument that should limit them and has a value that is no number of
            tokens; None if there is no such argument.
    """

    input: int = 0
    output: int | None = None
    unread: str | None = None

    @property
    def tokens(self) -> int:
        """Both together, an unknown output as 0: what limits of tokens take."""
        return self.input + (self.output or 0)


def longest_answer(argument: Callable[[str], Any], max_output: int | None = None) -> int | None:
    """Return the most tokens that a call may give; None if nothing says so.

    Args:
        argument: Returns what an attempt passes under a name, or None.
        max_output: What the target gives at most in one answer, or None if unknown. It counts
            only if the call names no limit. A call may name 0, which only fills a cache.
    """
    values = _values(argument, OUTPUT)
    longest = max((each for _, each in values if _is_count(each)), default=max_output)
    if longest is None:
        return None
    answers = [each for _, each in _values(argument, ANSWERS) if _is_count(each) and each]
    return min(longest * max(answers, default=1), MOST_TOKENS)


def unread_limit(argument: Callable[[str], Any]) -> str | None:
    """Return the name of an argument that should limit the answer and is no number of tokens."""
    for name, value in _values(argument, OUTPUT):
        if value is not None and not _is_count(value) and type(value).__name__ not in _NOT_GIVEN:
            return name
    return None


def _values(argument: Callable[[str], Any], names: tuple[str, ...]) -> list[tuple[str, Any]]:
    found = [(name, argument(name)) for name in names]
    config = argument(CONFIG)
    if config is not None:
        found += [(name, held(config, name)) for name in names]
    return found


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MOST_TOKENS
