"""Keep LLM calls alive: failover between models, circuit breakers, and benches to steer by.

    from resilient_llm import Target, failover

    @failover(chain=["groq/llama-3.3-70b-versatile", "openai/gpt-5-mini"])
    async def ask(target: Target, prompt: str) -> str: ...

This module owns the public names and nothing else. A name is loaded on first use
(PEP 562), so that importing the package costs next to nothing; after that it is a plain
attribute of the module.
"""

from typing import TYPE_CHECKING, Any

from resilient_llm._version import __version__

if TYPE_CHECKING:
    from resilient_llm._bench import (
        BenchModel,
        IsBenched,
        ListBenched,
        UnbenchModel,
        bench_model,
        health,
        is_benched,
        list_benched,
        reset,
        unbench_model,
    )
    from resilient_llm._breaker import breaker
    from resilient_llm._classify import classify
    from resilient_llm._configure import configure, settings
    from resilient_llm._errors import (
        BreakerOpenError,
        CallRejectedError,
        ChainExhaustedError,
        ConfigurationError,
        DeadlineExceededError,
        ResilientLLMError,
        ResponseRejectedError,
        StreamInterruptedError,
    )
    from resilient_llm._events import (
        AttemptFailed,
        AttemptSucceeded,
        CallFailed,
        Event,
        FailedOver,
        HealthChanged,
        ObserverFailed,
        RetryScheduled,
        RetryStopped,
        StreamCommitted,
        StreamInterrupted,
        TargetBenched,
        TargetSkipped,
        TargetUnbenched,
        UnknownError,
    )
    from resilient_llm._failover import Failover, failover
    from resilient_llm._observe import events, observe
    from resilient_llm._stream_policy import StreamPolicy
    from resilient_llm._trace import Trace
    from resilient_llm._values import (
        Attempt,
        AttemptRecord,
        BenchedModel,
        ErrorKind,
        Target,
        TargetHealth,
        Verdict,
    )

__all__ = [
    "Attempt",
    "AttemptFailed",
    "AttemptRecord",
    "AttemptSucceeded",
    "BenchModel",
    "BenchedModel",
    "BreakerOpenError",
    "CallFailed",
    "CallRejectedError",
    "ChainExhaustedError",
    "ConfigurationError",
    "DeadlineExceededError",
    "ErrorKind",
    "Event",
    "FailedOver",
    "Failover",
    "HealthChanged",
    "IsBenched",
    "ListBenched",
    "ObserverFailed",
    "ResilientLLMError",
    "ResponseRejectedError",
    "RetryScheduled",
    "RetryStopped",
    "StreamCommitted",
    "StreamInterrupted",
    "StreamInterruptedError",
    "StreamPolicy",
    "Target",
    "TargetBenched",
    "TargetHealth",
    "TargetSkipped",
    "TargetUnbenched",
    "Trace",
    "UnbenchModel",
    "UnknownError",
    "Verdict",
    "__version__",
    "bench_model",
    "breaker",
    "classify",
    "configure",
    "events",
    "failover",
    "health",
    "is_benched",
    "list_benched",
    "observe",
    "reset",
    "settings",
    "unbench_model",
]

# {module: names it gives}. Keep in sync with the imports above, which type checkers read;
# tests/package/test_layout.py compares the two.
_MODULES = {
    "_bench": (
        "BenchModel IsBenched ListBenched UnbenchModel bench_model health is_benched list_benched reset unbench_model"
    ),
    "_breaker": "breaker",
    "_classify": "classify",
    "_configure": "configure settings",
    "_errors": (
        "BreakerOpenError CallRejectedError ChainExhaustedError ConfigurationError "
        "DeadlineExceededError ResilientLLMError ResponseRejectedError StreamInterruptedError"
    ),
    "_events": (
        "AttemptFailed AttemptSucceeded CallFailed Event FailedOver HealthChanged ObserverFailed RetryScheduled "
        "RetryStopped StreamCommitted StreamInterrupted TargetBenched TargetSkipped TargetUnbenched UnknownError"
    ),
    "_failover": "Failover failover",
    "_observe": "events observe",
    "_stream_policy": "StreamPolicy",
    "_trace": "Trace",
    "_values": "Attempt AttemptRecord BenchedModel ErrorKind Target TargetHealth Verdict",
}
_HOME = {name: module for module, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Not at the top: importlib is part of what a plain import should not have to load.
    from importlib import import_module

    import_module(f"{__name__}._wiring")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
