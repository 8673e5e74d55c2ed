"""Connects the runtime with what varies: default observer, item inspector, rules."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from resilient_llm._runtime.classify import classify
from resilient_llm._runtime.runtime import Runtime, runtime
from resilient_llm._values.built_in import class_name
from resilient_llm.observers.logging import LoggingObserver

if TYPE_CHECKING:
    from collections.abc import Mapping

    from resilient_llm._core.call.spending import UsageReader
    from resilient_llm._core.stream.stream_state import ItemInspector
    from resilient_llm._runtime.mirror import SharedState
    from resilient_llm.stores import Store


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


def _open_store(state: Any, options: Mapping[str, Any]) -> Store:
    from resilient_llm.stores._opening import open_store

    return open_store(state, options)


def _share(state: Runtime, store: Store) -> SharedState:
    from resilient_llm._runtime.mirror import SharedState

    return SharedState(store, state.registry, state.dispatcher, state.settings)


runtime.open_store = _open_store
runtime.share = _share
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
