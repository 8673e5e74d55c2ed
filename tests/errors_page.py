"""The page of the documentation on every known error, generated from the rules and the cases.

    python -m tests.errors_page

writes it; `tests/package/test_errors_page.py` fails when it is not what would be written.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from resilient_llm import Verdict
from resilient_llm.rules import (
    PROVIDERS,
    codes,
    frameworks,
    http,
    names,
    network,
    openai,
    sentences,
    websockets,
    zhipu,
)

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "errors.md"
CORPUS = Path(__file__).parent / "corpus"

HEAD = """# Error classification by SDK

Which verdict `classify` gives to the errors of the SDKs and servers that people use: by which code, sentence, status or class, with the recorded cases.
This page is generated from the rules and the recorded cases, and a test fails when it is older than they are.
What follows from a kind is in [Error kinds](kinds.md); how to add a rule in [Custom error classification](../how-to/classify-errors.md).

For one error, run:

```console
$ resilient-llm explain 429 -H 'retry-after: 20' --body body.json
```

## The order

Each step applies only if the steps before it do not recognise the error.

1. A cancellation, also inside a group; a time limit of a task queue, also where a client has wrapped it.
2. Your own rules, the newest first.
3. An error of this library, from an inner guard, is a rejection.
4. An exception of the application's own [frameworks](#frameworks), which no provider sent.
5. A key that a client refuses to put into a header.
6. A machine-readable code in the body.
7. A known sentence of the provider, outside of quotations and links.
8. The HTTP or gRPC status. A status below 500 that nothing shows to be a provider's (no answer, no request, no body, no headers, no words of a client) makes the error `unknown`, except 408, 409, 425 and 429.
9. The class, then a part of its name.
10. What is inside: the explicit cause, the members of a group; the most severe decides, of equal ones the one with the longest wait. A plain `RuntimeError` or `ValueError` that was raised from an error is only its wrapper.

At most 64 KiB of a body, 50 causes and 1,000 members are read.
A wait is read from headers (`Retry-After` in seconds, milliseconds, dates and durations, the headers of exhausted buckets), from fields of the body, from trailing metadata, from attributes and from sentences; the longest counts, up to a day.
A rate limit whose wait is longer than 60 s is not tried again on the same target.
"""

DOUBTS = """## Debatable cases

These cases could have another verdict; this is the one they have, and why.

| case | verdict | why |
|---|---|---|
"""

# {case: why it is read so}; every case that is doubtful has an entry.
WHY = {
    "openai-400-max-tokens-per-request": "a batch that is too large for one request fits no context window either, but may be cut",
    "openai-400-verify-to-stream": "only streaming is refused: another target may stream, and this one may answer whole",
    "openai-500-should-not-retry": "the server reports that a retry is useless; the failure still counts",
    "openai-429-engine-overloaded": "the provider is full; the rate of the caller is not the cause",
    "openai-403-cloudflare-challenge": "a page for browsers stays there until an operator acts",
    "openai-407-proxy-auth": "a proxy requires a login, so nothing reaches this provider",
    "openai-404-wrong-base-url": "no such route: a setting of this target, for every request alike",
    "openai-400-plain-http-to-https": "the address is wrong, whatever the request is",
    "openai-fault-self-signed": "no wait makes a certificate valid, and no key is wrong",
    "azure-429-high-demand": "the provider is full; the rate of the caller is not the cause",
    "azure-400-operation-not-supported": "a deployment that cannot chat never will",
    "openrouter-402-can-only-afford": "what is left pays for hardly anything: the account needs credit",
    "openrouter-503-no-provider": "another moment may find a provider",
    "vllm-400-images": "a model without vision: another target may have it",
    "anthropic-403-request-not-allowed": "this sentence stands for a country or a network that is not served",
    "anthropic-400-max-tokens": "a limit of this model's; the prompt is not too long",
    "anthropic-no-key": "a missing key is a dead key, although the client raises a `TypeError`",
    "anthropic-long-nonstreaming": "the SDK refuses this request, not the target",
    "gemini-429-per-day": "the wait that is named passes long before the day does",
    "gemini-no-key": "a missing key is a dead key, although the client raises a `ValueError`",
    "groq-413-tpm-too-large": "no wait makes one request smaller",
    "groq-498-flex": "the tier is full",
    "groq-400-json-failed": "the model failed at this request; another may do better",
    "mistral-429-tier-capacity": "the tier is full",
    "mistral-200-error-body": "the body reports that the server failed",
    "cohere-429-trial-month": "nothing passes until the month ends or the account is paid",
    "cohere-499": "the caller did not cancel: the server gave up",
    "bedrock-throttling-tokens-day": "the quota of a day does not come back while one waits",
    "bedrock-validation-max-length": "an older sentence for a prompt that is too long",
    "bedrock-bad-params": "nothing was sent: the arguments are wrong",
    "azinf-github-413-tokens": "the tier's own limit of a prompt",
    "hf-503-bloom-trap": "a model's name is not a lack of memory; the estimate is the wait",
    "hf-429-tgi-overloaded": "the server's own class means that it is overloaded",
    "ollama-stream-eof": "the stream broke; the status of -1 is none",
    "xai-grpc-cancelled-by-server": "the caller did not cancel: the server did",
    "grpcio-resource-exhausted-retry-after": "a plain key in the metadata is a wait as well",
    "httpx-pool-timeout": "the caller's own pool was full: no circuit counts it, the next target may have a separate pool",
    "requests-404": "a page in place of an answer, but the status is all that is sure",
    "urllib3-retries-503": "urllib3 keeps the status in its words only",
    "urllib3-retries-429": "urllib3 keeps the status in its words only",
    "ws-1011-quota": "the reason that was sent is more precise than the close code",
    "ws-1008-policy": "the reason that was sent is more precise than the close code",
    "ws-1001-going-away": "a session that ends while one waits for data has failed",
    "pydai-200-error-body": "the status inside is lost on the way; an answer that cannot be read is left",
    "lc-200-error-402": "the code that langchain passes on decides",
    "instructor-schema-mismatch": "the model answered: another may fit, and this target works",
    "instructor-incomplete": "the limit of tokens ended the answer",
    "litellm-gemini-429": "the wait stands in the quoted body",
    "litellm-groq-413": "the code of the provider decides, not the class that was made of it",
    "litellm-no-such-provider": "a target that is written wrong is wrong for every request",
    "python-bug-JSONDecodeError": "the traceback distinguishes a broken body from an answer that the caller could not read",
    "python-llamacpp-python-context": "known by its first words",
    "python-bare-exception-429-text": "words of an unknown class may have any source",
}


def page() -> str:
    """Return the page as it should be."""
    parts = [HEAD, *_tables(), DOUBTS + "".join(_doubts()), "", *_cases()]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts if part) + ""


def cases() -> list[dict[str, Any]]:
    """Return every recorded case, in the order of the files."""
    return [
        json.loads(line)
        for path in sorted(CORPUS.glob("*.jsonl"))
        for line in path.read_text("utf-8").splitlines()
        if line.strip()
    ]


def _said(verdict: Verdict) -> str:
    """Return kind, reason and what differs from what the kind says."""
    usual = Verdict(verdict.kind, verdict.reason)
    notes = []
    if verdict.scope != usual.scope:
        notes.append(f"the {verdict.scope}'s")
    if verdict.retryable != usual.retryable:
        notes.append("may be tried again" if verdict.retryable else "not tried again")
    if verdict.harms_health != usual.harms_health:
        notes.append("counts against health" if verdict.harms_health else "health untouched")
    return f"`{verdict.kind.value}` | `{verdict.reason}` | {', '.join(notes)}"


def _by_verdict(table: dict[Any, Verdict]) -> Iterator[tuple[Verdict, list[Any]]]:
    found: dict[str, tuple[Verdict, list[Any]]] = {}
    for sign, verdict in table.items():
        found.setdefault(_said(verdict), (verdict, []))[1].append(sign)
    yield from found.values()


def _rows(table: dict[Any, Verdict]) -> list[str]:
    return [
        f"| {', '.join(f'`{sign}`' for sign in signs)} | {_said(verdict)} |"
        for verdict, signs in _by_verdict(table)
    ]


def _tables() -> Iterator[str]:
    yield "## Codes\n\nLower-cased. Codes that are no more specific than a status are asked after the sentences, most of them after the status.\n"
    top = "| {} | kind | reason | else |\n|---|---|---|---|"
    own = {name: verdict for name, verdict in codes.CODES.items() if not _providers(name, "CODES")}
    yield "\n".join([top.format("code"), *_rows(own)])
    yield "Codes of one provider only:\n"
    lines = [top.format("code")]
    for module in PROVIDERS:
        table = {**getattr(module, "CODES", {}), **getattr(module, "CATEGORIES", {})}
        lines += [f"| {module.__name__.rpartition('.')[2]}: {row[2:]}" for row in _rows(table)]
    lines += [f"| zhipu: {row[2:]}" for row in _rows(zhipu.NUMBERS)]
    yield "\n".join(lines)
    yield "Codes that are no more specific than a status:\n"
    shared = {
        name: verdict
        for name, verdict in codes.CATEGORIES.items()
        if not _providers(name, "CATEGORIES")
    }
    yield "\n".join([top.format("code"), *_rows(shared)])
    yield "## Sentences\n\nLower-cased; phrases that are joined by … must all occur. The status decides which are searched for.\n"
    yield "\n".join([top.format("words"), *_rows(dict(_phrases()))])
    yield "## Statuses\n"
    yield "\n".join(["| status | kind | reason | else |", "|---|---|---|---|", *_statuses()])
    yield "Close codes of websockets:\n"
    yield "\n".join([top.format("code"), *_rows(websockets.CLOSE_CODES)])
    yield "## Classes\n\nBy package and name; classes that inherit from them have the same verdict.\n"
    yield "\n".join(
        [top.format("class"), *_rows({**network.CLASSES, **names.CLASSES, **openai.NAMES})]
    )
    yield "For other classes of client libraries, a part of the name decides:\n"
    yield "\n".join([top.format("part of the name"), *_rows(dict(names.PARTS))])

    yield (
        "## Frameworks\n\nExceptions of web frameworks, task queues, agents and test tools: by module and name; "
        "classes that inherit from them mean the same. "
        "The first kind leaves at once and unchanged and counts nowhere, the others count like a cancellation from outside.\n"
    )
    yield "\n".join(
        ["| module | class | kind | reason | read in |", "|---|---|---|---|---|", *_frameworks()]
    )


def _frameworks() -> Iterator[str]:
    for (module, classes, source), verdict in frameworks.TABLE:
        if verdict is not None:
            listed = ", ".join(f"`{name}`" for name in classes.split())
            where = f"<{source}>" if source.startswith("http") else source
            kind = f"`{verdict.kind.value}` | `{verdict.reason}`"
            yield f"| `{module}` | {listed} | {kind} | {where} |"


def _providers(name: str, table: str) -> bool:
    return any(name in getattr(module, table, {}) for module in PROVIDERS)


def _phrases() -> Iterator[tuple[str, Verdict]]:
    for value in vars(sentences).values():
        if isinstance(value, sentences.Cause):
            for phrases, verdict in value.sentences:
                yield " … ".join(phrases), verdict
    yield from sentences.LOCAL.items()


def _statuses() -> Iterator[str]:
    for said, group in groupby(http.BY_STATUS.items(), key=lambda pair: _said(pair[1])):
        numbers = [status for status, _ in group]
        yield f"| {numbers[0]}{f' to {numbers[-1]}' if len(numbers) > 1 else ''} | {said} |"


def _doubts() -> Iterator[str]:
    for case in cases():
        if case.get("doubtful_about"):
            yield f"| `{case['id']}` | {_expected(case)} | {WHY[case['id']]} |\n"


def _expected(case: dict[str, Any]) -> str:
    verdict = case["verdict"]
    return f"`{verdict['kind']}`, `{verdict['reason']}`"


def _cases() -> Iterator[str]:
    every = cases()
    yield (
        f"## Recorded cases\n\n{len(every)} answers and failures, each raised again by the tests through the real client "
        "against a server on this machine; the releases are in `tests/corpus/requirements.txt`, and in "
        "`requirements-oldest.txt` the oldest that are tested: "
        f"{', '.join(_oldest())}.\n"
        "A wait is in seconds; one that stands in a date is counted from then.\n"
    )
    by_sdk: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for case in every:
        by_sdk[case["sdk"]].append(case)
    for sdk, found in sorted(by_sdk.items()):
        head = "| case | provider | status | verdict | wait | source |\n|---|---|---|---|--:|---|"
        yield "\n".join([f"### {sdk}\n", head, *map(_row, found)])


def _oldest() -> Iterator[str]:
    for line in (CORPUS / "requirements-oldest.txt").read_text().splitlines():
        if "==" in line and not line.startswith("#"):
            yield line.strip().replace("==", " ")


def _row(case: dict[str, Any]) -> str:
    wire = case.get("wire", {})
    seen = wire.get("status") or wire.get("fault") or wire.get("grpc_code") or wire.get("ws_code")
    wait = case["verdict"]["retry_after"]
    source = case.get("source", "")
    link = f"[source]({source})" if source.startswith("http") else source
    return (
        f"| `{case['id']}` | {case.get('provider') or ''} | {seen or ''} | {_expected(case)} "
        f"| {'' if wait is None else f'{wait:g}'} | {link} |"
    )


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
