"""Runs of LangChain: an attempt on a model is a child of the run of the whole call.

Handlers get the start, the end and the error of each attempt. They do not get its tokens: those of
an attempt that fails before its first content must not be shown, and those of the one that serves
come from the run of the whole call. So a handler that prints tokens prints each once.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from langchain_core.callbacks import (
    AsyncCallbackManager,
    CallbackManager,
    UsageMetadataCallbackHandler,
)
from langchain_core.runnables import RunnableConfig, ensure_config
from langchain_core.tracers import context as tracer_context
from langchain_core.tracers.base import BaseTracer

try:
    from langchain_core.utils.uuid import uuid7 as new_run_id
except ImportError:  # langchain-core before 1.2
    from uuid import uuid4 as new_run_id

if TYPE_CHECKING:
    from collections.abc import Generator

    from resilient_llm import Attempt

TAG: Final = "resilient_llm:"
"""What the tag of an attempt begins with; the key of its target follows."""
_TOKEN_COUNTERS: Final = (UsageMetadataCallbackHandler.__name__, "OpenAICallbackHandler")
"""Classes of handlers that add up what runs used: an answer would count twice."""


class Run:
    """The run of a whole call, as far as its children need it.

    Args:
        counts_tokens: Whether it is the run of a model, whose answer handlers that add up tokens
            get, and must not get of its children again.

    Attributes:
        run_id: Its id.
        handlers: The handlers that children inherit.
        tags: The tags that children inherit.
        metadata: The metadata that children inherit.
    """

    __slots__ = ("handlers", "metadata", "run_id", "tags")

    def __init__(
        self,
        run_id: Any,
        handlers: list[Any],
        tags: list[str],
        metadata: dict[str, Any],
        *,
        counts_tokens: bool = True,
    ) -> None:
        self.run_id = run_id
        self.handlers = [each for each in handlers if not (counts_tokens and _counts_tokens(each))]
        self.tags = tags
        # Each model has its own "ls_provider", "ls_model_name" and so on.
        self.metadata = {
            name: value for name, value in metadata.items() if not name.startswith("ls_")
        }

    @classmethod
    def of_manager(cls, manager: Any, *, counts_tokens: bool = True) -> Run | None:
        """Return the run of a run manager, None if there is none."""
        if manager is None:
            return None
        return cls(
            manager.run_id,
            manager.inheritable_handlers,
            manager.inheritable_tags,
            manager.inheritable_metadata,
            counts_tokens=counts_tokens,
        )

    def manager(self, *, is_async: bool) -> CallbackManager | AsyncCallbackManager:
        """Return the callbacks of a child."""
        kind = AsyncCallbackManager if is_async else CallbackManager
        manager = kind(handlers=[], parent_run_id=self.run_id)
        quiet = AsyncQuiet if is_async else Quiet
        handlers: list[Any] = [
            each if _is_plain_tracer(each) else quiet(each) for each in self.handlers
        ]
        manager.set_handlers(handlers)
        manager.add_tags(self.tags)
        manager.add_metadata(self.metadata)
        return manager


def begun(config: RunnableConfig | None, *, is_async: bool) -> tuple[RunnableConfig, Run]:
    """Return a configuration for LangChain's own ``stream``, and the run that it will start.

    LangChain passes the run to ``_generate`` and not to ``_stream``, so its id and its handlers are
    decided before it starts.
    """
    config = ensure_config(config)
    kind = AsyncCallbackManager if is_async else CallbackManager
    manager = kind.configure(config.get("callbacks"))
    config["callbacks"] = manager
    run_id = config.get("run_id") or new_run_id()
    config["run_id"] = run_id
    tags = [*manager.inheritable_tags, *(config.get("tags") or [])]
    metadata = {**manager.inheritable_metadata, **(config.get("metadata") or {})}
    return config, Run(run_id, manager.inheritable_handlers, tags, metadata)


def child_config(run: Run | None, attempt: Attempt, *, is_async: bool) -> RunnableConfig:
    """Return the configuration of the run of an attempt."""
    config = RunnableConfig(
        tags=[f"{TAG}{attempt.target.key}"],
        metadata={
            "resilient_llm_target": attempt.target.key,
            "resilient_llm_attempt": attempt.number,
            "resilient_llm_call_id": attempt.call_id,
        },
    )
    if run is not None:
        config["callbacks"] = run.manager(is_async=is_async)
    return config


class Quiet:
    """A handler that gets no tokens, and does not make a model stream."""

    __slots__ = ("_handler",)

    def __init__(self, handler: Any) -> None:
        self._handler = handler

    def __getattr__(self, name: str) -> Any:
        # A handler with these two methods makes LangChain's models stream.
        if name.startswith("tap_output"):
            raise AttributeError(name)
        return getattr(self._handler, name)

    def __repr__(self) -> str:
        return f"Quiet({type(self._handler).__name__})"

    def on_llm_new_token(self, *args: object, **kwargs: object) -> Any:
        """Do nothing."""

    def on_stream_event(self, *args: object, **kwargs: object) -> Any:
        """Do nothing."""


class AsyncQuiet(Quiet):
    """The same for asynchronous runs, which await a coroutine and start a thread otherwise."""

    __slots__ = ()

    async def on_llm_new_token(self, *args: object, **kwargs: object) -> None:
        """Do nothing."""

    async def on_stream_event(self, *args: object, **kwargs: object) -> None:
        """Do nothing."""


def is_streaming(handler: object) -> bool:
    """Return whether a handler makes models stream, as those of ``astream_events`` do."""
    names = ("_StreamingCallbackHandler", "_V2StreamingCallbackHandler")
    return hasattr(handler, "tap_output_aiter") or any(
        cls.__name__ in names for cls in type(handler).__mro__
    )


def _is_plain_tracer(handler: object) -> bool:
    """Return whether a handler only records runs; LangChain looks for its class."""
    return isinstance(handler, BaseTracer) and not is_streaming(handler)


def _counts_tokens(handler: object) -> bool:
    return any(cls.__name__ in _TOKEN_COUNTERS for cls in type(handler).__mro__)


@contextmanager
def own_handlers() -> Generator[None]:
    """Keep LangChain from adding handlers of the context to the run that starts inside.

    The handlers of ``get_usage_metadata_callback()`` and the like are those of the whole call
    already, and a child has inherited them as it is meant to.
    """
    hidden: list[tuple[Any, Any]] = []
    try:
        _hide_handlers(hidden)
        yield
    finally:
        for var, token in hidden:
            var.reset(token)


def _hide_handlers(hidden: list[tuple[Any, Any]]) -> None:
    """Empty the variables that hold handlers, and note how to fill them again."""
    for var, *_ in getattr(tracer_context, "_configure_hooks", ()):
        handler = var.get()
        if handler is not None and not _is_plain_tracer(handler):
            hidden.append((var, var.set(None)))
