"""Connects the runtime with what varies: default observer, item inspector, rules."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

from resilient_llm._runtime.classify import classify
from resilient_llm._runtime.runtime import Runtime, runtime
from resilient_llm._values.built_in import class_name
from resilient_llm.observers.logging import LoggingObserver

if TYPE_CHECKING:
    from resilient_llm._core.call.spending import UsageReader
    from resilient_llm._core.stream.stream_state import ItemInspector


def wire(state: Runtime) -> None:
    """Give a state of the process its default observer."""
    if not state.settings.logging:
        state.dispatcher.use_log(None)
    elif state.dispatcher.log is None:
        state.dispatcher.use_log(LoggingObserver())


def _item_inspector() -> ItemInspector:
    from resilient_llm.answers import _items

    return _items


def _usage_reader() -> UsageReader:
    from resilient_llm.answers import usage

    return usage.READER


runtime.item_inspector = _item_inspector
runtime.usage_reader = _usage_reader
runtime.on_new_state = wire
wire(runtime)


def _rule_failed(failure: BaseException) -> None:
    """Log that a user's rule raised, with the class of the error."""
    if runtime.dispatcher.log_line is not None:
        runtime.dispatcher.log_line(
            f"a rule of classify failed with {class_name(type(failure))} and was passed over",
            warning=True,
        )


classify.on_rule_failed = _rule_failed


def _load_before_fork() -> None:
    """Import what is imported late, before the process forks.

    Otherwise a child could wait without end for the lock of an import that another thread of its
    parent had started.
    """
    for name in ("json", "resilient_llm._values.events", "resilient_llm.rules"):
        import_module(name)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_load_before_fork)
