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
from typing import TYPE_CHECKING, Final, Protocol, cast

from resilient_llm._settings import LONGEST_TO_RETRY
from resilient_llm._values import ErrorKind, Verdict
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
    from collections.abc import Callable
    from types import ModuleType

    from resilient_llm._explanation import Reasons

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
    return tuple(cast("Rule", getattr(module, name)) for module in PROVIDERS if hasattr(module, name))


def _words(evidence: Evidence) -> Verdict | None:
    return sentences.told(evidence) if evidence.has_voice else None


def _category(evidence: Evidence) -> Verdict | None:
    return codes.category(evidence) if evidence.has_voice else None


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
    _words,
    codes.sure_category,
    # the status
    http.by_status,
    _category,
    # the class
    *_of_providers("CLASSES"),
    network.by_class,
    python.by_class,
    names.by_name,
    _nothing_wrong,
)

_NEED_PARTS: Final = (google.SENTENCES, openrouter.SENTENCES, zhipu.SENTENCES)
_NEED_A_BODY: Final = (http.by_retries, codes.cause, codes.sure_category, _category)
_QUIET_STAGES: Final = tuple(rule for rule in _STAGES if rule not in _NEED_A_BODY)

for _module in PROVIDERS:
    codes.CODES.update(getattr(_module, "CODES", {}))
    codes.CATEGORIES.update(getattr(_module, "CATEGORIES", {}))


def _stages_for(evidence: Evidence) -> tuple[Rule, ...]:
    """Return the rules that may know an error of this class."""
    names = evidence.shape.names
    return tuple(
        rule
        for rule in (_QUIET_STAGES if evidence.is_quiet else _STAGES)
        if ((only := _ONLY_FOR.get(rule)) is None or not only.isdisjoint(names))
        and (evidence.parts or rule not in _NEED_PARTS)
    )


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

_TIMED: Final = (ErrorKind.TRANSIENT, ErrorKind.RATE_LIMITED)


def judge(error: BaseException, wall: Callable[[], float]) -> Verdict | None:
    """Return what one error says by itself, without what is inside it.

    Args:
        error: Any error but a cancellation or one of ours.
        wall: Gives seconds since 1970; read only for hints that are dates.

    Returns:
        The verdict with status and hint, or None if nothing is known.
    """
    evidence = Evidence(error, shape_of(type(error)), wall)
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
    from resilient_llm.rules._why import reasons

    return reasons(error, wall)


def decide(evidence: Evidence) -> tuple[Verdict | None, Rule | None]:
    """Return what one error says by itself, and the rule that knew."""
    if evidence.shape.is_standard and evidence.is_quiet and not evidence.facts:
        verdict = _of_python(evidence)
        return verdict, None if verdict is None else _of_python
    known = evidence.shape.verdicts
    sort = "quiet" if evidence.is_quiet else "with a body" if evidence.parts else "without"
    stages: tuple[Rule, ...] | None = known.get(sort)
    if stages is None:
        stages = known[sort] = _stages_for(evidence)
    for rule in stages:
        verdict = rule(evidence)
        if verdict is not None:
            return _with_facts(evidence, verdict), rule
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


def _with_facts(evidence: Evidence, verdict: Verdict) -> Verdict:
    status = evidence.failed_status or verdict.status
    if status is None and evidence.shape.is_client and evidence.error.__cause__ is not None:
        status = _status_of_cause(evidence)
    if verdict.kind not in _TIMED:
        return stamped(verdict, status, None)
    limited = verdict.kind is ErrorKind.RATE_LIMITED
    hint = _hint(evidence, limited)
    verdict = stamped(verdict, status, hint)
    retryable = None if evidence.is_quiet else http.asks_to_retry(evidence)
    if limited and hint is not None and hint > LONGEST_TO_RETRY:
        retryable = False
    if retryable is None or retryable is verdict.retryable:
        return verdict
    return replace(verdict, retryable=retryable)


def _status_of_cause(evidence: Evidence) -> int | None:
    """Return the status of the answer that a client's error without one was made from."""
    cause = evidence.error.__cause__
    if cause is None or not shape_of(type(cause)).is_client:
        return None
    return Evidence(cause, shape_of(type(cause)), evidence.wall).failed_status


def _hint(evidence: Evidence, limited: bool) -> float | None:
    """Return the longest wait that the error names, and note where; every sign of it is asked."""
    longest: float | None = None
    for place, read in _QUIET_WAITS if evidence.is_quiet else _WAITS:
        hint = read(evidence, limited)
        if hint is not None and (longest is None or hint > longest):
            longest = hint
            evidence.hint_sign = place
    return longest


def _in_headers(evidence: Evidence, limited: bool) -> float | None:
    waits = evidence.waits
    return hints.from_headers(waits, evidence.wall()) if waits else None


def _in_buckets(evidence: Evidence, limited: bool) -> float | None:
    rates = evidence.rates if limited else None
    return hints.from_buckets(rates, evidence.wall()) if rates else None


def _in_body(evidence: Evidence, limited: bool) -> float | None:
    parts = evidence.parts
    return hints.from_parts(parts) if parts else None


def _in_providers_own(evidence: Evidence, limited: bool) -> float | None:
    known = evidence.shape.verdicts
    spellings: tuple[Hint, ...] | None = known.get("hints")
    if spellings is None:
        names = evidence.shape.names
        spellings = known["hints"] = tuple(hint for hint, only in _HINTS if only is None or not only.isdisjoint(names))
    for spelling in spellings:
        hint = spelling(evidence)
        if hint is not None:
            return hint
    return None


def _in_attribute(evidence: Evidence, limited: bool) -> float | None:
    facts = evidence.facts
    return hints.seconds(facts["retry_after"]) if "retry_after" in facts else None


def _in_words(evidence: Evidence, limited: bool) -> float | None:
    return hints.from_text(evidence.text) if limited or evidence.failed_status is not None else None


# The most exact first: of two that say the same it is named.
_WAITS: Final = (
    ("a retry-after header", _in_headers),
    ("the ratelimit headers", _in_buckets),
    ("a field of the body", _in_body),
    ("a field of this provider alone", _in_providers_own),
    ("the attribute retry_after", _in_attribute),
    ("the words of the error", _in_words),
)
_QUIET_WAITS: Final = (_WAITS[4], _WAITS[5])
