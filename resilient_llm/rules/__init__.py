"""What an error means: rules by cause, and the order in which they are asked.

A rule is a function from `Evidence` to a `Verdict`, or None if it cannot tell. The order
is that of how much a sign is worth: a machine-readable code, a sentence, the status, the
class. `judge` asks them for one error; what is inside it (a cause, the members of a
group), cancellations and users' own rules are the business of the classifier.

To add a provider: one file here, ``rules/<provider>.py``, with any of

- ``CODES``: ``{lower-cased code: Verdict}``, for codes that only this provider sends;
- ``CATEGORIES``: the same for codes that say no more than a status does;
- ``SENTENCES``: a function ``Evidence -> Verdict | None`` for words that only it says;
- ``CLASSES``: a function ``Evidence -> Verdict | None`` for classes of its SDK;
- ``HINTS``: a function ``Evidence -> seconds | None`` for a wait that only it spells so;

and its name in ``_PROVIDERS`` below. A provider's tables are asked before the shared ones
of the same stage. Write rules for causes, never for one response; a test sends them
through the real SDK.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from resilient_llm._values import ErrorKind, Verdict
from resilient_llm.rules import (
    bedrock,
    codes,
    google,
    grpc,
    hints,
    http,
    network,
    ollama,
    openai,
    parsers,
    python,
    sentences,
    websockets,
)
from resilient_llm.rules._evidence import Evidence, shape_of, stamped, transient

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

__all__ = ["Evidence", "Rule", "judge"]


class Rule(Protocol):
    """One sign, read: the verdict, or None if it says nothing."""

    def __call__(self, evidence: Evidence, /) -> Verdict | None: ...


# One module per provider, in any order.
_PROVIDERS: Final[tuple[ModuleType, ...]] = (bedrock, google, grpc, ollama, openai, parsers, websockets)


def _of_providers(name: str) -> tuple[Rule, ...]:
    return tuple(cast("Rule", getattr(module, name)) for module in _PROVIDERS if hasattr(module, name))


def _words(evidence: Evidence) -> Verdict | None:
    return sentences.told(evidence) if evidence.has_voice else None


def _category(evidence: Evidence) -> Verdict | None:
    return codes.category(evidence) if evidence.has_voice else None


def _nothing_wrong(evidence: Evidence) -> Verdict | None:
    """An SDK that raises on a 200 could not read what it got."""
    status = evidence.status
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
    _nothing_wrong,
)

_NEED_A_BODY: Final = (http.by_retries, codes.cause, codes.sure_category, _category)
_QUIET_STAGES: Final = tuple(rule for rule in _STAGES if rule not in _NEED_A_BODY)

for _module in _PROVIDERS:
    codes.CODES.update(getattr(_module, "CODES", {}))
    codes.CATEGORIES.update(getattr(_module, "CATEGORIES", {}))
_HINTS: Final = tuple(
    cast("Callable[[Evidence], float | None]", hint)
    for module in _PROVIDERS
    if (hint := getattr(module, "HINTS", None))
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
    shape = shape_of(type(error))
    evidence = Evidence(error, shape, wall)
    if shape.is_standard and evidence.is_quiet and not evidence.facts:
        return _of_python(evidence)
    for rule in _QUIET_STAGES if evidence.is_quiet else _STAGES:
        verdict = rule(evidence)
        if verdict is not None:
            return _with_facts(evidence, verdict)
    return None


def _of_python(evidence: Evidence) -> Verdict | None:
    """Return what an error of the standard library says; it has neither code nor status."""
    verdict = network.by_class(evidence)
    if verdict is not None:
        return verdict
    verdict = python.by_class(evidence)
    if verdict is python.BUG and evidence.shape.names[0] in _MAY_SPEAK:
        return sentences.local(python.message_of(evidence.error)) or verdict
    return verdict


_MAY_SPEAK: Final = frozenset(
    ("builtins.ValueError", "builtins.RuntimeError", "builtins.TypeError", "builtins.OSError")
)


def _with_facts(evidence: Evidence, verdict: Verdict) -> Verdict:
    status = evidence.failed_status or verdict.status
    if verdict.kind not in _TIMED:
        return stamped(verdict, status, None)
    verdict = stamped(verdict, status, _hint(evidence, verdict.kind is ErrorKind.RATE_LIMITED))
    asked = None if evidence.is_quiet else http.asks_to_retry(evidence)
    if asked is None or asked is verdict.retryable:
        return verdict
    facts: dict[str, Any] = {
        name: getattr(verdict, name) for name in ("reason", "retry_after", "status", "scope", "harms_health")
    }
    return Verdict(verdict.kind, retryable=asked, **facts)


def _hint(evidence: Evidence, limited: bool) -> float | None:
    hint = hints.seconds(evidence.facts.get("retry_after"))
    if not evidence.is_quiet:
        named = _named_hint(evidence, limited)
        hint = hint if named is None else named
    if hint is None and (limited or evidence.failed_status is not None):
        hint = hints.from_text(evidence.text)
    return hint


def _named_hint(evidence: Evidence, limited: bool) -> float | None:
    """Return the wait that a header or a field names, the most exact first."""
    hint = hints.from_headers(waits, evidence.wall()) if (waits := evidence.waits) else None
    if hint is None and limited:
        hint = hints.from_buckets(rates, evidence.wall()) if (rates := evidence.rates) else None
    if hint is None:
        hint = hints.from_parts(evidence.parts)
    for spelling in _HINTS if hint is None else ():
        hint = spelling(evidence) if hint is None else hint
    return hint
