"""The transports as parts of a client: keys, errors of an open circuit, options, life."""

from __future__ import annotations

import asyncio
import pickle
import threading
from typing import Any

import anyio
import pytest

from resilient_llm import (
    BreakerOpenError,
    ConfigurationError,
    bench_model,
    breaker,
    classify,
    configure,
    failover,
    health,
    limits,
    list_benched,
    rate_limits,
)
from resilient_llm.testing import isolated
from tests.integrations.httpx.host import Host
from tests.integrations.httpx.ways import ASYNC_WAYS, LIBRARIES, Http, Way
from tests.support.pages import python_path

SYNC_WAYS = [Way(library, None) for library in LIBRARIES]


def well(http: Http) -> Any:
    """Return a transport that answers every request."""
    return http.way.mock(lambda _: http.lib.Response(200))


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("https://api.openai.com/v1", "api.openai.com"),
        ("https://API.OpenAI.com:443/v1", "api.openai.com"),
        ("http://there:80/", "there"),
        ("http://there:8080/", "there:8080"),
        ("https://there:80/", "there:80"),
        ("http://user:secret@there/", "there"),
        ("http://[::1]:8000/", "[::1]:8000"),
        ("http://bücher.example/", "xn--bcher-kva.example"),
    ],
)
def test_the_default_key_is_the_host(way: Way, url: str, key: str) -> None:
    """The key is the host, with its port unless that is the port of the scheme."""

    async def case(http: Http) -> None:
        await http.get(http.client(inner=well(http)), url)

        assert [key] == list(health())

    way.run(case)


def test_a_function_gives_the_key(way: Way) -> None:
    """Requests whose key is None are not guarded, even while a circuit is open."""

    async def case(http: Http) -> None:
        seen: list[Any] = []

        def key(request: Any) -> str | None:
            seen.append(request)
            return "Mine" if request.url.path == "/mine" else None

        answers = http.way.mock(lambda _: http.lib.Response(500))
        client = http.client(inner=answers, key=key, failures=1)
        await http.get(client, "http://there/other")
        await http.get(client, "http://there/other")
        assert {} == health()
        await http.get(client, "http://there/mine")

        assert "open" == breaker("mine").state
        assert all(isinstance(each, http.lib.Request) for each in seen)
        with pytest.raises(BreakerOpenError):
            await http.get(client, "http://there/mine")
        assert 500 == (await http.get(client, "http://there/other")).status_code

    way.run(case)


def test_the_circuit_is_that_of_the_process(way: Way, host: Host) -> None:
    """A bench of the key by name refuses the request, and a guard elsewhere sees its failures."""

    async def case(http: Http) -> None:
        client = http.client(failures=1)
        bench_model(host.key, 60.0, reason="maintenance")
        with pytest.raises(BreakerOpenError) as caught:
            await http.get(client, host.url())

        assert "maintenance" == caught.value.reason
        assert not host.requests

    way.run(case)


@pytest.mark.parametrize(
    ("junk", "word"), [(5, "int"), (b"openai", "bytes"), ("", "blank"), ("a/", "empty half")]
)
def test_a_key_that_is_none_is_an_error(way: Way, host: Host, junk: Any, word: str) -> None:
    """What a key function returns is a key or None; anything else is a ConfigurationError."""

    async def case(http: Http) -> None:
        with pytest.raises(ConfigurationError, match=word):
            await http.get(http.client(key=lambda _: junk), host.url())

        assert not host.requests

    way.run(case)


def test_a_key_function_that_is_a_coroutine_function_is_an_error(way: Way, host: Host) -> None:
    """It is refused where it is written, and one that hides what it is with the first request."""

    async def key(_: Any) -> str:
        return "mine"

    async def case(http: Http) -> None:
        with pytest.raises(ConfigurationError, match="write a function that is not"):
            http.client(key=key)
        with pytest.raises(ConfigurationError, match="a function that is not async"):
            await http.get(http.client(key=lambda request: key(request)), host.url())

    way.run(case)


def test_an_error_of_the_key_function_leaves_as_it_is(way: Way, host: Host) -> None:
    """A key function that raises stops the request with its own error."""

    def key(request: Any) -> str:
        return str(request.headers["x-tenant"])

    async def case(http: Http) -> None:
        with pytest.raises(KeyError, match="x-tenant"):
            await http.get(http.client(key=key), host.url())

        assert not host.requests

    way.run(case)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"failures": 0}, "failures=0"),
        ({"cooldown": float("nan")}, "cooldown"),
        ({"cooldown": 400.0, "max_cooldown": 300.0}, "max_cooldown=300 is below"),
        ({"mode": "off"}, "mode"),
        ({"failurs": 3}, "did you mean|failures"),
        ({"key": "openai"}, "key='openai' is not a function"),
        ({"transport": object()}, "transport of type builtins.object"),
    ],
    ids=lambda _: "case",  # the text of an object would differ between workers
)
def test_arguments_are_checked_when_they_are_given(
    way: Way, options: dict[str, Any], message: str
) -> None:
    """A wrong argument is a ConfigurationError of the constructor."""
    with pytest.raises(ConfigurationError, match=message):
        way.breaker_transport(**options)


def test_a_transport_of_the_other_kind_is_refused(way: Way) -> None:
    """A transport of the other library, or a synchronous one for an asynchronous client, is none."""
    other = next(name for name in LIBRARIES if name != way.library)
    foreign = Way(other, way.loop)
    wrong_kind = way.lib.HTTPTransport() if way.is_async else way.lib.AsyncHTTPTransport()

    for transport in (foreign.mock(lambda _: None), wrong_kind, way.lib.Client):
        with pytest.raises(ConfigurationError, match=rf"write a {way.library}\.\w*BaseTransport"):
            way.breaker_transport(transport)


def test_an_open_circuit_raises_an_error_of_both_libraries(way: Way, host: Host) -> None:
    """The error is a BreakerOpenError and the library's TransportError, with the request."""

    async def case(http: Http) -> None:
        client = http.client(failures=1, cooldown=20.0)
        await http.get(client, host.url("500"))
        errors: list[Any] = []
        for _ in range(2):
            with pytest.raises(http.lib.TransportError) as caught:
                await http.get(client, host.url("500"), headers={"x-mark": "1"})
            errors.append(caught.value)

        error, second = errors
        assert isinstance(error, BreakerOpenError)
        assert type(error) is http.way.ours.BreakerOpenTransportError
        assert error is not second
        assert "1" == error.request.headers["x-mark"]
        assert host.key == error.target
        assert "server_error" == error.reason
        assert error.retry_after == pytest.approx(20.0, rel=0.11)
        assert host.key in str(error)
        assert 1 == len(host.requests)
        verdict = classify(error)
        assert ("rejected", error.retry_after) == (verdict.kind, verdict.retry_after)
        assert error.__cause__ is None

    way.run(case)


def test_the_error_is_picklable_without_its_request(way: Way, host: Host) -> None:
    """A pickle has the facts of the error, and neither the request nor its headers."""

    async def case(http: Http) -> None:
        client = http.client(failures=1)
        await http.get(client, host.url("500"))
        with pytest.raises(BreakerOpenError) as caught:
            await http.get(client, host.url(), headers={"authorization": "Bearer secret"})

        pickled = pickle.dumps(caught.value)
        copy = pickle.loads(pickled)
        assert type(caught.value) is type(copy)
        assert str(caught.value) == str(copy)
        assert (caught.value.target, caught.value.reason, caught.value.retry_after) == (
            copy.target,
            copy.reason,
            copy.retry_after,
        )
        assert b"secret" not in pickled
        with pytest.raises(RuntimeError, match=r"request"):
            _ = copy.request

    way.run(case)


def test_a_transport_used_without_a_client_sets_the_request(way: Way, host: Host) -> None:
    """The request is on the error whoever calls the transport."""

    async def case(http: Http) -> None:
        transport = http.way.breaker_transport(mode="forced_open")
        request = http.lib.Request("GET", host.url())
        with pytest.raises(BreakerOpenError) as caught:
            if http.way.is_async:
                await transport.handle_async_request(request)
            else:
                transport.handle_request(request)

        assert caught.value.request is request

    way.run(case)


def test_modes(way: Way, host: Host) -> None:
    """The modes of a breaker hold for a transport."""

    async def case(http: Http) -> None:
        for mode, counts, sent in (
            ("metrics_only", 3, 3), ("disabled", 0, 3), ("forced_open", 0, 0), ("enforce", 1, 1),
        ):  # fmt: skip
            before = len(host.requests)
            client = http.client(failures=1, mode=mode, key=lambda _, mode=mode: mode)
            for _ in range(3):
                try:
                    await http.get(client, host.url("500"))
                except BreakerOpenError:
                    continue

            assert sent == len(host.requests) - before
            found = health().get(mode)
            assert counts == (0 if found is None else found.total)

    way.run(case)


def test_closing_closes_the_inner_transport(way: Way) -> None:
    """Closing the client closes the inner transport, once; with does the same."""

    async def case(http: Http) -> None:
        log: list[str] = []
        inner = _logging(http, log)
        await http.close_client(http.client(inner=inner))
        assert ["close"] == log

        log.clear()
        if http.way.is_async:
            async with http.client(inner=inner):
                pass
        else:
            with http.client(inner=inner):
                pass
        assert ["enter", "exit"] == log

    way.run(case)


def _logging(http: Http, log: list[str]) -> Any:
    if http.way.is_async:

        class AsyncInner(http.lib.AsyncBaseTransport):
            async def aclose(self) -> None:
                log.append("close")

            async def __aenter__(self) -> Any:
                log.append("enter")
                return self

            async def __aexit__(self, *error: object) -> None:
                log.append("exit")

        return AsyncInner()

    class Inner(http.lib.BaseTransport):
        def close(self) -> None:
            log.append("close")

        def __enter__(self) -> Any:
            log.append("enter")
            return self

        def __exit__(self, *error: object) -> None:
            log.append("exit")

    return Inner()


def test_the_inner_stream_is_closed(way: Way) -> None:
    """Closing a response closes the stream of the inner transport."""

    async def case(http: Http) -> None:
        stream = http.way.stream(b"x", b"y")
        inner = http.way.mock(lambda _: http.lib.Response(200, stream=stream))
        await http.close(await http.open(http.client(inner=inner), "http://there/"))

        assert stream.is_closed

    way.run(case)


def test_the_default_transport_is_that_of_the_library(way: Way) -> None:
    """Without a transport the library's own is made."""
    transport = way.breaker_transport()

    default = way.lib.AsyncHTTPTransport if way.is_async else way.lib.HTTPTransport
    assert type(transport._inner) is default


def test_mounts(way: Way, host: Host) -> None:
    """A transport may be mounted for some addresses; the others are not guarded."""

    async def case(http: Http) -> None:
        cls = http.lib.AsyncHTTPTransport if http.way.is_async else http.lib.HTTPTransport
        mounts = {f"all://localhost:{host.port}": http.way.breaker_transport(failures=1)}
        client = http.client(cls(), mounts=mounts)
        await http.get(client, host.url("500"))
        assert {} == health()
        await http.get(client, f"http://localhost:{host.port}/500")

        assert "open" == breaker(f"localhost:{host.port}").state

    way.run(case)


def test_each_redirect_is_guarded_by_its_own_host(way: Way, host: Host) -> None:
    """Every request of a redirect is one call of the host that it goes to."""

    async def case(http: Http) -> None:
        client = http.client(follow_redirects=True)
        url = host.replies_with(
            "away", 307, headers={"location": f"http://localhost:{host.port}/ok"}
        )
        response = await http.get(client, url)

        assert b"well" == response.content
        assert {host.key: 1, f"localhost:{host.port}": 1} == {
            key: found.total for key, found in health().items()
        }

    way.run(case)


def test_limits_listen_to_the_same_client(way: Way, host: Host) -> None:
    """A client over a transport of ours may be listened to, and both do their work."""
    url = host.replies_with(
        "limited",
        200,
        b"well",
        {"x-ratelimit-limit-requests": "100", "x-ratelimit-remaining-requests": "7",
         "x-ratelimit-reset-requests": "30s"},
    )  # fmt: skip

    async def case(http: Http) -> None:
        client = limits.listen(http.client(), key=host.key)
        response = await http.get(client, url)

        assert b"well" == response.content
        assert 1 == health()[host.key].total
        assert rate_limits()

    way.run(case)


@pytest.mark.parametrize("way", ASYNC_WAYS, ids=str)
def test_a_response_is_closed_in_another_task(way: Way, host: Host) -> None:
    """A response may be opened in one task and closed in another."""

    async def case(http: Http) -> None:
        client = http.client()
        opened: list[Any] = []

        async def open_one() -> None:
            opened.append(await http.open(client, host.url("stalls")))

        async with anyio.create_task_group() as group:
            group.start_soon(open_one)
        async with anyio.create_task_group() as group:
            group.start_soon(opened[0].aclose)

        assert (1, 0) == (health()[host.key].total, health()[host.key].errors)

    way.run(case)


@pytest.mark.parametrize("library", LIBRARIES)
def test_one_transport_in_two_event_loops(library: str) -> None:
    """A transport holds no task and no loop, so two loops may use it one after the other."""
    way = Way(library, "asyncio")
    transport = way.breaker_transport(way.mock(lambda _: way.lib.Response(500)), failures=2)

    async def once() -> None:
        async with way.lib.AsyncClient(transport=transport) as client:
            await client.get("http://there/")

    asyncio.run(once())
    asyncio.run(once())

    assert "open" == breaker("there").state


@pytest.mark.parametrize("way", SYNC_WAYS, ids=str)
def test_threads_share_a_client(way: Way, host: Host) -> None:
    """Every call of many threads over one client is counted."""

    async def case(http: Http) -> None:
        client = http.client(failures=1_000, error_rate=1.0)
        ready = threading.Barrier(8)

        def ask() -> None:
            ready.wait()
            for path in ("ok", "stream", "500") * 5:
                client.get(host.url(path))

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert (120, 40) == (health()[host.key].total, health()[host.key].errors)

    way.run(case)


@pytest.mark.parametrize("way", ASYNC_WAYS, ids=str)
def test_one_of_many_probes(way: Way, host: Host) -> None:
    """Of many requests that arrive when a cooldown ends, one goes out."""

    async def case(http: Http) -> None:
        from resilient_llm.testing import fake_clock

        with fake_clock() as clock:
            client = http.client(failures=1, cooldown=20.0)
            await http.get(client, host.url("500"))
            clock.advance(23.0)
            refused: list[BaseException] = []

            async def ask() -> None:
                try:
                    await http.get(client, host.url())
                except BreakerOpenError as error:
                    refused.append(error)

            async with anyio.create_task_group() as group:
                for _ in range(50):
                    group.start_soon(ask)

        assert 49 == len(refused)
        assert 1 == host.asked("ok")

    way.run(case)


def test_guards_of_one_key_inside_each_other_count_once(way: Way, host: Host) -> None:
    """A block around the request with the same key does not count its error again."""

    async def case(http: Http) -> None:
        client = http.client()
        for path, counts in (("ok", (1, 0)), ("refuses", (2, 1)), ("cut-short", (3, 2))):
            try:
                with breaker(host.key):
                    await http.get(client, host.url(path))
            except http.lib.TransportError:
                pass

            assert counts == (health()[host.key].total, health()[host.key].errors)

    way.run(case)


def test_a_refusal_is_charged_once_per_key(way: Way, host: Host) -> None:
    """The status error that a client makes of an answer is not charged to its key again."""

    async def case(http: Http) -> None:
        client = http.client(failures=50)
        for count in (1, 2):
            with pytest.raises(http.lib.HTTPStatusError), breaker(host.key), breaker("other"):
                (await http.get(client, host.url("500"))).raise_for_status()

            assert {host.key: count, "other": count} == {
                key: found.errors for key, found in health().items()
            }

    way.run(case)


def test_state_is_isolated(way: Way, host: Host) -> None:
    """A client made outside follows into an isolated state of the process and out of it."""

    async def case(http: Http) -> None:
        client = http.client(failures=1)
        await http.get(client, host.url("500"))
        with isolated():
            await http.get(client, host.url("500"))
            assert [host.key] == [each.model for each in list_benched()]
            configure(breakers={host.key: {"mode": "disabled"}})
        with pytest.raises(BreakerOpenError):
            await http.get(client, host.url())

    way.run(case)


def test_a_rejection_moves_a_chain_on(way: Way, host: Host) -> None:
    """In a chain, a host whose circuit is open is skipped without harm to the target."""

    async def case(http: Http) -> None:
        bad = http.client(failures=1)
        await http.get(bad, host.url("500"))

        def send(provider: str) -> Any:
            return bad.get(host.url()) if provider == "bad" else well_client.get("http://there/")

        well_client = http.client(inner=well(http))
        if http.way.is_async:

            @failover(chain=["bad/x", "good/y"])
            async def ask(*, provider: str = "") -> Any:
                return await send(provider)

            response = await ask()
        else:

            @failover(chain=["bad/x", "good/y"])
            def ask_sync(*, provider: str = "") -> Any:
                return send(provider)

            response = ask_sync()

        assert 200 == response.status_code
        assert 0 == health()["bad/x"].errors
        assert "healthy" == health()["bad/x"].status

    way.run(case)


def test_neither_library_loads_the_other() -> None:
    """Each module imports its own library alone, and the package imports none."""
    import subprocess
    import sys

    for library in (*LIBRARIES, "_transports"):
        script = (
            f"import sys, resilient_llm.integrations.{library}\n"
            "print([name for name in ('httpx', 'httpx2') if name in sys.modules])"
        )
        done = subprocess.run(
            [sys.executable, "-c", script], env={"PYTHONPATH": python_path()},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        expected = [library] if library in LIBRARIES else []

        assert str(expected) == done.stdout.strip()
