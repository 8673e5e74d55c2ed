"""The order in which rules are asked, and the verdict on one error.

The order is that of how reliable the evidence is: a machine-readable code, a known
sentence, the status, the class. `_STAGES` is this order; `_applicable` leaves out, once per
class, the rules that cannot recognise an error.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, cast

from resilient_llm._values.built_in import cause_of
from resilient_llm._values.errors import ResilientLLMError
from resilient_llm._values.kinds import ErrorKind
from resilient_llm._values.own_errors import verdict_on_own
from resilient_llm._values.settings import LONGEST_TO_RETRY
from resilient_llm.rules import (
    answers,
    anthropic,
    bedrock,
    codes,
    credentials,
    frameworks,
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
from resilient_llm.rules._class_info import class_of, package_of
from resilient_llm.rules._evidence import Evidence
from resilient_llm.rules._verdicts import CALLER_BUG, stamped

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import ModuleType

    from resilient_llm._values.verdict import Verdict
    from resilient_llm.rules._class_info import ErrorClass


class Hint(Protocol):
    """Reads a wait in the form of one provider, in seconds; None if there is none."""

    def __call__(self, evidence: Evidence, /) -> float | None: ...


class Rule(Protocol):
    """Reads one kind of evidence; None if it does not recognise the error."""

    def __call__(self, evidence: Evidence, /) -> Verdict | None: ...


# One module per provider, in any order.
PROVIDERS: Final[tuple[ModuleType, ...]] = (
    anthropic, bedrock, google, grpc, ollama, openai, openrouter, parsers, websockets, zhipu,
)  # fmt: skip


def _of_providers(name: str) -> tuple[Rule, ...]:
    return tuple(
        cast("Rule", getattr(module, name)) for module in PROVIDERS if hasattr(module, name)
    )


def by_framework(evidence: Evidence) -> Verdict | None:
    """Return the verdict on an exception of the application's own frameworks."""
    evidence.matched_by = ("class of a framework", evidence.error_class.names[0])
    return evidence.error_class.of_framework


def beneath_client(evidence: Evidence) -> Verdict | None:
    """Return the verdict on such an exception that a client's error was raised from.

    Many releases of openai, groq and their kin do so with whatever interrupts a request, such as
    vcrpy's refusal of a request that was not recorded. What a framework raises itself from its
    own control flow says more: that a model has used up its tries, for example.
    """
    package = package_of(type(evidence.error))
    inner = cause_of(evidence.error)
    for _ in range(_MOST_CAUSES):
        if inner is None or package_of(type(inner)) == package:
            return None
        verdict = frameworks.verdict_of[type(inner)]
        if verdict is not None:
            evidence.matched_by = ("framework beneath", class_of[type(inner)].names[0])
            return verdict
        inner = cause_of(inner)
    return None


def beneath_refusal(evidence: Evidence) -> Verdict | None:
    """Return the verdict on what kept a client from sending, if its error was raised from that.

    A guard below an SDK, such as the one of `integrations.httpx`, rejects a request, or no
    connection is free. The SDK raises a connection error from that as from a network error.
    """
    inner = cause_of(evidence.error)
    for _ in range(_MOST_CAUSES):
        if inner is None:
            return None
        if issubclass(type(inner), ResilientLLMError):
            evidence.matched_by = ("refusal beneath", class_of[type(inner)].names[0])
            return verdict_on_own(cast("ResilientLLMError", inner))
        names = class_of[type(inner)].names
        if any(name in network.FULL_POOLS for name in names):
            # The SDK calls it a timeout, but no connection was free and nothing was sent.
            evidence.matched_by = ("full pool beneath", names[0])
            return network.POOL_FULL
        inner = cause_of(inner)
    return None


_MOST_CAUSES: Final = 12  # also guards against a ring
_STAGES: Final[tuple[Rule, ...]] = (
    # control flow that a client has wrapped
    beneath_client,
    # a guard below a client
    beneath_refusal,
    # a key that cannot be sent
    credentials.by_header,
    http.by_retries,
    # a client that got no answer; there is nothing else to read then
    network.without_answer,
    # a code in the body
    codes.cause,
    # known sentences
    *_of_providers("by_message"),
    sentences.by_message,
    codes.sure_category,
    # the status
    http.by_status,
    codes.category,
    # the class
    *_of_providers("by_class"),
    network.by_class,
    answers.by_frames,
    python.by_class,
    names.by_name,
    # the status of a success, which the client could not read
    http.by_success,
)

for _module in PROVIDERS:
    codes.CODES.update(getattr(_module, "CODES", {}))
    codes.CATEGORIES.update(getattr(_module, "CATEGORIES", {}))


class Missing(NamedTuple):
    """Which kinds of evidence an error does not have; `bare` is that of `Evidence.is_bare`."""

    bare: bool
    status: bool
    parts: bool
    codes: bool


class Applicable(NamedTuple):
    """The rules that may recognise an error of one class with such evidence, and its hints."""

    rules: tuple[Rule, ...]
    hints: tuple[Hint, ...]


def _applicable(error_class: ErrorClass, missing: Missing) -> Applicable:
    names = error_class.names
    return Applicable(
        tuple(
            rule
            for rule in _STAGES
            if ((only := _ONLY_FOR.get(rule)) is None or not only.isdisjoint(names))
            and ((needs := _NEEDS.get(rule)) is None or needs(error_class, missing))
        ),
        tuple(
            hint
            for hint, only in _HINTS
            if (
                not missing.parts
                if only is None
                else not missing.bare and not only.isdisjoint(names)
            )
        ),
    )


def _is_of_provider(error_class: ErrorClass, missing: Missing) -> bool:
    """Return whether the message is a provider's, and not that of the caller's own code."""
    return error_class.is_client or not missing.status or not missing.parts


# Without these a rule recognises nothing, and need not be asked.
_NEEDS: Final[dict[Rule, Callable[[ErrorClass, Missing], bool]]] = {
    beneath_client: lambda error_class, _: error_class.is_client,
    beneath_refusal: lambda error_class, missing: (
        error_class.is_client and missing.status and missing.parts
    ),
    credentials.by_header: lambda error_class, missing: (
        (error_class.is_client and missing.status and missing.parts)
        or error_class.names[0] == credentials.IN_PYTHON
        or error_class.names[0].startswith("litellm.")
    ),
    http.by_retries: lambda _, missing: not missing.bare,
    network.without_answer: lambda error_class, missing: (
        missing.parts if missing.status else network.may_lack_an_answer(error_class)
    ),
    codes.cause: lambda _, missing: not missing.codes,
    google.by_message: lambda _, missing: not missing.parts,
    openai.by_message: lambda error_class, _: openai.cause_named(error_class) is not None,
    openrouter.by_message: lambda _, missing: not missing.parts,
    zhipu.by_message: lambda _, missing: not missing.parts,
    answers.by_frames: lambda error_class, _: error_class.names[0] in answers.READING,
    sentences.by_message: _is_of_provider,
    codes.sure_category: lambda _, missing: not missing.codes,
    http.by_status: lambda _, missing: not missing.status or not missing.parts,
    codes.category: lambda error_class, missing: (
        not missing.codes and _is_of_provider(error_class, missing)
    ),
    http.by_success: lambda _, missing: not missing.status,
}
_ONLY_FOR: Final[dict[Rule, frozenset[str]]] = {
    http.by_retries: http.GAVE_UP,
    **{
        cast("Rule", getattr(module, name)): cast("frozenset[str]", only)
        for module in PROVIDERS
        if (only := getattr(module, "ONLY_FOR", None))
        for name in ("by_message", "by_class")
        if hasattr(module, name)
    },
}
# {function: the classes it is asked about, or None for every error with a body}.
_HINTS: Final = (
    (google.retry_after, google.RETRY_AFTER_ONLY_FOR),
    (grpc.retry_after, grpc.ONLY_FOR),
    (openrouter.retry_after, None),
)

# The kinds for which a wait may be named. Bare names: an attribute of an enum takes longer.
_TRANSIENT: Final = ErrorKind.TRANSIENT
_RATE_LIMITED: Final = ErrorKind.RATE_LIMITED
_REJECTED: Final = ErrorKind.REJECTED


def judge(error: BaseException, wall: Callable[[], float]) -> Verdict | None:
    """Return what one error means by itself, without what is inside it.

    Args:
        error: Any error but a cancellation or one of ours.
        wall: Gives seconds since 1970; read only for hints that are dates.

    Returns:
        The verdict with status and hint, or None if no rule recognises the error.
    """
    evidence = Evidence(error, class_of[type(error)], wall)
    try:
        return decide(evidence)[0]
    except Exception:
        # Some attribute raises when it is used; numbers and texts may still be enough.
        plain = evidence.plain()
        if plain is None:
            raise
        return decide(plain)[0]


def decide(evidence: Evidence) -> tuple[Verdict | None, Rule | None]:
    """Return the verdict on one error by itself, and the rule that decided."""
    error_class = evidence.error_class
    if error_class.of_framework is not None:
        return by_framework(evidence), by_framework
    if evidence.is_bare:
        if error_class.is_standard and not evidence.attributes:
            verdict = of_python(evidence)
            return verdict, None if verdict is None else of_python
        missing = (True, evidence.status is None, True, True)
    else:
        evidence.read()
        missing = (False, evidence.status is None, not evidence.parts, not evidence.codes)
    applicable: Applicable | None = error_class.verdicts.get(missing)
    if applicable is None:
        applicable = _applicable(error_class, Missing(*missing))
        error_class.verdicts[missing] = applicable
    rules, provider_hints = applicable
    for rule in rules:
        verdict = rule(evidence)
        if verdict is not None:
            return _with_status_and_hint(evidence, verdict, provider_hints), rule
    return None, None


def of_python(evidence: Evidence) -> Verdict | None:
    """Return the verdict on an error of the standard library; it has neither code nor status."""
    verdict = network.by_class(evidence)
    if verdict is not None:
        return verdict
    verdict = python.by_class(evidence)
    if verdict is not CALLER_BUG:
        return verdict
    name = evidence.error_class.names[0]
    found: Verdict | None = None
    if name in _RAISED_BY_CLIENTS:
        found = (
            sentences.by_message_of_python(evidence)
            or credentials.by_header(evidence)
            or _of_a_client(evidence)
        )
    if found is None and name in answers.READING:
        found = answers.of_unreadable(evidence)
    return found or verdict


def _of_a_client(evidence: Evidence) -> Verdict | None:
    """Return what a plain error of Python means that a client raised of a key, or of an answer."""
    if not python.raised_in_client(evidence.error):
        return None
    return (
        sentences.key_in_words(evidence)
        or parsers.of_partial_json(evidence)
        or answers.of_error_object(evidence)
    )


# Clients raise these before they send anything, and say in the message what is wrong.
_RAISED_BY_CLIENTS: Final = frozenset(
    ("builtins.ValueError", "builtins.RuntimeError", "builtins.TypeError", "builtins.OSError")
)


def _with_status_and_hint(
    evidence: Evidence, verdict: Verdict, provider_hints: tuple[Hint, ...]
) -> Verdict:
    status = evidence.failed_status or verdict.status
    if status is None and evidence.error_class.is_client and evidence.error.__cause__ is not None:
        status = _status_of_cause(evidence)
    kind = verdict.kind
    if kind is _REJECTED:
        return verdict  # with the wait of the guard
    if kind is not _TRANSIENT and kind is not _RATE_LIMITED:
        return stamped(verdict, status, None)
    is_limited = kind is _RATE_LIMITED
    hint: float | None = None
    headers = evidence.waits
    for place, wait in _waits(evidence, headers, is_limited, provider_hints):
        if wait is not None and (hint is None or wait > hint):
            hint = wait
            evidence.hint_from = place
    if hint is not None or status != verdict.status:
        verdict = stamped(verdict, status, hint)
    retryable = http.asks_to_retry(headers) if headers else None
    if is_limited and hint is not None and hint > LONGEST_TO_RETRY:
        retryable = False
    if retryable is None or retryable is verdict.retryable:
        return verdict
    return replace(verdict, retryable=retryable)


def _status_of_cause(evidence: Evidence) -> int | None:
    """Return the status of the answer that a client's error without one was made from."""
    cause = evidence.error.__cause__
    if cause is None or not class_of[type(cause)].is_client:
        return None
    return Evidence(cause, class_of[type(cause)], evidence.wall).status_alone()


def _waits(
    evidence: Evidence,
    headers: Mapping[str, str],
    is_limited: bool,
    provider_hints: tuple[Hint, ...],
) -> list[tuple[str, float | None]]:
    """Return every wait that the error names, each with where it was read.

    The most exact comes first: explanations name the first of two that are equal.
    """
    found: list[tuple[str, float | None]] = []
    named = hints.from_headers(headers, evidence.wall()) if headers else None
    found.append(("a retry-after header", named))
    rates = evidence.rates if is_limited else None
    if rates:
        reset = hints.from_buckets(rates, evidence.wall(), is_named=named is not None)
        found.append(("the ratelimit headers", reset))
    parts = evidence.parts
    if parts:
        found.append(("a field of the body", hints.from_parts(parts)))
    for read in provider_hints:
        hint = read(evidence)
        if hint is not None:
            found.append(("a field of this provider alone", hint))
            break
    attributes = evidence.attributes
    if "retry_after" in attributes:
        found.append(("the attribute retry_after", hints.seconds(attributes["retry_after"])))
    if is_limited or evidence.failed_status is not None:
        hint = hints.from_text(evidence.text)
        if hint is not None:
            found.append(("the words of the error", hint))
    return found
