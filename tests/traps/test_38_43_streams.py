"""Where libraries went wrong with streams: traps 9 and 38 to 43, with the real clients and a server on loopback."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from resilient_llm import (
    AttemptFailed,
    ErrorKind,
    StreamCommitted,
    StreamInterrupted,
    StreamInterruptedError,
    StreamPolicy,
    breaker,
    failover,
    health,
    is_benched,
)
from resilient_llm.testing import FakeClock, capture_events
from tests.clients.test_streams import (
    Reading,
    Stack,
    World,
    _quick_collections,
    bare_reading,
    leave,
    only,
    server,
    whole,
    world,
)
from tests.support.stream_server import PATIENCE, SENT, THOUGHTS, WHOLE, words

__all__ = ["_quick_collections", "server", "world"]  # fixtures

FEW = ("stream", "generator", "anthropic-manager")
LIMIT = 30.0
"""Seconds of the fake clock."""


class Consumer:
    """Somebody who reads a stream while the test does something else.

    On a thread of its own for a sync client, in a task otherwise.
    """

    def __init__(self, world: World, ask: Callable[..., Any]) -> None:
        self.reading = Reading()
        self._world = world
        self._ask = ask
        self._group: Any = None
        self._thread: threading.Thread | None = None

    async def _read(self) -> None:
        world, reading = self._world, self.reading
        async with Stack(world.is_async) as stack:
            try:
                reading.stream = await world.open(self._ask, stack)
                iterator = aiter(reading.stream) if world.is_async else iter(reading.stream)
                while True:
                    await world.take(iterator, reading)
            except StopAsyncIteration:
                pass
            except Exception as error:
                reading.error = error

    def _read_by_hand(self) -> None:
        with contextlib.suppress(StopIteration):
            self._read().send(None)

    async def __aenter__(self) -> Consumer:
        if self._world.is_async:
            self._group = anyio.create_task_group()
            await self._group.__aenter__()
            self._group.start_soon(self._read)
        else:
            self._thread = threading.Thread(target=self._read_by_hand, daemon=True)
            self._thread.start()
        return self

    async def __aexit__(self, *error: Any) -> None:
        if self._thread is not None:
            self._thread.join(3 * PATIENCE)
        else:
            await self._group.__aexit__(*error)


async def pass_limit(world: World, clock: FakeClock, seconds: float, *, then: str) -> None:
    """Let the limit of an attempt pass, and wait until the call has moved on to a scenario."""
    clock.advance(seconds)

    def has_moved_on() -> bool:
        # A thread that was not yet waiting on its socket is found by a later look.
        clock.advance(0.0)
        return world.server.asked(then) == 1

    assert await world.sees(has_moved_on)


# --- 9: health of streams ----------------------------------------------------------------------


@only(*FEW)
def test_trap_09_a_provider_whose_streams_die_midway_is_benched(world: World) -> None:
    """Five streams that fail in the middle open the circuit, and the sixth call goes to the next target."""
    ask = world.guard("error-midway", "healthy")

    async def scenario() -> list[Reading]:
        return [await world.read(ask) for _ in range(6)]

    readings = world.run(scenario)

    assert [StreamInterruptedError] * 5 == [type(reading.error) for reading in readings[:5]]
    assert [words(SENT)] * 5 == [reading.texts for reading in readings[:5]]
    assert is_benched("one/model-1")
    assert whole(world, "two/model-2") == readings[5].items
    assert 5 == world.server.asked("error-midway")


@only(*FEW)
def test_trap_09_streams_that_die_midway_open_a_breaker(world: World) -> None:
    """Five streams that fail in the middle open the breaker around them."""
    (target,) = world.chain("error-midway")
    ask = breaker("one/model-1")(world.bare(target))

    async def scenario() -> None:
        for _ in range(5):
            await world.read(ask)

    world.run(scenario)

    assert "open" == breaker("one/model-1").state


@only(*FEW)
def test_trap_09_consumers_who_stop_early_do_no_harm(world: World) -> None:
    """Three consumers who stop reading after content are no failure, with a chain and with a breaker."""
    ask = world.guard("drip")
    guarded = breaker("one/model-1", failures=1)(world.bare(world.chain("drip")[0]))
    world.server.step(2)

    async def scenario() -> None:
        for _ in range(3):
            await world.read(ask, texts=2)
            await world.read(guarded, texts=1)

    with capture_events(AttemptFailed, StreamInterrupted) as seen:
        world.run(scenario)

    counted = health()["one/model-1"]
    assert [] == list(seen)
    assert "closed" == counted.state
    assert (0, 0) == (counted.errors, counted.consecutive_failures)


# --- 38: what does not commit ------------------------------------------------------------------


@only(*FEW, "manager", "responses", "responses_manager")
def test_trap_38_a_preamble_and_signs_of_life_do_not_commit(world: World) -> None:
    """Roles, ``response.created``, ``message_start``, pings and empty deltas are held back, and dropped with their stream."""
    with capture_events(StreamCommitted) as seen:
        reading = world.reads("noise-before", "healthy")

    assert whole(world, "two/model-2") == reading.items
    assert {"model-2"} == reading.models
    assert ["two/model-2"] == [event.target for event in seen]


@only(*FEW)
def test_trap_38_the_first_word_commits(world: World) -> None:
    """What was held back is handed over with the first word, while the provider is not through."""
    ask = world.guard("drip")
    world.server.step()

    async def scenario() -> Reading:
        return await world.read(ask, texts=1)

    with capture_events(StreamCommitted) as seen:
        reading = world.run(scenario)

    assert words(1) == reading.texts
    assert ["one/model-1"] == [event.target for event in seen]


@only("openai-stream", "anthropic-stream", "google-stream")
def test_trap_38_a_predicate_says_what_commits(world: World) -> None:
    """With ``commit=`` the caller says which item is the first with content."""
    world.server.waits_for_client = False

    reading = world.reads(
        "error-midway", "healthy", stream=StreamPolicy(commit=lambda item: "w4 " in repr(item))
    )

    assert whole(world, "two/model-2") == reading.items
    assert 1 == world.server.asked("error-midway")


# --- 39: no splice -----------------------------------------------------------------------------


@only(*FEW, "manager", "responses", "responses_manager")
@pytest.mark.parametrize("fault", ["reset-midway", "error-midway", "truncated-midway"])
def test_trap_39_no_model_goes_on_with_the_answer_of_another(world: World, fault: str) -> None:
    """After content the error is raised, with the number of items delivered; the next target is not asked."""
    reading = world.reads(fault, "healthy")

    assert words(SENT) == reading.texts
    assert {"model-1"} == reading.models
    assert isinstance(reading.error, StreamInterruptedError)
    assert ("one/model-1", len(reading.items)) == (
        str(reading.error.target),
        reading.error.items_sent,
    )
    assert 0 == world.server.asked("healthy")


@only(*FEW)
def test_trap_39_the_providers_own_error_is_the_cause(world: World) -> None:
    """The interruption has the client's error as its cause."""
    reading = world.reads("error-midway")

    assert type(bare_reading(world, "error-midway").error) is type(reading.error.__cause__)


# --- 40: ends ----------------------------------------------------------------------------------


@only(*FEW, "manager", "responses", "responses_manager")
@pytest.mark.parametrize(
    ("fault", "kind", "reason"),
    [
        ("empty", ErrorKind.BAD_RESPONSE, "empty"),
        ("truncated-before", ErrorKind.TRANSIENT, "stream_interrupted"),
    ],
)
def test_trap_40_an_end_without_content_is_no_answer(
    world: World, fault: str, kind: ErrorKind, reason: str
) -> None:
    """A stream that is empty, or that ends before its first word, moves the call on."""
    with capture_events(AttemptFailed) as seen:
        reading = world.reads(fault, "healthy")

    assert whole(world, "two/model-2") == reading.items
    assert [(kind, reason)] == [(event.kind, event.reason) for event in seen]


@only(*FEW, "manager", "responses", "responses_manager")
def test_trap_40_an_end_without_terminator_is_an_error(world: World) -> None:
    """A stream that just stops after content is interrupted, though the client sees a good end."""
    with capture_events(StreamInterrupted) as seen:
        reading = world.reads("truncated-midway")

    assert isinstance(reading.error, StreamInterruptedError)
    assert [(ErrorKind.TRANSIENT, "stream_interrupted")] == [
        (event.kind, event.reason) for event in seen
    ]
    assert 1 == health()["one/model-1"].errors


@only(*FEW)
@pytest.mark.parametrize(
    ("fault", "option", "texts"),
    [("empty", "on_empty", []), ("truncated-midway", "on_truncated", words(SENT))],
)
def test_trap_40_either_end_may_be_accepted(
    world: World, fault: str, option: str, texts: list[str]
) -> None:
    """``on_empty`` and ``on_truncated`` say that such an end is fine, for one target as well."""
    of_target = StreamPolicy(**{option: "accept"})  # type: ignore[arg-type]  # one of two names
    target = world.target("one/model-1", fault, stream=of_target)
    ask = failover([target, world.target("two/model-2", "healthy")], attempts=1)(world.function())

    reading = world.run(lambda: world.read(ask))

    assert texts == reading.texts
    assert reading.error is None
    assert 0 == health()["one/model-1"].errors


# --- 41: thinking ------------------------------------------------------------------------------


@only("stream", "generator", "anthropic-manager")
def test_trap_41_a_model_that_thinks_is_making_progress(world: World, clock: FakeClock) -> None:
    """Thoughts count as content: minutes of them pass no limit that each of them keeps."""
    policy = StreamPolicy(first_item_timeout=LIMIT, idle_timeout=LIMIT)
    ask = world.guard("reasoning", "healthy", stream=policy)

    async def scenario() -> Reading:
        async with Consumer(world, ask) as consumer:
            for thought in range(1, THOUGHTS + 1):
                assert await world.sees(lambda: consumer.reading.thoughts == thought)  # noqa: B023  # asked at once
                clock.advance(LIMIT * 0.9)
                world.server.step()
        return consumer.reading

    reading = world.run(scenario)

    assert words(WHOLE) == reading.texts
    assert reading.error is None
    assert 0 == world.server.asked("healthy")


@only("stream")
def test_trap_41_the_limit_is_the_targets(world: World, clock: FakeClock) -> None:
    """A target may take longer than the policy allows the others."""
    slow = world.target(
        "one/model-1", "silence-before", stream=StreamPolicy(first_item_timeout=4 * LIMIT)
    )
    chain = [slow, world.target("two/model-2", "healthy")]
    ask = failover(chain, attempts=1, stream=StreamPolicy(first_item_timeout=LIMIT))(
        world.function()
    )

    async def scenario() -> Reading:
        async with Consumer(world, ask) as consumer:
            assert await world.sees(lambda: world.server.stalls == 1)
            clock.advance(3 * LIMIT)
            world.server.release()
        return consumer.reading

    reading = world.run(scenario)

    assert words(WHOLE) == reading.texts
    assert {"model-1"} == reading.models


@only("stream", "generator", "anthropic-manager")
def test_trap_41_silence_is_no_thinking(world: World, clock: FakeClock) -> None:
    """A target that says nothing at all for its own limit is left for the next."""
    slow = world.target(
        "one/model-1", "silence-before", stream=StreamPolicy(first_item_timeout=4 * LIMIT)
    )
    chain = [slow, world.target("two/model-2", "healthy")]
    ask = failover(chain, attempts=1, stream=StreamPolicy(first_item_timeout=LIMIT))(
        world.function()
    )

    async def scenario() -> Reading:
        async with Consumer(world, ask) as consumer:
            assert await world.sees(lambda: world.server.stalls == 1)
            await pass_limit(world, clock, 4 * LIMIT, then="healthy")
        return consumer.reading

    reading = world.run(scenario)

    assert {"model-2"} == reading.models
    assert words(WHOLE) == reading.texts


# --- 42: keep-alives ---------------------------------------------------------------------------


@only("stream", "generator", "anthropic-manager")
def test_trap_42_keep_alives_do_not_put_off_the_first_word(world: World, clock: FakeClock) -> None:
    """Pings and empty deltas reset no `first_item_timeout`: it counts from the start of the attempt to content."""
    ask = world.guard("stall-before", "healthy", stream=StreamPolicy(first_item_timeout=LIMIT))

    async def scenario() -> Reading:
        async with Consumer(world, ask) as consumer:
            for signs in range(1, 4):
                assert await world.sees(lambda: world.server.signs >= signs)  # noqa: B023  # asked at once
                clock.advance(LIMIT * 0.3)
            await pass_limit(world, clock, LIMIT * 0.3, then="healthy")
        return consumer.reading

    reading = world.run(scenario)

    assert whole(world, "two/model-2") == reading.items
    assert 1 == health()["one/model-1"].errors


@only("stream", "generator", "anthropic-manager")
def test_trap_42_keep_alives_do_not_put_off_the_next_word(world: World, clock: FakeClock) -> None:
    """Pings and empty deltas reset no `idle_timeout`: it counts from one item with content to the next."""
    ask = world.guard("stall-midway", stream=StreamPolicy(idle_timeout=LIMIT))

    async def scenario() -> Reading:
        async with Consumer(world, ask) as consumer:
            assert await world.sees(lambda: world.server.stalls == 1)
            for _ in range(3):
                had = len(consumer.reading.items)
                assert await world.sees(
                    lambda had=had: len(consumer.reading.items) > had or consumer.reading.error
                )
                clock.advance(LIMIT * 0.4)
            assert await world.sees(
                lambda: clock.advance(0.0) or consumer.reading.error is not None
            )
        return consumer.reading

    reading = world.run(scenario)

    assert words(SENT) == reading.texts
    assert isinstance(reading.error, StreamInterruptedError)
    assert 1 == health()["one/model-1"].errors


@only("stream", "generator", "anthropic-manager")
def test_trap_42_every_word_begins_the_limit_anew(world: World, clock: FakeClock) -> None:
    """A stream slow as a whole is not cut off while each word comes in time."""
    ask = world.guard("drip", stream=StreamPolicy(idle_timeout=LIMIT))
    world.server.step()

    async def scenario() -> Reading:
        async with Consumer(world, ask) as consumer:
            for texts in range(1, WHOLE + 1):
                assert await world.sees(lambda: len(consumer.reading.texts) >= texts)  # noqa: B023  # asked at once
                if texts < WHOLE:
                    clock.advance(LIMIT * 0.9)
                world.server.step()
        return consumer.reading

    reading = world.run(scenario)

    assert words(WHOLE) == reading.texts
    assert reading.error is None


# --- 43: who has lost --------------------------------------------------------------------------


@only("stream", "generator", "anthropic-manager")
@pytest.mark.parametrize("fault", ["stall-before", "silence-before", "stall-headers"])
def test_trap_43_an_abandoned_stream_is_closed_while_the_next_is_read(
    world: World, clock: FakeClock, fault: str
) -> None:
    """The connection of a target that was given up is released before the call is over."""
    ask = world.guard(fault, "drip", stream=StreamPolicy(first_item_timeout=LIMIT))

    async def scenario() -> Reading:
        async with Consumer(world, ask) as consumer:
            assert await world.sees(lambda: world.server.stalls == 1)
            await pass_limit(world, clock, LIMIT, then="drip")
            assert await world.sees(lambda: world.server.open_answers == 1), "two streams are open"
            world.server.step(WHOLE)
        return consumer.reading

    reading = world.run(scenario)

    assert words(WHOLE) == reading.texts
    assert {"model-2"} == reading.models


@only("stream", "generator", "anthropic-manager")
def test_trap_43_a_rejected_stream_is_closed(world: World) -> None:
    """What `reject` refuses at its first content is closed while the next target's stream is read."""
    if world.provider == "google" and world.is_async:
        pytest.skip("the client releases a stream that is left early when it is collected")
    world.server.step()

    def is_of_the_first(item: Any) -> bool:
        return not world.server.asked("stall-midway") and "w0 " in repr(item)

    ask = world.guard("drip", "stall-midway", reject=is_of_the_first)
    first: list[int] = []

    async def scenario() -> Reading:
        async with Consumer(world, ask) as consumer:
            assert await world.sees(lambda: world.server.stalls == 1)
            assert await world.sees(lambda: world.server.open_answers == 1), "two streams are open"
            first.append(len(consumer.reading.texts))
            world.server.release()
        return consumer.reading

    reading = world.run(scenario)

    assert [SENT] == first
    assert words(WHOLE) == reading.texts
    assert {"model-2"} == reading.models


@only("stream", "generator")
def test_trap_43_an_interrupted_stream_is_closed_before_it_is_restarted(
    world: World, clock: FakeClock
) -> None:
    """With ``restart`` the stream that went quiet is closed, not left beside the next."""
    policy = StreamPolicy(idle_timeout=LIMIT, on_interrupt="restart")
    ask = world.guard("silence-midway", "drip", stream=policy)

    async def scenario() -> Reading:
        async with Consumer(world, ask) as consumer:
            assert await world.sees(lambda: world.server.stalls == 1)
            assert await world.sees(lambda: clock.advance(LIMIT) or world.server.asked("drip") == 1)
            assert await world.sees(lambda: world.server.open_answers == 1), "two streams are open"
            world.server.step(WHOLE)
        return consumer.reading

    reading = world.run(scenario)

    assert [*words(SENT), *words(WHOLE)] == reading.texts


@only("stream", "generator", "anthropic-manager")
def test_trap_43_a_dropped_consumer_releases_the_connection(world: World) -> None:
    """Closed by its consumer the stream is closed at the provider, and the connection counted by nobody."""
    ask = world.guard("drip")
    world.server.step(2)

    async def scenario() -> None:
        async with Stack(world.is_async) as stack:
            stream = await world.open(ask, stack)
            iterator = aiter(stream) if world.is_async else iter(stream)
            await world.take(iterator, Reading())
            await leave(world, stream)

    world.run(scenario)

    assert 0 == world.server.open_connections
