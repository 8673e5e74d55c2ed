"""Sentences by which providers tell a cause that has no code of its own.

Asked only of errors in which a provider speaks (a client's class, a status or a body),
never of a bare ``Exception``: its text may be anybody's. Which sentences are looked for
depends on the status, which keeps an echoed prompt from being taken for a cause and the
search short. Text in quotes is not the provider's own and does not count.

A sentence is a tuple of phrases, all lower-cased, which must all occur.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from resilient_llm._values import ErrorKind, Verdict
from resilient_llm.rules._evidence import dead, limited, transient, wrong_request

if TYPE_CHECKING:
    from resilient_llm.rules._evidence import Evidence

Sentence = tuple[tuple[str, ...], Verdict]


class Cause(NamedTuple):
    """The sentences for one cause.

    Attributes:
        keys: Words of which each of the sentences has one; most texts have none of them.
        sentences: Phrases that must all occur, with their verdict.
    """

    keys: tuple[str, ...]
    sentences: tuple[Sentence, ...]


def _all(verdict: Verdict, *sentences: str) -> tuple[Sentence, ...]:
    """Return sentences that mean the same; ``" + "`` joins phrases that must all occur."""
    return tuple((tuple(sentence.split(" + ")), verdict) for sentence in sentences)


MONEY: Final = Cause(
    ("credit", "balance", "fund", "quota", "spend", "billing", "usage limits", "key limit", "api calls / month", "payment", "free tier", "invoice", "past due"),
    _all(
        dead("insufficient_quota"),
        "insufficient credit", "insufficient balance", "insufficient funds", "insufficient quota",
        "credit balance is too low", "credits are depleted", "credits have been exhausted", "no remaining credit",
        "no prepaid credits", "no credits", "out of credits", "used all available credits", "purchase more credits",
        "requires more credits", "spending limit", "spend limit", "reached your specified api usage limits", "key limit exceeded",
        "exceeded its usage limits", "billing must be enabled", "enable billing", "payment required", "api calls / month",
        "balance is insufficient", "account balance", "free tier of the model has been exhausted", "out of quota",
        "unpaid invoice", "past due",
    ),
)  # fmt: skip
ACCOUNT: Final = Cause(
    ("account", "organization has been", "has been suspended", "blocked", "disabled"),
    _all(
        dead("account_disabled"),
        "organization has been disabled", "organization has been restricted", "account is not active", "account has been",
        "account + is suspended", "has been suspended", "key is blocked", "key has been disabled", "account + deactivated",
    ),
)  # fmt: skip
KEY: Final = Cause(
    ("key", "auth", "credential", "token", "leaked"),
    _all(
        dead("invalid_credentials"),
        "api key not valid", "invalid api key", "incorrect api key", "invalid x-api-key", "api key expired", "api key has expired",
        "api key is invalid", "reported as leaked", "no api key was provided", "no api key provided", "missing api key",
        "api_key client option must be set", "could not resolve authentication", "api key you provided is invalid",
        "invalid authentication", "unable to locate credentials", "api key is missing", "did not provide an api key",
        "provided api key is invalid", "token is expired", "token has expired", "missing credentials",
    ),
)  # fmt: skip
REGION: Final = Cause(
    ("country", "region", "location", "request not allowed"),
    _all(
        dead("region_unsupported"),
        "country, region, or territory not supported", "user location is not supported", "not available in your country",
        "not available in your region", "request not allowed",
    ),
)  # fmt: skip
PERMISSION: Final = Cause(
    (
        "ip address",
        "enable it",
    ),
    _all(dead("permission_denied"), "ip address + not allowed", "it is disabled. enable it by visiting"),
)
MODEL: Final = Cause(
    ("model", "on-demand", "end of its life", "api version", "llm provider"),
    _all(
        dead("model_not_found", scope="target"),
        "no models loaded", "unknown model", "model not found", "model not exist", "end of its life", "non-serverless model",
        "does not work with the specified model", "is not found for api version", "llm provider not provided",
        "model is not available", "model identifier is invalid", "on-demand throughput isn",
    ),
)  # fmt: skip
POLICY: Final = Cause(
    ("nsfw", "polic", "safety", "usage guidelines", "content", "flagged", "violates", "responsible ai"),
    _all(
        wrong_request("content_policy"),
        "content management policy", "safety system", "usage policy", "usage policies", "usage guidelines", "content policy",
        "content filter", "inappropriate content", "content exists risk", "prohibited content", "flagged as potentially",
        "violates our", "nsfw", "responsible ai",
    ),
)  # fmt: skip
PARAMETER: Final = Cause(
    ("support", "unknown parameter", "unrecognized", "cannot both", "response_format", "image", "verified", "max_tokens", "maximum allowed", "extra inputs", "not enabled"),
    _all(
        wrong_request("unsupported_parameter"),
        "unsupported parameter", "unsupported value", "unknown parameter", "unrecognized request argument", "does not support",
        "doesn't support", "support tool use", "not supported with this model", "not supported for this model",
        "not supported by this model", "not supported on this model", "argument not supported", "cannot both be specified", "response_format is not", "is not supported with",
        "image(s) may be provided", "must be verified to", "maximum allowed number of output tokens",
        "extra inputs are not permitted", "max_tokens is too large", "not enabled for this model",
    ),
)  # fmt: skip
CONTEXT: Final = Cause(
    ("context", "prompt", "input", "token", "length"),
    _all(
        wrong_request("context_length_exceeded"),
        "maximum context length", "context window", "context length", "context size", "prompt is too long",
        "input is too long", "input too long", "prompt too long", "too many tokens: ", "maximum prompt length",
        "reduce the length of", "must be <= + tokens", "input length", "input token count + exceeds", "maxlength",
        "maximum number of tokens", "must have less than + tokens", "too many input tokens", "exceeds the maximum number of input tokens",
    ),
)  # fmt: skip
SIZE: Final = Cause(
    ("too large", "larger"),
    _all(
        wrong_request("too_large"),
        "request too large", "input is too large", "payload too large", "message larger than max", "entity too large", "request body too large",
    ),
)  # fmt: skip
MEMORY: Final = Cause(
    ("memory", "alloc", "killed", "resource limitations", "paging file"),
    _all(
        Verdict(ErrorKind.MEMORY_PRESSURE),
        "out of memory", "out-of-memory", "cannot allocate memory", "can't allocate memory", "not enough memory",
        "more system memory", "enough available memory", "insufficient memory", "no available memory", "due to resource limitations",
        "unable to allocate + buffer", "unable to allocate + gib", "failed to allocate + buffer", "failed to allocate + mib",
        "paging file is too small", "cudamalloc failed", "bad_alloc", "signal: killed",
    ),
)  # fmt: skip
# The one that LM Studio sends with a 400, where an echoed prompt is likely.
RESOURCES: Final = Cause(
    ("resources",),
    _all(Verdict(ErrorKind.MEMORY_PRESSURE), "not enough resources to load", "insufficient system resources"),
)
# LM Studio again: the server is at fault, whatever the status.
CRASHED: Final = Cause(("crashed",), _all(transient("server_error"), "model has crashed"))
LOADING: Final = Cause(
    ("loading", "ready", "warming"),
    _all(
        transient("model_loading"),
        "currently loading", "loading model", "not ready for inference", "model is loading", "still loading", "warming up",
    ),
)  # fmt: skip
CAPACITY: Final = Cause(
    (
        "overloaded",
        "capacity",
        "high demand",
    ),
    _all(
        limited("capacity"),
        "overloaded",
        "at capacity",
        "capacity exceeded",
        "no capacity",
        "over capacity",
        "high demand",
    ),
)
WINDOW: Final = Cause(
    ("per ", "per-", "(tpd)", "(rpd)", "daily"),
    _all(
        limited("quota_window", retryable=False),
        "per day", "per-day", "(tpd)", "(rpd)", "daily", "per hour", "per month", "per-month", "per week",
    ),
)  # fmt: skip
ENDPOINT: Final = Cause(
    (
        "http",
        "404",
    ),
    _all(dead("endpoint_not_found", scope="target"), "plain http request was sent to https port", "404 page not found"),
)
# Without a status the words are all there is.
WITHOUT_STATUS: Final = Cause(
    ("exceeded", "rate limit", "requests", "throttl", "overloaded", "capacity", "unavailable", "timed out"),
    (
        # Google says this of a rate too; then a status or a code is there.
        *_all(dead("insufficient_quota"), "exceeded your current quota + billing"),
        *_all(limited(), "rate limit", "too many requests", "throttl"),
        *_all(transient("overloaded"), "overloaded", "at capacity", "temporarily unavailable", "service unavailable"),
        *_all(transient("timeout"), "timed out"),
    ),
)

# Something that a request names and the provider has not stored (an item, a file).
_ITEM: Final = re.compile(
    r"\b(item|response|file|assistant|thread|batch|conversation|message|vector store|container|run|prompt|upload)s?\b"
    r".{0,80}\bnot (?:be )?found\b|\bno (?:such )?(?:file|assistant|thread|response|batch|item)\b.{0,60}\b(?:found|exists?|object)"
)
_NO_ITEM: Final = wrong_request()
_NO_MODEL: Final = re.compile(
    r"\bmodels?\b.{0,120}?(?:does not exist|doesn't exist|not found|is not supported|not available|decommissioned|deprecated"
    r"|no longer supported)"
)
_MODEL_GONE: Final = dead("model_not_found", scope="target")
_OOM: Final = re.compile(r"\boom\b")
_OUT_OF_MEMORY: Final = Verdict(ErrorKind.MEMORY_PRESSURE)
_QUOTED: Final = re.compile(r"""(?<!\w)(?:'[^'\n]*'|"[^"\n]*"|`[^`\n]*`)(?!\w)""")

# OpenAI sends a 429 also for one request above the limit per minute, which no wait makes smaller.
_TOO_FAST: Final = (SIZE, MONEY, ACCOUNT, WINDOW, CAPACITY, LOADING)
_REFUSED: Final = (MONEY, ACCOUNT, KEY, POLICY, REGION, PERMISSION, CONTEXT)
_WRONG: Final = (MONEY, ACCOUNT, KEY, PARAMETER, CONTEXT, SIZE, POLICY, REGION, MODEL, ENDPOINT, RESOURCES, CRASHED)
_FAILED: Final = (MEMORY, CONTEXT, SIZE, LOADING)
_ANY: Final = (MONEY, ACCOUNT, KEY, PARAMETER, CONTEXT, SIZE, POLICY, MODEL, RESOURCES, MEMORY, LOADING, WITHOUT_STATUS)

# Errors of Python itself that a client raises before it sends anything: {beginning: verdict}.
LOCAL: Final[dict[str, Verdict]] = {
    "no api key was provided": dead("invalid_credentials"),
    '"could not resolve authentication method': dead("invalid_credentials"),
    "could not resolve authentication method": dead("invalid_credentials"),
    "streaming is required for operations that may take longer": wrong_request(),
    "streaming is strongly recommended for operations that may take longer": wrong_request(),
    # llama-cpp-python: "Requested tokens (2285) exceed context window of 2048"
    "requested tokens (": wrong_request("context_length_exceeded"),
}
_LOCAL_STARTS: Final = tuple(LOCAL)


def told(evidence: Evidence) -> Verdict | None:
    """Return the cause that the provider's words tell."""
    text = evidence.text
    if not text:
        return None
    status = evidence.failed_status
    for keys, sentences in _causes_for(status):
        for key in keys:
            if key in text:
                verdict = _among(sentences, text)
                if verdict is not None:
                    return verdict
                break
    if status is None or status in (400, 404, 422):
        return _told_by_pattern(text, status)
    return None


def local(text: str) -> Verdict | None:
    """Return the cause told by a plain error of Python: a missing key, memory that is used up."""
    if text.startswith(_LOCAL_STARTS):
        for start, verdict in LOCAL.items():
            if text.startswith(start):
                return verdict
    return _OUT_OF_MEMORY if lacks_memory(text) else None


def lacks_memory(text: str) -> bool:
    """Return whether lower-cased words say that memory is used up; never from inside a word or a quotation."""
    if "memory" not in text and "alloc" not in text and "oom" not in text:
        return False
    if _among(MEMORY.sentences, text) is not None:
        return True
    return "oom" in text and _OOM.search(_own_words(text)) is not None


def _causes_for(status: int | None) -> tuple[Cause, ...]:
    if status is None:
        return _ANY
    if status == 429:
        return _TOO_FAST
    if status in (401, 403):
        return _REFUSED
    if status in (402, 408, 409, 425):
        return ()
    return _FAILED if status >= 500 else _WRONG


def _told_by_pattern(text: str, status: int | None) -> Verdict | None:
    if status != 404:
        return _MODEL_GONE if "model" in text and _NO_MODEL.search(_own_words(text)) else None
    return _NO_ITEM if _ITEM.search(text) and "model" not in text else None


def _among(sentences: tuple[Sentence, ...], text: str) -> Verdict | None:
    for phrases, verdict in sentences:
        if phrases[0] in text and _said(text, phrases):
            return verdict
    return None


def _said(text: str, phrases: tuple[str, ...]) -> bool:
    own = _own_words(text)
    return all(phrase in own for phrase in phrases)


def _own_words(text: str) -> str:
    return _QUOTED.sub("", text)
