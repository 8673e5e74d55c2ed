"""Which keys in the options of `configure` are of no target: most of them are misspelt.

A misspelt limit or cap has no effect, and nothing else would tell. `chains.check`, ``resilient-llm
doctor`` and the warning in the log all ask here.

The log has a key that is like one of a chain at once. Of the others it is told by the first call
after `configure`, since a module that is imported later may make the chain that a key is meant for.
A table of prices may well have models that this program never
calls, and a name in ``breakers`` may be that of a guard which nothing has entered yet. So the log
has those only where they are like a key that has no entry of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from resilient_llm._runtime.chains import named_targets
from resilient_llm._runtime.runtime import runtime
from resilient_llm._values import checks as check
from resilient_llm._values.limit import OTHERS, TAG
from resilient_llm._values.money import ALL, EACH_KEY

if TYPE_CHECKING:
    from collections.abc import Iterable

    from resilient_llm._values.settings import Settings
    from resilient_llm._values.target import Target

_MOST_NEAR: Final = 3
_ONLY_TYPOS: Final = frozenset({"breakers", "prices"})
"""Options whose unknown keys are logged only if they are like one that has no entry."""


class UnusedKey(NamedTuple):
    """A key that an option of ``configure`` names, and no policy.

    Attributes:
        option: ``limits``, ``budgets``, ``prices`` or ``breakers``.
        entry: What has it, as messages show it, such as ``limits['grok']``.
        key: The key itself; of a budget its ``of``.
        near: Keys of living policies that are like it, the nearest first.
        is_doubtful: Whether it is worth a warning: an entry in ``prices`` or ``breakers`` may be
            meant for what this program does not call, unless one of the near keys has none.
    """

    option: str
    entry: str
    key: str
    near: tuple[str, ...]
    is_doubtful: bool


def unused_keys() -> list[UnusedKey]:
    """Return the keys that are of no target of a living policy; none if there is no policy.

    Limits and options of a breaker may also be of a guard, such as ``breaker("search")``.
    """
    targets, settings = named_targets(), runtime.settings
    if not targets:
        return []
    found: list[UnusedKey] = []
    for option, entries in _entries_of(settings).items():
        known = {name for target in targets for name in _names(option, target)}
        given = set(entries.values())
        for entry, key in entries.items():
            if key in known or (option in ("limits", "breakers") and _has_guard(key)):
                continue
            near = near_keys(key, known)
            is_doubtful = option not in _ONLY_TYPOS or any(each not in given for each in near)
            found.append(UnusedKey(option, entry, key, tuple(near), is_doubtful))
    return found


def warn_of_misspelt_keys() -> None:
    """Log a warning of the keys that `configure` was given and that are like others."""
    _warn([each for each in unused_keys() if each.near], runtime.options_to_check)


def warn_of_unused_keys() -> None:
    """Log a warning of all further keys; once after each `configure`."""
    options, runtime.options_to_check = runtime.options_to_check, frozenset()
    if options:
        _warn(unused_keys(), options)


def _warn(found: list[UnusedKey], options: Iterable[str]) -> None:
    """Log a warning for each of these options that has keys of which there was none yet."""
    log_line, told = runtime.dispatcher.log_line, runtime.entries_told
    if log_line is None:
        return
    for option in sorted(options):
        keys = [each for each in found if each.option == option and each.is_doubtful]
        new = [each for each in keys if each.entry not in told]
        if new:
            named = ", ".join(sorted({each.key for each in new}))
            near = sorted({name for each in new for name in each.near})
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            log_line(
                f"{option} of {named} are of no target in a chain of this process{hint}",
                warning=True,
            )
            runtime.entries_told |= {each.entry for each in new}


def near_keys(key: str, known: Iterable[str]) -> list[str]:
    """Return the known keys that a key may stand for, at most three.

    Those that are the key with a provider, an account or ``tag:`` before it; else those that are
    spelt like it.
    """
    names = sorted(known)
    whole = [
        each
        for each in names
        if key in (each.partition("/")[2], each.partition("@")[0], each.removeprefix(TAG))
    ]
    if whole:
        return whole[:_MOST_NEAR]
    head = TAG if key.startswith(TAG) else ""  # what all tags begin with makes none alike
    alike = [each.removeprefix(head) for each in names if each.startswith(TAG) == bool(head)]
    return [head + each for each in check.near_names(key.removeprefix(head), alike)]


def _entries_of(settings: Settings) -> dict[str, dict[str, str]]:
    """Return ``{option: {entry: key}}`` of all that are meant for certain targets."""
    entries = {
        option: {f"{option}[{key!r}]": key for key in getattr(settings, option) if key != OTHERS}
        for option in ("limits", "prices", "breakers")
    }
    entries["budgets"] = {
        f"budget {each.name!r}": each.of
        for each in settings.budgets
        if each.of not in (ALL, EACH_KEY)
    }
    return entries


def _names(option: str, target: Target) -> set[str]:
    """Return the keys of an option that hold for a target."""
    names = {target.key, target.provider_key}
    if option in ("limits", "budgets"):
        names |= {TAG + tag.strip() for tag in target.tags}
    if option in ("budgets", "prices"):
        names.add(target.provider)
    if option == "prices":
        names.add(target.spec)
    return names


def _has_guard(key: str) -> bool:
    return not key.startswith(TAG) and runtime.registry.find(key) is not None
