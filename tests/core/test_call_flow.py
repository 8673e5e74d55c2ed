"""The call flow of one call with a scripted driver: every step and every event, in order.

A transcript line is a step (``try a/x 1``, ``wait 0.5``, and how the call ends) or an
event, with all its fields and the moment at which it happened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from resilient_llm._core.call.call import Call, Candidate, Outcome
from resilient_llm._core.call.call_deps import CallDeps
from resilient_llm._core.call.call_flow import call_flow, running_attempt
from resilient_llm._core.call.steps import Done, Raise, Reply, Reraise, Step, Try, Wait
from resilient_llm._core.circuit.circuit import Circuit
from resilient_llm._core.circuit.outbox import CallTag, Fact, Outbox
from resilient_llm._core.circuit.permit import Permit, admit
from resilient_llm._core.circuit.state import Lease
from resilient_llm._core.retry_budget import RetryBudgets
from resilient_llm._values.errors import (
    ChainExhaustedError,
    DeadlineExceededError,
    ResponseRejectedError,
)
from resilient_llm._values.event_names import EventName
from resilient_llm._values.kinds import AttemptRecord, ErrorKind
from resilient_llm._values.policy import Options
from resilient_llm._values.settings import BreakerSettings, Settings
from resilient_llm._values.target import Target
from resilient_llm._values.verdict import Verdict
from resilient_llm.answers import _items
from tests.support.circuits import DEAD, DOWN, FULL, HUNG, WRONG, NoJitter, limited

GATEWAY = Verdict(ErrorKind.TRANSIENT, "gateway", status=502)
TIMED_OUT = Verdict(ErrorKind.TRANSIENT, "timeout")
ASKS = Verdict(ErrorKind.TRANSIENT, "overloaded", retry_after=4.0, status=503)
BUG = Verdict(ErrorKind.CALLER_BUG)
CANCELLED = Verdict(ErrorKind.CANCELLED)
UNKNOWN = Verdict(ErrorKind.UNKNOWN)
POLICY = Verdict(ErrorKind.REQUEST_SPECIFIC, "content_policy", status=400)
TOO_LONG = Verdict(ErrorKind.REQUEST_SPECIFIC, "context_length_exceeded", status=400)
PROVIDER_DOWN = Verdict(ErrorKind.AUTH_DEAD, "insufficient_quota", status=429, scope="provider")


class Problem(Exception):  # noqa: N818  # stands in transcripts
    """An error that says itself what it means."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.reason)
        self.verdict = verdict


class LimitError(Problem, TimeoutError):
    """What a driver raises when it cuts an attempt off."""


class Stop(BaseException):
    """A cancellation, or one of Python's own ways out."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.reason)
        self.verdict = verdict


CANCELLED_AT_ONCE = [
    "try a/x 1",
    "AttemptCancelled a/x number=1 seconds=0.5 reason=cancelled at 0.5",
    "reraise",
]


class Player:
    """Plays one call: targets that answer by a script, and a clock that only the script moves.

    Args:
        script: ``{key: outcomes}``; an outcome is a verdict (raised), an exception, or an answer,
            alone (it takes half a second) or as ``(outcome, seconds)``.
        settings: Process-wide settings.
        breakers: Settings of every circuit.
        now: What time it is at first.
        options: Options of the policy.
    """

    def __init__(
        self,
        script: dict[str | Target, Iterable[Any]],
        *,
        settings: Settings | None = None,
        now: float = 0.0,
        knows_limit: bool = False,
        traced: bool = False,
        breakers: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.now = now
        self.lines: list[str] = []
        self.knows_limit = knows_limit
        self.outcome = Outcome("the call") if traced else None
        self.options = Options(**options)
        self.circuits: dict[str, Circuit] = {}
        self.candidates: list[Candidate] = []
        self.script: dict[str, list[Any]] = {}
        self.timed_out = False
        self.seen: list[tuple[str, BaseException]] = []
        self.failed: list[Callable[..., object]] = []
        self.rng = NoJitter()
        self.breakers = BreakerSettings(**(breakers or {}))
        self.before_wait: Callable[[Wait], None] = lambda _: None
        for given, outcomes in script.items():
            target = given if isinstance(given, Target) else Target(given)
            provider = self._circuit(target.provider_key, None)
            own = self._circuit(target.key, provider)
            self.candidates.append(Candidate(target, own, lambda *_: None))
            self.script[target.key] = list(outcomes)
        self.deps = CallDeps(
            clock=lambda: self.now,
            classify=lambda error: getattr(error, "verdict", Verdict(ErrorKind.CALLER_BUG)),
            notice=lambda provider, error: self.seen.append((provider, error)),
            fails_first=self._fails_first,
            backoff=lambda number, error, rng: float(number),
            budgets=RetryBudgets(),
            settings=settings or Settings(breakers={}),
            rng=self.rng,
            item_inspector=lambda: _items,
        )
        self.call: Call = self.new_call()

    def _fails_first(self, function: Callable[..., object]) -> bool:
        if function in self.failed:
            return False
        self.failed.append(function)
        return True

    def _circuit(self, key: str, provider: Circuit | None) -> Circuit:
        if key not in self.circuits:
            self.circuits[key] = Circuit(
                key, self.breakers, now=self.now, rng=self.rng, sink=self, provider=provider
            )
        return self.circuits[key]

    def new_call(self) -> Call:
        """Return the next call of this player's policy."""
        timeout = self.options.timeout
        deadline = None if timeout is None else self.now + timeout
        self.call = Call(
            self.options,
            self.candidates,
            self.deps,
            "the call",
            deadline,
            knows_limit=self.knows_limit,
            outcome=self.outcome,
        )
        return self.call

    # The player is the event sink of its circuits.

    def has_listeners(self, kind: str, tag: CallTag | None = None, /) -> bool:
        return kind != "HealthChanged"

    def emit(
        self,
        outbox: Outbox,
        kind: EventName,
        happened_at: float,
        tag: CallTag | None,
        /,
        **fields: Any,
    ) -> None:
        outbox.add(Fact(kind, happened_at, tag, fields))
        self.deliver(outbox, tag)

    def deliver(self, outbox: Outbox, tag: CallTag | None = None, /) -> None:
        while outbox.pending:
            fact = outbox.pending.pop(0)
            if fact.kind == "HealthChanged":
                continue
            mine = fact.tag is not None and fact.tag.call_id == "the call"
            said = "".join(
                f" {name}={_shown(value)}"
                for name, value in fact.fields.items()
                if name != "enforced"
            )
            by = "" if mine else " by no call"
            self.lines.append(f"{fact.kind} {outbox.key}{said} at {fact.happened_at:g}{by}")

    def advance(self, seconds: float) -> None:
        """Let time pass besides the waits of the call."""
        self.now += seconds

    # Playing.

    def play(self, *, failed: tuple[str, Verdict, float] | None = None) -> list[str]:
        """Play the call to its end; return the transcript.

        Args:
            failed: ``(key, verdict, seconds)`` of a first attempt that was made before the call
                flow began.
        """
        running: Try | None = None
        first: Reply | None = None
        if failed is not None:
            key, verdict, seconds = failed
            candidate = next(
                candidate for candidate in self.candidates if candidate.target.key == key
            )
            permit = admit(candidate.circuit, self.now)
            assert isinstance(permit, Permit)
            running = running_attempt(self.call, candidate, permit, (None, False))
            self.now += seconds
            first = Reply(self.now, error=Problem(verdict))
        steps = call_flow(self.call, self.now, running)
        step: Step = next(steps)
        if first is not None:
            step = steps.send(first)
        while (reply := self._do(step)) is not None:
            step = steps.send(reply)
        self.last = step
        with pytest.raises(StopIteration):
            next(steps)
        lines, self.lines = self.lines, []
        return lines

    def plays(self, text: str, *, failed: tuple[str, Verdict, float] | None = None) -> None:
        """Play the call to its end, which must go as the transcript says."""
        # A long line is continued on the next one, with spaces in between.
        expected = [" ".join(line.split()) for line in text.strip().splitlines()]
        assert expected == self.play(failed=failed)

    def _do(self, step: Step) -> Reply | None:
        if isinstance(step, Try):
            return self._try(step)
        if isinstance(step, Wait):
            self.lines.append(f"wait {step.seconds:g}")
            self.before_wait(step)
            self.now += step.seconds
            return Reply(self.now)
        if isinstance(step, Done):
            self.lines.append(f"answer {step.value!r}")
        elif isinstance(step, Reraise):
            self.lines.append("reraise")
        elif isinstance(step, Raise):
            cause = "" if step.cause is None else f" from {step.cause!r}"
            self.lines.append(f"raise {type(step.error).__name__}{cause}")
        return None

    def _try(self, step: Try) -> Reply:
        key = step.candidate.target.key
        limit = "" if step.limit is None else f" within {step.limit:g}"
        self.lines.append(
            f"try {key} {step.number}{limit}{', ends deadline' if step.ends_deadline else ''}"
        )
        assert "the call" == step.tag.call_id
        outcome = self.script[key].pop(0)
        outcome, seconds = outcome if isinstance(outcome, tuple) else (outcome, 0.5)
        timed_out = step.limit is not None and seconds >= step.limit
        self.now += step.limit if timed_out and step.limit is not None else seconds
        if timed_out:
            return Reply(self.now, error=Problem(TIMED_OUT), timed_out=True)
        if isinstance(outcome, Verdict):
            return Reply(self.now, error=Problem(outcome))
        if isinstance(outcome, BaseException):
            return Reply(self.now, error=outcome)
        return Reply(self.now, outcome)

    @property
    def error(self) -> Any:
        """What the call ended with."""
        assert isinstance(self.last, Raise)
        return self.last.error


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


class TestAnswers:
    """A call that is answered."""

    def test_the_first_target_answers(self) -> None:
        player = Player({"a/x": ["yes"], "b/y": []})

        player.plays("""
            try a/x 1
            AttemptSucceeded a/x number=1 seconds=0.5 at 0.5
            answer 'yes'
        """)
        assert (1, []) == (player.call.attempts, player.call.records)

    def test_who_traces_it_finds_its_success(self) -> None:
        player = Player({"a/x": [("yes", 2.0)]}, traced=True)

        player.play()

        assert player.outcome is not None
        assert ("a/x", [AttemptRecord("a/x", 1, seconds=2.0)]) == (
            player.outcome.served_by,
            player.outcome.records,
        )

    def test_an_answer_is_counted(self) -> None:
        player = Player({"a/x": ["yes"]})

        player.play()

        assert ((1, 0), 0.5) == (
            player.circuits["a/x"].numbers(0.5),
            player.circuits["a/x"].average_latency(0.5),
        )

    def test_the_first_fails_and_the_second_answers(self) -> None:
        player = Player({"a/x": [DOWN], "b/y": [("yes", 2.0)]}, attempts=1, traced=True)

        player.plays("""
            try a/x 1
            AttemptFailed a/x number=1 seconds=0.5 kind=transient reason=overloaded status=503 at \
                0.5
            FailedOver a/x from_target=a/x to_target=b/y kind=transient reason=overloaded at 0.5
            try b/y 1
            AttemptSucceeded b/y number=1 seconds=2 at 2.5
            answer 'yes'
        """)
        assert [
            AttemptRecord("a/x", 1, ErrorKind.TRANSIENT, "overloaded", 0.5, 503, "Problem"),
            AttemptRecord("b/y", 1, seconds=2.0),
        ] == player.call.records
        assert 2 == player.call.attempts

    def test_a_first_attempt_that_was_made_before_is_not_made_again(self) -> None:
        player = Player({"a/x": [], "b/y": ["yes"]}, attempts=1)

        player.plays(
            """
            AttemptFailed a/x number=1 seconds=3 kind=transient reason=overloaded status=503 at 3
            FailedOver a/x from_target=a/x to_target=b/y kind=transient reason=overloaded at 3
            try b/y 1
            AttemptSucceeded b/y number=1 seconds=0.5 at 3.5
            answer 'yes'
        """,
            failed=("a/x", DOWN, 3.0),
        )

    def test_targets_before_one_that_was_called_before_were_skipped(self) -> None:
        player = Player({"a/x": [], "b/y": [], "c/z": ["yes"]}, attempts=1)
        player.circuits["a/x"].bench(0.0, 100.0, "migration")
        player.deliver(player.circuits["a/x"].outbox)
        player.lines.clear()

        player.plays(
            """
            TargetSkipped a/x reason=migration at 0
            AttemptFailed b/y number=1 seconds=3 kind=transient reason=overloaded status=503 at 3
            FailedOver b/y from_target=b/y to_target=c/z kind=transient reason=overloaded at 3
            try c/z 1
            AttemptSucceeded c/z number=1 seconds=0.5 at 3.5
            answer 'yes'
        """,
            failed=("b/y", DOWN, 3.0),
        )

    def test_one_that_has_come_back_meanwhile_was_skipped_all_the_same(self) -> None:
        player = Player({"a/x": [], "b/y": [], "c/z": [DOWN]}, attempts=1)

        player.play(failed=("b/y", DOWN, 3.0))

        assert [("a/x", 0, "benched"), ("b/y", 1, "overloaded"), ("c/z", 1, "overloaded")] == [
            (record.target, record.number, record.reason) for record in player.error.attempts
        ]

    def test_benched_targets_are_skipped(self) -> None:
        player = Player({"a/x": [], "b/y": ["yes"]})
        player.circuits["a/x"].bench(0.0, 100.0, "migration")
        player.lines.clear()

        player.plays("""
            TargetSkipped a/x reason=migration at 0
            try b/y 1
            AttemptSucceeded b/y number=1 seconds=0.5 at 0.5
            answer 'yes'
        """)


class TestRetries:
    """More attempts on the same target."""

    def test_a_transient_error_is_tried_again_after_the_backoff(self) -> None:
        player = Player({"a/x": [DOWN, GATEWAY, "yes"]}, attempts=3)

        player.plays("""
            try a/x 1
            AttemptFailed a/x number=1 seconds=0.5 kind=transient reason=overloaded status=503 at \
                0.5
            RetryScheduled a/x number=2 delay=1 source=backoff at 0.5
            wait 1
            try a/x 2
            AttemptFailed a/x number=2 seconds=0.5 kind=transient reason=gateway status=502 at 2
            RetryScheduled a/x number=3 delay=2 source=backoff at 2
            wait 2
            try a/x 3
            AttemptSucceeded a/x number=3 seconds=0.5 at 4.5
            answer 'yes'
        """)

    def test_the_attempts_end_with_a_bench_if_nobody_was_answered_meanwhile(self) -> None:
        player = Player({"a/x": [DOWN, DOWN], "b/y": ["yes"]}, attempts=2, cooldown=8.0)

        player.plays("""
            try a/x 1
            AttemptFailed a/x number=1 seconds=0.5 kind=transient reason=overloaded status=503 at \
                0.5
            RetryScheduled a/x number=2 delay=1 source=backoff at 0.5
            wait 1
            try a/x 2
            AttemptFailed a/x number=2 seconds=0.5 kind=transient reason=overloaded status=503 at 2
            RetryStopped a/x reason=attempts at 2
            TargetBenched a/x kind=transient reason=overloaded trigger=exhausted 2/2 until=10 \
                retry_after=None at 2
            FailedOver a/x from_target=a/x to_target=b/y kind=transient reason=overloaded at 2
            try b/y 1
            AttemptSucceeded b/y number=1 seconds=0.5 at 2.5
            answer 'yes'
        """)

    def test_no_bench_if_somebody_else_was_answered(self) -> None:
        player = Player({"a/x": [DOWN, DOWN], "b/y": ["yes"]}, attempts=2)
        own = player.circuits["a/x"]

        def answered(_: Wait) -> None:
            admission = own.admit(player.now)
            assert own.generation is admission
            own.success(own.generation, player.now, 0.1)

        player.before_wait = answered

        assert not [line for line in player.play() if line.startswith("TargetBenched")]

    def test_one_attempt_is_no_used_up_call(self) -> None:
        player = Player({"a/x": [DOWN], "b/y": ["yes"]}, attempts=1)

        assert not [
            line for line in player.play() if line.startswith(("TargetBenched", "RetryStopped"))
        ]

    def test_attempts_are_counted_for_the_whole_call_as_well(self) -> None:
        player = Player({"a/x": [DOWN, DOWN], "b/y": []}, attempts=3, max_attempts=2)

        player.plays("""
            try a/x 1
            AttemptFailed a/x number=1 seconds=0.5 kind=transient reason=overloaded status=503 at \
                0.5
            RetryScheduled a/x number=2 delay=1 source=backoff at 0.5
            wait 1
            try a/x 2
            AttemptFailed a/x number=2 seconds=0.5 kind=transient reason=overloaded status=503 at 2
            RetryStopped a/x reason=attempts at 2
            TargetSkipped b/y reason=max_attempts at 2
            CallFailed a/x attempts=2 kind=None at 2
            raise ChainExhaustedError from Problem('overloaded')
        """)
        assert [("a/x", 1), ("a/x", 2), ("b/y", 0)] == [
            (r.target, r.number) for r in player.error.attempts
        ]

    def test_a_breaker_that_opens_ends_the_retries_without_a_word(self) -> None:
        player = Player({"a/x": [DOWN], "b/y": ["yes"]}, attempts=3, breakers={"failures": 1})

        player.plays("""
            try a/x 1
            AttemptFailed a/x number=1 seconds=0.5 kind=transient reason=overloaded status=503 at \
                0.5
            TargetBenched a/x kind=transient reason=overloaded trigger=failures 1/1 until=30.5 \
                retry_after=None at 0.5
            FailedOver a/x from_target=a/x to_target=b/y kind=transient reason=overloaded at 0.5
            try b/y 1
            AttemptSucceeded b/y number=1 seconds=0.5 at 1
            answer 'yes'
        """)

    def test_a_bench_that_arrives_during_the_wait_ends_the_retries(self) -> None:
        player = Player({"a/x": [DOWN], "b/y": ["yes"]}, attempts=3)
        player.before_wait = lambda _: player.circuits["a/x"].bench(player.now, 500.0, "migration")

        player.plays("""
            try a/x 1
            AttemptFailed a/x number=1 seconds=0.5 kind=transient reason=overloaded status=503 at \
                0.5
            RetryScheduled a/x number=2 delay=1 source=backoff at 0.5
            wait 1
            TargetBenched a/x kind=None reason=migration trigger=manual until=500 \
                retry_after=None by= at 0.5 by no call
            FailedOver a/x from_target=a/x to_target=b/y kind=transient reason=overloaded at 1.5
            try b/y 1
            AttemptSucceeded b/y number=1 seconds=0.5 at 2
            answer 'yes'
        """)

    def test_a_bench_that_ends_a_moment_after_the_wait_is_waited_out(self) -> None:
        player = Player({"a/x": [DOWN, "yes"]}, attempts=3)
        once: list[Wait] = []

        def bench(step: Wait) -> None:
            if not once:
                player.circuits["a/x"].bench(player.now, player.now + 1.03, "migration")
            once.append(step)

        player.before_wait = bench

        lines = [line for line in player.play() if line.startswith(("try", "wait", "answer"))]

        assert ["try a/x 1", "wait 1", "wait 0.03", "try a/x 2", "answer 'yes'"] == lines

    def test_a_short_bench_ends_the_retries_too(self) -> None:
        player = Player(
            {"a/x": [DOWN], "b/y": ["yes"]}, attempts=3, breakers={"failures": 1, "cooldown": 0.5}
        )

        assert ["try a/x 1", "try b/y 1"] == [
            line for line in player.play() if line.startswith("try")
        ]

    def test_the_policys_cooldown_is_that_of_the_bench(self) -> None:
        player = Player(
            {"a/x": [DOWN], "b/y": ["yes"]}, attempts=3, cooldown=8.0, breakers={"failures": 1}
        )

        assert (
            "TargetBenched a/x kind=transient reason=overloaded "
            "trigger=failures 1/1 until=8.5 retry_after=None at 0.5"
        ) in player.play()

    def test_errors_that_do_not_pass_are_not_tried_again(self) -> None:
        player = Player({"a/x": [DEAD], "b/y": ["yes"]}, attempts=3)

        player.plays("""
            try a/x 1
            AttemptFailed a/x number=1 seconds=0.5 kind=auth_dead reason=invalid_credentials \
                status=401 at 0.5
            TargetBenched a/x kind=auth_dead reason=invalid_credentials trigger=auth_dead \
                until=300.5 retry_after=None at 0.5
            FailedOver a/x from_target=a/x to_target=b/y kind=auth_dead \
                reason=invalid_credentials at 0.5
            try b/y 1
            AttemptSucceeded b/y number=1 seconds=0.5 at 1
            answer 'yes'
        """)

    def test_the_budget_of_the_provider_may_be_spent(self) -> None:
        player = Player({"a/x": [DOWN], "b/y": ["yes"]}, attempts=3)
        for _ in range(10):
            player.deps.budgets.take("a", 0.0, None, 0)

        player.plays("""
            try a/x 1
            AttemptFailed a/x number=1 seconds=0.5 kind=transient reason=overloaded status=503 at \
                0.5
            RetryStopped a/x reason=budget at 0.5
            FailedOver a/x from_target=a/x to_target=b/y kind=transient reason=overloaded at 0.5
            try b/y 1
            AttemptSucceeded b/y number=1 seconds=0.5 at 1
            answer 'yes'
        """)

    def test_the_budget_grows_with_answers_and_first_attempts(self) -> None:
        player = Player(
            {"a/x": [DOWN, "yes"]}, attempts=3, settings=Settings(breakers={}, retry_budget=0.5)
        )
        own = player.circuits["a/x"]
        for _ in range(20):
            own.success(own.generation, 0.0, 0.1)
        for _ in range(10):
            player.deps.budgets.take("a", 0.0, None, 0)
        player.deps.budgets.first_attempt_failed("a", 0.0)

        # 20 answers, a failure before and the first attempt of this call: 11 retries are half.
        assert "try a/x 2" in player.play()

    def test_answers_of_other_targets_of_the_provider_are_first_attempts_too(self) -> None:
        settings = Settings(breakers={}, retry_budget=0.5)
        player = Player({"a/x": [DOWN, "yes"], "a/z": []}, attempts=3, settings=settings)
        other = player.circuits["a/z"]
        for _ in range(22):
            other.success(other.generation, 0.0, 0.1)
        for _ in range(10):
            player.deps.budgets.take("a", 0.0, None, 0)

        assert "try a/x 2" in player.play()

    def test_the_backoff_is_asked_with_the_number_and_the_error(self) -> None:
        asked: list[tuple[int, object]] = []
        player = Player({"a/x": [DOWN, GATEWAY, "yes"]}, attempts=3)

        def backoff(number: int, error: BaseException | None, rng: object) -> float:
            asked.append((number, error.verdict))  # type: ignore[union-attr]
            assert rng is player.rng
            return 0.25

        player.deps.backoff = backoff

        assert "RetryScheduled a/x number=2 delay=0.25 source=backoff at 0.5" in player.play()
        assert [(1, DOWN), (2, GATEWAY)] == asked

    def test_answers_that_others_got_before_are_no_reason_to_spare_it(self) -> None:
        player = Player({"a/x": [DOWN, DOWN], "a/z": ["yes"]}, attempts=2)
        other = player.circuits["a/z"]
        for _ in range(3):
            other.success(other.generation, 0.0, 0.1)

        assert [line for line in player.play() if line.startswith("TargetBenched a/x")]

    def test_the_bench_has_the_hint_of_the_last_error(self) -> None:
        player = Player({"a/x": [ASKS, ASKS]}, attempts=2)

        assert (
            "TargetBenched a/x kind=transient reason=overloaded "
            "trigger=exhausted 2/2 until=35 retry_after=4 at 5"
        ) in player.play()

    def test_only_the_first_attempt_on_a_target_is_a_first_attempt(self) -> None:
        player = Player({"a/x": [DOWN, DOWN, DOWN]}, attempts=3)

        player.play()

        assert 1 == sum(count for _, count in player.deps.budgets._counts["a"].first)
        assert 2 == sum(count for _, count in player.deps.budgets._counts["a"].retries)

    def test_a_provider_is_charged_with_what_is_its_own(self) -> None:
        player = Player({"a/x": [PROVIDER_DOWN], "a/z": [], "b/y": ["yes"]}, attempts=2)

        player.plays("""
            try a/x 1
            AttemptFailed a/x number=1 seconds=0.5 kind=auth_dead reason=insufficient_quota \
                status=429 at 0.5
            TargetBenched a kind=auth_dead reason=insufficient_quota trigger=auth_dead \
                until=300.5 retry_after=None at 0.5
            TargetSkipped a/z reason=insufficient_quota at 0.5
            FailedOver a/x from_target=a/x to_target=b/y kind=auth_dead reason=insufficient_quota \
                at 0.5
            try b/y 1
            AttemptSucceeded b/y number=1 seconds=0.5 at 1
            answer 'yes'
        """)

    def test_using_up_the_attempts_benches_whom_the_error_is_charged_to(self) -> None:
        sick = Verdict(ErrorKind.TRANSIENT, "overloaded", status=503, scope="provider")
        player = Player({"a/x": [sick, sick]}, attempts=2)

        assert (
            "TargetBenched a kind=transient reason=overloaded "
            "trigger=exhausted 2/2 until=32 retry_after=None at 2"
        ) in player.play()

    def test_a_provider_that_answered_another_target_is_not_benched_for_it(self) -> None:
        sick = Verdict(ErrorKind.TRANSIENT, "overloaded", status=503, scope="provider")
        player = Player({"a/x": [sick, sick], "a/z": ["yes"]}, attempts=2)
        other = player.circuits["a/z"]
        player.before_wait = lambda _: other.success(other.generation, player.now, 0.1)

        assert not [line for line in player.play() if line.startswith("TargetBenched")]

    def test_what_it_answered_others_before_does_not_spare_the_provider(self) -> None:
        sick = Verdict(ErrorKind.TRANSIENT, "overloaded", status=503, scope="provider")
        player = Player({"a/x": [sick, sick], "a/z": ["yes"]}, attempts=2)
        other = player.circuits["a/z"]
        other.success(other.generation, 0.0, 0.1)

        assert [line for line in player.play() if line.startswith("TargetBenched a kind")]

    def test_each_error_is_noticed_once(self) -> None:
        player = Player({"a/x": [DOWN, DOWN], "b/y": ["yes"]}, attempts=2)

        player.play()

        assert ["a", "a"] == [provider for provider, _ in player.seen]

    def test_a_backoff_that_raises_is_replaced_and_emitted_once(self) -> None:
        player = Player({"a/x": [DOWN, DOWN, "yes"]}, attempts=3)
        player.deps.backoff = lambda number, error, rng: 1 / 0

        lines = player.play()

        assert ("ObserverFailed a/x type_name=ZeroDivisionError at 0.5", "answer 'yes'") == (
            lines[2],
            lines[-1],
        )
        assert 1 == len([line for line in lines if line.startswith("ObserverFailed")])
        assert all(0.0 <= float(line.split()[1]) <= 0.4 for line in lines if "wait" in line)


class TestHints:
    """Waits that providers name."""

    def test_a_hint_is_the_wait_when_nobody_else_is_live(self) -> None:
        player = Player({"a/x": [ASKS, "yes"]}, attempts=2)

        player.plays("""
            try a/x 1
            AttemptFailed a/x number=1 seconds=0.5 kind=transient reason=overloaded status=503 at \
                0.5
            RetryScheduled a/x number=2 delay=4 source=hint at 0.5
            wait 4
            try a/x 2
            AttemptSucceeded a/x number=2 seconds=0.5 at 5
            answer 'yes'
        """)

    def test_with_somebody_else_live_the_target_sits_out_and_the_call_moves_on(self) -> None:
        player = Player({"a/x": [ASKS], "b/y": ["yes"]}, attempts=2)

        player.plays("""
            try a/x 1
            AttemptFailed a/x number=1 seconds=0.5 kind=transient reason=overloaded status=503 at \
                0.5
            RetryStopped a/x reason=hint at 0.5
            TargetBenched a/x kind=transient reason=overloaded trigger=transient until=4.5 \
                retry_after=4 at 0.5
            FailedOver a/x from_target=a/x to_target=b/y kind=transient reason=overloaded at 0.5
            try b/y 1
            AttemptSucceeded b/y number=1 seconds=0.5 at 1
            answer 'yes'
        """)

    def test_so_it_does_when_one_attempt_is_all_there_is(self) -> None:
        player = Player({"a/x": [ASKS], "b/y": ["yes"]}, attempts=1)

        player.plays("""
            try a/x 1
            AttemptFailed a/x number=1 seconds=0.5 kind=transient reason=overloaded status=503 at \
                0.5
            TargetBenched a/x kind=transient reason=overloaded trigger=transient until=4.5 \
                retry_after=4 at 0.5
            FailedOver a/x from_target=a/x to_target=b/y kind=transient reason=overloaded at 0.5
            try b/y 1
            AttemptSucceeded b/y number=1 seconds=0.5 at 1
            answer 'yes'
        """)

    def test_a_hint_of_a_providers_error_benches_the_provider(self) -> None:
        asks = Verdict(ErrorKind.TRANSIENT, "overloaded", retry_after=4.0, scope="provider")
        player = Player({"a/x": [asks], "b/y": ["yes"]}, attempts=2)

        assert (
            "TargetBenched a kind=transient reason=overloaded "
            "trigger=transient until=4.5 retry_after=4 at 0.5"
        ) in player.play()

    def test_no_wait_for_a_hint_of_nothing(self) -> None:
        soon = Verdict(ErrorKind.TRANSIENT, "overloaded", retry_after=0.0)
        player = Player({"a/x": [soon, "yes"], "b/y": []}, attempts=2)

        assert "RetryScheduled a/x number=2 delay=1 source=backoff at 0.5" in player.play()

    def test_a_rate_limit_moves_on_when_somebody_else_is_live(self) -> None:
        player = Player({"a/x": [limited(4.0)], "b/y": ["yes"]}, attempts=2)

        player.plays("""
            try a/x 1
            AttemptFailed a/x number=1 seconds=0.5 kind=rate_limited reason=rate_limit status=429 \
                at 0.5
            TargetBenched a/x kind=rate_limited reason=rate_limit trigger=rate_limited until=4.5 \
                retry_after=4 at 0.5
            FailedOver a/x from_target=a/x to_target=b/y kind=rate_limited reason=rate_limit at 0.5
            try b/y 1
            AttemptSucceeded b/y number=1 seconds=0.5 at 1
            answer 'yes'
        """)

    def test_alone_it_is_waited_out(self) -> None:
        player = Player({"a/x": [limited(4.0), "yes"]}, attempts=2)

        player.plays("""
            try a/x 1
            AttemptFailed a/x number=1 seconds=0.5 kind=rate_limited reason=rate_limit status=429 \
                at 0.5
            TargetBenched a/x kind=rate_limited reason=rate_limit trigger=rate_limited until=4.5 \
                retry_after=4 at 0.5
            RetryScheduled a/x number=2 delay=4 source=hint at 0.5
            wait 4
            TargetUnbenched a/x reason=expired at 4.5 by no call
            try a/x 2
            AttemptSucceeded a/x number=2 seconds=0.5 at 5
            answer 'yes'
        """)

    def test_without_a_hint_for_a_quarter_of_a_minute(self) -> None:
        player = Player({"a/x": [limited(), "yes"]}, attempts=2)

        assert "RetryScheduled a/x number=2 delay=15 source=hint at 0.5" in player.play()

    def test_a_rate_limit_that_says_now_is_tried_again_at_once(self) -> None:
        player = Player({"a/x": [limited(0.0), "yes"]}, attempts=2)

        assert "RetryScheduled a/x number=2 delay=1 source=backoff at 0.5" in player.play()

    def test_nobody_waits_longer_than_is_allowed(self) -> None:
        player = Player({"a/x": [limited(61.0)]}, attempts=2)

        player.plays("""
            try a/x 1
            AttemptFailed a/x number=1 seconds=0.5 kind=rate_limited reason=rate_limit status=429 \
                at 0.5
            TargetBenched a/x kind=rate_limited reason=rate_limit trigger=rate_limited until=61.5 \
                retry_after=61 at 0.5
            RetryStopped a/x reason=hint at 0.5
            CallFailed a/x attempts=1 kind=rate_limited at 0.5
            raise ChainExhaustedError from Problem('rate_limit')
        """)
        assert 61.0 == player.error.retry_after

    def test_just_as_long_as_is_allowed_is_waited(self) -> None:
        player = Player({"a/x": [limited(60.0), "yes"]}, attempts=2)

        assert "wait 60" in player.play()

    def test_a_longer_bench_than_the_hint_ends_the_retries(self) -> None:
        player = Player({"a/x": [limited(4.0)], "b/y": []}, attempts=2)
        player.circuits["b/y"].bench(0.0, 500.0, "migration")
        player.circuits["a/x"].failure(player.circuits["a/x"].generation, 0.0, limited(10.0), 0.0)
        player.circuits["a/x"].unbench(0.0)
        early = player.circuits["a/x"].generation
        player.lines.clear()
        player.script["a/x"] = [(limited(4.0), 0.5)]
        real = player._try

        def and_another(step: Try) -> Reply:
            reply = real(step)
            player.circuits["a/x"].failure(early, player.now, limited(10.0), 0.5)
            return reply

        player._try = and_another  # type: ignore[method-assign]

        lines = player.play()

        assert not [line for line in lines if line.startswith(("wait", "Retry"))]
        assert "raise ChainExhaustedError from Problem('rate_limit')" == lines[-1]


class TestDeadlines:
    """One deadline over everything."""

    def test_an_attempt_leaves_a_quarter_to_the_fallback(self) -> None:
        player = Player({"a/x": [("never", 1e9)], "b/y": ["yes"]}, attempts=1, timeout=8.0)

        player.plays("""
            try a/x 1 within 6
            AttemptFailed a/x number=1 seconds=6 kind=transient reason=timeout status=None at 6
            FailedOver a/x from_target=a/x to_target=b/y kind=transient reason=timeout at 6
            try b/y 1 within 2, ends deadline
            AttemptSucceeded b/y number=1 seconds=0.5 at 6.5
            answer 'yes'
        """)

    def test_the_end_of_the_whole_deadline_blames_nobody(self) -> None:
        player = Player({"a/x": [("never", 1e9)]}, attempts=1, timeout=8.0)

        player.plays("""
            try a/x 1 within 8, ends deadline
            AttemptFailed a/x number=1 seconds=8 kind=transient reason=timeout status=None at 8
            CallFailed a/x attempts=1 kind=transient at 8
            raise DeadlineExceededError from Problem('timeout')
        """)
        record = AttemptRecord("a/x", 1, ErrorKind.TRANSIENT, "timeout", 8.0, None, "Problem")
        assert (8.0, (record,)) == (
            player.error.timeout, player.error.attempts,
        )  # fmt: skip
        assert (0, (0, 0)) == (
            player.circuits["a/x"].consecutive,
            player.circuits["a/x"].numbers(8.0),
        )

    def test_its_duration_counts_from_its_admission(self) -> None:
        player = Player({"a/x": [("never", 1e9)]}, attempts=1, timeout=8.0, now=100.0)

        assert (
            "AttemptFailed a/x number=1 seconds=8 kind=transient reason=timeout status=None at 108"
            in player.play()
        )
        assert [8.0] == [record.seconds for record in player.error.attempts]

    def test_a_limit_of_its_own_as_long_as_the_deadline_is_the_deadline(self) -> None:
        player = Player({"a/x": [("never", 1e9)]}, attempts=1, timeout=8.0, attempt_timeout=8.0)

        assert "try a/x 1 within 8, ends deadline" in player.play()

    def test_a_benched_fallback_needs_no_reserve(self) -> None:
        player = Player({"a/x": ["yes"], "b/y": []}, attempts=1, timeout=8.0)
        player.circuits["b/y"].bench(0.0, 100.0, "migration")

        assert "try a/x 1 within 8, ends deadline" in player.play()

    def test_a_first_attempt_that_was_made_before_had_no_limit(self) -> None:
        player = Player({"a/x": []}, attempts=1, timeout=8.0, knows_limit=True)

        player.play(failed=("a/x", TIMED_OUT, 8.0))

        assert (1, 1) == player.circuits["a/x"].numbers(8.0)

    def test_a_half_open_target_is_not_blamed_and_its_lease_ends(self) -> None:
        player = Player(
            {"a/x": [("never", 1e9)]}, attempts=1, timeout=8.0, breakers={"failures": 1}
        )
        own = player.circuits["a/x"]
        own.failure(own.generation, 0.0, DOWN, 0.0)
        player.now = 30.0
        player.new_call()

        player.play()

        assert isinstance(own.admit(38.0), Lease)

    def test_an_error_of_its_own_timeout_at_the_end_is_the_deadlines(self) -> None:
        player = Player({"a/x": [(TIMED_OUT, 7.0)]}, attempts=1, timeout=8.0, knows_limit=True)
        real = player._try

        def late(step: Try) -> Reply:
            reply = real(step)
            player.now += 1.0
            return Reply(player.now, error=reply.error)

        player._try = late  # type: ignore[method-assign]

        assert "raise DeadlineExceededError from Problem('timeout')" == player.play()[-1]
        assert (0, 0) == player.circuits["a/x"].numbers(8.0)

    @pytest.mark.parametrize(("knows_limit", "verdict"), [(False, TIMED_OUT), (True, GATEWAY)])
    def test_other_errors_at_the_end_are_charged(self, knows_limit: bool, verdict: Verdict) -> None:
        player = Player({"a/x": [(verdict, 7.0)]}, attempts=1, timeout=8.0, knows_limit=knows_limit)
        real = player._try

        def late(step: Try) -> Reply:
            reply = real(step)
            player.now += 1.0
            return Reply(player.now, error=reply.error)

        player._try = late  # type: ignore[method-assign]

        assert "raise DeadlineExceededError from Problem" in player.play()[-1]
        assert (1, 1) == player.circuits["a/x"].numbers(8.0)

    def test_a_timeout_before_the_end_is_charged_even_if_it_is_the_last_target(self) -> None:
        player = Player({"a/x": [(TIMED_OUT, 7.0)]}, attempts=1, timeout=8.0, knows_limit=True)

        assert "raise ChainExhaustedError from Problem('timeout')" == player.play()[-1]
        assert (1, 1) == player.circuits["a/x"].numbers(8.0)

    def test_no_further_target_is_called_with_a_dead_deadline(self) -> None:
        player = Player({"a/x": [DOWN], "b/y": []}, attempts=1, timeout=8.0)
        real = player._try

        def late(step: Try) -> Reply:
            real(step)
            player.now = 8.0
            return Reply(player.now, error=Problem(DOWN))

        player._try = late  # type: ignore[method-assign]

        player.plays("""
            try a/x 1 within 6
            AttemptFailed a/x number=1 seconds=8 kind=transient reason=overloaded status=503 at 8
            CallFailed a/x attempts=1 kind=transient at 8
            raise DeadlineExceededError from Problem('overloaded')
        """)

    def test_its_event_names_the_target_that_failed_last(self) -> None:
        player = Player({"a/x": [DOWN], "b/y": [DOWN]}, attempts=1, timeout=8.0)
        real = player._try

        def late(step: Try) -> Reply:
            reply = real(step)
            player.now += 7.0 if step.candidate.target.key == "b/y" else 0.0
            return Reply(player.now, error=reply.error)

        player._try = late  # type: ignore[method-assign]

        assert "CallFailed b/y attempts=2 kind=transient at 8" in player.play()

    def test_a_deadline_that_is_over_before_anything_was_tried(self) -> None:
        player = Player({"a/x": []}, timeout=8.0)
        player.now = 8.0

        player.plays("""
            CallFailed a/x attempts=0 kind=None at 8
            raise DeadlineExceededError
        """)

    def test_an_own_limit_that_is_shorter_is_the_limit(self) -> None:
        player = Player(
            {"a/x": [("never", 1e9)], "b/y": ["yes"]}, attempts=1, timeout=8.0, attempt_timeout=3.0
        )

        lines = player.play()

        assert ["try a/x 1 within 3", "try b/y 1 within 3"] == [
            line for line in lines if line.startswith("try")
        ]

    def test_a_targets_own_limit_goes_before_the_policys(self) -> None:
        player = Player(
            {Target("a/x", attempt_timeout=2.0): [DOWN], "b/y": ["yes"]},
            attempts=1,
            attempt_timeout=3.0,
        )

        lines = player.play()

        assert ["try a/x 1 within 2", "try b/y 1 within 3"] == [
            line for line in lines if line.startswith("try")
        ]

    def test_a_limit_is_no_whole_deadline_even_on_the_last_target(self) -> None:
        player = Player({"a/x": [("never", 1e9)]}, attempts=1, timeout=8.0, attempt_timeout=3.0)

        assert "raise ChainExhaustedError from Problem('timeout')" == player.play()[-1]
        assert (1, 1) == player.circuits["a/x"].numbers(3.0)

    def test_a_timeout_is_not_tried_again_while_another_target_is_live(self) -> None:
        player = Player({"a/x": [("never", 1e9)], "b/y": ["yes"]}, attempts=3, attempt_timeout=3.0)

        lines = player.play()

        assert ["try a/x 1 within 3", "try b/y 1 within 3"] == [
            line for line in lines if line.startswith("try")
        ]
        assert not [line for line in lines if line.startswith("Retry")]

    def test_alone_a_timeout_is_tried_again(self) -> None:
        player = Player({"a/x": [("never", 1e9), "yes"]}, attempts=3, attempt_timeout=3.0)

        assert "try a/x 2 within 3" in player.play()

    def test_a_backoff_that_does_not_fit_ends_the_retries(self) -> None:
        player = Player({"a/x": [(DOWN, 0.5)], "b/y": ["yes"]}, attempts=3, timeout=1.5)

        player.plays("""
            try a/x 1 within 1.125
            AttemptFailed a/x number=1 seconds=0.5 kind=transient reason=overloaded status=503 at \
                0.5
            RetryStopped a/x reason=deadline at 0.5
            FailedOver a/x from_target=a/x to_target=b/y kind=transient reason=overloaded at 0.5
            try b/y 1 within 1, ends deadline
            AttemptSucceeded b/y number=1 seconds=0.5 at 1
            answer 'yes'
        """)

    def test_a_hint_longer_than_what_is_left_ends_them_too(self) -> None:
        player = Player({"a/x": [ASKS]}, attempts=3, timeout=4.5)

        assert "RetryStopped a/x reason=hint at 0.5" in player.play()

    def test_a_hint_that_just_fits_is_waited_for(self) -> None:
        player = Player({"a/x": [ASKS, "yes"]}, attempts=3, timeout=4.6)

        assert "wait 4" in player.play()

    @pytest.mark.parametrize("late", [0.0, 5.0])
    def test_no_retry_after_a_wait_that_took_longer(self, late: float) -> None:
        player = Player({"a/x": [DOWN], "b/y": []}, attempts=3, timeout=8.0)
        player.before_wait = lambda _: player.advance(6.5 + late)

        player.plays(f"""
            try a/x 1 within 6
            AttemptFailed a/x number=1 seconds=0.5 kind=transient reason=overloaded status=503 at \
                0.5
            RetryScheduled a/x number=2 delay=1 source=backoff at 0.5
            wait 1
            CallFailed a/x attempts=1 kind=transient at {8 + late:g}
            raise DeadlineExceededError from Problem('overloaded')
        """)
        assert player.circuits["a/x"].slot is not None

    def test_no_wait_for_a_bench_that_ends_at_the_deadline(self) -> None:
        player = Player({"a/x": [limited(1.0)]}, attempts=3, timeout=1.52)
        circuit = player.circuits["a/x"]
        player.before_wait = lambda _: circuit.bench(player.now, 1.54, "migration")

        lines = player.play()

        assert (["wait 1"], "raise ChainExhaustedError from Problem('rate_limit')") == (
            [line for line in lines if line.startswith("wait")],
            lines[-1],
        )

    @pytest.mark.parametrize("raised", [UNKNOWN, BUG, WRONG, DEAD, DOWN], ids=lambda it: it.kind)
    def test_what_a_client_raises_when_it_is_cut_off_is_a_timeout(self, raised: Verdict) -> None:
        player = Player({"a/x": [], "b/y": ["yes"]}, attempts=1, attempt_timeout=3.0)
        error = Problem(raised)
        real = player._try

        def cut_off(step: Try) -> Reply:
            if step.candidate.target.key == "b/y":
                return real(step)
            player.lines.append("try a/x")
            player.now = 3.0
            return Reply(3.0, error=error, timed_out=True)

        player._try = cut_off  # type: ignore[method-assign]

        player.plays("""
            try a/x
            AttemptFailed a/x number=1 seconds=3 kind=transient reason=timeout status=None at 3
            FailedOver a/x from_target=a/x to_target=b/y kind=transient reason=timeout at 3
            try b/y 1 within 3
            AttemptSucceeded b/y number=1 seconds=0.5 at 3.5
            answer 'yes'
        """)
        assert (1, 1) == player.circuits["a/x"].numbers(3.5)
        assert error is player.call.last_outcomes["a/x"][0]

    def test_a_cancellation_at_the_limit_stays_one(self) -> None:
        player = Player({"a/x": [], "b/y": []}, attempts=1, attempt_timeout=3.0)
        player._try = lambda step: Reply(3.0, error=Stop(CANCELLED), timed_out=True)  # type: ignore[method-assign]

        assert [
            "AttemptCancelled a/x number=1 seconds=3 reason=cancelled at 3",
            "reraise",
        ] == player.play()

    def test_rules_are_asked_about_the_drivers_own_timeout(self) -> None:
        player = Player(
            {"a/x": [("never", 1e9)], "b/y": ["yes"]},
            attempts=1,
            attempt_timeout=3.0,
            classify=lambda _: HUNG,
        )
        player._try = self._timing_out(player)  # type: ignore[method-assign]

        assert "reason=hung" in player.play()[1]

    @staticmethod
    def _timing_out(player: Player) -> Callable[[Try], Reply]:
        real = player._try

        def cut_off(step: Try) -> Reply:
            reply = real(step)
            if reply.error is not None:
                reply.error = LimitError(TIMED_OUT)
            return reply

        return cut_off

    def test_the_limit_of_a_half_open_probe_is_its_lease(self) -> None:
        player = Player(
            {"a/x": [DOWN, "yes"]}, attempts=1, attempt_timeout=100.0, breakers={"failures": 1}
        )
        player.play()
        player.now = 30.5
        player.new_call()
        real = player._try

        def while_it_runs(step: Try) -> Reply:
            own = player.circuits["a/x"]
            assert not isinstance(own.admit(130.4), Lease)
            assert isinstance(own.admit(130.5), Lease)
            return real(step)

        player._try = while_it_runs  # type: ignore[method-assign]

        assert "answer 'yes'" == player.play()[-1]


class TestLeavingAtOnce:
    """Errors that are no target's fault."""

    def test_a_bug_of_the_caller_leaves_as_it_is(self) -> None:
        player = Player({"a/x": [BUG], "b/y": []})

        player.plays("""
            try a/x 1
            AttemptFailed a/x number=1 seconds=0.5 kind=caller_bug reason=caller_bug status=None \
                at 0.5
            CallFailed a/x attempts=1 kind=caller_bug at 0.5
            reraise
        """)
        assert [
            AttemptRecord("a/x", 1, ErrorKind.CALLER_BUG, BUG.reason, 0.5, None, "Problem")
        ] == player.call.records
        assert (0, 0) == player.circuits["a/x"].numbers(0.5)

    def test_their_duration_counts_from_their_admission(self) -> None:
        bug = Player({"a/x": [BUG]}, now=100.0)
        hung = Player({"a/x": [(Stop(CANCELLED), 10.0)]}, now=100.0)

        assert (
            "AttemptFailed a/x number=1 seconds=0.5 kind=caller_bug reason=caller_bug "
            "status=None at 100.5"
        ) in bug.play()
        assert [0.5] == [record.seconds for record in bug.call.records]
        assert "AttemptCancelled a/x number=1 seconds=10 reason=hung at 110" in hung.play()

    def test_a_bug_gives_the_lease_of_a_probe_back(self) -> None:
        player = Player({"a/x": [DOWN, BUG]}, attempts=1, breakers={"failures": 1})
        player.play()
        player.now = 40.0
        player.new_call()

        player.play()

        assert isinstance(player.circuits["a/x"].admit(player.now), Lease)

    def test_a_cancellation_leaves_and_only_the_attempt_tells_of_it(self) -> None:
        player = Player({"a/x": [Stop(CANCELLED)], "b/y": []})

        assert CANCELLED_AT_ONCE == player.play()
        assert ((0, 0), []) == (player.circuits["a/x"].numbers(0.5), player.call.records)

    def test_after_ten_seconds_it_counts_as_hung(self) -> None:
        player = Player({"a/x": [(Stop(CANCELLED), 10.0)], "b/y": []})

        player.plays("""
            try a/x 1
            AttemptCancelled a/x number=1 seconds=10 reason=hung at 10
            reraise
        """)
        assert ((1, 1), 0) == (
            player.circuits["a/x"].numbers(10.0),
            player.circuits["a/x"].consecutive,
        )

    def test_a_hung_probe_is_a_failed_probe(self) -> None:
        player = Player(
            {"a/x": [DOWN, (Stop(CANCELLED), 10.0)]}, attempts=1, breakers={"failures": 1}
        )
        player.play()
        player.now = 40.0
        player.new_call()

        assert (
            "TargetBenched a/x kind=transient reason=hung "
            "trigger=probe failed until=110 retry_after=None at 50"
        ) in player.play()

    def test_what_is_no_error_of_a_program_passes(self) -> None:
        player = Player({"a/x": [Stop(DOWN)], "b/y": []})

        assert CANCELLED_AT_ONCE == player.play()
        assert ((0, 0), []) == (player.circuits["a/x"].numbers(0.5), player.call.records)

    def test_an_exit_gives_the_lease_of_a_probe_back(self) -> None:
        player = Player({"a/x": [DOWN, Stop(DOWN)]}, attempts=1, breakers={"failures": 1})
        player.play()
        player.now = 40.0
        player.new_call()

        player.play()

        assert isinstance(player.circuits["a/x"].admit(player.now), Lease)

    def test_an_error_of_the_request_goes_to_the_next_by_default(self) -> None:
        player = Player({"a/x": [WRONG], "b/y": ["yes"]})

        player.plays("""
            try a/x 1
            AttemptFailed a/x number=1 seconds=0.5 kind=request_specific reason=invalid_request \
                status=400 at 0.5
            FailedOver a/x from_target=a/x to_target=b/y kind=request_specific \
                reason=invalid_request at 0.5
            try b/y 1
            AttemptSucceeded b/y number=1 seconds=0.5 at 1
            answer 'yes'
        """)

    def test_or_leaves_at_once_if_asked(self) -> None:
        player = Player({"a/x": [WRONG], "b/y": []}, on_request_error="raise")

        player.plays("""
            try a/x 1
            AttemptFailed a/x number=1 seconds=0.5 kind=request_specific reason=invalid_request \
                status=400 at 0.5
            CallFailed a/x attempts=1 kind=request_specific at 0.5
            reraise
        """)

    def test_a_safety_refusal_leaves_by_default(self) -> None:
        player = Player({"a/x": [POLICY], "b/y": []})

        player.plays("""
            try a/x 1
            AttemptFailed a/x number=1 seconds=0.5 kind=request_specific reason=content_policy \
                status=400 at 0.5
            CallFailed a/x attempts=1 kind=request_specific at 0.5
            reraise
        """)

    def test_or_goes_to_the_next_if_asked(self) -> None:
        player = Player(
            {"a/x": [POLICY], "b/y": ["yes"]}, on_content_policy="next", on_request_error="raise"
        )

        assert "answer 'yes'" == player.play()[-1]

    def test_an_unknown_error_is_emitted_and_the_next_target_tried(self) -> None:
        player = Player({"a/x": [Verdict(ErrorKind.UNKNOWN, status=418)], "b/y": ["yes"]})

        player.plays("""
            try a/x 1
            UnknownError a/x type_name=Problem status=418 at 0.5
            AttemptFailed a/x number=1 seconds=0.5 kind=unknown reason=unclassified status=418 at \
                0.5
            FailedOver a/x from_target=a/x to_target=b/y kind=unknown reason=unclassified at 0.5
            try b/y 1
            AttemptSucceeded b/y number=1 seconds=0.5 at 1
            answer 'yes'
        """)

    def test_an_unknown_error_may_leave(self) -> None:
        player = Player({"a/x": [UNKNOWN], "b/y": []}, on_unknown="raise")

        player.plays("""
            try a/x 1
            UnknownError a/x type_name=Problem status=None at 0.5
            AttemptFailed a/x number=1 seconds=0.5 kind=unknown reason=unclassified status=None \
                at 0.5
            CallFailed a/x attempts=1 kind=unknown at 0.5
            reraise
        """)

    def test_or_be_taken_for_one_that_passes(self) -> None:
        odd = Verdict(ErrorKind.UNKNOWN, "odd", retry_after=3.0, status=418)
        player = Player({"a/x": [odd, "yes"]}, on_unknown="transient", attempts=2)

        player.plays("""
            try a/x 1
            UnknownError a/x type_name=Problem status=418 at 0.5
            AttemptFailed a/x number=1 seconds=0.5 kind=transient reason=odd status=418 at 0.5
            RetryScheduled a/x number=2 delay=3 source=hint at 0.5
            wait 3
            try a/x 2
            AttemptSucceeded a/x number=2 seconds=0.5 at 4
            answer 'yes'
        """)


class TestContextWindow:
    """A request that is too long goes only where more is known to fit."""

    SMALL, LARGE = Target("a/x", context_window=8_000), Target("b/y", context_window=128_000)

    def test_it_goes_to_a_larger_window_past_others(self) -> None:
        script = {
            self.SMALL: [TOO_LONG],
            Target("c/z", context_window=8_000): [],
            "d/w": [],
            self.LARGE: ["yes"],
        }
        player = Player(script)

        player.plays("""
            try a/x 1
            AttemptFailed a/x number=1 seconds=0.5 kind=request_specific \
                reason=context_length_exceeded status=400 at 0.5
            TargetSkipped c/z reason=context_window at 0.5
            TargetSkipped d/w reason=context_window at 0.5
            FailedOver a/x from_target=a/x to_target=b/y kind=request_specific \
                reason=context_length_exceeded at 0.5
            try b/y 1
            AttemptSucceeded b/y number=1 seconds=0.5 at 1
            answer 'yes'
        """)

    def test_with_no_larger_one_it_leaves_at_once(self) -> None:
        player = Player({self.SMALL: [TOO_LONG], "d/w": []})

        assert "reraise" == player.play()[-1]

    def test_with_the_larger_one_benched_too(self) -> None:
        player = Player({self.SMALL: [TOO_LONG], self.LARGE: []})
        player.circuits["b/y"].bench(0.0, 100.0, "migration")

        assert "reraise" == player.play()[-1]

    def test_a_target_of_unknown_size_says_nothing_of_others(self) -> None:
        player = Player({"d/w": [TOO_LONG], self.LARGE: []})

        assert "reraise" == player.play()[-1]

    def test_the_largest_that_was_too_small_counts(self) -> None:
        middle = Target("c/z", context_window=32_000)
        player = Player(
            {middle: [TOO_LONG], self.LARGE: [TOO_LONG], Target("e/v", context_window=64_000): []}
        )

        lines = player.play()

        assert ["try c/z 1", "try b/y 1"] == [line for line in lines if line.startswith("try")]
        assert "reraise" == lines[-1]


class TestRejecting:
    """Answers that the policy refuses."""

    @pytest.mark.parametrize("said", [None, False, 0, 0.0, "", [], {}])
    def test_anything_false_accepts_the_answer(self, said: Any) -> None:
        player = Player({"a/x": ["yes"]}, reject=lambda _: said)

        assert "answer 'yes'" == player.play()[-1]

    @pytest.mark.parametrize(
        ("said", "kind", "reason"),
        [
            (True, "bad_response", "rejected"),
            ("empty", "bad_response", "empty"),
            ("x", "bad_response", "x"),
            ("x" * 41, "bad_response", "x" * 40),
            ("x y" * 14, "bad_response", "rejected"),
            (ErrorKind.BAD_RESPONSE, "bad_response", "rejected"),
            (ErrorKind.TRANSIENT, "transient", "rejected"),
            (Verdict(ErrorKind.BAD_RESPONSE, "odd", status=200), "bad_response", "odd"),
            (7, "bad_response", "rejected"),
        ],
    )
    def test_what_it_says_is_the_verdict(self, said: Any, kind: str, reason: str) -> None:
        player = Player(
            {"a/x": ["no"], "b/y": ["yes"]},
            attempts=1,
            reject=lambda value: said if value == "no" else None,
        )

        lines = player.play()

        status = 200 if isinstance(said, Verdict) else None
        assert (
            f"AttemptFailed a/x number=1 seconds=0.5 kind={kind} reason={reason} "
            f"status={status} at 0.5" == lines[1]
        )
        assert "answer 'yes'" == lines[-1]
        assert "ResponseRejectedError" == player.call.records[0].type_name

    @pytest.mark.parametrize("said", [None, False])
    def test_nothing_said_is_an_answer(self, said: Any) -> None:
        player = Player({"a/x": ["fine"]}, reject=lambda _: said)

        assert "answer 'fine'" == player.play()[-1]

    def test_a_word_of_forty_letters_is_a_reason(self) -> None:
        player = Player({"a/x": ["no"]}, attempts=1, reject=lambda _: "x" * 40)

        player.play()

        assert "x" * 40 == player.call.records[0].reason

    def test_the_last_rejection_is_in_the_error_of_the_chain(self) -> None:
        player = Player({"a/x": ["no"]}, attempts=1, reject=lambda _: "empty")

        player.play()

        inner = player.error.exceptions[0]
        assert isinstance(inner, ResponseRejectedError)
        assert ("a/x", "empty", "bad_response") == (inner.target, inner.reason, inner.kind)

    def test_the_kind_that_it_gave_is_in_the_error(self) -> None:
        player = Player({"a/x": ["no"]}, attempts=1, reject=lambda _: ErrorKind.TRANSIENT)

        player.play()

        assert ("rejected", "transient") == (
            player.error.exceptions[0].reason,
            player.error.exceptions[0].kind,
        )

    def test_a_rejection_that_leaves_is_raised_as_one(self) -> None:
        player = Player({"a/x": ["no"], "b/y": []}, reject=lambda _: POLICY)

        player.plays("""
            try a/x 1
            AttemptFailed a/x number=1 seconds=0.5 kind=request_specific reason=content_policy \
                status=400 at 0.5
            CallFailed a/x attempts=1 kind=request_specific at 0.5
            raise ResponseRejectedError
        """)
        assert "a/x" == player.error.target

    def test_a_rejection_that_is_the_callers_bug_too(self) -> None:
        player = Player({"a/x": ["no"], "b/y": []}, reject=lambda _: BUG)

        assert "raise ResponseRejectedError" == player.play()[-1]

    def test_a_rejection_of_an_inner_call_leaves_as_it_is(self) -> None:
        inner = ResponseRejectedError("z/z", "empty")
        inner.verdict = BUG  # type: ignore[attr-defined]
        player = Player({"a/x": [inner]})

        assert "reraise" == player.play()[-1]

    def test_one_that_leaves_by_choice_too(self) -> None:
        inner = ResponseRejectedError("z/z", "empty")
        inner.verdict = WRONG  # type: ignore[attr-defined]
        player = Player({"a/x": [inner]}, on_request_error="raise")

        assert "reraise" == player.play()[-1]

    def test_a_predicate_that_fails_is_the_callers_own_error(self) -> None:
        def broken(_: Any) -> bool:
            raise LookupError("mine")

        player = Player({"a/x": [DOWN, "no"]}, attempts=1, reject=broken, breakers={"failures": 1})
        player.play()
        player.now = 40.0
        player.new_call()

        with pytest.raises(LookupError, match="mine"):
            player.play()
        assert [
            "AttemptFailed a/x number=1 seconds=0.5 kind=caller_bug reason=caller_bug "
            "status=None at 40.5",
            "CallFailed a/x attempts=1 kind=caller_bug at 40.5",
        ] == player.lines[-2:]
        assert isinstance(player.circuits["a/x"].admit(player.now), Lease)


class TestOwnRule:
    """A policy's own rule goes before all others."""

    def test_a_verdict_is_taken(self) -> None:
        player = Player({"a/x": [DOWN], "b/y": ["yes"]}, attempts=1, classify=lambda _: GATEWAY)

        assert "kind=transient reason=gateway status=502" in player.play()[1]

    def test_it_is_asked_about_the_error(self) -> None:
        player = Player(
            {"a/x": [DOWN], "b/y": ["yes"]}, attempts=1, classify=lambda error: error.verdict
        )

        assert "reason=overloaded status=503" in player.play()[1]

    def test_a_kind_is_taken(self) -> None:
        player = Player(
            {"a/x": [DOWN], "b/y": ["yes"]}, attempts=1, classify=lambda _: "rate_limited"
        )

        assert "kind=rate_limited" in player.play()[1]

    def test_nothing_said_leaves_it_to_the_others(self) -> None:
        player = Player({"a/x": [DOWN], "b/y": ["yes"]}, attempts=1, classify=lambda _: None)

        assert "reason=overloaded" in player.play()[1]

    @pytest.mark.parametrize("broken", [lambda _: 1 / 0, lambda _: "no such kind"])
    def test_a_rule_that_fails_is_emitted_and_the_others_are_asked(self, broken: Any) -> None:
        player = Player({"a/x": [DOWN], "b/y": ["yes"]}, attempts=1, classify=broken)

        lines = player.play()

        name = "ZeroDivisionError" if "Zero" in lines[1] else "ValueError"
        assert f"ObserverFailed a/x type_name={name} at 0.5" == lines[1]
        assert "reason=overloaded" in lines[2]

    def test_one_that_fails_is_emitted_once(self) -> None:
        player = Player({"a/x": [DOWN, DOWN], "b/y": ["yes"]}, attempts=2, classify=lambda _: 1 / 0)

        lines = player.play()

        assert 1 == len([line for line in lines if line.startswith("ObserverFailed")])

    def test_it_cannot_turn_a_cancellation_into_a_failure(self) -> None:
        player = Player({"a/x": [CANCELLED], "b/y": []}, classify=lambda _: DOWN)

        assert CANCELLED_AT_ONCE == player.play()

    def test_what_is_no_verdict_is_told_and_the_others_asked(self) -> None:
        player = Player({"a/x": [DOWN], "b/y": ["yes"]}, attempts=1, classify=lambda _: 7)

        assert "ObserverFailed a/x type_name=ValueError at 0.5" == player.play()[1]

    def test_it_is_not_asked_about_cancellations(self) -> None:
        player = Player({"a/x": [Stop(CANCELLED)]}, classify=lambda _: DOWN)

        assert CANCELLED_AT_ONCE == player.play()


class TestGivingUp:
    """No target answers."""

    def test_the_error_says_what_came_of_each_in_the_order_of_the_chain(self) -> None:
        player = Player({"a/x": [DOWN], "b/y": [], "c/z": [GATEWAY]}, attempts=1)
        player.circuits["b/y"].bench(0.0, 90.0, "migration")
        player.lines.clear()

        player.plays("""
            try a/x 1
            AttemptFailed a/x number=1 seconds=0.5 kind=transient reason=overloaded status=503 at \
                0.5
            TargetSkipped b/y reason=migration at 0.5
            FailedOver a/x from_target=a/x to_target=c/z kind=transient reason=overloaded at 0.5
            try c/z 1
            AttemptFailed c/z number=1 seconds=0.5 kind=transient reason=gateway status=502 at 1
            CallFailed c/z attempts=2 kind=None at 1
            raise ChainExhaustedError from Problem('gateway')
        """)
        error = player.error
        assert isinstance(error, ChainExhaustedError)
        assert ["Problem", "BreakerOpenError", "Problem"] == [
            type(member).__name__ for member in error.exceptions
        ]
        assert (None, 0.0) == (error.kind, error.retry_after)

    def test_one_kind_of_all_is_the_kind(self) -> None:
        player = Player({"a/x": [DOWN], "b/y": [GATEWAY]}, attempts=1)

        assert "CallFailed b/y attempts=2 kind=transient at 1" in player.play()
        assert ErrorKind.TRANSIENT == player.error.kind

    def test_the_last_error_is_raised_instead_if_asked(self) -> None:
        player = Player({"a/x": [DOWN], "b/y": [GATEWAY]}, attempts=1, reraise=True)

        assert "raise Problem" == player.play()[-1]
        assert GATEWAY is player.error.verdict

    def test_but_not_where_nothing_was_tried(self) -> None:
        player = Player({"a/x": []}, reraise=True)
        player.circuits["a/x"].bench(0.0, 90.0, "migration")
        player.lines.clear()

        player.plays("""
            TargetSkipped a/x reason=migration at 0
            CallFailed a/x attempts=0 kind=rejected at 0
            raise ChainExhaustedError from \
                BreakerOpenError('a/x is benched (migration); try again in 90 s')
        """)

    def test_the_last_lane_tells_when_nothing_was_tried(self) -> None:
        player = Player({"a/x": [], "b/y": []}, when_all_benched="raise")
        for key in ("a/x", "b/y"):
            player.circuits[key].bench(0.0, 90.0, "migration")
        player.lines.clear()

        assert "CallFailed b/y attempts=0 kind=rejected at 0" in player.play()


class TestAllBenched:
    """Every target is benched: soonest first, wait, or give up."""

    def benched(self, *ends: float, **options: Any) -> Player:
        """Return a player whose targets are open until these moments."""
        player = Player(
            {f"{name}/x": ["yes"] for name, _ in zip("abc", ends, strict=False)}, **options
        )
        for candidate, end in zip(player.candidates, ends, strict=True):
            candidate.circuit.failure(
                candidate.circuit.generation, 0.0, DEAD if end < 0 else FULL, 0.0
            )
            bench = candidate.circuit._state.opened
            assert bench is not None
            bench.until = abs(end)
            with candidate.circuit._lock:
                candidate.circuit._publish_locked()
        player.lines.clear()
        return player

    def test_the_soonest_is_tried_first(self) -> None:
        player = self.benched(50.0, 20.0, 30.0, attempts=2)
        player.script["b/x"] = [DOWN]

        player.plays("""
            TargetSkipped a/x reason=out_of_memory at 0
            TargetSkipped b/x reason=out_of_memory at 0
            TargetSkipped c/x reason=out_of_memory at 0
            try b/x 1
            AttemptFailed b/x number=1 seconds=0.5 kind=transient reason=overloaded status=503 at \
                0.5
            FailedOver b/x from_target=b/x to_target=c/x kind=transient reason=overloaded at 0.5
            try c/x 1
            TargetUnbenched c/x reason=recovered at 1 by no call
            AttemptSucceeded c/x number=1 seconds=0.5 at 1
            answer 'yes'
        """)

    def test_each_at_most_once_and_never_a_dead_one(self) -> None:
        player = self.benched(50.0, -20.0, attempts=3)
        player.script["a/x"] = [DOWN]

        lines = player.play()

        assert ["try a/x 1"] == [line for line in lines if line.startswith("try")]
        assert "raise ChainExhaustedError from Problem('overloaded')" == lines[-1]

    def test_at_most_once_even_if_its_bench_ends_meanwhile(self) -> None:
        player = self.benched(0.3, attempts=3)
        player.script["a/x"] = [DOWN]

        lines = player.play()

        assert ["try a/x 1"] == [line for line in lines if line.startswith("try")]
        assert "raise ChainExhaustedError from Problem('overloaded')" == lines[-1]

    def test_one_without_an_end_comes_last(self) -> None:
        player = self.benched(50.0, 20.0, attempts=1)
        player.circuits["b/x"].bench(0.0, float("inf"), "migration")
        player.lines.clear()

        lines = player.play()

        assert ["try a/x 1"] == [line for line in lines if line.startswith("try")]

    def test_no_last_resort_after_an_attempt(self) -> None:
        player = Player({"b/y": [DOWN], "a/x": []}, attempts=1)
        player.circuits["a/x"].failure(player.circuits["a/x"].generation, 0.0, FULL, 0.0)

        lines = player.play()

        assert ["try b/y 1"] == [line for line in lines if line.startswith("try")]

    def test_demoted_ones_after_an_attempt_if_asked(self) -> None:
        player = Player(
            {"a/x": [DOWN], "b/y": [DOWN], "c/z": ["yes"]}, attempts=2, on_down="demote"
        )
        for key in ("a/x", "c/z"):
            circuit = player.circuits[key]
            circuit.failure(circuit.generation, 0.0, FULL, 0.0)
        player.lines.clear()
        player.script["b/y"] = [UNKNOWN]

        player.plays("""
            TargetSkipped a/x reason=out_of_memory at 0
            try b/y 1
            UnknownError b/y type_name=Problem status=None at 0.5
            AttemptFailed b/y number=1 seconds=0.5 kind=unknown reason=unclassified status=None at 0.5
            TargetSkipped c/z reason=out_of_memory at 0.5
            FailedOver b/y from_target=b/y to_target=a/x kind=unknown reason=unclassified at 0.5
            try a/x 1
            AttemptFailed a/x number=1 seconds=0.5 kind=transient reason=overloaded status=503 at 1
            FailedOver a/x from_target=a/x to_target=c/z kind=transient reason=overloaded at 1
            try c/z 1
            TargetUnbenched c/z reason=recovered at 1.5 by no call
            AttemptSucceeded c/z number=1 seconds=0.5 at 1.5
            answer 'yes'
        """)

    def test_one_that_was_called_and_benched_during_a_wait_is_not_demoted(self) -> None:
        player = Player({"a/x": [DOWN], "b/y": [DOWN]}, attempts=2, on_down="demote")
        other, circuit = player.circuits["b/y"], player.circuits["a/x"]
        other.failure(other.generation, 0.0, FULL, 0.0)
        player.before_wait = lambda _: circuit.failure(circuit.generation, player.now, FULL, 0.0)

        lines = player.play()

        assert ["try a/x 1", "try b/y 1"] == [line for line in lines if line.startswith("try")]

    def test_none_is_demoted_a_second_time(self) -> None:
        player = self.benched(50.0, 20.0, attempts=1, on_down="demote")
        player.script["a/x"], player.script["b/x"] = [DOWN], [DOWN]

        lines = player.play()

        assert ["try b/x 1", "try a/x 1"] == [line for line in lines if line.startswith("try")]
        assert "raise ChainExhaustedError from Problem('overloaded')" == lines[-1]

    def test_giving_up_at_once_if_asked(self) -> None:
        player = self.benched(50.0, when_all_benched="raise")

        player.plays("""
            TargetSkipped a/x reason=out_of_memory at 0
            CallFailed a/x attempts=0 kind=rejected at 0
            raise ChainExhaustedError from \
                BreakerOpenError('a/x is benched (out_of_memory); try again in 50 s')
        """)
        assert 50.0 == player.error.retry_after

    def test_waiting_looks_again_each_second_until_the_soonest_is_back(self) -> None:
        player = self.benched(50.0, 2.5, when_all_benched="wait")

        lines = [line for line in player.play() if line.startswith(("wait", "try", "answer"))]

        assert ["wait 1", "wait 1", "wait 0.5", "try b/x 1", "answer 'yes'"] == lines

    def test_waiting_notices_a_bench_that_ends_early(self) -> None:
        player = self.benched(50.0, when_all_benched="wait")
        player.before_wait = lambda _: player.circuits["a/x"].unbench(player.now) or None

        lines = [line for line in player.play() if line.startswith(("wait", "try", "answer"))]

        assert ["wait 1", "try a/x 1", "answer 'yes'"] == lines

    def test_one_that_came_back_while_the_others_were_asked_is_called_at_once(self) -> None:
        player = self.benched(50.0, when_all_benched="wait")
        deliver = player.deliver

        def and_unbench(outbox: Outbox, tag: CallTag | None = None, /) -> None:
            deliver(outbox, tag)
            if player.lines[-1].startswith("TargetSkipped"):
                player.circuits[outbox.key].unbench(player.now)

        player.deliver = and_unbench  # type: ignore[method-assign]

        lines = [line for line in player.play() if line.startswith(("wait", "try", "answer"))]

        assert ["wait 0.01", "try a/x 1", "answer 'yes'"] == lines

    def test_a_wait_that_is_too_long_is_none(self) -> None:
        player = self.benched(60.1, when_all_benched="wait")

        player.plays("""
            TargetSkipped a/x reason=out_of_memory at 0
            CallFailed a/x attempts=0 kind=rejected at 0
            raise ChainExhaustedError from \
                BreakerOpenError('a/x is benched (out_of_memory); try again in 60.1 s')
        """)

    def test_a_wait_as_long_as_is_allowed_is_waited(self) -> None:
        player = self.benched(60.0, when_all_benched="wait")

        assert "answer 'yes'" == player.play()[-1]

    def test_no_wait_past_the_deadline(self) -> None:
        player = self.benched(5.0, when_all_benched="wait", timeout=5.0)

        assert "raise ChainExhaustedError from BreakerOpenError" in player.play()[-1]

    def test_no_wait_for_what_has_no_end(self) -> None:
        player = self.benched(5.0, when_all_benched="wait")
        player.circuits["a/x"].bench(0.0, float("inf"), "migration")

        assert not [line for line in player.play() if line.startswith("wait")]

    def test_the_shortest_look_is_a_hundredth_of_a_second(self) -> None:
        player = self.benched(0.5, when_all_benched="wait")
        own = player.circuits["a/x"]
        taken: list[Any] = []

        def take_the_place(step: Wait) -> None:
            if not taken:
                taken.append(own.admit(player.now + step.seconds))

        player.before_wait = take_the_place

        lines = [line for line in player.play() if line.startswith(("wait", "try", "raise"))]

        # Another caller holds the only lease, whose end is unknown: no wait, and no busy loop.
        assert "wait 0.5" == lines[0]
        assert "raise ChainExhaustedError from BreakerOpenError" in lines[-1]


class TestNothingIsKept:
    """No frame of the call flow holds an error when it is over."""

    def test_a_story_that_is_closed_early_lets_go_of_the_error(self) -> None:
        player = Player({"a/x": [DOWN], "b/y": []}, attempts=3)
        steps = call_flow(player.call, 0.0)
        next(steps)
        steps.send(Reply(0.5, error=Problem(DOWN)))
        frame = steps.gi_frame

        steps.close()

        assert frame is not None
        assert steps.gi_frame is None

    def test_deadline_errors_name_the_timeout(self) -> None:
        player = Player({"a/x": [("never", 1e9)]}, attempts=1, timeout=8.0)

        player.play()

        assert isinstance(player.error, DeadlineExceededError)
        assert "the call did not finish within its timeout of 8 s" == str(player.error)

    def test_what_is_hung_is_no_news_for_a_call_that_goes_on(self) -> None:
        player = Player({"a/x": [HUNG], "b/y": ["yes"]}, attempts=1)

        assert "answer 'yes'" == player.play()[-1]
