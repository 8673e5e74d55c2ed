"""Test tools for users of this library: fake clock, isolated state, scripted providers, weather.

`fake_clock` moves time by hand, `isolated` gives a fresh state of the process,
`capture_events` collects events, `scripted` and `ascripted` return or raise given outcomes
in turn, `fake_stream` and `http_error` are outcomes as real clients have them. `simulate` runs a
policy through an outage or any other `Weather`, in virtual time. `MemoryStore` shares state
between registries of one process, and `store_contract` checks your own store. The pytest
plugin offers the fixtures ``resilient_llm`` and ``fake_clock``.
"""

from __future__ import annotations

from resilient_llm._api import wiring as _wiring
from resilient_llm._runtime.runtime import runtime
from resilient_llm._values.exported import exported as _exported
from resilient_llm.stores.memory import MemoryStore
from resilient_llm.testing._clock import FakeClock, fake_clock
from resilient_llm.testing._contract import store_contract
from resilient_llm.testing._http_errors import FakeHTTPError, http_error
from resilient_llm.testing._isolation import capture_events, isolated
from resilient_llm.testing._report import Report
from resilient_llm.testing._scripted import (
    AsyncScripted,
    FakeStream,
    Scripted,
    ascripted,
    fake_stream,
    scripted,
)
from resilient_llm.testing._simulation import simulate
from resilient_llm.testing._weather import Fault, Weather

__all__ = [
    "FakeClock",
    "FakeHTTPError",
    "FakeStream",
    "Fault",
    "MemoryStore",
    "Report",
    "Scripted",
    "Weather",
    "ascripted",
    "capture_events",
    "fake_clock",
    "fake_stream",
    "http_error",
    "isolated",
    "scripted",
    "simulate",
    "store_contract",
]


_wiring.wire(runtime)  # this module may be imported first, and the state needs its observer

for _each in (
    AsyncScripted,
    FakeClock,
    FakeHTTPError,
    FakeStream,
    Fault,
    MemoryStore,
    Report,
    Scripted,
    Weather,
):
    _exported(_each, __name__)
for _each in (
    ascripted,
    capture_events,
    fake_clock,
    fake_stream,
    http_error,
    isolated,
    scripted,
    simulate,
    store_contract,
):
    _each.__module__ = __name__
