"""Health probes: checks in the background of providers and targets, also without calls.

    async with HealthProbe({"groq": http_probe("https://…/models"), "ollama": ollama_probe()}):
        ...

A probe is a function, synchronous or asynchronous, that returns None or True if all is well. What
it raises is classified as the error of a call is.

How the files belong together: `_health_probe` starts and stops the loop, `_loop` waits and ticks,
`_tick` probes every key once, `_job` runs one probe, in a task or in one of the `_threads`.
`_waiting` waits for the clock of the process, which tests move. `_http` and `_calls` are the
ready-made probes. What a result changes is decided in _core/circuit/probing.py.
"""

from __future__ import annotations

from resilient_llm.probes._calls import call_probe
from resilient_llm.probes._health_probe import HealthProbe
from resilient_llm.probes._http import http_probe, ollama_probe
from resilient_llm.probes._result import ProbeResult

__all__ = ["HealthProbe", "ProbeResult", "call_probe", "http_probe", "ollama_probe"]
