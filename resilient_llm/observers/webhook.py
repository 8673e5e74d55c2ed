"""Webhooks: events that need an action, posted by a thread; also for Slack and PagerDuty.

Owns which messages wait. No lock is held: the threads of calls append to the queue and count into
the window of a target, each by single operations, and the thread of the webhook takes from both.

*Windows*   The first event of a target, or of a budget, and type goes at once and opens a window
            of ``every`` seconds. Of those inside it the last is kept, and their number. At its end
            that one goes and opens the next window, so a target costs one message in ``every``
            seconds, however often it changes. A window without events is closed.
*Fleets*    Where processes share a store, each of them sends the bench that one of them began. An
            alert is named by the process that began the bench, so all of them raise and resolve the
            same one, and it is resolved as long as one of them lives.
*Tries*     A message that was not taken waits for its next try, and all others wait behind it,
            since they go to the same place. After three tries it is dropped.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
import time
import uuid
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from resilient_llm._values import checks as check
from resilient_llm._values import event_names
from resilient_llm._values.errors import ConfigurationError
from resilient_llm.observers._exporter import (
    Exporter,
    is_time_faked,
    process_name,
    remaining,
    seconds_now,
    warn,
)
from resilient_llm.observers._http import Endpoint
from resilient_llm.observers._lines import fields_of, moment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from resilient_llm._values import events as ev

TRIES: Final = 3
_FIRST_BACKOFF: Final = 1.0
"""Seconds before the second try, at most; twice as long before the third."""
_DEFAULTS: Final[tuple[event_names.EventName, ...]] = (
    event_names.TargetBenched,
    event_names.TargetUnbenched,
    event_names.CallFailed,
    event_names.BudgetWarning,
    event_names.BudgetExceeded,
)
_BENCHES: Final[tuple[event_names.EventName, ...]] = (
    event_names.TargetBenched,
    event_names.TargetUnbenched,
)
_ONE_TYPE: Final[dict[str, str]] = {
    event_names.TargetUnbenched: event_names.TargetBenched,
    event_names.StoreAvailable: event_names.StoreUnavailable,
    event_names.ConfigReloaded: event_names.ConfigReloadFailed,
}
"""``{type: the type it counts as}``: the last message about a bench or about the store is its
present state. That about the configuration file may not be: an edit that brings back what is in
force after a failure has no event."""
_BETWEEN: Final = {"order": " > ", "problems": "; "}
"""``{field: what stands between its items in a sentence}``, else a comma."""
_OPTIONS: Final = ("secret", "every", "timeout", "queue")
_LONGEST_SUMMARY: Final = 1024
_LONGEST_DEDUP_KEY: Final = 255
_MOST_RAISED: Final = 10_000
"""Alerts that are remembered; then the oldest is forgotten, and no longer resolved by its name."""
_ROUTING_KEY: Final = re.compile(r"[!-~]+")
"""A line break at its end, as of a file, would have every alert refused."""


def install(
    url: str,
    *events: type[ev.Event],
    secret: str | bytes | None = None,
    every: float = 60.0,
    timeout: float = 10.0,
    queue: int = 100,
) -> Exporter:
    """Post events to a URL, as ``{"id", "type", "at", "source", "repeated", "data"}``.

    The first event of a target and type goes at once; of those in the next seconds only the last
    goes, at their end, with their number in ``repeated``. A message that is not answered with 2xx
    is sent three times with the same ``id``.

    Args:
        url: An http or https URL. Proxies are taken from the environment.
        *events: Types of events; benches, their ends, failed calls, and budgets that run out if
            none is named.
        secret: Key of the signature ``X-Signature-256: sha256=<hex HMAC of the body>``, or None.
        every: Seconds in which a target and type costs one message; 0 sends every event.
        timeout: Seconds that one try may take.
        queue: Messages that wait; then the oldest are dropped and counted.

    Returns:
        The exporter: calling it ends the webhook.

    Raises:
        ConfigurationError: If an option is not allowed.
    """
    options = {"secret": secret, "every": every, "timeout": timeout, "queue": queue}
    return _install(url, events or _classes(_DEFAULTS), _message, options)


def slack(url: str, *events: type[ev.Event], **options: Any) -> Exporter:
    """Post events to an incoming webhook of Slack, as a line of text each.

    Args:
        url: The URL that Slack gives for a channel.
        *events: As for `install`.
        **options: ``secret``, ``every``, ``timeout`` and ``queue`` of `install`.

    Raises:
        ConfigurationError: If an option is not allowed.
    """
    check.unknown_names("webhook.slack()", options, _OPTIONS)
    return _install(url, events or _classes(_DEFAULTS), _slack_message, options)


def pagerduty(
    routing_key: str, *, url: str = "https://events.pagerduty.com/v2/enqueue", **options: Any
) -> Exporter:
    """Trigger an alert of PagerDuty when a target is benched, and resolve it when that ends.

    A bench that mode ``metrics_only`` would have made triggers none.

    Args:
        routing_key: Integration key of a service, of its Events API v2.
        url: Where alerts are sent.
        **options: ``secret``, ``every``, ``timeout`` and ``queue`` of `install`.

    Raises:
        ConfigurationError: If an option is not allowed.
    """
    check.unknown_names("webhook.pagerduty()", options, ("url", *_OPTIONS))
    if not isinstance(routing_key, str) or not _ROUTING_KEY.fullmatch(routing_key):  # pyright: ignore[reportUnnecessaryIsInstance]  # users' input
        raise ConfigurationError(
            "routing_key is not allowed: write the integration key of a service, printable ASCII "
            "characters without blanks"
        )

    return _install(url, _classes(_BENCHES), _Alerts(routing_key), options)


def _classes(names: Iterable[event_names.EventName]) -> tuple[type[ev.Event], ...]:
    from resilient_llm._values import events

    return tuple(getattr(events, name) for name in names)


def _install(
    url: Any,
    events: tuple[type[ev.Event], ...],
    shape: Callable[[ev.Event, int, str], dict[str, Any] | None],
    options: dict[str, Any],
) -> Exporter:
    check.event_types(events)
    webhook = _Webhook(
        Endpoint(url, options.get("secret")),
        shape,
        every=check.seconds("every", options.get("every", 60.0), zero=True),
        timeout=check.seconds("timeout", options.get("timeout", 10.0)),
        most=check.whole("queue", options.get("queue", 100), low=1),
    )
    exporter = webhook.exporter = Exporter(
        "webhook",
        work=webhook.work,
        due=webhook.due,
        in_thread=True,  # to resolve a name may take long, and nothing ends that
        after_fork=webhook.after_fork,
    )
    exporter.listen(webhook.put, *events)
    exporter.watch_benches()
    return exporter


# What is sent.


def _message(event: ev.Event, repeated: int, message_id: str) -> dict[str, Any]:
    return {
        "id": message_id,
        "type": type(event).__name__,
        "at": moment(event.at),
        "source": process_name(),
        "repeated": repeated,
        "data": {"target": event.target, "call_id": event.call_id, **fields_of(event)},
    }


def _summary(event: ev.Event, repeated: int) -> str:
    """Return an event as a sentence in plain text, without control characters."""
    fields = fields_of(event)
    fields |= fields.pop("usage", {})
    told = ", ".join(
        f"{name.replace('_', ' ')} {_shown(value, _BETWEEN.get(name, ', '))}"
        for name, value in fields.items()
        if value not in (None, "") and name != "enforced" and (name, value) != ("source", "local")
    )
    text = f"{type(event).__name__} {event.target}".rstrip() + f": {told}"
    if fields.get("enforced") is False:
        text += " (not enforced)"
    if repeated:
        text += f" ({repeated} in the last while)"
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _shown(value: Any, between: str) -> str:
    """Return the value of a field as text; keys in their order as ``first > second``."""
    if isinstance(value, tuple):
        return between.join(map(str, value))  # pyright: ignore[reportUnknownArgumentType]  # of any field
    if isinstance(value, float):
        return f"{value:.12f}".rstrip("0").rstrip(".")  # and not 1e-07
    return str(value)


def _slack_message(event: ev.Event, repeated: int, message_id: str) -> dict[str, Any]:
    text = f"{_summary(event, repeated)} [{process_name()}]"
    # What Slack documents: these three, and no other character.
    for character, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(character, escaped)
    return {"text": text}


class _Alerts:
    """Writes the messages of PagerDuty; remembers the alerts that it has raised."""

    def __init__(self, routing_key: str) -> None:
        self._routing_key = routing_key
        self._raised: dict[str, str] = {}
        """``{key: name of the process that its alert is named by}``, until it is resolved."""

    def __call__(self, event: ev.Event, repeated: int, message_id: str) -> dict[str, Any] | None:
        is_bench = type(event).__name__ == event_names.TargetBenched
        if is_bench and not getattr(event, "enforced", True):
            return None
        alert: dict[str, Any] = {
            "routing_key": self._routing_key,
            "event_action": "trigger" if is_bench else "resolve",
            "dedup_key": _dedup_key(self._name(event, is_bench=is_bench), event.target),
        }
        if is_bench:
            alert["payload"] = {
                "summary": _summary(event, repeated)[:_LONGEST_SUMMARY],
                "source": process_name(),
                "severity": "error",
                "timestamp": moment(event.at),
                "component": event.target,
                "class": type(event).__name__,
                "custom_details": _message(event, repeated, message_id),
            }
        return alert

    def _name(self, event: ev.Event, *, is_bench: bool) -> str:
        """Return the process that the alert of a key is named by.

        An alert keeps its name until it is resolved, also if another process extends the bench:
        what each process has raised it resolves.
        """
        if not is_bench:
            return self._raised.pop(event.target, process_name())
        publisher: str = getattr(event, "source", "local")
        if len(self._raised) >= _MOST_RAISED and event.target not in self._raised:
            del self._raised[next(iter(self._raised))]
        return self._raised.setdefault(
            event.target, process_name() if publisher == "local" else publisher
        )


def _dedup_key(name: str, key: str) -> str:
    """Return the name of the alert of a key, the same for its bench and for the end of that."""
    whole = f"{name}:{key}"
    if len(whole) <= _LONGEST_DEDUP_KEY:
        return whole
    digest = hashlib.sha256(key.encode("utf-8", "backslashreplace")).hexdigest()
    return f"{name[-(_LONGEST_DEDUP_KEY - len(digest) - 1) :]}:{digest}"


# What waits.


class _Window:
    """What happened to a target since its last message."""

    __slots__ = ("count", "ends_at", "last", "sent")

    def __init__(self, ends_at: float) -> None:
        self.ends_at = ends_at
        self.last: ev.Event | None = None
        self.count = 0
        """Events since the window was first opened; grows only."""
        self.sent = 0
        """How many of them were told by a message."""


class _Sending:
    """A message that is on its way."""

    __slots__ = ("body", "events", "tries", "tries_at")

    def __init__(self, body: bytes, events: int) -> None:
        self.body = body
        self.events = events
        self.tries = 0
        self.tries_at = -math.inf


class _Webhook:
    """The messages of one webhook."""

    exporter: Exporter

    def __init__(
        self,
        endpoint: Endpoint,
        shape: Callable[[ev.Event, int, str], dict[str, Any] | None],
        *,
        every: float,
        timeout: float,
        most: int,
    ) -> None:
        self._endpoint = endpoint
        self._shape = shape
        self._every = every
        self._timeout = timeout
        self._most = most
        self._rng = random.Random()
        self._start()

    def _start(self) -> None:
        self._ready: deque[tuple[ev.Event, int]] = deque()
        """``(event, how many before it were left out)``, to be sent now."""
        self._windows: dict[tuple[str, str], _Window] = {}
        """``{(target, type): its window}``"""
        self._sending: _Sending | None = None
        self._is_failing = False

    def after_fork(self) -> None:
        """Forget what waits, which the parent sends."""
        self._rng.seed()
        self._start()

    # On the threads of calls.

    def put(self, event: ev.Event) -> None:
        """Take an event: send it at once, or count it into the window of its target."""
        if not self._every:
            self._add(event, 0)
            return
        kind = type(event).__name__
        # A budget is no target's: two of them that run out must not displace each other.
        place: str = getattr(event, "budget", event.target)
        key = place, _ONE_TYPE.get(kind, kind)
        window = self._windows.get(key)
        if window is None:
            made = _Window(seconds_now() + self._every)
            window = self._windows.setdefault(key, made)
            if window is made:
                self._add(event, 0)
                return
        window.last = event  # before the count, which tells the thread that it is there
        window.count += 1
        if self._windows.get(key) is not window:  # closed just now
            self._add(event, 0)

    def _add(self, event: ev.Event, repeated: int) -> None:
        if len(self._ready) >= self._most:
            self._drop_oldest()
        self._ready.append((event, repeated))
        self.exporter.wake()

    def _drop_oldest(self) -> None:
        try:
            _, repeated = self._ready.popleft()
        except IndexError:  # the thread has taken all of them meanwhile
            return
        self.exporter.drop(max(1, repeated))

    # On the thread of the webhook.

    def due(self) -> float:
        """Return the seconds until a window ends or a message is tried again."""
        now = seconds_now()
        sending = self._sending
        if sending is not None:
            return sending.tries_at - now
        if self._ready:
            return 0.0
        return min((each.ends_at for each in list(self._windows.values())), default=math.inf) - now

    def work(self, until: float) -> bool:
        """Send what is to be sent now; return whether all of it was taken."""
        has_lost = False
        while True:
            self._close_windows()
            if self._sending is None and not self._take():
                return not has_lost
            if not self._wait(until):
                return False
            if not self._send():
                has_lost = True

    def _close_windows(self) -> None:
        """Let what was held back go, from windows that have ended."""
        now, is_last = seconds_now(), self.exporter.is_ending
        for key, window in list(self._windows.items()):
            if now < window.ends_at and not is_last:
                continue
            if window.count == window.sent:
                self._windows.pop(key, None)
            new = window.count - window.sent  # looked at after that, see `put`
            if new and window.last is not None:
                window.sent += new
                window.ends_at = now + self._every
                self._add(window.last, new)

    def _take(self) -> bool:
        """Begin to send the oldest message; return False if there is none."""
        while True:
            try:
                event, repeated = self._ready.popleft()
            except IndexError:
                return False
            events = max(1, repeated)
            try:
                message = self._shape(event, repeated, uuid.uuid4().hex)
                if message is None:
                    continue
                body = json.dumps(message, allow_nan=False).encode("ascii")
            except Exception:  # noqa: BLE001  # one event must not stop the others
                self.exporter.drop(events)
                continue
            self._sending = _Sending(body, events)
            return True

    def _wait(self, until: float) -> bool:
        """Wait for the next try, if somebody waits for that too; return whether it has come."""
        sending = self._sending
        assert sending is not None
        pause = sending.tries_at - seconds_now()
        if pause <= 0.0 or (is_time_faked() and until != math.inf):
            return remaining(until) > 0.0 or not sending.tries
        if until == math.inf:  # `due` tells when the thread comes again
            return False
        time.sleep(min(pause, remaining(until)))
        return remaining(until) > 0.0

    def _send(self) -> bool:
        """Try to send a message; return False if it is lost."""
        sending = self._sending
        assert sending is not None
        sending.tries += 1
        try:
            failure = self._endpoint.post(sending.body, self._timeout)
        except BaseException:  # such as the time limit of a caller that flushes
            if sending.tries >= TRIES:
                self._sending = None
                self.exporter.drop(sending.events)
            raise
        if not failure:
            self._sending, self._is_failing = None, False
            return True
        if sending.tries < TRIES:
            longest = _FIRST_BACKOFF * 2 ** (sending.tries - 1)
            sending.tries_at = seconds_now() + longest * self._rng.uniform(0.5, 1.0)
            return True
        self._sending = None
        self.exporter.drop(sending.events)
        if not self._is_failing:
            self._is_failing = True
            warn(
                f"a webhook did not take a message in {TRIES} tries ({failure}): it is dropped, as "
                "are the next ones that it does not take"
            )
        return False
