"""What an error means: rules by cause, and the order in which they are asked.

A rule is a function from `Evidence` to a `Verdict`, or None if it cannot tell. The order
is that of how much a sign is worth: a machine-readable code, a sentence, the status, the
class. `judge` asks them for one error; what is inside it (a cause, the members of a
group), cancellations and users' own rules are the business of the classifier.

To add a rule:

1. record a case in ``tests/corpus/<sdk>.jsonl``: what is on the wire, where it is documented, the verdict it deserves;
2. put it into the table of its kind, or for one provider into ``rules/<provider>.py`` (its name into `PROVIDERS` below);
3. ``make corpus ARGS="-k the-case"`` and ``python -m tests.errors_page``, which writes the page of the documentation.

A provider's file has any of

- ``CODES``: ``{lower-cased code: Verdict}``, for codes that only this provider sends;
- ``CATEGORIES``: the same for codes that say no more than a status does;
- ``SENTENCES``: a function ``Evidence -> Verdict | None`` for words that only it says;
- ``CLASSES``: a function ``Evidence -> Verdict | None`` for classes of its SDK;
- ``HINTS``: a function ``Evidence -> seconds | None`` for a wait that only it spells so,
  named in `_HINTS` below;
- ``ONLY_FOR``: names ``package.Class``; the functions are asked about these and what
  inherits from them only, which is decided once per class.

A provider's tables are asked before the shared ones of the same stage. Write rules for
causes, never for one response.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, cast

from resilient_llm._values.kinds import ErrorKind
from resilient_llm._values.settings import LONGEST_TO_RETRY
from resilient_llm.rules import (
    anthropic,
    bedrock,
    codes,
    google,
    grpc,
    hints,
    http,
    names,
    network,
    ollama,
    openai,
    openrouter,
    parsers,
    python,
    sentences,
    websockets,
    zhipu,
)
from resilient_llm.rules._evidence import Evidence, shape_of, stamped, transient

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import ModuleType

    from resilient_llm._values.explanation import Reasons
    from resilient_llm._values.verdict import Verdict
    from resilient_llm.rules._evidence import Shape

__all__ = ["Evidence", "Rule", "judge", "why"]


class Hint(Protocol):
    """A wait as one provider spells it, in seconds, or None."""

    def __call__(self, evidence: Evidence, /) -> float | None: ...


class Rule(Protocol):
    """One sign, read: the verdict, or None if it says nothing."""

    def __call__(self, evidence: Evidence, /) -> Verdict | None: ...


# One module per provider, in any order.
PROVIDERS: Final[tuple[ModuleType, ...]] = (
    anthropic, bedrock, google, grpc, ollama, openai, openrouter, parsers, websockets, zhipu,
)  # fmt: skip


def _of_providers(name: str) -> tuple[Rule, ...]:
    return tuple(
        cast("Rule", getattr(module, name)) for module in PROVIDERS if hasattr(module, name)
    )


def _nothing_wrong(evidence: Evidence) -> Verdict | None:
    """An SDK that raises on a 200 could not read what it got."""
    status = evidence.status
    evidence.sign = ("status of a success", status)
    return _UNREADABLE if status is not None and status < 300 else None


_UNREADABLE: Final = transient("invalid_response")

_STAGES: Final[tuple[Rule, ...]] = (
    http.by_retries,
    # a client that got no answer; there is nothing else to read then
    network.without_answer,
    # a code in the body
    codes.cause,
    # known sentences
    *_of_providers("SENTENCES"),
    sentences.told,
    codes.sure_category,
    # the status
    http.by_status,
    codes.category,
    # the class
    *_of_providers("CLASSES"),
    network.by_class,
    python.by_class,
    names.by_name,
    _nothing_wrong,
)

for _module in PROVIDERS:
    codes.CODES.update(getattr(_module, "CODES", {}))
    codes.CATEGORIES.update(getattr(_module, "CATEGORIES", {}))


class Signs(NamedTuple):
    """What sorts of signs one error has."""

    quiet: bool
    no_status: bool
    no_parts: bool
    no_codes: bool


class Asked(NamedTuple):
    """Who may know an error of one class with signs of some sorts: decided once for all such errors."""

    rules: tuple[Rule, ...]
    hints: tuple[Hint, ...]


def _asked_of(shape: Shape, signs: Signs) -> Asked:
    names = shape.names
    return Asked(
        tuple(
            rule
            for rule in _STAGES
            if ((only := _ONLY_FOR.get(rule)) is None or not only.isdisjoint(names))
            and ((needs := _NEEDS.get(rule)) is None or needs(shape, signs))
        ),
        tuple(
            hint
            for hint, only in _HINTS
            if (
                not signs.no_parts
                if only is None
                else not signs.quiet and not only.isdisjoint(names)
            )
        ),
    )


def _has_voice(shape: Shape, signs: Signs) -> bool:
    """Whether its words are those of a provider, and not of the caller's own code."""
    return shape.is_client or not signs.no_status or not signs.no_parts


# Without these the rule knows nothing: to ask it would be in vain.
_NEEDS: Final[dict[Rule, Callable[[Shape, Signs], bool]]] = {
    http.by_retries: lambda _, signs: not signs.quiet,
    network.without_answer: lambda shape, signs: (
        signs.no_parts if signs.no_status else network.may_lack_an_answer(shape)
    ),
    codes.cause: lambda _, signs: not signs.no_codes,
    google.SENTENCES: lambda _, signs: not signs.no_parts,
    openai.SENTENCES: lambda shape, _: openai.cause_named(shape) is not None,
    openrouter.SENTENCES: lambda _, signs: not signs.no_parts,
    zhipu.SENTENCES: lambda _, signs: not signs.no_parts,
    sentences.told: _has_voice,
    codes.sure_category: lambda _, signs: not signs.no_codes,
    http.by_status: lambda _, signs: not signs.no_status or not signs.no_parts,
    codes.category: lambda shape, signs: not signs.no_codes and _has_voice(shape, signs),
    _nothing_wrong: lambda _, signs: not signs.no_status,
}
_ONLY_FOR: Final[dict[Rule, frozenset[str]]] = {
    http.by_retries: http.GAVE_UP,
    **{
        cast("Rule", getattr(module, name)): cast("frozenset[str]", only)
        for module in PROVIDERS
        if (only := getattr(module, "ONLY_FOR", None))
        for name in ("SENTENCES", "CLASSES")
        if hasattr(module, name)
    },
}
_HINTS: Final = (
    (google.HINTS, google.HINTS_ONLY_FOR),
    (grpc.HINTS, grpc.ONLY_FOR),
    (openrouter.HINTS, None),
)

# Those for which a wait may be named. Bare names: to look into an enum takes longer.
_TRANSIENT: Final = ErrorKind.TRANSIENT
_RATE_LIMITED: Final = ErrorKind.RATE_LIMITED


def judge(error: BaseException, wall: Callable[[], float]) -> Verdict | None:
    """Return what one error says by itself, without what is inside it.

    Args:
        error: Any error but a cancellation or one of ours.
        wall: Gives seconds since 1970; read only for hints that are dates.

    Returns:
        The verdict with status and hint, or None if nothing is known.
    """
    evidence = Evidence(error, shape_of[type(error)], wall)
    try:
        return decide(evidence)[0]
    except Exception:
        # Something in it resists being looked at; what is plain may still tell.
        plain = evidence.plain()
        if plain is None:
            raise
        return decide(plain)[0]


def why(error: BaseException, wall: Callable[[], float]) -> Reasons:
    """Return by what sign one error is known, as ``judge`` decides it."""
    from resilient_llm.rules._explain import reasons

    return reasons(error, wall)


def decide(evidence: Evidence) -> tuple[Verdict | None, Rule | None]:
    """Return what one error says by itself, and the rule that knew."""
    shape = evidence.shape
    quiet = evidence.is_quiet
    if quiet:
        if shape.is_standard and not evidence.facts:
            verdict = _of_python(evidence)
            return verdict, None if verdict is None else _of_python
        signs = (True, evidence.status is None, True, True)
    else:
        evidence.read()
        signs = (False, evidence.status is None, not evidence.parts, not evidence.codes)
    asked: Asked | None = shape.verdicts.get(signs)
    if asked is None:
        asked = shape.verdicts[signs] = _asked_of(shape, Signs(*signs))
    may_know, providers_own = asked
    for rule in may_know:
        verdict = rule(evidence)
        if verdict is not None:
            return _with_facts(evidence, verdict, providers_own), rule
    return None, None


def _of_python(evidence: Evidence) -> Verdict | None:
    """Return what an error of the standard library says; it has neither code nor status."""
    verdict = network.by_class(evidence)
    if verdict is not None:
        return verdict
    verdict = python.by_class(evidence)
    if verdict is python.BUG and evidence.shape.names[0] in _MAY_SPEAK:
        return sentences.local(evidence) or verdict
    return verdict


_MAY_SPEAK: Final = frozenset(
    ("builtins.ValueError", "builtins.RuntimeError", "builtins.TypeError", "builtins.OSError")
)


def _with_facts(evidence: Evidence, verdict: Verdict, providers_own: tuple[Hint, ...]) -> Verdict:
    status = evidence.failed_status or verdict.status
    if status is None and evidence.shape.is_client and evidence.error.__cause__ is not None:
        status = _status_of_cause(evidence)
    kind = verdict.kind
    if kind is not _TRANSIENT and kind is not _RATE_LIMITED:
        return stamped(verdict, status, None)
    limited = kind is _RATE_LIMITED
    hint: float | None = None
    headers = evidence.waits
    for place, wait in _waits(evidence, headers, limited, providers_own):
        if wait is not None and (hint is None or wait > hint):
            hint = wait
            evidence.hint_sign = place
    if hint is not None or status != verdict.status:
        verdict = stamped(verdict, status, hint)
    retryable = http.asks_to_retry(headers) if headers else None
    if limited and hint is not None and hint > LONGEST_TO_RETRY:
        retryable = False
    if retryable is None or retryable is verdict.retryable:
        return verdict
    return replace(verdict, retryable=retryable)


def _status_of_cause(evidence: Evidence) -> int | None:
    """Return the status of the answer that a client's error without one was made from."""
    cause = evidence.error.__cause__
    if cause is None or not shape_of[type(cause)].is_client:
        return None
    return Evidence(cause, shape_of[type(cause)], evidence.wall).status_alone()


def _waits(
    evidence: Evidence, headers: Mapping[str, str], limited: bool, providers_own: tuple[Hint, ...]
) -> list[tuple[str, float | None]]:
    """Return every wait that the error names, and where; the most exact first: of two that say the same it is told."""
    found: list[tuple[str, float | None]] = []
    if headers:
        found.append(("a retry-after header", hints.from_headers(headers, evidence.wall())))
    rates = evidence.rates if limited else None
    if rates:
        found.append(("the ratelimit headers", hints.from_buckets(rates, evidence.wall())))
    parts = evidence.parts
    if parts:
        found.append(("a field of the body", hints.from_parts(parts)))
    for read in providers_own:
        hint = read(evidence)
        if hint is not None:
            found.append(("a field of this provider alone", hint))
            break
    facts = evidence.facts
    if "retry_after" in facts:
        found.append(("the attribute retry_after", hints.seconds(facts["retry_after"])))
    if limited or evidence.failed_status is not None:
        hint = hints.from_text(evidence.text)
        if hint is not None:
            found.append(("the words of the error", hint))
    return found
