"""The checks of ``resilient-llm doctor`` about a file, and about names in policies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from resilient_llm import failover
from resilient_llm.chains import names
from resilient_llm.chains._problems import policy_problems
from resilient_llm.cli._doctor.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from resilient_llm import Failover
    from resilient_llm.config import ConfigProblem

_ENDINGS: Final = (".toml", ".json", ".yaml", ".yml")


def is_file(name: str) -> bool:
    """Return whether an argument is a configuration file, and not ``MODULE:NAME``."""
    return name.lower().endswith(_ENDINGS)


def problems_of(path: str) -> list[ConfigProblem]:
    """Return what is wrong in a file by itself; names that code defines are not known yet."""
    from resilient_llm.config import validate

    return validate(path)


def load(path: str) -> list[Finding]:
    """Load a file, and return what is found about it: an error for each problem."""
    from resilient_llm import config

    try:
        found = config.load(path)
    except config.InvalidConfigError as error:
        return findings_of(error.problems)
    parts = [f"{len(found.chains)} chains and routes", f"{len(found.profiles)} profiles"]
    said = f"it is loaded, with {' and '.join(parts)}"
    if found.shadowed:
        hidden = ", ".join(found.shadowed)
        return [Finding(path, "config", "warning", f"{said}; code hides {hidden}")]
    return [Finding(path, "config", "ok", said)]


def findings_of(problems: Sequence[ConfigProblem]) -> list[Finding]:
    """Return an error for each problem of a file, under its place in the file."""
    return [
        Finding(
            each.where if each.line is None else f"{each.where} (line {each.line})",
            "config",
            "error",
            each.message,
        )
        for each in problems
    ]


def policy_of_all() -> Failover | None:
    """Return a policy over the targets of all names; None if no name is defined."""
    known = names()
    return failover(chain=[f"@{each}" for each in known]) if known else None


def of_policies() -> Iterator[Finding]:
    """Yield which policies have names that are not defined, and options without effect."""
    raised, without_effect = policy_problems()
    for each in raised:
        yield Finding("*", "chains", "error", f"{each}: its calls raise ConfigurationError")
    for each in without_effect:
        yield Finding("*", "chains", "warning", each)
