"""The spans of `otel`, and what of them is counted.

Loads the API of OpenTelemetry, and so is loaded by `install`.

Owns the spans of running calls. Nothing here raises an Exception: what OpenTelemetry raises, or a
span processor or sampler of the user, is logged once.

Entering a span is not OpenTelemetry's ``use_span``. That records exceptions and sets the status,
which is decided here by the outcome, and it logs an error where a generator is closed by another
task or by the garbage collector. Here a token that is of another context is let go.
"""

from __future__ import annotations

import time
from contextvars import Token
from typing import TYPE_CHECKING, Any, Final, cast

from opentelemetry import context as otel_context
from opentelemetry import metrics as otel_metrics
from opentelemetry import trace as otel_trace

from resilient_llm._values.reasons import reason_word
from resilient_llm.observers import _otel_attributes as otel
from resilient_llm.observers._exporter import VERSION
from resilient_llm.observers._otel_meters import Meters
from resilient_llm.observers._usage import usage_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, Tracer, TracerProvider

    from resilient_llm._values.event_names import EventName
    from resilient_llm._values.events import OrderChanged
    from resilient_llm._values.target import Target
    from resilient_llm._values.verdict import Verdict
    from resilient_llm.observers._exporter import Exporter

_SCOPE: Final = "resilient_llm"
_MOST_TARGETS: Final = 10_000
"""Targets whose attributes are kept."""

_ERROR: Final = otel_trace.StatusCode.ERROR
_CLIENT: Final = otel_trace.SpanKind.CLIENT
_current: Final = otel_context.get_current
_attach: Final = otel_context.attach
_with_span: Final = otel_trace.set_span_in_context
_now: Final = time.time_ns
_SILENT: Final = ("ok", "cancelled")
"""Outcomes that leave the status of a span unset."""


class Recorder:
    """What one install records with; begins each call."""

    def __init__(self, exporter: Exporter) -> None:
        """Begin without spans and without metrics."""
        self.tracer: Tracer | None = None
        self.meters: Meters | None = None
        self.has_attempts = False
        self._tracers: TracerProvider | None = None
        self._counters: MeterProvider | None = None
        self.moment = exporter.moment
        self.steady_moment = exporter.steady_moment
        self._lose = exporter.lose
        self._constant: dict[str, dict[str, Any]] = {}
        """``{key of a target: the attributes that all its attempts have}``"""

    def trace_with(self, provider: TracerProvider | None, *, attempts: bool) -> None:
        """Make spans of calls, and of attempts as well if these are wanted."""
        self._tracers = provider
        self.tracer = otel_trace.get_tracer(_SCOPE, VERSION, provider)
        self.has_attempts = attempts

    def count_with(self, provider: MeterProvider | None) -> None:
        """Count calls and attempts."""
        self._counters = provider
        self.meters = Meters(otel_metrics.get_meter(_SCOPE, VERSION, provider))

    def moved(self, event: OrderChanged) -> None:
        """Count a move by adaptive order, which comes of no single call."""
        if self.meters is not None:
            self.meters.order_changes.add(1, {"target": event.target})

    def does_as(self, other: object) -> str:
        """Return what this one does that another hook does on the same provider, in words."""
        if type(other) is not Recorder:
            return ""
        both: list[str] = []
        if self.tracer is not None and other.tracer is not None:
            default = otel_trace.get_tracer_provider
            if _is_same(self._tracers, other._tracers, default):
                both.append("has two spans")
        if self.meters is not None and other.meters is not None:
            default = otel_metrics.get_meter_provider
            if _is_same(self._counters, other._counters, default):
                both.append("is counted twice")
        return " and ".join(both)

    def __call__(self, call_id: str, function: str, chain: Sequence[Target]) -> CallSpan:
        """Begin a call."""
        return CallSpan(self, call_id, function, chain)

    def constant(self, target: Target) -> dict[str, Any]:
        """Return the attributes that all attempts on a target have."""
        found = self._constant.get(target.key)
        if found is None:
            if len(self._constant) >= _MOST_TARGETS:
                self._constant.clear()
            found = self._constant[target.key] = {
                otel.OPERATION: "chat",
                otel.PROVIDER: otel.PROVIDERS.get(target.provider, target.provider),
                otel.MODEL: target.model,
                otel.TARGET: target.key,
            }
        return found

    def broke(self, error: Exception) -> None:
        """Count that OpenTelemetry raised."""
        self._lose(f"OpenTelemetry raised {type(error).__name__}, so spans or metrics are missing")


class Around:
    """Makes a span current, in whatever context it is entered; nothing if there is no span."""

    __slots__ = ("_outside", "_with_it", "recorder", "span")

    def __init__(self, recorder: Recorder, span: Span | None) -> None:
        self.recorder = recorder
        self.span: Span | None = span
        self._outside: Context | None = None
        self._with_it: Context | None = None
        """The last context in which it was entered, and the same with the span."""

    def context(self) -> Context:
        """Return the present context with the span; baggage and all else in it stay."""
        outside = _current()
        if outside is self._with_it:
            return outside
        if self._with_it is None or outside is not self._outside:
            assert self.span is not None
            self._with_it, self._outside = _with_span(self.span, outside), outside
        return self._with_it

    def enter(self) -> Any:
        if self.span is None:
            return None
        try:
            return _attach(self.context())
        except Exception as error:  # noqa: BLE001  # no call may fail with its exporter
            self.recorder.broke(error)
            return None

    def leave(self, entered: Any) -> None:
        if entered is None:
            return
        try:
            _detach(entered)
        except (ValueError, RuntimeError):
            pass  # this is another context, in which nothing was attached
        except Exception as error:  # noqa: BLE001  # as above
            self.recorder.broke(error)


class Inside(Around):
    """What is current inside one attempt: a span, and what the function itself makes current.

    What a generator attaches around its ``yield`` holds for its own code alone: it is put aside
    when a read ends, and is there again at the next.
    """

    __slots__ = ("_is_open", "_own", "_to_end")

    def __init__(self, recorder: Recorder, span: Span | None) -> None:
        self._to_end: list[tuple[Span, int | None]] = []
        """Spans that end when its stream is closed, and their ends in nanoseconds if not then."""
        self._is_open = False
        """Whether it has given a stream that is not closed."""
        super().__init__(recorder, span)
        self._own: tuple[Context, Context] | None = None
        """What the function left current, and what was attached before it changed that.

        The latter is what comes back when the function detaches all that it has attached, perhaps
        many reads later. Then nothing is its own any more, and what the reader has set since
        counts. One tuple, since another thread may close a stream while this one reads it.
        """

    def enter(self) -> Any:
        if self.span is None:
            return None
        try:
            own = self._own
            if own is None:
                before = current = self.context()
            else:
                current, before = own
            return _attach(current), before
        except Exception as error:  # noqa: BLE001  # no call may fail with its exporter
            self.recorder.broke(error)
            return None

    def leave(self, entered: Any) -> None:
        if entered is None:
            return
        token, before = entered
        try:
            current = _current()
            _detach(token)
            self._own = None if current is before else (current, before)
        except (ValueError, RuntimeError):
            pass  # this is another context: what is current there is not of the function
        except Exception as error:  # noqa: BLE001  # as above
            self.recorder.broke(error)

    def opened(self) -> None:
        self._is_open = True

    def closed(self) -> None:
        self._is_open = False
        self._end_spans()

    def __del__(self) -> None:
        # The stream was dropped, and is never closed. Where all is collected at once, its call may
        # find out that it is over only after this.
        self._is_open = False
        if getattr(self, "_to_end", None):
            self._end_spans()

    def end_span(self, span: Span, ended_at: int | None = None) -> None:
        """End a span: now, or when the stream is closed, whose body may still make spans below it.

        Args:
            span: That of the attempt, or of its call.
            ended_at: Its end in nanoseconds, if that is not the moment at which this is done.
        """
        self._to_end.append((span, ended_at))
        if not self._is_open:  # looked at last, since another thread may close the stream
            self._end_spans()

    def _end_spans(self) -> None:
        while True:
            try:
                span, ended_at = self._to_end.pop(0)
            except IndexError:
                return
            try:
                span.end(ended_at)
            except Exception as error:  # noqa: BLE001  # as above
                self.recorder.broke(error)

    def answered(self, answer: object) -> None:
        """Take an answer; only an attempt's span is interested."""

    def read(self, items: Iterable[Any]) -> None:
        """Take items of a stream; only an attempt's span is interested."""


class AttemptSpan(Inside):
    """The span of one attempt, and what is known of the attempt so far."""

    __slots__ = ("ended_at", "is_recording", "outcome", "seen")

    def __init__(self, recorder: Recorder, span: Span | None) -> None:
        super().__init__(recorder, span)
        self.outcome = ""
        self.ended_at: int | None = None
        """When it ended, in nanoseconds, if its span ends later."""
        self.is_recording = span is not None and span.is_recording()
        self.seen: dict[str, Any] = {}
        """Attributes that the span is given at its end."""

    def answered(self, answer: object) -> None:
        if self.is_recording and type(answer) is not str:
            self.read((answer,))

    def read(self, items: Iterable[Any]) -> None:
        if not self.is_recording:
            return
        try:
            for item in items:
                sent, received = usage_of(item)
                if sent is not None:
                    self.seen[otel.INPUT_TOKENS] = sent
                if received is not None:
                    self.seen[otel.OUTPUT_TOKENS] = received
        except Exception as error:  # noqa: BLE001  # as above
            self.recorder.broke(error)

    def end(self) -> None:
        """End the span with its outcome."""
        span = self.span
        if span is None:
            return
        if self.is_recording:
            self.seen[otel.OUTCOME] = self.outcome
            span.set_attributes(self.seen)
            if self.outcome not in _SILENT:
                span.set_status(_ERROR)
        self.end_span(span, self.ended_at)


class CallSpan(Around):
    """The span of one call, and the call's last attempt."""

    __slots__ = (
        "__weakref__",
        "_attempt",
        "_attempts",
        "_call_id",
        "_chain",
        "_function",
        "_has_failed",
        "_inside",
        "_is_over",
        "_made",
        "_served_by",
        "_target",
    )

    def __init__(
        self, recorder: Recorder, call_id: str, function: str, chain: Sequence[Target]
    ) -> None:
        self._has_failed = self._is_over = False
        super().__init__(recorder, None)
        self._call_id = call_id
        self._function = function
        self._chain = chain
        self._attempt: AttemptSpan | None = None
        """The last attempt, until its outcome is known."""
        self._inside: Inside | None = None
        """What is current in the last attempt."""
        self._made: list[tuple[Inside, AttemptSpan, str]] = []
        """What is current in each attempt, the attempt, and its target."""
        self._attempts = 0
        self._target = ""
        self._served_by = ""
        if recorder.tracer is not None:
            try:
                self.span = recorder.tracer.start_span(
                    f"failover {function}", attributes={otel.CALL_ID: call_id}
                )
            except Exception as error:  # noqa: BLE001  # as above
                recorder.broke(error)

    def __del__(self) -> None:
        # Dropped without an end: a loop left between two attempts, a manager never entered.
        # An interrupt may have come before it was complete.
        if not getattr(self, "_is_over", True) and hasattr(self, "_served_by"):
            self.over()

    def attempt(self, target: Target, number: int) -> Inside:
        """Begin an attempt; return what is current in it: its span, or that of the call."""
        self._end_attempt()
        self._target = target.key
        recorder, span = self.recorder, None
        if recorder.has_attempts and self.span is not None:
            try:
                span = self._start(target, number)
            except Exception as error:  # noqa: BLE001  # as above
                recorder.broke(error)
        attempt = self._attempt = AttemptSpan(recorder, span)
        inside = self._inside = (
            attempt if span is not None or self.span is None else Inside(recorder, self.span)
        )
        self._made.append((inside, attempt, target.key))
        return inside

    def turn_to(self, inside: object) -> None:
        """Take that what is told next is of this attempt, as several run side by side."""
        for each, attempt, target in self._made:
            if each is inside:
                # One with an outcome has ended, and is told nothing more.
                self._attempt = None if attempt.outcome else attempt
                self._inside, self._target = each, target

    def _start(self, target: Target, number: int) -> Span:
        tracer = self.recorder.tracer
        assert tracer is not None
        attributes = {
            **self.recorder.constant(target),
            otel.ATTEMPT: number,
            otel.CHAIN_POSITION: _position(self._chain, target),
            otel.CALL_ID: self._call_id,
        }
        return tracer.start_span(f"chat {target.model}", self.context(), _CLIENT, attributes)

    def note(self, kind: EventName, target: str, details: Mapping[str, Any]) -> None:
        """Take a fact of the call, as the event of this name says it."""
        take = _TAKE.get(kind)
        if take is not None:
            try:
                take(self, target, details)
            except Exception as error:  # noqa: BLE001  # as above
                self.recorder.broke(error)

    def failed(self, verdict: Verdict, type_name: str) -> None:
        """Take that the last attempt failed. Its span ends when all that follows is done."""
        attempt = self._attempt
        if attempt is None or attempt.outcome:
            return
        attempt.outcome = verdict.kind.value
        if attempt.is_recording:
            attempt.ended_at = _now()
            status = verdict.status
            attempt.seen[otel.ERROR_TYPE] = type_name if status is None else str(status)
            if verdict.reason:
                attempt.seen[otel.REASON] = verdict.reason
            if verdict.retry_after is not None:
                attempt.seen[otel.RETRY_AFTER] = float(verdict.retry_after)

    def settled(self, benched_until: float | None) -> None:
        """Take that all which follows from the failure of the last attempt is done."""
        attempt = self._attempt
        if attempt is None or not attempt.outcome:
            return
        if benched_until is not None and attempt.is_recording:
            attempt.seen[otel.BENCHED_UNTIL] = self.recorder.steady_moment(
                benched_until
            ).isoformat()
        self._end_attempt()

    def over(self) -> None:
        """Take that the call has ended."""
        if self._is_over:
            return
        self._is_over = True
        self._end_attempt()
        outcome = "failed" if self._has_failed else "ok" if self._served_by else "cancelled"
        try:
            self._end(outcome)
        except Exception as error:  # noqa: BLE001  # as above
            self.recorder.broke(error)

    def _end(self, outcome: str) -> None:
        meters, span = self.recorder.meters, self.span
        if meters is not None:
            meters.calls.add(1, {"function": self._function, "outcome": outcome})
        if span is None:
            return
        if span.is_recording():
            attributes: dict[str, Any] = {otel.OUTCOME: outcome, otel.ATTEMPTS: self._attempts}
            if outcome == "ok":
                attributes[otel.SERVED_BY] = self._served_by
            span.set_attributes(attributes)
            if outcome not in _SILENT:
                span.set_status(_ERROR)
        if self._inside is None:
            span.end()
        else:
            self._inside.end_span(span)

    def _end_attempt(self) -> None:
        """End the last attempt.

        One without an outcome asked nothing of its target, as a manager that is never entered. It
        has no event and is not counted, and its span is dropped: spans that do not end are not
        exported.
        """
        attempt, self._attempt = self._attempt, None
        if attempt is None or not attempt.outcome:
            return
        self._attempts += 1
        try:
            attempt.end()
            if self.recorder.meters is not None:
                self.recorder.meters.attempts.add(
                    1, {"target": self._target, "outcome": attempt.outcome}
                )
        except Exception as error:  # noqa: BLE001  # as above
            self.recorder.broke(error)

    # Facts, by the name of their event.

    def _succeeded(self, target: str, details: Mapping[str, Any]) -> None:
        self._served_by = target
        attempt, meters = self._attempt, self.recorder.meters
        if attempt is not None and not attempt.outcome:
            attempt.outcome = "ok"
            self._end_attempt()
        if meters is not None:
            meters.duration.record(details["seconds"], {"target": target})

    def _failed(self, target: str, details: Mapping[str, Any]) -> None:
        attempt = self._attempt
        if attempt is None or attempt.outcome:
            return  # `failed` has said more
        attempt.outcome = details["kind"].value
        status = details["status"]
        attempt.seen[otel.REASON] = details["reason"]
        attempt.seen[otel.ERROR_TYPE] = details["reason"] if status is None else str(status)

    def _cancelled(self, target: str, details: Mapping[str, Any]) -> None:
        attempt = self._attempt
        if attempt is not None and not attempt.outcome:
            attempt.outcome = "cancelled"
            attempt.seen[otel.REASON] = details["reason"]
            self._end_attempt()

    def _committed(self, target: str, details: Mapping[str, Any]) -> None:
        if self._attempt is not None:
            self._attempt.seen[otel.FIRST_CHUNK] = details["seconds"]

    def _retried(self, target: str, details: Mapping[str, Any]) -> None:
        if self.recorder.meters is not None:
            self.recorder.meters.retries.add(1, {"target": target, "source": details["source"]})

    def _failed_over(self, target: str, details: Mapping[str, Any]) -> None:
        if self.recorder.meters is not None:
            self.recorder.meters.failovers.add(
                1,
                {
                    "from_target": details["from_target"],
                    "to_target": details["to_target"],
                    "reason": reason_word(details["reason"]),
                },
            )

    def _skipped(self, target: str, details: Mapping[str, Any]) -> None:
        if self.recorder.meters is not None:
            reason = reason_word(details["reason"])
            self.recorder.meters.skips.add(1, {"target": target, "reason": reason})

    def _hedged(self, target: str, details: Mapping[str, Any]) -> None:
        if self.recorder.meters is not None:
            self.recorder.meters.hedges.add(1, {"target": target, "beside": details["beside"]})

    def _tool_loop_found(self, target: str, details: Mapping[str, Any]) -> None:
        if self.span is not None:
            self.span.set_attributes(
                {otel.LOOP_TOOL: details["tool"], otel.LOOP_REPEATS: details["repeats"]}
            )
        if self.recorder.meters is not None:
            self.recorder.meters.tool_loops.add(
                1, {"function": self._function, "action": details["action"]}
            )

    def _spent(self, target: str, details: Mapping[str, Any]) -> None:
        amount, usage, is_estimated = details["usd"], details["usage"], details["estimated"]
        attempt, meters = self._attempt, self.recorder.meters
        if attempt is not None and attempt.is_recording:
            seen = attempt.seen
            if amount is not None:
                seen[otel.SPEND_USD] = float(amount)
                seen[otel.SPEND_ESTIMATED] = is_estimated
            if usage.tokens and not is_estimated:
                # Of `usage=`, too, which knows answers that nobody else can read.
                seen[otel.INPUT_TOKENS], seen[otel.OUTPUT_TOKENS] = usage.input, usage.output
        if meters is not None and amount:
            meters.spend.add(float(amount), {"target": target})

    def _call_failed(self, target: str, details: Mapping[str, Any]) -> None:
        self._has_failed = True


_TAKE: Final[dict[str, Callable[[CallSpan, str, Mapping[str, Any]], None]]] = {
    "AttemptSucceeded": CallSpan._succeeded,
    "AttemptFailed": CallSpan._failed,
    "AttemptCancelled": CallSpan._cancelled,
    "StreamCommitted": CallSpan._committed,
    "RetryScheduled": CallSpan._retried,
    "FailedOver": CallSpan._failed_over,
    "TargetSkipped": CallSpan._skipped,
    "HedgeStarted": CallSpan._hedged,
    "ToolLoopDetected": CallSpan._tool_loop_found,
    "SpendRecorded": CallSpan._spent,
    "CallFailed": CallSpan._call_failed,
}


def _is_same(one: object, other: object, default: Callable[[], object]) -> bool:
    """Return whether two providers are the same; None is the global one, as it is now."""
    return one is other or (default() if one is None else one) is (
        default() if other is None else other
    )


def _detach(entered: Any) -> None:
    """Make current what was so before; in another context, raise a ValueError."""
    if type(entered) is Token:
        token = cast("Token[Context]", entered)
        token.var.reset(token)
    else:  # another implementation of contexts is in use
        otel_context.detach(entered)


def _position(chain: Sequence[Target], target: Target) -> int:
    """Return the place of a target in its chain, from 0."""
    key = target.key
    for position, each in enumerate(chain):
        if each.key == key:
            return position
    return 0
