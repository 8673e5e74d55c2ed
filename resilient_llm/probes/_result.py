"""`ProbeResult`: what came of one probe of one key."""

from dataclasses import dataclass
from typing import Final

from resilient_llm._values.exported import exported
from resilient_llm._values.kinds import ErrorKind

TRAFFIC: Final = "traffic"
RUNNING: Final = "running"
THREADS: Final = "threads"
LATE: Final = "late"


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What came of one probe of one key.

    Attributes:
        ok: Whether the key is well. None if that is not known: the key was skipped, or its
            probe is broken.
        kind: Kind of what is wrong; None if it is well, not known, or skipped.
        reason: A short word for what is wrong, for example ``timeout``; ``probe`` if the probe
            returned False or raised an error that no rule recognises; ``broken`` if it returned or
            raised an error that is not about the key. If the key was skipped: ``traffic`` if a call
            has just succeeded, ``running`` if an earlier probe of it has not ended, ``threads``
            if no thread was free, ``late`` if the event loop was blocked. Empty if it is well.
        seconds: How long the probe took, or has been running; 0 if the key was skipped.
        skipped: Whether the key was not probed.
    """

    ok: bool | None
    kind: ErrorKind | None = None
    reason: str = ""
    seconds: float = 0.0
    skipped: bool = False


exported(ProbeResult, "resilient_llm.probes")


def skipped(reason: str) -> ProbeResult:
    """Return the result of a key that is not probed."""
    return ProbeResult(None, reason=reason, skipped=True)
