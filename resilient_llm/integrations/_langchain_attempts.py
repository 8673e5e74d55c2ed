"""What runs under the policy: one attempt on one model, in each of LangChain's four ways.

The functions are those of the module, so that a policy prepares each of them once. What they return
is the model's own message, of which ``reject=``, ``usage=`` and budgets read.
"""

from __future__ import annotations

from contextlib import aclosing, closing
from typing import TYPE_CHECKING, Any, cast

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.runnables import RunnableBinding

from resilient_llm.integrations._langchain_models import timeout_of
from resilient_llm.integrations._langchain_runs import Run, child_config, own_handlers

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Mapping

    from langchain_core.language_models import BaseChatModel

    from resilient_llm import Attempt, Target


class BoundTools(list[Any]):
    """Tools as the models were bound to them: ``tools`` of the calls of a bound model.

    A list of the tools in OpenAI's format, which is what tracers, caches and ``needs=`` read.

    Attributes:
        runnables: ``{key of a target: its model, bound to the tools}``
        options: What was given to ``bind_tools`` beside the tools.
    """

    runnables: Mapping[str, Any]
    options: Mapping[str, Any]

    def __init__(
        self, shown: list[Any], runnables: Mapping[str, Any], options: Mapping[str, Any]
    ) -> None:
        super().__init__(shown)
        self.runnables = runnables
        self.options = options

    def __reduce__(self) -> tuple[Any, ...]:
        return BoundTools, (list(self), self.runnables, self.options)


class Request:
    """What the attempts of one call have in common.

    Attributes:
        models: ``{key of a target: its model}``
        run: The run of the whole call, or None.
        structured: ``{key of a target: runnable that gives structured output}``, or None.
        includes_raw: Whether what cannot be parsed is an answer, too.
        unshared: ``{key of a target: arguments of all its calls}``
        results: ``{id of a message: what was parsed of it}``; of each attempt that answered.
    """

    __slots__ = ("includes_raw", "models", "results", "run", "structured", "unshared")

    def __init__(
        self,
        models: Mapping[str, BaseChatModel],
        run: Run | None,
        structured: Mapping[str, Any] | None = None,
        *,
        includes_raw: bool = False,
        unshared: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.models = models
        self.run = run
        self.structured = structured
        self.includes_raw = includes_raw
        self.unshared = unshared or {}
        self.results: dict[int, Any] = {}

    def bound(self, attempt: Attempt, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return what an attempt calls, and with which arguments."""
        key = attempt.target.key
        kwargs = {**self.unshared.get(key, {}), **kwargs}
        tools = kwargs.get("tools")
        if not isinstance(tools, BoundTools):
            return self.models[key], kwargs
        del kwargs["tools"]
        runnable: Any = tools.runnables[key]
        # Closing the stream of a binding does not close that of the model.
        while issubclass(type(runnable), RunnableBinding):
            if runnable.config or runnable.config_factories:
                break
            kwargs = {**runnable.kwargs, **kwargs}
            runnable = runnable.bound
        return runnable, kwargs

    def timed(self, attempt: Attempt, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of a synchronous call with the time that is left, if that counts."""
        model = self.models[attempt.target.key]
        return {**kwargs, **timeout_of(model, kwargs.get("timeout"), attempt.remaining)}


def invoke(
    messages: Any,
    *,
    request: Request,
    attempt: Attempt,
    target: Target | None = None,
    model: str | None = None,
    **kwargs: Any,
) -> Any:
    """Return the message of one model."""
    runnable, kwargs = request.bound(attempt, kwargs)
    config = child_config(request.run, attempt, is_async=False)
    with own_handlers():
        return runnable.invoke(messages, config, **request.timed(attempt, kwargs))


async def ainvoke(
    messages: Any,
    *,
    request: Request,
    attempt: Attempt,
    target: Target | None = None,
    model: str | None = None,
    **kwargs: Any,
) -> Any:
    """Return the message of one model."""
    runnable, kwargs = request.bound(attempt, kwargs)
    config = child_config(request.run, attempt, is_async=True)
    with own_handlers():
        return await runnable.ainvoke(messages, config, **kwargs)


def stream(
    messages: Any,
    *,
    request: Request,
    attempt: Attempt,
    target: Target | None = None,
    model: str | None = None,
    **kwargs: Any,
) -> Any:
    """Return the stream of one model."""
    runnable, kwargs = request.bound(attempt, kwargs)
    config = child_config(request.run, attempt, is_async=False)
    return _items(runnable.stream(messages, config, **request.timed(attempt, kwargs)))


async def astream(
    messages: Any,
    *,
    request: Request,
    attempt: Attempt,
    target: Target | None = None,
    model: str | None = None,
    **kwargs: Any,
) -> Any:
    """Return the stream of one model."""
    runnable, kwargs = request.bound(attempt, kwargs)
    config = child_config(request.run, attempt, is_async=True)
    return _aitems(runnable.astream(messages, config, **kwargs))


def _items(stream: Any) -> Generator[Any]:
    with closing(stream):
        try:
            with own_handlers():  # the run starts when the first item is asked for
                first = next(stream)
        except StopIteration:
            return
        yield as_chunk(first)
        for item in stream:
            yield as_chunk(item)


async def _aitems(stream: Any) -> AsyncGenerator[Any]:
    async with aclosing(stream):
        try:
            with own_handlers():
                first = await anext(stream)
        except StopAsyncIteration:
            return
        yield as_chunk(first)
        async for item in stream:
            yield as_chunk(item)


def as_chunk(item: Any) -> Any:
    """Return an item of a stream; a whole message, of a model that does not stream, as a chunk."""
    if not isinstance(item, AIMessage) or isinstance(item, AIMessageChunk):
        return item
    fields = item.model_dump(exclude={"type"})
    return AIMessageChunk(**fields, chunk_position="last")


# Structured output: the parsed value goes beside the message, by which it is judged and counted.


def invoke_structured(
    messages: Any,
    *,
    request: Request,
    attempt: Attempt,
    target: Target | None = None,
    model: str | None = None,
    **kwargs: Any,
) -> Any:
    """Return the message of one model, and note what was parsed of it."""
    assert request.structured is not None
    runnable = request.structured[attempt.target.key]
    config = child_config(request.run, attempt, is_async=False)
    with own_handlers():
        return _noted(request, runnable.invoke(messages, config, **kwargs))


async def ainvoke_structured(
    messages: Any,
    *,
    request: Request,
    attempt: Attempt,
    target: Target | None = None,
    model: str | None = None,
    **kwargs: Any,
) -> Any:
    """Return the message of one model, and note what was parsed of it."""
    assert request.structured is not None
    runnable = request.structured[attempt.target.key]
    config = child_config(request.run, attempt, is_async=True)
    with own_handlers():
        return _noted(request, await runnable.ainvoke(messages, config, **kwargs))


def _noted(request: Request, given: Any) -> Any:
    if not issubclass(type(given), dict) or "raw" not in given:
        return given  # of a model that has no ``include_raw``
    answer = cast("dict[str, Any]", given)
    error: BaseException | None = answer.get("parsing_error")
    if error is not None and not request.includes_raw:
        raise error
    request.results[id(answer["raw"])] = answer
    return answer["raw"]


def stream_structured(
    messages: Any,
    *,
    request: Request,
    attempt: Attempt,
    target: Target | None = None,
    model: str | None = None,
    **kwargs: Any,
) -> Any:
    """Return the stream of the values of one model, of which each is more complete."""
    assert request.structured is not None
    runnable = request.structured[attempt.target.key]
    config = child_config(request.run, attempt, is_async=False)
    return _items(runnable.stream(messages, config, **kwargs))


async def astream_structured(
    messages: Any,
    *,
    request: Request,
    attempt: Attempt,
    target: Target | None = None,
    model: str | None = None,
    **kwargs: Any,
) -> Any:
    """Return the stream of the values of one model, of which each is more complete."""
    assert request.structured is not None
    runnable = request.structured[attempt.target.key]
    config = child_config(request.run, attempt, is_async=True)
    return _aitems(runnable.astream(messages, config, **kwargs))
