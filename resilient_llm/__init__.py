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
    from resilient_llm._api.asking_first import can_call
    from resilient_llm._api.benches import (
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
    from resilient_llm._api.breaker import Breaker, breaker
    from resilient_llm._api.call_ids import call_id
    from resilient_llm._api.configuring import configure, settings
    from resilient_llm._api.failover import Failover, failover
    from resilient_llm._api.observing import EventStream, events, observe
    from resilient_llm._api.rate_limits import rate_limits
    from resilient_llm._api.sharing import store_status
    from resilient_llm._api.spending import reset_spend, spend, spend_key, spend_total
    from resilient_llm._runtime.classify import classify
    from resilient_llm._runtime.tracing import Trace, TracedCall
    from resilient_llm._values.adaptive import Adaptive
    from resilient_llm._values.can_call import CanCall
    from resilient_llm._values.chain import Chain
    from resilient_llm._values.errors import (
        BreakerOpenError,
        BudgetExceededError,
        CallRejectedError,
        ChainExhaustedError,
        ConfigurationError,
        DeadlineExceededError,
        NoCapableTargetError,
        ResilientLLMError,
        ResponseRejectedError,
        StoreUnavailableError,
        StreamInterruptedError,
        ToolLoopError,
    )
    from resilient_llm._values.events import (
        AttemptCancelled,
        AttemptFailed,
        AttemptSucceeded,
        BudgetExceeded,
        BudgetWarning,
        CallFailed,
        ConfigReloaded,
        ConfigReloadFailed,
        Event,
        FailedOver,
        HealthChanged,
        HedgeStarted,
        ObserverFailed,
        OrderChanged,
        RetryScheduled,
        RetryStopped,
        SpendRecorded,
        StoreAvailable,
        StoreLost,
        StoreUnavailable,
        StreamCommitted,
        StreamInterrupted,
        TargetBenched,
        TargetSkipped,
        TargetUnbenched,
        ToolLoopDetected,
        UnknownError,
    )
    from resilient_llm._values.explanation import Explanation
    from resilient_llm._values.health import BenchedModel, TargetHealth
    from resilient_llm._values.kinds import AttemptRecord, ErrorKind
    from resilient_llm._values.limit import Limit
    from resilient_llm._values.money import Budget, Price, SpendReport
    from resilient_llm._values.rate_limit_state import RateLimitState
    from resilient_llm._values.settings import Settings
    from resilient_llm._values.sharing_status import StoreStatus
    from resilient_llm._values.strategy_call import StrategyCall
    from resilient_llm._values.stream_policy import StreamPolicy
    from resilient_llm._values.target import Attempt, Target
    from resilient_llm._values.tool_loop import ToolLoop
    from resilient_llm._values.usage import Usage
    from resilient_llm._values.verdict import Verdict

__all__ = [
    "Adaptive",
    "Attempt",
    "AttemptCancelled",
    "AttemptFailed",
    "AttemptRecord",
    "AttemptSucceeded",
    "BenchModel",
    "BenchedModel",
    "Breaker",
    "BreakerOpenError",
    "Budget",
    "BudgetExceeded",
    "BudgetExceededError",
    "BudgetWarning",
    "CallFailed",
    "CallRejectedError",
    "CanCall",
    "Chain",
    "ChainExhaustedError",
    "ConfigReloadFailed",
    "ConfigReloaded",
    "ConfigurationError",
    "DeadlineExceededError",
    "ErrorKind",
    "Event",
    "EventStream",
    "Explanation",
    "FailedOver",
    "Failover",
    "HealthChanged",
    "HedgeStarted",
    "IsBenched",
    "Limit",
    "ListBenched",
    "NoCapableTargetError",
    "ObserverFailed",
    "OrderChanged",
    "Price",
    "RateLimitState",
    "ResilientLLMError",
    "ResponseRejectedError",
    "RetryScheduled",
    "RetryStopped",
    "Settings",
    "SpendRecorded",
    "SpendReport",
    "StoreAvailable",
    "StoreLost",
    "StoreStatus",
    "StoreUnavailable",
    "StoreUnavailableError",
    "StrategyCall",
    "StreamCommitted",
    "StreamInterrupted",
    "StreamInterruptedError",
    "StreamPolicy",
    "Target",
    "TargetBenched",
    "TargetHealth",
    "TargetSkipped",
    "TargetUnbenched",
    "ToolLoop",
    "ToolLoopDetected",
    "ToolLoopError",
    "Trace",
    "TracedCall",
    "UnbenchModel",
    "UnknownError",
    "Usage",
    "Verdict",
    "__version__",
    "bench_model",
    "breaker",
    "call_id",
    "can_call",
    "classify",
    "configure",
    "events",
    "failover",
    "health",
    "is_benched",
    "list_benched",
    "observe",
    "rate_limits",
    "reset",
    "reset_spend",
    "settings",
    "spend",
    "spend_key",
    "spend_total",
    "store_status",
    "unbench_model",
]

# {module: names it gives}. Keep in sync with the imports above, which type checkers read;
# tests/package/test_layout.py compares the two.
_MODULES = {
    "_api.asking_first": "can_call",
    "_api.benches": (
        "BenchModel IsBenched ListBenched UnbenchModel bench_model health is_benched "
        "list_benched reset unbench_model"
    ),
    "_api.breaker": "Breaker breaker",
    "_api.call_ids": "call_id",
    "_api.configuring": "configure settings",
    "_api.failover": "Failover failover",
    "_api.rate_limits": "rate_limits",
    "_api.sharing": "store_status",
    "_api.spending": "reset_spend spend spend_key spend_total",
    "_api.observing": "EventStream events observe",
    "_runtime.classify": "classify",
    "_runtime.tracing": "Trace TracedCall",
    "_values.adaptive": "Adaptive",
    "_values.can_call": "CanCall",
    "_values.chain": "Chain",
    "_values.errors": (
        "BreakerOpenError BudgetExceededError CallRejectedError ChainExhaustedError "
        "ConfigurationError "
        "DeadlineExceededError NoCapableTargetError ResilientLLMError ResponseRejectedError "
        "StoreUnavailableError StreamInterruptedError ToolLoopError"
    ),
    "_values.events": (
        "AttemptCancelled AttemptFailed AttemptSucceeded BudgetExceeded BudgetWarning CallFailed "
        "ConfigReloadFailed ConfigReloaded "
        "Event FailedOver HealthChanged SpendRecorded StoreAvailable StoreLost StoreUnavailable "
        "HedgeStarted ObserverFailed OrderChanged RetryScheduled RetryStopped StreamCommitted "
        "StreamInterrupted TargetBenched TargetSkipped TargetUnbenched ToolLoopDetected "
        "UnknownError"
    ),
    "_values.explanation": "Explanation",
    "_values.health": "BenchedModel TargetHealth",
    "_values.kinds": "AttemptRecord ErrorKind",
    "_values.limit": "Limit",
    "_values.money": "Budget Price SpendReport",
    "_values.rate_limit_state": "RateLimitState",
    "_values.settings": "Settings",
    "_values.sharing_status": "StoreStatus",
    "_values.strategy_call": "StrategyCall",
    "_values.stream_policy": "StreamPolicy",
    "_values.target": "Attempt Target",
    "_values.tool_loop": "ToolLoop",
    "_values.usage": "Usage",
    "_values.verdict": "Verdict",
}
_HOME = {name: module for module, names in _MODULES.items() for name in names.split()}
# Not public, but named in pickles of public values, which must load wherever the code moves.
_HOME.update(
    LastError="_values.kinds",
    StreamDeadlineExceededError="_values.errors",
    Unset="_values.target",
)


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Not at the top: importlib is part of what a plain import should not have to load.
    from importlib import import_module

    from resilient_llm._api import wiring  # a statement: tools that bundle programs see it

    assert wiring
    if name == "call_id":
        from resilient_llm._api import call_ids

        call_ids.asked_for()
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
