"""`Config`, `ConfigProblem` and `InvalidConfigError`: what is said about a configuration file."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.exported import exported

_PACKAGE: Final = "resilient_llm.config"
_MOST_SHOWN: Final = 20
"""Problems that the message of the error lists."""


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """One thing that is wrong in a configuration; ``str()`` gives one line.

    A value that comes from a variable of the environment is shown as it is written in the file,
    ``${NAME}``.

    Attributes:
        where: The place, such as ``config.toml: chains.fast[1]``, or ``mapping: settings.timeout``;
            the source alone if the problem is of the whole file. ``config.toml:
            RESILIENT_LLM_PROFILE`` is not in the file: that variable selects a profile that is not
            defined.
        message: What is wrong, and what is allowed, as a sentence.
        allowed: What is allowed, if that is one phrase, else None.
        suggestion: The known name that is most like the one that is written, or None.
        line: Line in the file, from 1. Every syntax error of TOML and JSON has one, and every
            problem of YAML that has a place, except a key that is written twice; else None.
    """

    where: str
    message: str
    allowed: str | None = None
    suggestion: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        line = "" if self.line is None else f" (line {self.line})"
        return f"{self.where}{line}: {self.message}"


exported(ConfigProblem, _PACKAGE)


def few(problems: Sequence[ConfigProblem]) -> list[str]:
    """Return the first problems as texts, and how many there are more."""
    found = [str(each) for each in problems[:_MOST_SHOWN]]
    rest = len(problems) - len(found)
    return [*found, f"and {rest:,} more, which .problems has"] if rest else found


class InvalidConfigError(ConfigurationError):
    """A configuration has problems; nothing of it is used.

    Attributes:
        problems: All of them, those of one section together, as a tuple of `ConfigProblem`.
    """

    problems: tuple[ConfigProblem, ...]

    def __init__(self, problems: Sequence[ConfigProblem]) -> None:
        self.problems = tuple(problems)
        super().__init__(self._sentence())

    def _sentence(self) -> str:
        if len(self.problems) == 1:
            return str(self.problems[0])
        first = f"the configuration has {len(self.problems):,} problems:"
        return "\n  ".join((first, *few(self.problems)))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.problems,)


exported(InvalidConfigError, _PACKAGE)


@dataclass(frozen=True, slots=True)
class Config:
    """A configuration that is in use; it has names only, and no values.

    Attributes:
        source: The path as it was given, or ``"mapping"``.
        loaded_at: When it was loaded, in UTC.
        chains: Names of its chains and routes, sorted.
        profiles: Names of its profiles, sorted.
        shadowed: Its entries without effect, since code defines something else, such as
            ``"chains.fast"`` and ``"settings.timeout"``, sorted.
    """

    source: str
    loaded_at: datetime
    chains: tuple[str, ...]
    profiles: tuple[str, ...]
    shadowed: tuple[str, ...] = ()


exported(Config, _PACKAGE)
