"""What runs under the policy: one attempt on one model, in each of LangChain's four ways.

The functions are those of the module, so that a policy prepares each of them once. What they return
is the model's own message, of which ``reject=``, ``usage=`` and budgets read. A value that was
parsed of it goes beside it, in `Request.results`.

They name ``target`` and ``model`` and leave both unused: a policy takes the arguments of these
names to pin a call, and they must not reach the model.
"""

from __future__ import annotations

from contextlib import aclosing, closing
from typing import TYPE_CHECKING, Any, cast

from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.runnables import RunnableBinding, RunnableParallel, RunnableSequence

from resilient_llm.integrations._langchain_models import timeout_of
from resilient_llm.integrations._langchain_runs import Run, child_config, own_handlers

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Mapping

    from langchain_core.language_models import BaseChatModel
    from langchain_core.runnables import RunnableConfig

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
        unshared: Mapping[str, Mapping[str, Any]],
    ) -> None:
        self.models = models
        self.run = run
        self.structured = structured
        self.includes_raw = includes_raw
        self.unshared = unshared
        self.results: dict[int, Any] = {}

    def prepared(
        self, attempt: Attempt, kwargs: dict[str, Any], *, is_async: bool
    ) -> tuple[Any, RunnableConfig, dict[str, Any]]:
        """Return what an attempt calls, and with which configuration and arguments."""
        key = attempt.target.key
        model = self.models[key]
        kwargs = {**self.unshared[key], **kwargs}
        if not is_async:  # an asynchronous attempt is cancelled when its time is over
            kwargs |= timeout_of(model, kwargs.get("timeout"), attempt.remaining)
        runnable: Any = model
        if self.structured is not None:
            runnable, kwargs = _passing_on(self.structured[key], kwargs)
        elif isinstance(tools := kwargs.get("tools"), BoundTools):
            del kwargs["tools"]
            runnable, kwargs = _unbound(tools.runnables[key], kwargs)
        return runnable, child_config(self.run, attempt, is_async=is_async), kwargs

    def message_of(self, answer: Any) -> Any:
        """Return the message of an answer, and note what was parsed of it."""
        if self.structured is None or not issubclass(type(answer), dict) or "raw" not in answer:
            return answer  # a message, or of a model that has no ``include_raw``
        parsed = cast("dict[str, Any]", answer)
        error: BaseException | None = parsed.get("parsing_error")
        if error is not None and not self.includes_raw:
            raise error
        self.results[id(parsed["raw"])] = parsed
        return parsed["raw"]


def _unbound(runnable: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return what bindings of arguments bind, and the arguments.

    Closing the stream of a binding does not close that of the model.
    """
    while issubclass(type(runnable), RunnableBinding):
        if runnable.config or runnable.config_factories:
            break
        kwargs = {**runnable.kwargs, **kwargs}
        runnable = runnable.bound
    return runnable, kwargs


def _passing_on(runnable: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return a runnable of structured output that passes arguments on to its model.

    A sequence passes them to its first step. With ``include_raw`` that is a `RunnableParallel`,
    which loses them in ``invoke`` and refuses them in ``stream`` (langchain-core 1.0 to 1.8).
    """
    is_sequence = issubclass(type(runnable), RunnableSequence)
    first: Any = runnable.first if is_sequence else None
    if not kwargs or not issubclass(type(first), RunnableParallel):
        return runnable, kwargs
    steps: dict[str, Any] = {name: step.bind(**kwargs) for name, step in first.steps__.items()}
    parallel: Any = RunnableParallel(steps)
    sequence = RunnableSequence[Any, Any](parallel, *runnable.steps[1:], name=runnable.name)
    return sequence, {}


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
    runnable, config, kwargs = request.prepared(attempt, kwargs, is_async=False)
    with own_handlers():
        return request.message_of(runnable.invoke(messages, config, **kwargs))


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
    runnable, config, kwargs = request.prepared(attempt, kwargs, is_async=True)
    with own_handlers():
        return request.message_of(await runnable.ainvoke(messages, config, **kwargs))


def stream(
    messages: Any,
    *,
    request: Request,
    attempt: Attempt,
    target: Target | None = None,
    model: str | None = None,
    **kwargs: Any,
) -> Any:
    """Return the stream of one model: of chunks, or of values of which each is more complete."""
    runnable, config, kwargs = request.prepared(attempt, kwargs, is_async=False)
    return _items(runnable.stream(messages, config, **kwargs))


async def astream(
    messages: Any,
    *,
    request: Request,
    attempt: Attempt,
    target: Target | None = None,
    model: str | None = None,
    **kwargs: Any,
) -> Any:
    """Return the stream of one model: of chunks, or of values of which each is more complete."""
    runnable, config, kwargs = request.prepared(attempt, kwargs, is_async=True)
    return _aitems(runnable.astream(messages, config, **kwargs))


def _items(stream: Any) -> Generator[Any]:
    with closing(stream):
        try:
            with own_handlers():  # the run starts when the first item is asked for
                first = next(stream)
        except StopIteration:
            return
        yield _as_chunk(first)
        for item in stream:
            yield _as_chunk(item)


async def _aitems(stream: Any) -> AsyncGenerator[Any]:
    async with aclosing(stream):
        try:
            with own_handlers():
                first = await anext(stream)
        except StopAsyncIteration:
            return
        yield _as_chunk(first)
        async for item in stream:
            yield _as_chunk(item)


def _as_chunk(item: Any) -> Any:
    """Return an item of a stream; a whole message, of a model that does not stream, as a chunk."""
    if not isinstance(item, AIMessage) or isinstance(item, AIMessageChunk):
        return item
    fields = item.model_dump(exclude={"type"})
    return AIMessageChunk(**fields, chunk_position="last")
