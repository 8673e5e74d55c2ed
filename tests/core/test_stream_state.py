"""The pure parts of guarded streams.

Items that are held back, how long an item may take, averages, and the steps of the call flow.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient_llm._core.call.call_flow import call_flow
from resilient_llm._core.call.steps import Deliver, Reply, Try
from resilient_llm._core.circuit.window import RollingAverage
from resilient_llm._core.stream.item_size import size_of
from resilient_llm._core.stream.stream_state import StreamState
from resilient_llm._core.stream.stream_timer import StreamTimer
from resilient_llm._values.errors import StreamDeadlineExceededError, StreamInterruptedError
from resilient_llm._values.kinds import ErrorKind
from resilient_llm._values.stream_policy import StreamPolicy
from resilient_llm._values.verdict import Verdict
from resilient_llm.answers import _items
from tests.core.test_call_flow import GATEWAY, Player, Problem, Stop
from tests.support.stream_sources import END, ROLE, SILENT, said, says

CANCELLED = Verdict(ErrorKind.CANCELLED)
BUG = Verdict(ErrorKind.CALLER_BUG)


def stream_state(earlier: StreamState | None = None, **options: Any) -> StreamState:
    return StreamState(StreamPolicy(**options), _items, earlier)


def fed(items: list[Any], **options: Any) -> StreamState:
    """Return an stream state that took items until it may begin."""
    taken = stream_state(**options)
    for item in items:
        assert taken.hold_back(item) is None
        if taken.may_begin:
            break
    return taken


# --- StreamState ------------------------------------------------------------------------------


def test_items_are_held_until_one_has_content() -> None:
    """The first item with content is the last that is held."""
    taken = fed([ROLE, SILENT, said("It"), said(" is")])

    assert (True, [ROLE, SILENT, said("It")]) == (taken.has_content, taken.held)
    assert said("It") == taken.first_content


@pytest.mark.parametrize(("number", "may_begin"), [(63, False), (64, True)])
def test_so_many_items_may_be_held(number: int, may_begin: bool) -> None:
    """64 items are enough, and none of them had content."""
    taken = fed([SILENT] * number)

    assert (may_begin, False, number) == (taken.may_begin, taken.has_content, len(taken.held))


def test_so_many_bytes_may_be_held() -> None:
    """A quarter of a mebibyte is enough, in however few items."""
    assert not fed([{**SILENT, "x": "x" * 200_000}]).may_begin
    assert fed([{**SILENT, "x": "x" * 262_144}]).may_begin


@settings(deadline=None)  # a busy machine is no failure
@given(
    st.lists(
        st.sampled_from([ROLE, SILENT, "", None, said("a"), {**SILENT, "x": "y" * 50_000}]),
        max_size=100,
    )
)
def test_never_more_than_that_is_held(items: list[Any]) -> None:
    """At most 64 items are held, in the order in which they came; only the last has content."""
    taken = fed(items)

    assert len(taken.held) <= 64
    assert items[: len(taken.held)] == taken.held
    assert taken.has_content is (said("a") in taken.held)
    assert said("a") not in taken.held[:-1]


def test_a_predicate_decides_alone() -> None:
    """``commit=`` is asked about every item, also about those that we would know."""
    taken = fed([said("It"), "go"], commit=lambda item: item == "go")

    assert [said("It"), "go"] == taken.held


def test_an_error_item_is_a_fault() -> None:
    """An item that is an error gives its verdict, and is not held."""
    taken = stream_state()
    taken.hold_back(ROLE)

    verdict = taken.hold_back({"error": {"type": "overloaded_error", "message": "Overloaded"}})

    assert verdict is not None
    assert (ErrorKind.TRANSIENT, [ROLE]) == (verdict.kind, taken.held)


@pytest.mark.parametrize(
    ("items", "options", "reason"),
    [
        ([], {}, "empty"),
        ([ROLE, END], {}, "empty"),
        ([ROLE], {}, "stream_interrupted"),
        (["", None], {}, "empty"),
        ([], {"on_empty": "accept"}, None),
        ([ROLE, END], {"on_empty": "accept"}, None),
        ([ROLE], {"on_empty": "accept"}, "stream_interrupted"),
        ([ROLE], {"on_truncated": "accept"}, "empty"),
        ([ROLE], {"on_truncated": "accept", "on_empty": "accept"}, None),
    ],
)
def test_ends_before_content(items: list[Any], options: dict[str, Any], reason: str | None) -> None:
    """What is wrong with a stream that ended with everything still held."""
    fault = fed(items, **options).ended_before()

    assert reason == (None if fault is None else fault.reason)


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        (says("It"), None),
        ([said("It")], "stream_interrupted"),
        ([END, {"choices": [], "usage": {"total_tokens": 1}}], None),
        (["It"], None),
        ([object()], None),
        ([], None),
        ([ROLE, "It"], None),
    ],
    ids=["ends_deadline", "cut", "usage after", "text", "unknown", "none", "known, then text"],
)
def test_ends_after_content(last: list[Any], reason: str | None) -> None:
    """Only of items whose last one says so is it known that the stream was cut short."""
    fault = stream_state().ended_after(last)

    assert reason == (None if fault is None else fault.reason)
    assert stream_state(on_truncated="accept").ended_after(last) is None


@settings(deadline=None)  # a busy machine is no failure
@given(st.lists(st.text(max_size=5), max_size=20), st.integers(1, 40))
def test_kept_text_is_an_end_within_its_bytes(texts: list[str], most: int) -> None:
    """It is the longest end of the text that fits, by whole characters."""
    keeper = stream_state(keep_text=most)
    for text in texts:
        keeper.keep(text)

    ends_deadline = "".join(texts)
    kept = keeper.text_so_far
    assert kept is not None
    assert ends_deadline.endswith(kept)
    assert len(kept.encode()) <= most
    before = ends_deadline[: len(ends_deadline) - len(kept)]
    assert not before or len((before[-1] + kept).encode()) > most


def test_nothing_is_kept_unless_asked() -> None:
    """Without ``keep_text`` no text is kept."""
    keeper = stream_state()
    keeper.keep("It")

    assert keeper.text_so_far is None


def test_what_came_before_counts_on() -> None:
    """A stream after another goes on counting items, and with the text unless it restarts."""
    first = stream_state(keep_text=10, on_interrupt=lambda _: {})
    first.items_sent = 3
    first.keep("It")

    assert (3, "It") == (lambda each: (each.items_sent, each.text))(
        stream_state(first, keep_text=10, on_interrupt=lambda _: {})
    )
    first.policy = StreamPolicy(keep_text=10, on_interrupt="restart")
    assert (3, "") == (lambda each: (each.items_sent, each.text))(stream_state(first, keep_text=10))


class Nosy:
    """Has code wherever it is looked at."""

    def __init__(self) -> None:
        self.__dict__["text"] = "x" * 1_000

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)

    def __len__(self) -> int:
        raise AssertionError

    def __iter__(self) -> Any:
        raise AssertionError

    def __sizeof__(self) -> int:
        raise AssertionError


def test_sizes_are_those_of_what_is_inside() -> None:
    """Texts count by their length at every depth that is looked at; no foreign code runs."""
    assert 0 < size_of(None) < 1_000
    assert 1_000 <= size_of("x" * 1_000) < 2_000
    assert 1_000 <= size_of(b"x" * 1_000) < 2_000
    assert 1_000 <= size_of([{"a": ("x" * 1_000,)}]) < 3_000
    assert 1_000 <= size_of(Nosy()) < 2_000


def test_sizes_of_what_is_endless_or_within_itself() -> None:
    """The work is bounded: for a million entries, and for a list in itself."""
    within: list[Any] = []
    within.append(within)
    wide = [list(range(1_000)) for _ in range(1_000)]

    assert size_of(within) < 10_000
    assert size_of(wide) < 1_000_000


class Slotted:
    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


def test_big_items_without_a_dict_count_as_well() -> None:
    """What an object keeps in slots is as big as what it keeps in a dict."""
    assert size_of(Slotted("x" * 10_000)) >= 10_000


def test_big_texts_among_many_entries_count() -> None:
    """A long text is counted wherever in a list it stands, as far as one item may be looked at."""
    assert (
        size_of(["x"] * 300 + ["x" * 100_000]) >= 100_000
        or size_of(["x" * 100_000] + ["x"] * 300) >= 100_000
    )


# --- Pace --------------------------------------------------------------------------------------


def timer(waited: float = 0.0, deadline: float | None = None, **options: Any) -> StreamTimer:
    return StreamTimer(StreamPolicy(**options), waited, deadline)


def test_without_limits_there_is_no_hurry() -> None:
    """None: wait for as long as it takes."""
    assert timer().next_timeout(5.0) is None


def test_silent_items_use_the_patience_up() -> None:
    """Waiting for content is one wait in any number of pieces; content starts the next."""
    limits = timer(idle_timeout=10.0)
    seen = [limits.next_timeout(0.0)]
    for waited, is_content in [(4.0, False), (4.0, False), (1.0, True), (9.0, False)]:
        limits.received(waited, is_content=is_content)
        seen.append(limits.next_timeout(0.0))

    assert [10.0, 6.0, 2.0, 10.0, 1.0] == seen


def test_the_shortest_of_all_limits_is_the_patience() -> None:
    """The deadline goes by the clock, all else by what was waited; what is over is not positive."""
    limits = timer(deadline=150.0, timeout=60.0, idle_timeout=30.0)

    assert [30.0, 30.0, 10.0, 0.0] == [
        limits.next_timeout(now) for now in (100.0, 120.0, 140.0, 150.0)
    ]


def test_the_time_of_the_whole_stream_is_time_of_waiting() -> None:
    """The time until the first content counts; the consumer's time between items does not."""
    limits = timer(waited=5.0, timeout=20.0)
    seen = [limits.next_timeout(100.0)]
    for waited, now in [(4.0, 200.0), (6.0, 900.0), (5.0, 901.0)]:
        limits.received(waited, is_content=True)
        seen.append(limits.next_timeout(now))

    assert [15.0, 11.0, 5.0, 0.0] == seen


@pytest.mark.parametrize(
    ("options", "deadline", "said"),
    [
        ({"idle_timeout": 3.0}, None, "idle_timeout of 3.0 s"),
        (
            {"idle_timeout": 3.0, "min_rate": 2.0, "rate_window": 1.0},
            None,
            "min_rate=2.0 items a second within 1 s",
        ),
        ({"idle_timeout": 3.0, "timeout": 2.0}, None, "timeout of 2.0 s"),
        ({"idle_timeout": 3.0, "timeout": 2.0}, 1.0, "deadline"),
    ],
)
def test_the_limit_that_ended_a_wait_is_named(
    options: dict[str, Any], deadline: float | None, said: str
) -> None:
    """The error names the option to change."""
    limits = timer(deadline=deadline, **options)

    limits.next_timeout(0.0)

    assert said in limits.message()


@settings(deadline=None)  # a busy machine is no failure
@given(
    st.floats(0.1, 20.0),
    st.floats(0.5, 30.0),
    st.lists(st.tuples(st.floats(0.0, 10.0), st.booleans()), max_size=200),
)
def test_a_rate_that_is_kept_is_never_out_of_patience(
    rate: float, window: float, items: list[tuple[float, bool]]
) -> None:
    """Items that come twice as fast as asked never time out; no wait exceeds two windows."""
    limits = timer(min_rate=rate, rate_window=window)
    for _ in range(400):
        next_timeout = limits.next_timeout(0.0)
        assert next_timeout is not None
        assert next_timeout > 0.45 / rate or next_timeout >= 0.45 * window
        limits.received(min(0.5 / rate, 0.5 * window), is_content=True)

    limits = timer(min_rate=rate, rate_window=window)
    for waited, is_content in items:
        next_timeout = limits.next_timeout(0.0)
        assert next_timeout is not None
        assert next_timeout <= 2 * window
        if next_timeout <= 0:
            break
        limits.received(min(waited, next_timeout), is_content=is_content)


def test_nothing_at_all_is_too_slow_after_one_window() -> None:
    """Without any item the patience is one window."""
    assert 10.0 == timer(min_rate=1.0, rate_window=10.0).next_timeout(0.0)


def test_a_burst_does_not_pay_for_long_silence() -> None:
    """However many items came at once, silence is noticed within two windows."""
    limits = timer(min_rate=1.0, rate_window=10.0)
    for _ in range(1_000):
        limits.received(0.0, is_content=True)
    limits.received(15.0, is_content=True)

    next_timeout = limits.next_timeout(0.0)
    assert next_timeout is not None
    assert next_timeout <= 10.0


# --- Averages ----------------------------------------------------------------------------------


def test_an_average_over_a_window() -> None:
    """What was measured in the window counts, and nothing is the average of nothing."""
    averages = RollingAverage()
    seen = [averages.value(0.0, 300.0)]
    averages.add(0.0, 2.0, 300.0)
    averages.add(100.0, 4.0, 300.0)
    seen += [
        averages.value(100.0, 300.0),
        averages.value(301.0, 300.0),
        averages.value(500.0, 300.0),
    ]

    assert [None, 3.0, 4.0, None] == seen


@settings(deadline=None)  # a busy machine is no failure
@given(st.lists(st.tuples(st.floats(0.0, 5.0), st.floats(0.0, 100.0)), min_size=1, max_size=300))
def test_averages_lie_between_the_least_and_the_most(values: list[tuple[float, float]]) -> None:
    """And there are never more buckets than the window has, however many values."""
    averages, now = RollingAverage(), 0.0
    for wait, value in values:
        now += wait
        averages.add(now, value, 30.0)

    average = averages.value(now, 30.0)
    assert average is not None
    assert (
        min(value for _, value in values) - 1e-9
        <= average
        <= max(value for _, value in values) + 1e-9
    )
    assert len(averages._buckets) <= 31


# --- The call flow ----------------------------------------------------------------------------


class Streams:
    """Plays the call flow of calls whose answers are streams, by hand."""

    def __init__(self, *keys: str, stream: StreamPolicy | None = None, **options: Any) -> None:
        self.player = Player({key: [] for key in keys}, stream=stream, **options)
        self.policy = stream or StreamPolicy()
        self.steps = call_flow(self.player.call, self.player.now)
        self.step: Any = next(self.steps)
        self.stream_state: StreamState | None = None

    def reply(self, seconds: float, **outcome: Any) -> Any:
        self.player.now += seconds
        self.step = self.steps.send(Reply(self.player.now, **outcome))
        return self.step

    def begins(self, items: list[Any], seconds: float = 1.0) -> Any:
        """Let the attempt give these items until its first content."""
        assert isinstance(self.step, Try)
        self.stream_state = StreamState(self.policy, _items, self.player.call.delivered)
        for item in items:
            self.stream_state.fault = self.stream_state.hold_back(item)
        self.player.call.delivered = self.stream_state
        return self.reply(seconds, value=self.stream_state.first_content, stream=self.stream_state)

    def ends(self, seconds: float = 1.0, *, sent: int = 2, **outcome: Any) -> Any:
        """Let the consumer get this many items, and the stream end."""
        assert self.stream_state is not None
        self.stream_state.items_sent += sent
        return self.reply(seconds, stream=self.stream_state, **outcome)

    @property
    def names(self) -> list[str]:
        return [line.split()[0] for line in self.player.lines]


def test_a_stream_is_delivered_before_it_is_a_success() -> None:
    """The first content starts the delivery; its end is the success, with the whole duration."""
    streams = Streams("a/x")

    delivers = streams.begins([ROLE, said("It")], 2.0)
    before = list(streams.names)
    done = streams.ends(3.0)

    assert isinstance(delivers, Deliver)
    assert not delivers.restarts
    assert ["StreamCommitted"] == before
    assert "Done" == type(done).__name__
    assert [
        "StreamCommitted a/x seconds=2 at 2",
        "AttemptSucceeded a/x number=1 seconds=5 at 5",
    ] == streams.player.lines


def test_an_interruption_in_steps() -> None:
    """The failure is charged and emitted; the interruption is raised from the provider's error."""
    streams = Streams("a/x", "b/x")
    streams.begins([said("It")])

    step = streams.ends(error=Problem(GATEWAY))

    assert ["StreamCommitted", "AttemptFailed", "StreamInterrupted", "CallFailed"] == streams.names
    assert StreamInterruptedError is type(step.error)
    assert isinstance(step.cause, Problem)


def test_a_restart_in_steps() -> None:
    """The next target is tried, and its delivery is marked as a restart."""
    streams = Streams("a/x", "b/x", stream=StreamPolicy(on_interrupt="restart"))
    streams.begins([said("It")])

    step = streams.ends(error=Problem(GATEWAY))
    assert isinstance(step, Try)
    assert "b/x" == step.candidate.target.key
    delivers = streams.begins([said("It")])

    assert isinstance(delivers, Deliver)
    assert delivers.restarts
    assert "Done" == type(streams.ends()).__name__


@pytest.mark.parametrize("verdict", [CANCELLED, BUG], ids=["cancelled", "bug"])
def test_what_leaves_unchanged_in_steps(verdict: Verdict) -> None:
    """A cancellation and the caller's bug leave unchanged, whatever the policy says."""
    streams = Streams("a/x", "b/x", stream=StreamPolicy(on_interrupt="restart"))
    streams.begins([said("It")])

    step = streams.ends(error=(Stop if verdict is CANCELLED else Problem)(verdict))

    assert "Reraise" == type(step).__name__
    assert 0 == streams.player.circuits["a/x"].numbers(streams.player.now)[1]


def test_the_deadline_in_steps() -> None:
    """The deadline within a stream raises an error that is both, and blames no target."""
    streams = Streams("a/x", "b/x", timeout=10.0)
    streams.begins([said("It")])

    step = streams.ends(9.0, error=Problem(Verdict(ErrorKind.TRANSIENT, "timeout")), timed_out=True)

    assert StreamDeadlineExceededError is type(step.error)
    assert 0 == streams.player.circuits["a/x"].numbers(streams.player.now)[1]


def test_a_stream_cut_short_while_the_consumer_stopped_it() -> None:
    """A consumer's stop while the stream is cut short ends the call without an error of ours."""
    streams = Streams("a/x")
    streams.begins([said("It")])
    assert streams.stream_state is not None
    streams.stream_state.stopped_by_consumer = True
    streams.stream_state.fault = Verdict(ErrorKind.TRANSIENT, "stream_interrupted")

    step = streams.ends()

    # There is no error that could be reraised.
    assert "Reraise" != type(step).__name__


def test_a_call_flow_that_is_dropped_in_a_stream_counts_nothing() -> None:
    """Closing the call flow while its stream is delivered leaves nothing admitted for ever."""
    streams = Streams("a/x")
    streams.begins([said("It")])

    streams.steps.close()

    assert (0, 0) == streams.player.circuits["a/x"].numbers(streams.player.now)
