"""Names of the events, for code that decides whether one happened.

The event classes themselves are built only when somebody listens, and loaded then: making
a dozen dataclasses is a good part of what importing this library would cost.
"""

from __future__ import annotations

from typing import Final, Literal

EventName = Literal[
    "AttemptSucceeded",
    "AttemptFailed",
    "RetryScheduled",
    "RetryStopped",
    "TargetSkipped",
    "TargetBenched",
    "TargetUnbenched",
    "FailedOver",
    "CallFailed",
    "HealthChanged",
    "StreamCommitted",
    "StreamInterrupted",
    "UnknownError",
    "ObserverFailed",
]

AttemptSucceeded: Final = "AttemptSucceeded"
AttemptFailed: Final = "AttemptFailed"
RetryScheduled: Final = "RetryScheduled"
RetryStopped: Final = "RetryStopped"
TargetSkipped: Final = "TargetSkipped"
TargetBenched: Final = "TargetBenched"
TargetUnbenched: Final = "TargetUnbenched"
FailedOver: Final = "FailedOver"
CallFailed: Final = "CallFailed"
HealthChanged: Final = "HealthChanged"
StreamCommitted: Final = "StreamCommitted"
StreamInterrupted: Final = "StreamInterrupted"
UnknownError: Final = "UnknownError"
ObserverFailed: Final = "ObserverFailed"
