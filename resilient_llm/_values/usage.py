"""`Usage`: how many tokens a call used."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Final

from resilient_llm._values.amounts import shown
from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.exported import exported

MOST_TOKENS: Final = 1_000_000_000
"""Of one usage. A larger number is nonsense, which would spend a budget for a month."""


@exported
@dataclass(frozen=True, slots=True)
class Usage:
    """How many tokens a call used, as the provider reported.

    Examples:
        >>> Usage(input=1200, output=300, cached=1000)
        Usage(input=1200, output=300, cached=1000, cache_write=0, reasoning=0)

    Attributes:
        input: Tokens of the request, with those that were read from or written to a cache.
        output: Tokens of the answer, with those of reasoning.
        cached: Of the input, tokens that were read from a cache.
        cache_write: Of the input, tokens that were written to a cache.
        reasoning: Of the output, tokens of reasoning.

    Raises:
        ConfigurationError: If a number is not a whole number from 0 to 1,000,000,000, or if a part
            is larger than the whole.
    """

    input: int = 0
    output: int = 0
    cached: int = 0
    cache_write: int = 0
    reasoning: int = 0

    def __post_init__(self) -> None:
        for name in ("input", "output", "cached", "cache_write", "reasoning"):
            value: Any = getattr(self, name)
            if type(value) is not int or not 0 <= value <= MOST_TOKENS:
                raise ConfigurationError(
                    f"{name}={shown(value)} is not allowed: "
                    f"write a whole number of tokens from 0 to {MOST_TOKENS:,}"
                )
        if self.cached + self.cache_write > self.input:
            raise ConfigurationError(
                f"cached={self.cached} and cache_write={self.cache_write} are above "
                f"input={self.input}: write the input with both of them"
            )
        if self.reasoning > self.output:
            raise ConfigurationError(
                f"reasoning={self.reasoning} is above output={self.output}: "
                "write the output with its reasoning"
            )

    @property
    def tokens(self) -> int:
        """Tokens of input and output."""
        return self.input + self.output


_new: Final = object.__new__
_set_input: Final[Callable[[Usage, int], None]] = Usage.__dict__["input"].__set__
_set_output: Final[Callable[[Usage, int], None]] = Usage.__dict__["output"].__set__
_set_cached: Final[Callable[[Usage, int], None]] = Usage.__dict__["cached"].__set__
_set_cache_write: Final[Callable[[Usage, int], None]] = Usage.__dict__["cache_write"].__set__
_set_reasoning: Final[Callable[[Usage, int], None]] = Usage.__dict__["reasoning"].__set__


def usage_of_checked(
    sent: int, received: int, cached: int = 0, cache_write: int = 0, reasoning: int = 0
) -> Usage:
    """Return a usage of numbers that were checked already; that takes a fifth of the time."""
    usage = _new(Usage)
    _set_input(usage, sent)
    _set_output(usage, received)
    _set_cached(usage, cached)
    _set_cache_write(usage, cache_write)
    _set_reasoning(usage, reasoning)
    return usage


def tokens_by_part(usage: Usage) -> dict[str, int]:
    """Return ``{part: tokens}`` of a usage: input and output, and other parts that are not 0."""
    named = {each.name: int(getattr(usage, each.name)) for each in fields(usage)}
    return {name: tokens for name, tokens in named.items() if tokens or name in ("input", "output")}
