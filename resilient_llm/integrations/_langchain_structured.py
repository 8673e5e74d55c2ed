"""`StructuredOutput`: what ``with_structured_output`` of a `FailoverChatModel` returns."""

from __future__ import annotations

# Names of annotations are imported at run time, too: LangChain resolves those of a runnable's
# methods.
from collections.abc import AsyncIterator, Iterator, Mapping  # noqa: TC003  # see above
from contextlib import aclosing, closing
from typing import Any

from langchain_core.language_models import LanguageModelInput
from langchain_core.runnables import Runnable, RunnableConfig

from resilient_llm import Failover  # noqa: TC001
from resilient_llm.integrations import _langchain_attempts as attempts
from resilient_llm.integrations._langchain_attempts import Request
from resilient_llm.integrations._langchain_runs import Run


class StructuredOutput(Runnable[LanguageModelInput, Any]):
    """Gives structured output of the first model that is able to.

    An answer that cannot be parsed is an error of its attempt, so that the next model is called,
    unless the policy has ``on_request_error="raise"``.

    Args:
        policy: Of the calls.
        models: ``{key of a target: its model}``
        raw: ``{key of a target: its runnable that gives the message with what was parsed}``
        plain: ``{key of a target: its runnable that gives what was parsed}``, for streams.
        includes_raw: Whether the message is given with what was parsed.
        arguments: ``{key of a target: arguments of all its calls}``
    """

    def __init__(
        self,
        policy: Failover,
        models: Mapping[str, Any],
        raw: Mapping[str, Any],
        plain: Mapping[str, Any],
        *,
        includes_raw: bool,
        arguments: Mapping[str, Mapping[str, Any]],
    ) -> None:
        self._policy = policy
        self._models = models
        self._raw = raw
        self._plain = plain
        self._includes_raw = includes_raw
        self._arguments = arguments
        self.name = "FailoverStructuredOutput"

    @property
    def policy(self) -> Failover:
        """The policy of its calls."""
        return self._policy

    @property
    def OutputType(self) -> Any:  # noqa: N802  # LangChain's name
        """What the runnable of the first model gives."""
        return next(iter((self._raw if self._includes_raw else self._plain).values())).OutputType

    def _request(self, manager: Any, runnables: Mapping[str, Any]) -> Request:
        return Request(
            self._models,
            Run.of_manager(manager, counts_tokens=False),
            runnables,
            includes_raw=self._includes_raw,
            unshared=self._arguments,
        )

    def _answer(self, request: Request, message: Any) -> Any:
        given = request.results.get(id(message))
        if given is None:  # of a model that has no ``include_raw``
            return message
        return given if self._includes_raw else given["parsed"]

    def invoke(
        self,
        input: LanguageModelInput,  # noqa: A002  # LangChain's name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return structured output."""

        def call(messages: Any, run_manager: Any) -> Any:
            request = self._request(run_manager, self._raw)
            message = self._policy.call(attempts.invoke, messages, request=request, **kwargs)
            return self._answer(request, message)

        return self._call_with_config(call, input, config)

    async def ainvoke(
        self,
        input: LanguageModelInput,  # noqa: A002  # LangChain's name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return structured output."""

        async def call(messages: Any, run_manager: Any) -> Any:
            request = self._request(run_manager, self._raw)
            message = await self._policy.call(attempts.ainvoke, messages, request=request, **kwargs)
            return self._answer(request, message)

        return await self._acall_with_config(call, input, config)

    def stream(
        self,
        input: LanguageModelInput,  # noqa: A002  # LangChain's name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Iterator[Any]:
        """Give structured output while it is written, each value more complete than the last."""
        runnables = self._raw if self._includes_raw else self._plain

        def items(inputs: Iterator[Any], run_manager: Any) -> Iterator[Any]:
            for messages in inputs:
                request = self._request(run_manager, runnables)
                stream = self._policy.call(attempts.stream, messages, request=request, **kwargs)
                with closing(stream):
                    yield from stream

        yield from self._transform_stream_with_config(iter([input]), items, config)

    async def astream(
        self,
        input: LanguageModelInput,  # noqa: A002  # LangChain's name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        """Give structured output while it is written, each value more complete than the last."""
        runnables = self._raw if self._includes_raw else self._plain

        async def items(inputs: AsyncIterator[Any], run_manager: Any) -> AsyncIterator[Any]:
            async for messages in inputs:
                request = self._request(run_manager, runnables)
                stream = await self._policy.call(
                    attempts.astream, messages, request=request, **kwargs
                )
                async with aclosing(stream):
                    async for item in stream:
                        yield item

        async def inputs() -> AsyncIterator[Any]:
            yield input

        given: Any = self._atransform_stream_with_config(inputs(), items, config)
        async with aclosing(given):
            async for item in given:
                yield item
