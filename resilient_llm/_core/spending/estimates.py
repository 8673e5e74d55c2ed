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


BOUNDS: Final = frozenset((*OUTPUT, *ANSWERS, CONFIG))
"""All names by which a call limits its answer."""


class Estimate(NamedTuple):
    """How many tokens a call may use.

    Attributes:
        input: Tokens of the request.
        output: Most tokens of all of its answers, or None if nothing limits them.
    """

    input: int = 0
    output: int | None = None

    @property
    def tokens(self) -> int:
        """Both together, an unknown output as 0: what limits of tokens take."""
        return self.input + (self.output or 0)


def longest_answer(argument: Callable[[str], Any], max_output: int | None = None) -> int | None:
    """Return the most tokens that a call may give; None if nothing says so.

    Args:
        argument: Returns what an attempt passes under a name, or None.
        max_output: What the target gives at most in one answer, or None if unknown. It counts
            only if the call names no limit.
    """
    config = argument(CONFIG)
    longest = max(_counts(argument, config, OUTPUT), default=max_output)
    if longest is None:
        return None
    return min(longest * max(_counts(argument, config, ANSWERS), default=1), MOST_TOKENS)


def _counts(argument: Callable[[str], Any], config: object, names: tuple[str, ...]) -> list[int]:
    found = [argument(name) for name in names]
    if config is not None:
        found += [held(config, name) for name in names]
    return [each for each in found if type(each) is int and 0 < each <= MOST_TOKENS]
