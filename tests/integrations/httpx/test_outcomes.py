"""What counts as a failure, a success or nothing."""

from __future__ import annotations

import gc
from email.utils import formatdate
from typing import Any

import anyio
import pytest

from resilient_llm import BreakerOpenError, TargetBenched, breaker, configure, health, list_benched
from resilient_llm.testing import capture_events, fake_clock
from tests.integrations.httpx.host import Host
from tests.integrations.httpx.ways import ASYNC_WAYS, Http, Way


def counted(key: str) -> tuple[int, int]:
    """Return how many calls of a key were counted, and how many of them as failures."""
    found = health().get(key)
    return (0, 0) if found is None else (found.total, found.errors)


@pytest.mark.parametrize("status", [500, 501, 502, 503, 504, 505, 529, 599])
def test_a_server_error_is_a_failure(way: Way, host: Host, status: int) -> None:
    """Every status of 5xx counts as a failure, and the answer is still given to the caller."""

    async def case(http: Http) -> None:
        response = await http.get(http.client(failures=2), host.url(str(status)))

        assert (status, b"no") == (response.status_code, response.content)
        assert (1, 1) == counted(host.key)
        assert "closed" == breaker(host.key).state  # whatever else a status may mean

    way.run(case)


@pytest.mark.parametrize("status", [200, 204, 302, 304, 400, 401, 402, 403, 404, 408, 409, 422])
def test_other_statuses_are_successes(way: Way, host: Host, status: int) -> None:
    """A status below 500 other than 429 counts as a success: the host has answered."""
    url = host.replies_with("here", status, headers={"x": "y"})

    async def case(http: Http) -> None:
        await http.get(http.client(), url)

        assert (1, 0) == counted(host.key)

    way.run(case)


NETWORK = ["refuses", "resets", "cut-short"]


@pytest.mark.parametrize("path", NETWORK)
def test_a_network_error_is_a_failure(way: Way, host: Host, path: str) -> None:
    """A connection that breaks counts as a failure, and its own error is raised."""

    async def case(http: Http) -> None:
        with pytest.raises(http.lib.TransportError) as caught:
            await http.get(http.client(), host.url(path))

        assert not isinstance(caught.value, BreakerOpenError)
        assert (1, 1) == counted(host.key)

    way.run(case)


def test_a_refused_connection_is_a_failure(way: Way) -> None:
    """A host that nothing listens on is charged for that."""
    with Host() as gone:
        pass

    async def case(http: Http) -> None:
        with pytest.raises(http.lib.ConnectError):
            await http.get(http.client(), gone.url())

        assert (1, 1) == counted(gone.key)

    way.run(case)


@pytest.mark.parametrize("path", ["silent", "stalls"])
def test_a_timeout_is_a_failure(way: Way, host: Host, path: str) -> None:
    """A read timeout counts as a failure, before the headers and in the body."""

    async def case(http: Http) -> None:
        with pytest.raises(http.lib.ReadTimeout):
            await http.get(http.client(timeout=0.2), host.url(path))

        assert (1, 1) == counted(host.key)

    way.run(case)


def test_a_stream_of_events_that_is_cut_is_a_failure(way: Way, host: Host) -> None:
    """An answer of 200 counts as a failure if its body breaks, once, after the reader has a part."""

    async def case(http: Http) -> None:
        response = await http.open(http.client(failures=1), host.url("cut"))
        with pytest.raises(http.lib.RemoteProtocolError):
            async for chunk in http.chunks(response):
                assert chunk
                assert (0, 0) == counted(host.key)
                host.has_first.set()
        await http.close(response)

        assert (1, 1) == counted(host.key)
        assert "open" == breaker(host.key).state

    way.run(case)


HINTS: dict[str, tuple[Any, dict[str, str], float]] = {
    "seconds": (b"", {"retry-after": "40"}, 40.0),
    "milliseconds": (b"", {"retry-after-ms": "41000"}, 41.0),
    "duration": (b"", {"x-ratelimit-reset-requests": "6m0s", "x-ratelimit-remaining-requests": "0"}, 360.0),
    "text": ({"error": {"message": "Rate limit reached. Please try again in 42s."}}, {}, 42.0),
    "google": (
        {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "details": [
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "43s"}
        ]}},
        {},
        43.0,
    ),
    "gzip": (
        {"error": {"message": "Please try again in 44s."}}, {"content-encoding": "gzip"}, 44.0,
    ),
    "none": (b"", {}, 15.0),
    "unreadable": (b"", {"retry-after": "soon"}, 15.0),
}  # fmt: skip


@pytest.mark.parametrize("name", HINTS)
def test_a_rate_limit_benches_for_its_hint(way: Way, host: Host, name: str) -> None:
    """A status of 429 benches the host at once, for the wait that its headers or body name."""
    body, headers, seconds = HINTS[name]
    url = host.replies_with("limited", 429, body, headers)

    async def case(http: Http) -> None:
        client = http.client(failures=50)
        response = await http.get(client, url)
        assert 429 == response.status_code

        with pytest.raises(BreakerOpenError):
            await http.get(client, url)
        (bench,) = list_benched()
        assert (host.key, "rate_limited") == (bench.model, bench.kind)
        assert bench.remaining == pytest.approx(seconds, rel=0.11, abs=1.0)
        assert 1 == host.asked("limited")

    way.run(case)


def test_a_date_is_a_hint(way: Way, host: Host) -> None:
    """A Retry-After that is a date benches until then."""
    with fake_clock():
        from resilient_llm._runtime.runtime import runtime

        headers = {"retry-after": formatdate(runtime.wall() + 50.0, usegmt=True)}
        url = host.replies_with("limited", 429, b"", headers)

        async def case(http: Http) -> None:
            await http.get(http.client(), url)

            assert list_benched()[0].remaining == pytest.approx(50.0, abs=6.0)

        way.run(case)


@pytest.mark.parametrize(
    "error",
    [
        {"code": "insufficient_quota", "message": "You exceeded your current quota."},
        {"code": "invalid_api_key", "message": "Incorrect API key provided."},
        {"code": "context_length_exceeded", "message": "Too many tokens."},
    ],
    ids=lambda error: error["code"],
)
def test_what_a_body_says_of_a_key_does_not_change_the_count(
    way: Way, host: Host, error: dict[str, str]
) -> None:
    """A refusal counts by its status: one caller's dead key or request says nothing of the host."""
    limited = host.replies_with("limited", 429, {"error": error}, {"retry-after": "30"})
    broken = host.replies_with("broken", 500, {"error": error})

    async def case(http: Http) -> None:
        client = http.client(key=lambda request: request.url.path.strip("/"))
        await http.get(client, limited)
        await http.get(client, broken)

        (bench,) = list_benched()
        assert ("limited", "rate_limited") == (bench.model, bench.kind)
        assert bench.remaining == pytest.approx(30.0, rel=0.11)
        assert (1, 1) == counted("broken")

    way.run(case)


@pytest.mark.parametrize("coding", [[], [(b"content-encoding", b"gzip")]], ids=["plain", "coded"])
def test_a_refusal_with_a_header_that_is_not_ascii(way: Way, coding: list[Any]) -> None:
    """A refusal counts and reaches the caller, whatever bytes its headers have."""
    body = b'{"error": {"code": "invalid_api_key", "message": "Incorrect API key provided."}}'
    headers = [(b"x-reason", "\u00dcberlast".encode("latin-1")), *coding]

    async def case(http: Http) -> None:
        inner = way.mock(lambda _: http.lib.Response(500, headers=headers, stream=way.stream(body)))
        response = await http.open(http.client(inner=inner), "http://there/")
        assert [body] == [part async for part in http.raw_parts(response)]

        assert 500 == response.status_code
        assert (1, 1) == counted("there")

    way.run(case)


def test_a_server_without_memory_is_benched_for_that(way: Way, host: Host) -> None:
    """A 500 whose body says that memory ran out benches as it does in a chain."""
    url = host.replies_with("here", 500, {"error": {"message": "CUDA out of memory."}})

    async def case(http: Http) -> None:
        await http.get(http.client(), url)

        (bench,) = list_benched()
        assert "memory_pressure" == bench.kind
        assert bench.remaining == pytest.approx(120.0, rel=0.11)

    way.run(case)


def test_a_long_or_broken_body_of_a_refusal_is_read_as_far_as_it_goes(way: Way, host: Host) -> None:
    """A refusal counts whatever its body is: too long to keep, or not what its headers say."""
    long = host.replies_with("long", 503, b"x" * 300_000)
    odd = host.replies_with("odd", 503, b"no gzip at all", {"content-encoding": "br"})
    cut = way.stream(b"\x1f\x8b\x08\x00")

    async def case(http: Http) -> None:
        client = http.client(failures=50)
        assert 300_000 == len((await http.get(client, long)).content)
        await http.close(await http.open(client, odd))
        coded = http.client(
            inner=way.mock(
                lambda _: http.lib.Response(503, headers={"content-encoding": "gzip"}, stream=cut)
            ),
            key=lambda _: host.key,
        )
        await http.close(await http.open(coded, host.url()))
        response = await http.open(coded, host.url())
        assert [b"\x1f\x8b\x08\x00"] == [part async for part in http.raw_parts(response)]

        assert (4, 4) == counted(host.key)

    way.run(case)


def test_an_answer_counts_when_its_body_was_read(way: Way, host: Host) -> None:
    """An answer is counted once, when its body has come to its end."""

    async def case(http: Http) -> None:
        response = await http.open(http.client(), host.url("stream"))
        assert (0, 0) == counted(host.key)

        body = await http.read(response)
        await http.close(response)

        assert b"data: one\n\n" * 2 == body
        assert (1, 0) == counted(host.key)

    way.run(case)


# On trio both libraries leave generators to the collector when a reader stops, also without us.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("path", ["ok", "stream", "stalls"])
def test_an_answer_counts_when_its_body_was_closed(way: Way, host: Host, path: str) -> None:
    """An answer that is closed unread or partly read counts as a success, once."""

    async def case(http: Http) -> None:
        client = http.client()
        unread = await http.open(client, host.url(path))
        await http.close(unread)
        await http.close(unread)
        assert (1, 0) == counted(host.key)

        partly = await http.open(client, host.url(path))
        async for chunk in http.chunks(partly):
            assert chunk
            break
        await http.close(partly)

        assert (2, 0) == counted(host.key)

    way.run(case)


@pytest.mark.parametrize(("status", "errors"), [(200, 0), (404, 0), (503, 1)])
def test_an_answer_that_was_read_already_counts_at_once(way: Way, status: int, errors: int) -> None:
    """A transport may give an answer whose body is there; nobody reads or closes it then."""

    async def case(http: Http) -> None:
        inner = way.mock(lambda _: http.lib.Response(status, json={"a": 1}))
        response = await http.open(http.client(inner=inner), "http://there/")

        assert {"a": 1} == response.json()
        assert (1, errors) == counted("there")

    way.run(case)


def test_a_rate_limit_that_was_read_already_benches_for_its_hint(way: Way) -> None:
    """The hint in a body that is there counts."""

    async def case(http: Http) -> None:
        error = {"error": {"message": "Please try again in 42s."}}
        inner = way.mock(lambda _: http.lib.Response(429, json=error))
        await http.get(http.client(inner=inner), "http://there/")

        assert list_benched()[0].remaining == pytest.approx(42.0, rel=0.11)

    way.run(case)


def test_a_refusal_whose_body_never_ends_counts_by_its_status(way: Way, host: Host) -> None:
    """A 503 is known from its headers, so a timeout in its body does not replace it."""

    async def case(http: Http) -> None:
        with capture_events() as events, pytest.raises(http.lib.ReadTimeout):
            await http.get(http.client(timeout=0.2, failures=1), host.url("stalls-503"))

        assert (1, 1) == counted(host.key)
        benched = [each for each in events if isinstance(each, TargetBenched)]
        assert ["overloaded"] == [each.reason for each in benched]

    way.run(case)


@pytest.mark.parametrize("path", ["silent", "stalls", "ok"])
@pytest.mark.parametrize("way", ASYNC_WAYS, ids=str)
def test_a_cancellation_is_nothing(way: Way, host: Host, path: str) -> None:
    """A call that is cancelled counts as nothing and gives the place of its probe back."""

    async def case(http: Http) -> None:
        with fake_clock() as clock:
            client = http.client(failures=1, cooldown=20.0)
            await http.get(client, host.url("503"))
            clock.advance(23.0)
            assert "half_open" == breaker(host.key).state
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as group:
                    if path == "ok":
                        scope.cancel()
                    else:
                        group.start_soon(_cancel_when, host, scope)
                    await http.get(client, host.url(path))

            assert scope.cancelled_caught
            assert "half_open" == breaker(host.key).state
            assert (1, 1) == counted(host.key)
            await http.get(client, host.url())
            assert "closed" == breaker(host.key).state

    way.run(case)


async def _cancel_when(host: Host, scope: anyio.CancelScope) -> None:
    await anyio.to_thread.run_sync(host.begun.wait, host.patience)
    await anyio.wait_all_tasks_blocked()
    scope.cancel()


@pytest.mark.parametrize("where", ["before", "in the body"])
def test_an_interrupt_is_nothing(way: Way, where: str) -> None:
    """A KeyboardInterrupt passes, counts as nothing and gives the place of the probe back."""

    async def case(http: Http) -> None:
        answers: list[Any] = [http.lib.Response(503)]
        if where == "before":
            answers.append(KeyboardInterrupt())
        else:
            answers.append(http.lib.Response(200, stream=way.stream(b"x", KeyboardInterrupt())))
        answers.append(http.lib.Response(200))
        with fake_clock() as clock:
            client = http.client(inner=way.mock(_in_turn(answers)), failures=1, cooldown=20.0)
            await http.get(client, "http://there/")
            clock.advance(23.0)
            with pytest.raises(KeyboardInterrupt):
                await http.get(client, "http://there/")

            assert "half_open" == breaker("there").state
            assert (1, 1) == counted("there")
            await http.get(client, "http://there/")
            assert "closed" == breaker("there").state

    way.run(case)


def _in_turn(answers: list[Any]) -> Any:
    def answer(_: Any) -> Any:
        found = answers.pop(0)
        if isinstance(found, BaseException):
            raise found
        return found

    return answer


def test_a_stream_that_hangs_is_found_out_by_its_cancellation(way: Way) -> None:
    """A call cancelled after as long as a slow call counts as hung, unless parts kept coming."""

    async def case(http: Http) -> None:
        with fake_clock() as clock:
            steady = [b"x", lambda: clock.advance(8.0)] * 5
            quiet = [b"x", lambda: clock.advance(30.0)]
            for parts, errors in ((steady, 0), (quiet, 1)):
                stream = way.stream(*parts, KeyboardInterrupt())
                inner = way.mock(lambda _, body=stream: http.lib.Response(200, stream=body))
                client = http.client(inner=inner, slow_call=10.0)
                with pytest.raises(KeyboardInterrupt):
                    await http.get(client, "http://there/")

                assert (errors, errors) == counted("there")

    way.run(case)


@pytest.mark.parametrize("status", [200, 503])
def test_an_answer_that_is_collected_unread_gives_its_permit_back(
    way: Way, host: Host, status: int
) -> None:
    """An answer that nobody reads or closes counts as nothing once it is gone."""

    async def case(http: Http) -> None:
        with fake_clock() as clock:
            answers = [
                http.lib.Response(503),
                http.lib.Response(status, stream=way.stream(b"x")),
                http.lib.Response(200),
            ]
            client = http.client(inner=way.mock(_in_turn(answers)), failures=1, cooldown=20.0)
            await http.get(client, "http://there/")
            clock.advance(23.0)
            response = await http.open(client, "http://there/")
            with pytest.raises(BreakerOpenError):
                await http.get(client, "http://there/")
            del response
            gc.collect()

            assert "half_open" == breaker("there").state
            await http.get(client, "http://there/")
            assert "closed" == breaker("there").state

    way.run(case)


def test_a_slow_stream_is_judged_by_its_first_part(way: Way) -> None:
    """Of a body, the time to its first part is compared with slow_call, not the time to its end."""

    async def case(http: Http) -> None:
        with fake_clock() as clock:
            for name, parts, state in (
                ("long", [b"x", lambda: clock.advance(60.0), b"y"], "closed"),
                ("late", [lambda: clock.advance(60.0), b"", b"x"], "open"),
            ):
                inner = way.mock(
                    lambda _, given=tuple(parts): http.lib.Response(200, stream=way.stream(*given))
                )
                client = http.client(
                    inner=inner, slow_call=10.0, slow_rate=1.0, min_calls=3, key=lambda _, n=name: n
                )
                for _ in range(3):
                    await http.get(client, "http://there/")

                assert state == breaker(name).state

    way.run(case)


def test_a_mistake_of_the_caller_is_no_failure(way: Way) -> None:
    """A request that no transport can send counts as nothing."""

    async def case(http: Http) -> None:
        client = http.client(failures=1)
        with pytest.raises(http.lib.UnsupportedProtocol):
            await http.get(client, "ftp://there/x")

        assert "closed" == breaker("there").state
        assert (0, 0) == counted("there")

    way.run(case)


def test_settings_of_the_process_hold(way: Way, host: Host) -> None:
    """Options that are not named come from configure, for all circuits or for this key."""

    async def case(http: Http) -> None:
        configure(breakers={host.key: {"failures": 2}})
        client = http.client()
        await http.get(client, host.url("500"))
        assert "closed" == breaker(host.key).state
        await http.get(client, host.url("500"))

        assert "open" == breaker(host.key).state

    way.run(case)
