"""The process-wide ``classify``: what an error means, and where users' rules are registered.

verdict = classify(error)

@classify.rule
def gateway(error: BaseException) -> Verdict | None: ...
"""

from __future__ import annotations

from resilient_llm._core.classify import Classifier


def _wall() -> float:
    # The clock may be exchanged while the process runs.
    from resilient_llm._runtime.runtime import runtime

    return runtime.wall()


classify = Classifier(_wall)
