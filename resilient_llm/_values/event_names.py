"""The names of all events as constants, for code that emits without the event classes.

The event classes are imported only when an observer listens, because building a dozen
dataclasses would be a large part of the import time of this library.
"""

from __future__ import annotations

from typing import Final, Literal

EventName = Literal[
    "AttemptSucceeded",
    "AttemptFailed",
    "AttemptCancelled",
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
    "HedgeStarted",
    "OrderChanged",
    "ToolLoopDetected",
    "SpendRecorded",
    "BudgetWarning",
    "BudgetExceeded",
    "StoreUnavailable",
    "StoreAvailable",
    "StoreLost",
    "ConfigReloaded",
    "ConfigReloadFailed",
]

AttemptSucceeded: Final = "AttemptSucceeded"
AttemptFailed: Final = "AttemptFailed"
AttemptCancelled: Final = "AttemptCancelled"
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
HedgeStarted: Final = "HedgeStarted"
OrderChanged: Final = "OrderChanged"
ToolLoopDetected: Final = "ToolLoopDetected"
SpendRecorded: Final = "SpendRecorded"
BudgetWarning: Final = "BudgetWarning"
BudgetExceeded: Final = "BudgetExceeded"
StoreUnavailable: Final = "StoreUnavailable"
StoreAvailable: Final = "StoreAvailable"
StoreLost: Final = "StoreLost"
ConfigReloaded: Final = "ConfigReloaded"
ConfigReloadFailed: Final = "ConfigReloadFailed"
