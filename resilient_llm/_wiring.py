"""The one place that knows every variant and puts them together."""

from __future__ import annotations

from resilient_llm._runtime import Runtime, runtime
from resilient_llm.observers.logging import LoggingObserver


def wire(state: Runtime) -> None:
    """Give a state of the process its default observer."""
    if not state.settings.logging:
        state.hub.log = state.hub.log_line = None
        return
    if state.hub.log is None:
        observer = LoggingObserver()
        state.hub.log, state.hub.logs, state.hub.log_line = observer, observer.logs, observer.line


runtime.when_made = wire
wire(runtime)
