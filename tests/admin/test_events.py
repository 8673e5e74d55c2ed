"""``api/events``: which events come, from where on, and what a slow reader is told."""

from __future__ import annotations

import json
import os
import resource
import selectors
import socket
import threading
import time
from datetime import datetime
from typing import Any

import pytest

from resilient_llm import (
    Target,
    admin,
    bench_model,
    breaker,
    failover,
    list_benched,
    observe,
    unbench_model,
)
from resilient_llm.admin import _feed
from resilient_llm.testing import fake_clock, http_error
from tests.support.asgi import HOST, PATIENCE, TOKEN, Client, EventReader, Message, mounted, served

GROQ, OPENAI = "groq/llama", "openai/gpt"


@failover([GROQ, OPENAI], attempts=1)
def ask(target: Target) -> str:
    if target.key == GROQ:
        raise http_error(503)
    return "hello"


def _until(events: EventReader, kind: str) -> list[Message]:
    """Return the messages until one of a type, which is the last."""
    found = [events.next()]
    while found[-1].type != kind:
        found.append(events.next())
    return found


def test_it_is_a_stream_that_no_proxy_keeps(client: Client) -> None:
    """The headers say what it is, and that a proxy must not collect it."""
    with client.stream() as events:
        assert 200 == events.status
        assert "text/event-stream; charset=utf-8" == events.headers["content-type"]
        assert "no" == events.headers["x-accel-buffering"]
        assert "no-store" == events.headers["cache-control"]
        assert "content-length" not in events.headers


def test_an_event_is_the_line_of_the_journal(client: Client) -> None:
    """Its name is the type; its data has type, moment, process, target, call and fields."""
    with client.stream() as events:
        assert [] == events.until_greeted()
        bench_model(GROQ, 60.0, reason="bill", by="alice")
        message = _until(events, "TargetBenched")[-1]

    data = message.data
    assert ["type", "at", "pid", "target", "call_id"] == list(data)[:5]
    assert ("TargetBenched", os.getpid(), GROQ, "") == tuple(
        data[name] for name in ("type", "pid", "target", "call_id")
    )
    assert ("bill", "alice", None, "manual") == tuple(
        data[name] for name in ("reason", "by", "kind", "trigger")
    )
    for name in ("at", "until"):
        assert datetime.fromisoformat(data[name]).tzinfo is not None


def test_all_events_come_but_successes(client: Client) -> None:
    """A healthy call sends nothing; everything else of a call comes in order."""
    with client.stream() as events:
        events.until_greeted()
        assert "hello" == ask()
        bench_model("last")
        found = _until(events, "TargetBenched")

    types = [each.type for each in found]
    assert ["AttemptFailed", "FailedOver"] == [
        each for each in types if each in ("AttemptFailed", "FailedOver", "AttemptSucceeded")
    ]
    assert {each.data["call_id"] for each in found if each.type == "FailedOver"} != {""}


def test_a_call_that_nobody_could_answer_is_told(client: Client) -> None:
    """`CallFailed` is the event that an operator waits for."""
    with client.stream() as events:
        events.until_greeted()
        bench_model(OPENAI)
        with pytest.raises(Exception):  # noqa: B017  # which one does not matter
            ask()
        message = _until(events, "CallFailed")[-1]

    assert 1 == message.data["attempts"]


def test_a_reader_begins_with_what_comes_next(client: Client) -> None:
    """Without Last-Event-ID nothing of the past is sent."""
    bench_model("before")
    client.get("/api/benches")
    with client.stream() as events:
        assert [] == events.until_greeted()
        bench_model("after")

        assert "after" == _until(events, "TargetBenched")[-1].data["target"]


def test_a_reader_goes_on_where_it_was(client: Client) -> None:
    """With the id of an event, it gets those after it."""
    with client.stream() as events:
        events.until_greeted()
        for number in range(5):
            bench_model(f"key{number}")
        seen = [each for number in range(5) for each in _until(events, "TargetBenched")]
    ids = [int(each.id) for each in seen]
    assert sorted(set(ids)) == ids

    with client.stream(seen[2].id) as events:
        again = events.until_greeted()

    assert seen[3 : len(seen)] == again[: len(seen) - 3]


@pytest.mark.parametrize("last_id", ["0", "", "x", "-1", "999999999999999999999", "9" * 19, "½"])
def test_an_id_of_elsewhere_begins_with_all_that_is_kept(client: Client, last_id: str) -> None:
    """After a restart the ids of before mean nothing, so the reader gets everything there is."""
    bench_model("one")
    with client.stream() as events:
        events.until_greeted()
        bench_model("two")
        _until(events, "TargetBenched")

    with client.stream(last_id or "none") as events:
        found = events.until_greeted()

    assert ["one", "two"] == [each.data["target"] for each in found if each.type == "TargetBenched"]


def _flood(count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        bench_model("flood", 60.0, reason=str(number))


def _flush(app: Any) -> None:
    assert app._watch.catch_up(PATIENCE)


def test_the_last_1000_are_kept(serve: Any) -> None:
    """Whoever was away longer is told how many are missing, once, before the rest."""
    app: Any = admin.app(authorize=admin.token(TOKEN))
    with served(mounted(app)) as port:
        client = Client(port, "/llm")
        with client.stream() as events:
            events.until_greeted()
            _flood(1)
            first = _until(events, "TargetBenched")[-1]
        _flood(1500, 1)
        _flush(app)

        with client.stream(first.id) as events:
            found = events.until_greeted()
        with client.stream("0") as events:
            everything = events.until_greeted()

    assert ["dropped"] == [each.type for each in found if each.type != "TargetBenched"][:1]
    assert "dropped" == found[0].type
    lost, kept = found[0].data, [each for each in found[1:] if each.id]
    assert {"dropped"} == lost.keys()
    assert 1000 == len(kept)
    assert "1500" == [each for each in kept if each.type == "TargetBenched"][-1].data["reason"]
    assert int(kept[0].id) - int(first.id) - 1 == lost["dropped"]
    assert 1000 == len(everything)


def test_a_slow_reader_is_told_what_it_missed(serve: Any) -> None:
    """It gets what its connection held, then one `dropped`, then the last 1,000: none twice."""
    app: Any = admin.app(authorize=admin.token(TOKEN))
    with served(mounted(app)) as port:
        client = Client(port, "/llm")
        with client.stream() as events:
            events.until_greeted()
            bench_model("first")
            first = _until(events, "TargetBenched")[-1]
            # More than any socket holds while nobody reads.
            for round_ in range(40):
                for number in range(500):
                    bench_model("flood", 60.0, reason=f"{round_ * 500 + number} {'x' * 190}")
                _flush(app)
            found = _until_reason(events, "19999 ")

    dropped = [each.data["dropped"] for each in found if each.type == "dropped"]
    ids = [int(each.id) for each in found if each.id]
    assert 1 <= len(dropped)
    assert sorted(set(ids)) == ids
    assert ids[-1] - int(first.id) == len(ids) + sum(dropped)


def _until_reason(events: EventReader, reason: str) -> list[Message]:
    found = [events.next()]
    while not (found[-1].data and str(found[-1].data.get("reason", "")).startswith(reason)):
        found.append(events.next())
    return found


def test_a_quiet_stream_is_pinged(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every 15 seconds a comment says that the stream is there."""
    assert 15.0 == _feed.PING_AFTER
    monkeypatch.setattr(_feed, "PING_AFTER", 0.02)

    with client.stream() as events:
        found = [events.next() for _ in range(4)]

    assert [Message("", "", None)] * 4 == found


def test_the_end_of_a_bench_is_told_without_traffic(serve: Any) -> None:
    """While there is an admin app, an expired bench emits its event though nobody calls."""
    app: Any = admin.app(authorize=admin.token(TOKEN))
    with fake_clock() as clock, served(mounted(app)) as port:
        client = Client(port, "/llm")
        bench_model(GROQ, 60.0)
        with client.stream() as events:
            events.until_greeted()
            clock.advance(61.0)

            found = _until(events, "TargetUnbenched")[-1]

    assert ("expired", GROQ) == (found.data["reason"], found.data["target"])


def test_an_app_sees_the_state_that_it_was_made_in(serve: Any) -> None:
    """Events of another state of the process are not its business."""
    from resilient_llm.testing import isolated

    app: Any = admin.app(authorize=admin.token(TOKEN))
    with isolated():
        bench_model("inside")
    bench_model("outside")
    _flush(app)

    texts = [text.decode() for _, text in app._watch.feed._kept]
    assert any('"outside"' in text for text in texts)
    assert not any('"inside"' in text for text in texts)


def test_an_observer_may_use_the_library(client: Client) -> None:
    """No lock of the feed is held while others listen."""
    seen: list[int] = []
    stop = observe(lambda event: seen.append(len(list_benched())))
    try:
        with client.stream() as events:
            events.until_greeted()
            bench_model("a")
            _until(events, "TargetBenched")
    finally:
        stop()
    assert seen


def test_a_forked_child_starts_empty(serve: Any) -> None:
    """It has none of the events of its parent, and a thread of its own."""
    app: Any = admin.app(authorize=admin.token(TOKEN))
    bench_model("parent")
    _flush(app)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover  # in the child
        try:
            before = len(app._watch.feed._kept)
            bench_model("child")
            until = time.monotonic() + 10.0
            while not app._watch.feed._kept and time.monotonic() < until:
                time.sleep(0.01)
            texts = b"".join(text for _, text in app._watch.feed._kept)
            os.write(writer, json.dumps([before, "child" in texts.decode()]).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answers:
        said = json.loads(answers.read())
    os.waitpid(child, 0)

    assert [0, True] == said


def test_many_threads_lose_no_event(serve: Any) -> None:
    """Each event that is emitted is kept once, under its own number."""
    import sys

    app: Any = admin.app(authorize=admin.token(TOKEN))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [
            threading.Thread(
                target=lambda number=number: [
                    bench_model(f"key{number}", 60.0, reason=str(each)) for each in range(50)
                ]
            )
            for number in range(10)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    _flush(app)

    kept = list(app._watch.feed._kept)
    numbers = [number for number, _ in kept]
    assert list(range(numbers[0], numbers[0] + len(numbers))) == numbers
    benched = [text for _, text in kept if text.startswith(b"event: TargetBenched")]
    assert 500 == len({text.split(b"data: ")[1] for text in benched})


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_thousand_readers_of_whom_half_read_nothing(serve: Any) -> None:
    """The others are served, the memory is bounded, and the API answers meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    app: Any = admin.app(authorize=admin.token(TOKEN))
    request = (
        f"GET /llm/api/events HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
    )
    sockets: list[socket.socket] = []
    done: dict[int, bool] = {}
    try:
        with served(mounted(app)) as port, selectors.DefaultSelector() as selector:
            for _ in range(1000):
                made = socket.socket()
                made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                made.settimeout(PATIENCE)
                made.connect((HOST, port))
                made.sendall(request.encode())
                sockets.append(made)
            for each in sockets:  # the first ping: all of them are there
                while b": ping" not in each.recv(4096):
                    pass
            for each in sockets[:500]:
                each.setblocking(False)
                selector.register(each, selectors.EVENT_READ)
            before = _resident()
            client = Client(port, "/llm")
            tails = {each.fileno(): b"" for each in sockets[:500]}
            until = time.monotonic() + 120.0
            for round_ in range(12):
                for number in range(100):
                    bench_model("flood", 60.0, reason=f"{round_ * 100 + number} {'x' * 150}")
                assert 200 == client.get("/api/benches").status
                _read(selector, tails, done, 0.01)
            bench_model("the-end", reason="x")
            while len(done) < 500 and time.monotonic() < until:
                _read(selector, tails, done, 0.1)
            grown = _resident() - before
            selector.close()
            _close(sockets, app)
    finally:
        for each in sockets:
            each.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert 500 == len(done)
    # Of 1,200 events of 500 bytes, the 500 others are owed 300 MB by now.
    assert grown < 100 * 1024 * 1024


def _close(sockets: list[socket.socket], app: Any) -> None:
    """Close all connections, and wait until the server has noticed."""
    for each in sockets:
        each.close()
    until = time.monotonic() + PATIENCE
    while app._watch.feed._bells and time.monotonic() < until:
        time.sleep(0.01)


def _read(
    selector: selectors.BaseSelector, tails: dict[int, bytes], done: dict[int, bool], wait: float
) -> None:
    for key, _ in selector.select(wait):
        found = key.fileobj
        assert isinstance(found, socket.socket)
        text = tails[key.fd] + found.recv(65536)
        if b'"the-end"' in text:
            done[key.fd] = True
            selector.unregister(found)
        tails[key.fd] = text[-20:]


def _resident() -> int:
    with open("/proc/self/statm") as status:  # noqa: PTH123  # no file to keep
        return int(status.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_reader_that_goes_is_forgotten(serve: Any) -> None:
    """Its place in the feed is given back when its connection is closed."""
    app: Any = admin.app(authorize=admin.token(TOKEN))
    with served(mounted(app)) as port:
        client = Client(port, "/llm")
        with client.stream() as events:
            events.until_greeted()
            assert 1 == len(app._watch.feed._bells)
        until = time.monotonic() + PATIENCE
        while app._watch.feed._bells and time.monotonic() < until:
            time.sleep(0.01)

        assert {} == app._watch.feed._bells


def test_failures_of_guards_are_seen_too(client: Client) -> None:
    """A guard's bench is an event like any other."""
    with client.stream() as events:
        events.until_greeted()
        with pytest.raises(Exception), breaker("openai"):  # noqa: B017  # a provider's
            raise http_error(401)
        message = _until(events, "TargetBenched")[-1]

    assert ("openai", "auth_dead") == (message.data["target"], message.data["kind"])
    unbench_model("openai")


def test_a_reader_is_sent_little_at_a_time() -> None:
    """What one connection holds is bounded, also for a reader that asks for the last 1,000."""
    app: Any = admin.app(authorize=admin.token(TOKEN))
    for number in range(300):
        bench_model("flood", 60.0, reason=f"{number} {'x' * 190}")
    _flush(app)
    feed = app._watch.feed

    position, sizes = feed.position("0"), list[int]()
    while True:
        text, position = feed.after(position)
        if not text:
            break
        sizes.append(len(text))

    assert max(sizes) <= _feed.CHUNK == 8192
    assert sum(sizes) == sum(len(text) for _, text in feed._kept)
