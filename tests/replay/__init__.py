"""Real failures of model calls, made again on loopback by the clients that people use.

``cases`` reads the cases of ``tests/corpus``, ``server`` plays what was on the wire, the other
modules make the call as each client makes it, and ``raised_by(case)`` gives the error that comes out.
Nothing leaves the machine; the cases of an unknown host ask for a name under ``.invalid``.
"""

from tests.replay.cases import Case, load_cases
from tests.replay.clients import NotRaisedError, missing, raised_by

__all__ = ["Case", "NotRaisedError", "load_cases", "missing", "raised_by"]
