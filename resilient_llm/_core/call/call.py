"""The data of one call: its candidates, its deadline, the outcomes so far. One driver owns it.

Everything foreign is passed in: the rules, the budgets, randomness and observers. It reads no
clock; the driver of the call flow gives the time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from resilient_llm._core.call import spending
from resilient_llm._core.call.capabilities import NO_LACKS, WINDOW
from resilient_llm._core.call.outcomes import add_note, note_of, outcome_of, trim_traceback
from resilient_llm._core.circuit.outbox import CallTag, Fact
from resilient_llm._core.circuit.permit import Permit, block_of, takes_last_resort
from resilient_llm._core.circuit.state import Block
from resilient_llm._core.limits.admitting import admit_within
from resilient_llm._core.limits.held import Held, LimitBlock
from resilient_llm._core.spending.estimates import Estimate
from resilient_llm._values import event_names
from resilient_llm._values.built_in import class_name
from resilient_llm._values.errors import BreakerOpenError, CallRejectedError, ChainExhaustedError
from resilient_llm._values.escaping import escaped
from resilient_llm._values.kinds import AttemptRecord, ErrorKind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from resilient_llm._core.call.call_deps import CallDeps
    from resilient_llm._core.call.capabilities import Lack
    from resilient_llm._core.call.hooks import CallHook
    from resilient_llm._core.circuit.circuit import Circuit
    from resilient_llm._core.in_flight import Counts, CountsOfTarget
    from resilient_llm._core.limits.held import TargetLimits, Ticket
    from resilient_llm._core.spending.ledger import Refusal
    from resilient_llm._core.stream.stream_state import StreamState
    from resilient_llm._values.errors import StreamInterruptedError
    from resilient_llm._values.policy import Options
    from resilient_llm._values.stream_policy import StreamPolicy
    from resilient_llm._values.target import Target
    from resilient_llm._values.verdict import Verdict

    Rebind = Callable[
        [tuple[Any, ...], dict[str, Any], Mapping[str, Any]], tuple[tuple[Any, ...], dict[str, Any]]
    ]


RESERVE: Final = 0.75
"""Share of the time left that an attempt may use while another target is live."""


def share_of(left: float, own: float | None, *, is_last: bool) -> tuple[float, bool]:
    """Return the limit of an attempt in seconds, and whether it is the end of the whole deadline.

    Args:
        left: Seconds that are left of the deadline.
        own: The attempt's own limit in seconds, if it has one.
        is_last: Whether no other target is live.
    """
    share = left if is_last else left * RESERVE
    return (own, False) if own is not None and own < share else (share, is_last)


_ENDS: Final = (event_names.AttemptSucceeded, event_names.CallFailed)
"""Facts by which a call ends. What ends without one was cancelled."""


class Candidate:
    """A target that a call may still try, with its circuit and how to call it."""

    __slots__ = ("circuit", "counts", "invoke", "is_generator", "keep", "limits", "target")

    def __init__(
        self,
        target: Target,
        circuit: Circuit,
        invoke: Callable[..., Any],
        *,
        is_generator: bool = False,
        keep: Callable[[float, float], None] | None = None,
        counts: CountsOfTarget | None = None,
        limits: TargetLimits | None = None,
    ) -> None:
        self.target = target
        self.circuit = circuit
        self.invoke = invoke
        """``(step, args, kwargs) -> answer or awaitable``"""
        self.is_generator = is_generator
        """Whether it calls a generator function, which chooses the items that it passes on."""
        self.keep = keep
        """Keeps a sample of it, for the wrapper: its moment and its seconds."""
        self.counts = counts
        """Where its attempts are counted, for the wrapper; see `CallDeps.counts`."""
        self.limits = limits
        """The limits that its attempts must pass, if there are any."""


def _merged(
    args: tuple[Any, ...], kwargs: dict[str, Any], changes: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, {**kwargs, **changes}


def _no_estimate(_: Target) -> Estimate:
    return Estimate()


class Outcome:
    """What became of a call: all that a trace keeps of it. It holds no error and no argument."""

    __slots__ = ("call_id", "records", "served_by")

    def __init__(self, call_id: str) -> None:
        self.call_id = call_id
        self.served_by: str | None = None
        """Key of the target that answered, or None."""
        self.records: list[AttemptRecord] = []
        """Attempts and skips, oldest first."""


class Call:
    """One call: its candidates in order, its deadline, and the outcome of each."""

    # No slots: what most calls leave alone is a default of the class. A call is made while its
    # caller waits for the next target.
    attempts = 0
    last_failed: tuple[Candidate, Verdict] | None = None
    delivered: StreamState | None = None
    """The stream that was handed to the consumer last."""
    interruption: StreamInterruptedError | None = None
    """What the consumer of a stream gets if no other target goes on with it."""
    needs_window: int | None = None
    """Only targets with a larger context window than this may be called."""
    makes_last_resorts = False
    """Whether its attempts are made in spite of automatic benches, on what is still untried."""
    lacks: Mapping[str, Lack] = NO_LACKS
    """``{key: why that target cannot take the call}``, found out before its first attempt."""
    estimate_of: Callable[[Target], Estimate] = staticmethod(_no_estimate)
    """``(target) -> estimate`` of the tokens of an attempt on it, for budgets and token limits."""
    spend_key: str | None = None
    """On whose account it spends."""
    is_stream = False
    """Whether its attempts are known to be streams before they are made."""
    won_since = 0.0
    """When the attempt began that has won a race."""
    hook: CallHook | None = None
    """What is entered and left around its attempts, if a hook is installed."""
    hedges = 0
    """Attempts that were started beside others."""
    asked_hedge: tuple[Candidate, Permit] | None = None
    """The attempt beside others about which the store is asked now."""
    running: Sequence[Candidate] = ()
    """The targets of the attempts that run side by side, if several do."""
    is_cut_off = False
    """Whether the limit of a call around this one has ended one of its waits."""
    has_failed = False
    """Whether `CallFailed` was emitted, or is held back."""
    held_failure: tuple[Candidate, float, ErrorKind | None] | None = None
    """Of what `CallFailed` tells as soon as no attempt runs any more."""
    is_counted = False
    """Whether it was counted how the call ends, if its calls are counted."""
    ends_later = False
    """Whether that is counted after the end of its call flow, which was closed too early."""

    def __init__(
        self,
        options: Options,
        candidates: Sequence[Candidate],
        deps: CallDeps,
        call_id: str | Callable[[], str],
        deadline: float | None,
        *,
        knows_limit: bool,
        outcome: Outcome | None = None,
        rebind: Rebind = _merged,
    ) -> None:
        self.options = options
        self.candidates = candidates
        self.deps = deps
        self.tag = CallTag(call_id, options.observers)
        self.deadline = deadline
        self.knows_limit = knows_limit
        """Whether an attempt can keep its limit: it is async or takes an `Attempt`."""
        self.outcome = outcome
        """Where a trace expects what became of the call, or None."""
        self.records: list[AttemptRecord] = [] if outcome is None else outcome.records
        self.last_outcomes: dict[str, tuple[Exception, AttemptRecord]] = {}
        """``{key: (last error or rejection, its record)}``"""
        self.blocks: dict[str, Block] = {}
        self.limited: dict[str, LimitBlock] = {}
        """``{key: why its limits refused an attempt last}``"""
        self.refusals: dict[str, Refusal] = {}
        """``{key: why budgets refused an attempt last}``"""
        self.without_store: set[str] = set()
        """Keys that were refused last since the store gave no answer."""
        self.tickets: dict[str, Ticket] = {}
        """``{key: a ticket whose turn has come at a limit of that target}``"""
        self.untried: list[Candidate] = list(candidates)
        """Candidates that this call has neither tried nor skipped yet."""
        self.args: tuple[Any, ...] = ()
        self.kwargs: dict[str, Any] = {}
        self.rebind = rebind
        """``(args, kwargs, changes)``: gives arguments new values by name."""

    def clear(self) -> None:
        """Drop everything that holds an argument, an error or a frame."""
        self.args = ()
        self.kwargs = {}
        self.last_outcomes = {}
        self.estimate_of = _no_estimate
        if self.delivered is not None or self.interruption is not None:
            self.interruption = self.delivered = None
        if self.hook is not None:
            hook, self.hook = self.hook, None
            hook.over()

    # Targets.

    def enter(
        self,
        candidate: Candidate,
        limit: float | None,
        now: float,
        *,
        last_resort: bool = False,
    ) -> Permit | None:
        """Return a permit for an attempt on a candidate, or None after recording why not.

        Args:
            candidate: The target, with its circuit.
            limit: What `limit_of` gives for it.
            now: Monotonic seconds.
            last_resort: Whether an automatic bench does not block it.
        """
        # Once: a retry of the attempt that has it must ask as every other.
        ticket = self.tickets.pop(candidate.target.key, None) if self.tickets else None
        admitted = self.admitted(candidate, limit, now, last_resort=last_resort, ticket=ticket)
        if isinstance(admitted, Permit):
            return admitted
        self.skip(candidate, admitted, now)
        return None

    def admitted(
        self,
        candidate: Candidate,
        limit: float | None,
        now: float,
        *,
        last_resort: bool = False,
        ticket: Ticket | None = None,
    ) -> Permit | Block:
        """Return the same, or why there is no permit, and record nothing.

        The store may still have to be asked about the permit: see `asking`.
        """
        estimate = self.estimate_on(candidate)
        admitted = admit_within(
            candidate.limits,
            candidate.circuit,
            now,
            limit or 0.0,
            last_resort=last_resort,
            ticket=ticket,
            estimate=estimate,
        )
        if self.deps.spending is None or estimate is None or isinstance(admitted, Block):
            return admitted
        is_admitted = False
        try:
            held = admitted.held = admitted.held or Held()
            target, key, limits = candidate.target, self.spend_key, candidate.limits
            refusal = spending.reserve(self.deps.spending, target, estimate, key, now, held, limits)
            if refusal is not None:
                self.tell_budgets(candidate, now)
                return refusal
            is_admitted = True
            return admitted
        finally:
            if not is_admitted:  # an interrupt takes nothing either
                admitted.withdrawn()

    def estimate_on(self, candidate: Candidate) -> Estimate | None:
        """Return what an attempt on a candidate may use; None where nothing depends on it."""
        if not self.deps.needs_estimate(candidate.limits):
            return None
        return self.estimate_of(candidate.target)

    # What blocks a target, without taking anything: its breakers, then its limits, then budgets.

    def block(self, candidate: Candidate, now: float) -> Block | None:
        """Return why this call could not make an attempt now."""
        return block_of(candidate.circuit, now) or self.refusal(candidate, now)

    def refusal(self, candidate: Candidate, now: float) -> Block | None:
        """Return why limits or budgets would refuse this call an attempt now."""
        return self.limit_block(candidate, now) or self.budget_block(candidate, now)

    def limit_block(self, candidate: Candidate, now: float) -> Block | None:
        """Return why limits would refuse this call an attempt now."""
        if candidate.limits is None:
            return None
        return candidate.limits.block(now, self.estimate_on(candidate))

    def budget_block(self, candidate: Candidate, now: float) -> Block | None:
        """Return why budgets would refuse this call an attempt now."""
        if self.deps.spending is None:
            return None
        target = candidate.target
        return spending.block_of(
            self.deps.spending, target, self.estimate_of(target), self.spend_key, now
        )

    def tell_budgets(self, candidate: Candidate, now: float) -> None:
        """Emit what budgets have to tell."""
        for kind, details in spending.told(self.deps.spending):
            self.emit(candidate, kind, now, **details)

    def skip(self, candidate: Candidate, block: Block, now: float) -> None:
        """Record that a candidate was skipped; the error of an attempt stays its last outcome."""
        key = candidate.target.key
        retry_after = None if block.until is None else max(0.0, block.until - now)
        self.blocks.pop(key, None)
        self.limited.pop(key, None)
        self.refusals.pop(key, None)
        self.without_store.discard(key)
        if isinstance(block, spending.StoreBlock):
            self.without_store.add(key)
            self._skipped(candidate, spending.error_without_store(key), now)
            return
        if isinstance(block, spending.BudgetBlock):
            self.refusals[key] = block.refusal
            self._skipped(candidate, spending.error_of(key, block.refusal), now)
            return
        if isinstance(block, LimitBlock):
            self.limited[key] = block
            self._skipped(candidate, CallRejectedError(key, block.reason, retry_after), now)
            return
        self.blocks[key] = block
        rejection = BreakerOpenError(key, block.reason, retry_after)
        self._skipped(candidate, rejection, now, manual=block.manual)

    def pass_over(self, candidate: Candidate, reason: str, now: float) -> None:
        """Record that a candidate was skipped for a reason that lies in this call."""
        self._skipped(candidate, CallRejectedError(candidate.target.key, reason), now)

    def _skipped(
        self,
        candidate: Candidate,
        rejection: CallRejectedError,
        now: float,
        *,
        manual: bool = False,
    ) -> None:
        key = candidate.target.key
        known = self.last_outcomes.get(key)
        if known is not None and known[1].number:
            return
        record = AttemptRecord(
            key, 0, ErrorKind.REJECTED, rejection.reason, type_name=type(rejection).__name__
        )
        self.last_outcomes[key] = (rejection, record)
        if known is None:
            self.records.append(record)
            if self.deps.counts is not None:
                self.deps.counts.skipped(key, rejection.reason, manual=manual)
            self.emit(candidate, event_names.TargetSkipped, now, reason=rejection.reason)

    def other_is_live(self, now: float) -> bool:
        """Return whether a target that this call has not used could be called now."""
        return any(
            self.fits(candidate) and self.block(candidate, now) is None
            for candidate in self.untried
        )

    def waits_at_limits(self) -> list[Candidate]:
        """Return the candidates that limits have refused and this call has not called."""
        return [
            candidate
            for candidate in self.candidates
            if candidate.target.key in self.limited
            and not self.last_outcomes[candidate.target.key][1].number
        ]

    def not_called(self) -> list[Candidate]:
        """Return the blocked candidates on which this call has made no attempt, in its order."""
        return [
            candidate
            for candidate in self.candidates
            if candidate.target.key in self.blocks
            and not self.last_outcomes[candidate.target.key][1].number
        ]

    def other_may_follow(self, now: float) -> bool:
        """Return whether this call could go on with another target, a demoted one included.

        What blocks a target is judged now; another call may take its place as a last resort.
        """
        if self.other_is_live(now):
            return True
        if self.options.on_down != "demote":
            return False
        benched = [] if self.makes_last_resorts else self.not_called()
        return any(
            self.fits(candidate)
            and takes_last_resort(candidate.circuit, now)
            and self.refusal(candidate, now) is None
            for candidate in (*self.untried, *benched)
        )

    def fits(self, candidate: Candidate) -> bool:
        """Return whether a target can take the request, as far as is known."""
        return self.misfit(candidate) is None

    def misfit(self, candidate: Candidate) -> str | None:
        """Return the reason why a target cannot take the request, or None."""
        target = candidate.target
        if self.lacks and target.key in self.lacks:
            return self.lacks[target.key].reason
        if self.needs_window is None:
            return None
        window = target.context_window
        return None if window is not None and window > self.needs_window else WINDOW

    @property
    def capable(self) -> list[Candidate]:
        """The candidates that can take the request, in order."""
        return [each for each in self.candidates if each.target.key not in self.lacks]

    # Time.

    def remaining(self, now: float) -> float | None:
        """Return the seconds until the deadline, or None if there is none."""
        return None if self.deadline is None else self.deadline - now

    def limit_of(self, candidate: Candidate) -> float | None:
        """Return the limit of an attempt in seconds; for a stream, until its first content."""
        own = candidate.target.attempt_timeout
        limit = self.options.attempt_timeout if own is None else own
        if candidate.target.stream is None and self.options.stream is None:
            return limit
        policy = self.stream_policy(candidate)
        assert policy is not None
        limits = (limit, policy.first_item_timeout, policy.timeout)
        return min((each for each in limits if each is not None), default=None)

    def stream_policy(self, candidate: Candidate) -> StreamPolicy | None:
        """Return how streams of a candidate are guarded, if that is configured.

        The options of the target overrule those of the policy.
        """
        own, general = candidate.target.stream, self.options.stream
        return general if own is None else own.over(general)

    # Outcomes.

    def record(
        self,
        candidate: Candidate,
        number: int,
        seconds: float,
        error: BaseException,
        verdict: Verdict,
    ) -> None:
        """Record the outcome of an attempt; it is the last one of its target."""
        key = candidate.target.key
        record = AttemptRecord(
            key,
            number,
            verdict.kind,
            verdict.reason,
            seconds,
            verdict.status,
            class_name(type(error)),
        )
        self.records.append(record)
        if isinstance(error, Exception):  # anything else leaves the call, and is no group's member
            self.last_outcomes[key] = (error, record)

    def emit(
        self, candidate: Candidate, kind: event_names.EventName, now: float, /, **details: Any
    ) -> None:
        """Count a fact, and emit its event if an observer listens to its kind."""
        if self.hook is not None:
            self.hook.note(kind, candidate.target.key, details)
        if self.deps.counts is not None:
            self._count(self.deps.counts, candidate, kind, details)
        circuit = candidate.circuit
        circuit.sink.emit(circuit.outbox, kind, now, self.tag, **details)

    def is_heard(self, candidate: Candidate, kind: event_names.EventName) -> bool:
        """Return whether emitting such an event of a candidate does anything.

        For events of every call, whose details are put together only if an observer listens.
        """
        circuit = candidate.circuit
        return (
            self.hook is not None
            or self.deps.counts is not None
            or circuit.outbox.is_behind
            or circuit.sink.has_listeners(kind, self.tag)
        )

    def announce(
        self, candidate: Candidate, kind: event_names.EventName, now: float, /, **details: Any
    ) -> None:
        """Count a fact, and prepare its event for the circuit that charges what it tells of."""
        if self.hook is not None:
            self.hook.note(kind, candidate.target.key, details)
        if self.deps.counts is not None:
            self._count(self.deps.counts, candidate, kind, details)
        circuit = candidate.circuit
        if circuit.sink.has_listeners(kind, self.tag):
            self.tag.cause = (circuit.outbox, Fact(kind, now, self.tag, details))

    def emit_announced(self, candidate: Candidate) -> None:
        """Emit the announced event, also if no circuit has appended it."""
        circuit = candidate.circuit
        if self.tag.cause is not None:
            self.tag.append_cause()
        if circuit.outbox.pending or circuit.outbox.is_behind:
            circuit.sink.deliver(circuit.outbox, self.tag)

    def settled(self, candidate: Candidate, now: float) -> None:
        """Let the hook know that all which follows from the last attempt's failure is done."""
        if self.hook is not None:
            block = block_of(candidate.circuit, now)
            self.hook.settled(None if block is None else block.until)

    def _count(
        self,
        counts: Counts,
        candidate: Candidate,
        kind: event_names.EventName,
        details: Mapping[str, Any],
    ) -> None:
        counts.note(kind, candidate.target.key, details)
        if kind in _ENDS:
            self.is_counted = True

    def count_end(self) -> None:
        """Count the call as cancelled if it has ended with neither an answer nor a failure."""
        counts = self.deps.counts
        if counts is not None and not self.is_counted:
            self.is_counted = True
            counts.call_cancelled()

    def report_failure(
        self, candidate: Candidate, function: Callable[..., object], failure: Exception, now: float
    ) -> None:
        """Emit, once for each function, that one which the policy names has failed."""
        if self.deps.fails_first(function):
            self.emit(
                candidate, event_names.ObserverFailed, now, type_name=class_name(type(failure))
            )

    def exhausted(self, now: float) -> ChainExhaustedError:
        """Return the error with the outcome of every target, in the order of the chain."""
        members: list[Exception] = []
        records: list[AttemptRecord] = []
        for candidate in self.candidates:
            error, record = self.last_outcomes.get(candidate.target.key, (None, None))
            if error is None or record is None:
                continue
            members.append(error)
            records.append(record)
            trim_traceback(error)
            add_note(error, note_of(record))
        last = next((record for record in reversed(self.records) if record.number), None)
        last_error = self.last_outcomes[last.target][0] if last is not None else None
        kinds = {record.kind for record in records}
        kind = kinds.pop() if len(kinds) == 1 else None
        summary = "; ".join(f"{record.target}: {outcome_of(record)}" for record in records)
        error = ChainExhaustedError(
            f"no target answered ({summary})",
            members,
            attempts=self.records,
            last_error=last_error,
            kind=kind,
            retry_after=self._worthwhile_in(now),
            records=records,
        )
        reasons = {record.reason for record in records}
        if kind is ErrorKind.AUTH_DEAD and len(reasons) == 1:
            error.add_note(
                f"every target failed with {escaped(reasons.pop())}: "
                "look at the credentials, not at the providers"
            )
        spending.note_unpriced(error, self.refusals)
        return error

    def _worthwhile_in(self, now: float) -> float | None:
        waits: list[float] = []
        for candidate in self.capable:
            block = self.block(candidate, now)
            if block is None:
                return 0.0
            if block.until is not None:
                waits.append(max(0.0, block.until - now))
        return min(waits, default=None)
