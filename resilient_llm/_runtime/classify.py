"""The process-wide `classify`: the classifier of the core, with the clock of the runtime.

verdict = classify(error)

@classify.rule
def gateway(error: BaseException) -> Verdict | None: ...
"""

from __future__ import annotations

from resilient_llm._core.classify import Classifier


def _wall() -> float:
    # Read each time, because the clock may be replaced while the process runs.
    from resilient_llm._runtime.runtime import runtime

    return runtime.wall()


classify = Classifier(_wall)
