"""`call_id`. To import this module is to ask for it: the calls that start then carry names."""

from __future__ import annotations

from resilient_llm._runtime.call_ids import call_id, switch_on
from resilient_llm._values.exported import PACKAGE

__all__ = ["call_id"]

call_id.__module__ = PACKAGE
switch_on()
