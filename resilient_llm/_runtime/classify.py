"""The process-wide `classify`: the classifier of the core, with clock and settings of the runtime.

verdict = classify(error)

@classify.rule
def gateway(error: BaseException) -> Verdict | None: ...
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilient_llm._core.classify import Classifier

if TYPE_CHECKING:
    from resilient_llm._values.settings import OnMemoryPressure


def _wall() -> float:
    # Read each time, because the clock may be replaced while the process runs.
    from resilient_llm._runtime.runtime import runtime

    return runtime.wall()


def _on_memory_pressure() -> OnMemoryPressure:
    from resilient_llm._runtime.runtime import runtime

    return runtime.settings.on_memory_pressure


classify = Classifier(_wall, on_memory_pressure=_on_memory_pressure)
