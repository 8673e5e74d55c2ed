"""`fake_stream` and `http_error`: what clients give and raise, without a client."""

from __future__ import annotations

import asyncio
import copy
import pickle
from http import HTTPStatus
from typing import Any

import pytest

from resilient_llm import (
    ChainExhaustedError,
    ConfigurationError,
    ErrorKind,
    StreamInterruptedError,
    Target,
    breaker,
    classify,
    failover,
    health,
    list_benched,
)
from resilient_llm.testing import ascripted, fake_stream, http_error, scripted
from tests.support.ways import GROQ, OPENAI


class DownError(Exception):
    """What breaks a stream."""


def streaming(client: Any, **options: Any) -> Any:
    @failover(chain=[GROQ, OPENAI], attempts=1, **options)
    def ask(target: Target, prompt: str) -> Any:
        return client(prompt)

    return ask


def streaming_async(client: Any, **options: Any) -> Any:
    @failover(chain=[GROQ, OPENAI], attempts=1, **options)
    async def ask(target: Target, prompt: str) -> Any:
        return await client(prompt)

    return ask


async def collect(ask: Any) -> list[Any]:
    return [item async for item in await ask("why")]


# --- streams ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["retry-after", "Retry-After", "RETRY-AFTER"])
def test_headers_are_found_in_any_spelling(name: str) -> None:
    """As those of httpx and requests, and also in a copy and out of a pickle."""
    error = http_error(429, headers={"Retry-After": 20})

    for each in (error, pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert "20" == each.response.headers[name] == each.headers.get(name)
        assert name in each.headers
        assert {"retry-after": "20"} == dict(each.response.headers)
    assert "no" == error.response.headers.get("x-" + name, "no")


def test_a_stream_gives_its_items_once() -> None:
    """It is read with ``for``, and then it is over, as streams of clients are."""
    stream = fake_stream("a", 2, None)

    assert ["a", 2, None] == list(stream)
    assert [] == list(stream)
    assert stream.closed


def test_one_object_serves_both_sorts_of_code() -> None:
    """The same call makes a stream for ``async for`` and for ``async with``."""

    async def main() -> list[Any]:
        async with fake_stream("a", "b") as stream:
            return [item async for item in stream]

    assert ["a", "b"] == asyncio.run(main())
    with fake_stream("a", "b") as stream:
        assert "a" == next(stream)
    assert stream.closed
    assert [] == list(stream)


@pytest.mark.parametrize("then", [DownError("x"), DownError, KeyboardInterrupt])
def test_an_error_comes_after_the_items(then: Any) -> None:
    """It is raised once; then the stream is over."""
    stream, cls = fake_stream("a", then=then), then if isinstance(then, type) else type(then)

    assert "a" == next(stream)
    with pytest.raises(cls):
        next(stream)
    assert [] == list(stream)


@pytest.mark.parametrize("then", ["timeout", 503, object, str, [DownError]])
def test_what_is_no_error_is_refused(then: Any) -> None:
    """The message says what is expected, also where an item was meant."""
    with pytest.raises(ConfigurationError, match=r"then of type .* expected an exception"):
        fake_stream("a", then=then)


def test_a_chain_falls_over_before_the_first_item_and_not_after() -> None:
    """A fake stream passes through the same guards as that of a client."""
    ask = streaming(scripted(fake_stream(then=DownError()), fake_stream("a", "b")))
    torn = streaming(scripted(fake_stream("a", then=DownError()), fake_stream("b")))

    assert ["a", "b"] == list(ask("why"))
    shown: list[str] = []
    with pytest.raises(StreamInterruptedError) as caught:
        shown.extend(torn("why"))
    assert (["a"], 1) == (shown, caught.value.items_sent)


def test_a_guarded_stream_is_still_a_context_manager() -> None:
    """Applications write ``with ask(…) as stream``, as with a client's own."""
    given = fake_stream("a", "b", "c")

    with streaming(scripted(given))("why") as stream:
        assert "a" == next(stream)

    assert given.closed
    assert 1 == health()[GROQ].total


def test_asynchronous_calls_get_the_same_object() -> None:
    """``ascripted`` gives it to code that awaits its client."""
    ask = streaming_async(ascripted(fake_stream(then=DownError), fake_stream("a", "b")))
    torn = streaming_async(ascripted(fake_stream("a", then=DownError)))

    assert ["a", "b"] == asyncio.run(collect(ask))
    with pytest.raises(StreamInterruptedError):
        asyncio.run(collect(torn))


# --- errors -----------------------------------------------------------------------------------

ERRORS: list[tuple[int, dict[str, str], Any]] = [
    (503, {}, None),
    (500, {}, {"error": {"message": "The server had an error", "type": "server_error"}}),
    (429, {"retry-after": "20"}, {"error": {"message": "Rate limit reached"}}),
    (429, {"Retry-After": "20"}, None),
    (429, {}, {"error": {"code": "insufficient_quota", "message": "x"}}),
    (401, {}, {"error": {"code": "invalid_api_key", "message": "x"}}),
    (400, {}, {"error": {"code": "context_length_exceeded", "message": "x"}}),
    (404, {}, {"error": {"code": "model_not_found", "message": "x"}}),
    (404, {}, None),
    (422, {}, {"error": {"message": "x"}}),
    (529, {}, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
    (502, {}, "<html>Bad Gateway</html>"),
    (503, {"x-should-retry": "false"}, None),
]


@pytest.mark.parametrize(("status", "headers", "body"), ERRORS)
def test_an_error_is_classified_like_that_of_a_real_client(
    status: int, headers: dict[str, str], body: Any
) -> None:
    """The openai client raises its error for the same response, and both mean the same."""
    httpx2, openai = pytest.importorskip("httpx2"), pytest.importorskip("openai")
    content: dict[str, Any] = {"text": body} if isinstance(body, str) else {"json": body}
    transport = httpx2.MockTransport(
        lambda _: httpx2.Response(status, headers=headers, **(content if body else {}))
    )
    client = openai.OpenAI(
        api_key="k", max_retries=0, http_client=httpx2.Client(transport=transport)
    )
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model="m", messages=[])

    assert classify(caught.value) == classify(http_error(status, headers=headers, body=body))


def test_an_error_has_what_applications_read() -> None:
    """Status, headers and body, on the error and on its response."""
    error = http_error(429, headers={"Retry-After": 20}, body={"error": {"code": "x"}})

    assert (429, "20") == (error.status_code, error.headers["retry-after"])
    assert {"error": {"code": "x"}} == error.body == error.response.json()
    assert "20" == error.response.headers["retry-after"]
    assert "Error code: 429" == str(error)
    assert "nope" == http_error(HTTPStatus.BAD_GATEWAY, body="nope").response.text
    again = pickle.loads(pickle.dumps(error))
    assert (error.headers, error.body) == (again.headers, again.body)


@pytest.mark.parametrize("status", [0, 42, 99, 600, 1000, -1, True, "503", 503.0, None, 10**400])
def test_a_status_that_no_server_sends_is_a_value_error(status: Any) -> None:
    """A typo in a test is found where it is written."""
    with pytest.raises(ValueError, match="status"):
        http_error(status)


@pytest.mark.parametrize(
    "given",
    [
        {"headers": ["a"]},
        {"headers": {"a": None}},
        {"headers": {1: "a"}},
        {"body": 3},
        {"body": b""},
    ],
)
def test_headers_and_bodies_are_checked(given: dict[str, Any]) -> None:
    """What no client would have is refused."""
    with pytest.raises(ConfigurationError):
        http_error(503, **given)


def test_a_chain_waits_for_and_benches_by_it(clock: Any) -> None:
    """A scripted outage is one to the chain and to a breaker."""
    ask = streaming(scripted(http_error(401), http_error(429, headers={"retry-after": "7"})))

    with pytest.raises(ChainExhaustedError) as caught:
        ask("why")

    assert [ErrorKind.AUTH_DEAD, ErrorKind.RATE_LIMITED] == [
        each.kind for each in caught.value.attempts
    ]
    assert ["groq", OPENAI] == [each.model for each in list_benched()]
    assert 7.0 == caught.value.retry_after
    with pytest.raises(Exception, match="503"), breaker("search", failures=1):
        raise http_error(503)
    assert "open" == breaker("search").state
