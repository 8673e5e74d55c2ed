"""Sentences with which providers describe a cause that has no code.

Used for messages of providers only (a client's class, a status or a body), never for a bare
``Exception``, whose text may have any origin. The status decides which sentences are
searched for: this keeps the search short, and a repeated prompt from being taken for a
cause. Text in quotes is not the provider's own and does not count.

A sentence is a tuple of phrases, lower-cased, which must all occur.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from resilient_llm.rules._foreign import called
from resilient_llm.rules._memo import LONGEST_TEXT, memoized
from resilient_llm.rules._verdicts import OUT_OF_MEMORY, dead, limited, transient, wrong_request

if TYPE_CHECKING:
    from resilient_llm._values.verdict import Verdict
    from resilient_llm.rules._evidence import Evidence

Sentence: TypeAlias = "tuple[tuple[str, ...], Verdict]"


class Cause(NamedTuple):
    """The sentences of one cause.

    Attributes:
        keys: Each sentence has one of these words; most texts have none of them.
        sentences: Each is phrases that must all occur, and their verdict.
    """

    keys: tuple[str, ...]
    sentences: tuple[Sentence, ...]


def _all(verdict: Verdict, *sentences: str) -> tuple[Sentence, ...]:
    """Return sentences that mean the same; ``" + "`` joins phrases that must all occur."""
    return tuple((tuple(sentence.split(" + ")), verdict) for sentence in sentences)


MONEY: Final = Cause(
    (
        "credit", "balance", "long context", "extra usage", "limit: 0", "fund", "quota", "spend",
        "billing", "usage limit", "budget", "spending cap", "key limit", "api calls / month",
        "payment", "free tier", "invoice", "past due",
    ),
    _all(
        dead("insufficient_quota"),
        "insufficient credit", "insufficient balance", "insufficient funds",
        "insufficient quota", "credit balance is too low", "credits are depleted",
        "credits have been exhausted", "no remaining credit", "no prepaid credits",
        "no credits left", "no credits remaining", "no credits available", "have no credits",
        "budget limit for this", "over budget", "budget has been exceeded", "spending cap",
        "spend cap", "required for long context", "free allocated quota exceeded",
        "quota exceeded for metric + limit: 0,", "have any credits", "out of credits",
        "used all available credits", "purchase more credits", "requires more credits",
        "spending limit", "spend limit", "reached your + usage limits", "key limit exceeded",
        "exceeded its usage limits", "billing must be enabled", "enable billing",
        "payment required", "api calls / month", "balance is insufficient", "account balance is",
        "account balance not", "insufficient account balance", "balance too low",
        "free tier of the model has been exhausted", "out of quota", "unpaid invoice",
        "past due",
    ),
)  # fmt: skip
ACCOUNT: Final = Cause(
    ("account", "organization has been", "has been suspended", "blocked", "disabled"),
    _all(
        dead("account_disabled"),
        "organization has been disabled", "organization has been restricted",
        "account is not active", "account has been + suspended", "account has been + disabled",
        "account has been + blocked", "account has been + deactivated",
        "account has been + terminated", "account has been + banned",
        "account has been + locked", "account + is suspended", "has been suspended",
        "key is blocked", "key has been disabled", "account + deactivated",
    ),
)  # fmt: skip
KEY: Final = Cause(
    ("key", "environment variable", "auth", "credential", "token", "leaked"),
    _all(
        dead("invalid_credentials"),
        "api key not valid", "invalid api key", "incorrect api key", "invalid x-api-key",
        "api key expired", "api key has expired", "api key is invalid", "reported as leaked",
        "no api key was provided", "no api key provided", "missing api key",
        "api_key client option must be set", "could not resolve authentication",
        "api key you provided is invalid", "invalid authentication",
        "unable to locate credentials", "api key is missing", "did not provide an api key",
        "provided api key is invalid", "token is expired", "token has expired",
        "missing credentials", "passing in token or setting", "environment variable or pass",
        "could not resolve aws credentials", "api key required", "api key is required",
        "api_key is required", "api key must be", "no api key found", "api key not found",
        "add an environment variable `", "credentials were not found",
    ),
)  # fmt: skip
# litellm gives the status 500 to what it raises before it sends anything.
NO_KEY: Final = Cause(
    ("missing",),
    _all(dead("invalid_credentials"), "missing credentials. please pass", "missing + api key. set"),
)
REGION: Final = Cause(
    ("country", "countries", "region", "location"),
    _all(
        dead("region_unsupported"),
        "country, region, or territory not supported", "user location is not supported",
        "not available in your country", "not available in your region", "region not supported",
        "from unsupported countries",
    ),
)  # fmt: skip
# anthropic's whole message for a country that is not served; with a 400 it may be a quote.
COUNTRY: Final = Cause(
    ("request not allowed",), _all(dead("region_unsupported"), "request not allowed")
)
PERMISSION: Final = Cause(
    ("ip address", "enable it", "operation not allowed"),
    (
        *_all(
            dead("permission_denied"),
            "ip address + not allowed",
            "it is disabled. enable it by visiting",
        ),
        *_all(dead("permission_denied", scope="target"), "operation not allowed"),
    ),
)
MODEL: Final = Cause(
    (
        "model", "version does not exist", "on-demand", "end of its life", "api version",
        "llm provider", "arn is invalid",
    ),
    _all(
        dead("model_not_found", scope="target"),
        "no models loaded", "unknown model", "model not found", "model not exist",
        "end of its life", "non-serverless model", "does not work with the specified model",
        "is not found for api version", "llm provider not provided", "model is not available",
        "model identifier is invalid", "on-demand throughput isn", "not a valid model id",
        "no such model", "specified version does not exist", "invalid model name",
        "enabled only for api versions", "arn is invalid for the service region",
        "support the model that you provided", "model may be incompatible with your version",
    ),
)  # fmt: skip
POLICY: Final = Cause(
    (
        "nsfw", "sensitive", "blocked output", "terms of use", "polic", "safety",
        "usage guidelines", "content", "flagged", "violates", "responsible ai",
    ),
    _all(
        wrong_request("content_policy"),
        "content management policy", "safety system", "usage policy", "usage policies",
        "usage guidelines", "content policy", "content filter", "inappropriate content",
        "content exists risk", "prohibited content", "flagged as potentially", "violates our",
        "nsfw content", "nsfw_", "contains nsfw", "responsible ai", "input was flagged",
        "flagged as sensitive", "new_sensitive", "blocked output", "terms of use",
    ),
)  # fmt: skip
PARAMETER: Final = Cause(
    (
        "support", "tool choice requires", "multimodal", "non-streaming", "is not enabled for",
        "thinking mode", "prompt caching", "extraneous key", "maximum tokens", "maximum output",
        "can be specified", "specify both", "unknown parameter", "unrecognized", "cannot both",
        "response_format", "image", "verified", "max_tokens", "maximum allowed", "extra inputs",
        "not enabled", "--jinja", "no endpoints found that",
    ),
    _all(
        wrong_request("unsupported_parameter"),
        "unsupported parameter", "unsupported value", "unknown parameter",
        "unrecognized request argument", "does not support", "doesn't support",
        "support tool use", "not supported with this model", "not supported for this model",
        "not supported by this model", "not supported on this model", "argument not supported",
        "cannot both be specified", "response_format is not", "is not supported with",
        "image(s) may be provided", "must be verified to",
        "maximum allowed number of output tokens", "extra inputs are not permitted",
        "max_tokens is too large", "not enabled for this model", "input is not supported",
        "requires --jinja", "only supported by certain models",
        "supports at most + completion tokens", "only supports single tool-calls",
        "tool choice requires", "not a multimodal model", "for non-streaming calls",
        "value of + but the supported range is", "thinking is not enabled for",
        "only works in thinking mode", "instruction is not enabled for", "is unsupported",
        "did not allow prompt caching", "extraneous key", "maximum tokens you requested exceeds",
        "cannot specify both", "can be specified for this model",
        "maximum output for this model", "no endpoints found that support",
        "no endpoints found that can handle",
    ),
)  # fmt: skip
CONTEXT: Final = Cause(
    ("context", "prompt", "input", "token", "length"),
    _all(
        wrong_request("context_length_exceeded"),
        "maximum context length", "context window", "context length", "context size",
        "prompt is too long", "input is too long", "input too long", "prompt too long",
        "too many tokens: ", "maximum prompt length", "reduce the length of",
        "must be <= + tokens", "input length", "input token count + exceeds", "maxlength",
        "maximum number of tokens", "must have less than + tokens", "too many input tokens",
        "exceeds the maximum number of input tokens", "maximum model length",
        "prompt length + exceeds", "token count + exceeds the limit",
        "token count is + supports up to", "tokens + must be less than max_seq_len",
        "model token limit", "token limit exceeded", "has too many tokens",
        "exceeds context limit", "prompt too large", "exceed max message tokens",
        "input tokens + exceeds maximum length", "input tokens + cannot exceed",
        "max allowed tokens per submitted batch",
    ),
)  # fmt: skip
SIZE: Final = Cause(
    ("too large", "larger"),
    _all(
        wrong_request("too_large"),
        "request too large", "input is too large", "too large to process", "payload too large",
        "message larger than max", "entity too large", "request body too large",
    ),
)  # fmt: skip
MEMORY: Final = Cause(
    ("memory", "alloc", "killed", "resource limitations", "paging file", "create context"),
    _all(
        OUT_OF_MEMORY,
        "out of memory", "out-of-memory", "cannot allocate memory", "can't allocate memory",
        "not enough memory", "more system memory", "enough available memory",
        "insufficient memory", "no available memory", "due to resource limitations",
        "unable to allocate + buffer", "unable to allocate + gib", "failed to allocate + buffer",
        "failed to allocate + mib", "paging file is too small", "cudamalloc failed", "bad_alloc",
        "signal: killed", "outofdevicememory", "memory layout cannot be allocated",
        "failed to create context with model",
    ),
)  # fmt: skip
# What LM Studio and vLLM send with a 400, where a repeated prompt is likely.
RESOURCES: Final = Cause(
    ("resources", "cuda out of memory"),
    _all(
        OUT_OF_MEMORY,
        "not enough resources to load",
        "insufficient system resources",
        "cuda out of memory. tried to allocate",
    ),
)
# The server is at fault, whatever the status: LM Studio, NVIDIA.
CRASHED: Final = Cause(
    ("crashed", "model is unloaded", "degraded function"),
    (
        *_all(transient("server_error"), "model has crashed", "model is unloaded"),
        *_all(transient("overloaded"), "degraded function cannot be invoked"),
    ),
)
# A file of the model that Ollama cannot read; its owner must mend that.
BROKEN_MODEL: Final = Cause(
    ("unable to load model",),
    _all(dead("model_not_found", scope="target"), "unable to load model: "),
)
# From the long lists above, what gateways and local servers send with a 500: it is searched
# for in most errors.
UNPAID: Final = Cause(
    ("insufficient",),
    _all(
        dead("insufficient_quota"),
        "insufficient balance",
        "insufficient credit",
        "insufficient funds",
        "insufficient quota",
    ),
)
UNABLE: Final = Cause(
    ("support", "--jinja"),
    _all(
        wrong_request("unsupported_parameter"),
        "does not support",
        "doesn't support",
        "input is not supported",
        "requires --jinja",
        "is unsupported",
    ),
)
# The request is at fault, although a local server sends 500: llama.cpp, Ollama.
MALFORMED: Final = Cause(
    ("roles must alternate", "json schema", "load image"),
    _all(wrong_request(), "roles must alternate", "invalid json schema", "failed to load image"),
)
# Google sends 403 for a file that belongs to somebody else or does not exist.
ITEM: Final = Cause(
    ("file", "cachedcontent"),
    _all(wrong_request(), "permission to access the file", "cachedcontent not found"),
)
# Azure's gateway sends this with a 403.
CALLS: Final = Cause(
    ("call volume",), _all(limited("quota_window", retryable=False), "out of call volume quota")
)
LOADING: Final = Cause(
    ("loading", "ready", "warming"),
    _all(
        transient("model_loading"),
        "currently loading", "loading model", "not ready for inference", "model is loading",
        "still loading", "warming up",
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
    ("per ", "per-", "tpd", "rpd", "daily", "hour", "week", "period", "session"),
    _all(
        limited("quota_window", retryable=False),
        "per day", "per-day", "(tpd)", "(rpd)", "tpd rate limit", "rpd rate limit",
        "daily limit", "daily rate", "daily request", "daily token", "daily quota",
        "daily usage", "daily free", "hourly limit", "hourly usage", "hourly quota",
        "weekly limit", "weekly usage", "weekly quota", "weekly/monthly", "5-hour", "5 hour",
        "limit for this period", "per 86400s", "session usage limit", "per hour", "per month",
        "per-month", "per week",
    ),
)  # fmt: skip
ENDPOINT: Final = Cause(
    (
        "http",
        "404",
        "endpoint",
    ),
    _all(
        dead("endpoint_not_found", scope="target"),
        "plain http request was sent to https port",
        "404 page not found",
        "endpoint + of account + not found",
        "endpoint is paused",
    ),
)
# Without a status the message is all the evidence.
WITHOUT_STATUS: Final = Cause(
    (
        "exceeded",
        "rate limit",
        "usage limit",
        "requests",
        "throttl",
        "overloaded",
        "capacity",
        "unavailable",
        "timed out",
    ),
    (
        *_all(
            limited("quota_window", retryable=False),
            "hourly usage limit",
            "weekly usage limit",
            "session usage limit",
        ),
        # Google sends this for a rate as well, but then with a status or a code.
        *_all(dead("insufficient_quota"), "exceeded your current quota + billing"),
        *_all(limited(), "rate limit", "too many requests", "throttl"),
        *_all(
            transient("overloaded"),
            "overloaded",
            "at capacity",
            "temporarily unavailable",
            "service unavailable",
        ),
        *_all(transient("timeout"), "timed out"),
    ),
)

# A stored thing that the request names (an item, a file) does not exist.
_ITEM: Final = re.compile(
    r"\b(item|response|file|assistant|thread|batch|conversation|message|vector store|container|run"
    r"|prompt|upload|dataset)s?\b.{0,80}\bnot (?:be )?found\b"
    r"|\bno (?:such )?(?:file|assistant|thread|response|batch|item|messages?)\b"
    r".{0,60}\b(?:found|exists?|object)"
)
_NO_ITEM: Final = wrong_request()
_EXTRA: Final = wrong_request("unsupported_parameter")
_NO_MODEL: Final = re.compile(
    r"\bmodels?\b(?:(?!tool|function|file).){0,120}?(?:does not exist|doesn't exist|not found"
    r"|is not supported|not available|decommissioned|deprecated|no longer supported)"
)
_MODEL_GONE: Final = dead("model_not_found", scope="target")
_LONGEST_MESSAGE: Final = 1_000
_URL: Final = re.compile(r"https?://\S*")
_OOM: Final = re.compile(r"\boom\b")
_QUOTED: Final = re.compile(r"""(?<!\w)(?:'[^'\n]*'|"[^"\n]*"|`[^`\n]*`)(?!\w)""")


class Search(NamedTuple):
    """The causes that are searched for with one status.

    Attributes:
        causes: The first whose sentence is found decides.
        firsts: ``{word: place of the first cause with this key}``, in the order of the causes.
    """

    causes: tuple[Cause, ...]
    firsts: dict[str, int]


def _search(*causes: Cause) -> Search:
    firsts: dict[str, int] = {}
    for place, cause in enumerate(causes):
        for key in cause.keys:
            firsts.setdefault(key, place)
    return Search(causes, firsts)


# OpenAI sends a 429 also for one request above the limit per minute, which no wait makes smaller.
_TOO_FAST: Final = _search(SIZE, MONEY, ACCOUNT, WINDOW, CAPACITY, LOADING)
_REFUSED: Final = _search(
    CALLS, ITEM, POLICY, MONEY, ACCOUNT, KEY, REGION, COUNTRY, PERMISSION, CONTEXT
)
_WRONG: Final = _search(
    MONEY, ACCOUNT, KEY, RESOURCES, CRASHED, REGION, MODEL, PARAMETER, CONTEXT, SIZE, POLICY,
    PERMISSION, ENDPOINT,
)  # fmt: skip
_FAILED: Final = _search(
    NO_KEY, UNPAID, BROKEN_MODEL, MEMORY, CONTEXT, SIZE, LOADING, UNABLE, MALFORMED
)
_ANY: Final = _search(
    MONEY,
    ACCOUNT,
    KEY,
    PARAMETER,
    CONTEXT,
    SIZE,
    POLICY,
    MODEL,
    RESOURCES,
    MEMORY,
    LOADING,
    WITHOUT_STATUS,
)
_NOTHING: Final = _search()

# Errors of Python itself that a client raises before it sends anything: {start: verdict}.
LOCAL: Final[dict[str, Verdict]] = {
    "no api key was provided": dead("invalid_credentials"),
    '"could not resolve authentication method': dead("invalid_credentials"),
    "could not resolve authentication method": dead("invalid_credentials"),
    "streaming is required for operations that may take longer": wrong_request(),
    "streaming is strongly recommended for operations that may take longer": wrong_request(),
    # anthropic, when a part of a stream is missing
    "unexpected event order": transient("stream_interrupted"),
    "trying to read the xai api key": dead("invalid_credentials"),
    "api key must be set when using": dead("invalid_credentials"),
    "llama_decode returned 1": OUT_OF_MEMORY,
    "llama_decode returned": transient("server_error"),
    "failed to create llama_context": OUT_OF_MEMORY,
    "you must provide an api_key": dead("invalid_credentials"),
    # openai and langchain, of an answer or a stream without content
    "no embedding data received": transient("invalid_response"),
    "no generation chunks were returned": transient("invalid_response"),
    "no generations found in stream": transient("invalid_response"),
    # llama-cpp-python: "Requested tokens (2285) exceed context window of 2048"
    "requested tokens (": wrong_request("context_length_exceeded"),
}
_LOCAL_STARTS: Final = tuple(LOCAL)


def by_message(evidence: Evidence) -> Verdict | None:
    """Return the verdict on the cause that the provider's message describes."""
    text = evidence.text
    if not text:
        return None
    status = evidence.failed_status
    found = _cause_memoized(text, status) if len(text) <= LONGEST_TEXT else _cause_in(text, status)
    if found is None:
        return None
    evidence.matched_by = ("words", found[0])
    return found[1]


def _cause_in(text: str, status: int | None) -> Sentence | None:
    causes, firsts = _causes_for(status)
    for word in firsts:
        if word in text:
            # Google quotes the name of a limit, and SageMaker the message of the model server.
            whole = status in (424, 429) or text.startswith("{'")
            for keys, sentences in causes[firsts[word] :]:
                if any(key in text for key in keys):
                    found = _among(sentences, text, whole=whole)
                    if found is not None:
                        return found
            break
    return _by_pattern(text, status) if status is None or status in (400, 404, 422) else None


_cause_memoized: Final = memoized(_cause_in)


def by_message_of_python(evidence: Evidence) -> Verdict | None:
    """Return the verdict on a plain error of Python: a missing key, memory that is used up."""
    text = _message_of(evidence.error)
    if text.startswith(_LOCAL_STARTS):
        for start, verdict in LOCAL.items():
            if text.startswith(start):
                evidence.matched_by = ("words", (start,))
                return verdict
    found = _lacks_memory(text)
    if found is not None:
        evidence.matched_by = ("words", found)
        return OUT_OF_MEMORY
    return None


def key_in_words(evidence: Evidence) -> Verdict | None:
    """Return that a client lacks a key, of an error of Python or pydantic that it raised."""
    error = evidence.error
    text = _message_of(error)
    if not text:
        # pydantic keeps its message elsewhere; what was validated, perhaps an answer, follows.
        words = called(error.__str__)
        text = words.partition("[type=")[0].lower() if isinstance(words, str) else ""
    found = _among(KEY.sentences, text)
    if found is None:
        return None
    evidence.matched_by = ("words", found[0])
    return found[1]


def _lacks_memory(text: str) -> tuple[str, ...] | None:
    """Return the words of a lower-cased text that say that memory is used up, or None.

    Never from inside a word or a quotation.
    """
    if "memory" not in text and "alloc" not in text and "oom" not in text:
        return None
    found = _among(MEMORY.sentences, text)
    if found is not None:
        return found[0]
    return ("oom",) if "oom" in text and _OOM.search(_own_words(text)) is not None else None


def _message_of(error: BaseException) -> str:
    """Return the error's message without calling its ``__str__``, lower-cased and cut."""
    if isinstance(error, OSError) and isinstance(error.strerror, str):
        return error.strerror[:_LONGEST_MESSAGE].lower()
    first: object = error.args[0] if error.args else None
    return first[:_LONGEST_MESSAGE].lower() if isinstance(first, str) else ""


def _causes_for(status: int | None) -> Search:
    if status is None:
        return _ANY
    if status == 429:
        return _TOO_FAST
    if status in (401, 403):
        return _REFUSED
    if status in (402, 408, 409, 425):
        return _NOTHING
    return _FAILED if status >= 500 or status == 424 else _WRONG


def _by_pattern(text: str, status: int | None) -> Sentence | None:
    if "'type': 'extra_forbidden'" in text:  # vLLM prints what pydantic found
        return ("extra_forbidden",), _EXTRA
    if status != 404:
        if "model" in text and _NO_MODEL.search(_own_words(text)):
            return ("model", "not there"), _MODEL_GONE
    elif "model" not in text and text.strip() != "file not found" and _ITEM.search(text):
        return ("an item", "not found"), _NO_ITEM
    return None


def _among(sentences: tuple[Sentence, ...], text: str, *, whole: bool = False) -> Sentence | None:
    """Return the sentence that the text contains; without quotations unless `whole`."""
    for sentence in sentences:
        phrases = sentence[0]
        if phrases[0] not in text:
            continue
        own = _URL.sub("", text) if whole else _own_words(text)
        if all(phrase in own for phrase in phrases):
            return sentence
    return None


def _own_words(text: str) -> str:
    """Return the text without quotations and links."""
    return _QUOTED.sub("", _URL.sub("", text) if "://" in text else text)
