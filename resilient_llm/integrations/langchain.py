"""A chat model of LangChain that is a chain of chat models, guarded by a `Failover` policy.

    from resilient_llm.integrations import langchain

    llm = langchain.failover({"groq/llama": ChatGroq(…), "openai/gpt-5-mini": ChatOpenAI(…)})
    agent = create_agent(llm, tools=[…])

How a call gets to a model:

- LangChain's own `BaseChatModel` does what it does for every model: callbacks, cache, rate limiter,
  conversion of messages. It ends in ``_generate``, ``_stream`` and their twins here.
- These call the policy with one of the functions of ``_langchain_attempts.py``.
- An attempt calls the public method of the model, ``invoke`` or ``stream``, as a child run. Tools
  are those that the model itself was bound to.

Whether an error moves on, waits or benches is decided by the policy alone.
"""

from __future__ import annotations

import copy

# Names of annotations are imported at run time, too: LangChain resolves those of a model's methods,
# for example in ``with_fallbacks([...]).bind_tools(...)``.
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from typing import Any, Literal, Unpack

from langchain_core.caches import BaseCache  # noqa: TC002  # see above
from langchain_core.callbacks import Callbacks  # noqa: TC002
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.rate_limiters import BaseRateLimiter  # noqa: TC002
from langchain_core.runnables import Runnable, RunnableConfig  # noqa: TC002
from langchain_core.tools import BaseTool  # noqa: TC002
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field, PrivateAttr

from resilient_llm import ConfigurationError, Failover, Target
from resilient_llm import failover as _policy
from resilient_llm._values.policy import FailoverOptions
from resilient_llm.integrations import _langchain_attempts as attempts
from resilient_llm.integrations._langchain_attempts import BoundTools, Request
from resilient_llm.integrations._langchain_models import (
    common_profile,
    identifying_params,
    named_models,
    prepared,
    streams_by_itself,
)
from resilient_llm.integrations._langchain_runs import Run, begun
from resilient_llm.integrations._langchain_structured import StructuredOutput


class ChatModelOptions(FailoverOptions, total=False):
    """Keywords of `failover`: options of the policy, and fields of LangChain's chat models."""

    temperature: float | None
    max_tokens: int | None
    stop: Sequence[str] | None
    max_retries: int
    streaming: bool | None
    disable_streaming: bool | Literal["tool_calling"]
    cache: BaseCache | bool | None
    callbacks: Callbacks
    tags: list[str] | None
    metadata: dict[str, Any] | None
    name: str | None
    verbose: bool
    rate_limiter: BaseRateLimiter | None
    output_version: str | None
    custom_get_token_ids: Callable[[str], list[int]] | None


__all__ = ["FailoverChatModel", "failover"]


class FailoverChatModel(BaseChatModel):
    """A chat model that calls the models of a chain until one answers. See `failover`."""

    models: Any
    """``{spec or Target: chat model}``, in the order of the chain."""
    options: dict[str, Any] = Field(default_factory=dict[str, Any], exclude=True)
    """``{option of the policy: value}``"""
    temperature: float | None = None
    """Of all models, in place of their own."""
    max_tokens: int | None = None
    """Of all models, in place of their own."""
    stop: list[str] | None = None
    """Words at which an answer ends, of calls that give none."""
    streaming: bool | None = None
    """Whether ``invoke`` streams; None: if a model or a handler makes it stream."""

    _policy: Failover = PrivateAttr()
    _called: dict[str, BaseChatModel] = PrivateAttr(default_factory=dict[str, BaseChatModel])
    """``{key of a target: what its attempts call}``"""
    _unshared: dict[str, dict[str, Any]] = PrivateAttr(default_factory=dict[str, dict[str, Any]])
    """``{key of a target: parameters of all models for which its model has no field}``"""
    _run: Run | None = PrivateAttr(default=None)
    _open: list[Any] = PrivateAttr(default_factory=list[Any])
    """The guarded streams of a copy for one call: LangChain leaves them behind when it stops."""

    def __init__(
        self,
        models: Mapping[str, BaseChatModel]
        | Mapping[Target, BaseChatModel]
        | Sequence[BaseChatModel],
        **options: Any,
    ) -> None:
        """Check the models and the options; see `failover`.

        Raises:
            ConfigurationError: If a model or an option is not allowed.
        """
        targets = named_models(models)
        own = {name: options.pop(name) for name in list(options) if name in type(self).model_fields}
        # LangChain's standard tests give every chat model a key. Each model here has its own.
        options.pop("api_key", None)
        given = _policy_options({**own.pop("options", {}), **options})
        # Before pydantic, which would put a ConfigurationError into an error of pydantic.
        policy = _policy(list(targets), **given)
        _check_marker(given.get("stream"))
        named = {_written(each, models): model for each, model in targets.items()}
        super().__init__(models=named, options=given, **own)  # pyright: ignore[reportCallIssue]  # pydantic's own
        self._policy = policy
        shared = {"temperature": self.temperature, "max_tokens": self.max_tokens}
        shared = {name: value for name, value in shared.items() if value is not None}
        self._called = {each.key: prepared(model, each, shared) for each, model in targets.items()}
        self._unshared = {
            each: _without_fields(shared, model) for each, model in self._called.items()
        }

    @property
    def policy(self) -> Failover:
        """The policy of its calls."""
        return self._policy

    # What LangChain reads of a model.

    @property
    def _llm_type(self) -> str:
        return "resilient-llm-failover"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """What differs between two adapters, for caches and tracers: models and parameters."""
        targets = {target.key: target for target in self._policy.chain}
        params: dict[str, Any] = {
            "models": {
                key: identifying_params(model, targets[key]) for key, model in self._called.items()
            },
            **self._parameters(),
        }
        # LangChain has a "stop" here, too: that of a call, which may be none.
        return {**params, "stop_of_all_calls": self.stop} if self.stop else params

    def _get_invocation_params(
        self, stop: list[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        tools = kwargs.get("tools")
        if isinstance(tools, BoundTools):
            kwargs = {**tools.options, **kwargs}
        return super()._get_invocation_params(stop=stop, **kwargs)

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> Any:
        """Return the parameters for tracers. A run of an attempt has those of its model."""
        params = {**self._parameters(), **kwargs}
        ls_params: dict[str, Any] = {
            "ls_provider": "resilient_llm",
            "ls_model_name": ",".join(self._called),
            "ls_model_type": "chat",
        }
        for name, of_tracers in _LS_PARAMS.items():
            if params.get(name) is not None:
                ls_params[of_tracers] = params[name]
        if stop or self.stop:
            ls_params["ls_stop"] = stop or self.stop
        return ls_params

    def _resolve_model_profile(self) -> Any:
        return common_profile(list(self.models.values()))

    def _parameters(self) -> dict[str, Any]:
        own = {"temperature": self.temperature, "max_tokens": self.max_tokens}
        return {name: value for name, value in own.items() if value is not None}

    def __repr_args__(self) -> Any:
        # The models may show addresses, and more than fits a line.
        return [("models", [str(each) for each in self._called])]

    def get_token_ids(self, text: str) -> list[int]:
        """Return the tokens of a text, as the first model counts them."""
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        return self._first.get_token_ids(text)

    def get_num_tokens(self, text: str) -> int:
        """Return the number of tokens of a text, as the first model counts them."""
        if self.custom_get_token_ids is not None:
            return len(self.custom_get_token_ids(text))
        return self._first.get_num_tokens(text)

    def get_num_tokens_from_messages(
        self, messages: list[BaseMessage], tools: Sequence[Any] | None = None
    ) -> int:
        """Return the number of tokens of messages, as the first model counts them."""
        if self.custom_get_token_ids is not None:
            return super().get_num_tokens_from_messages(messages, tools)
        return self._first.get_num_tokens_from_messages(messages, tools)

    @property
    def _first(self) -> BaseChatModel:
        return next(iter(self._called.values()))

    # What is bound to each model.

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Return a copy whose models are bound to tools, each by its own ``bind_tools``.

        Args:
            tools: The tools.
            tool_choice: Which tool models must call; it is passed on if it is given.
            **kwargs: More arguments of the models' ``bind_tools``.
        """
        options = kwargs if tool_choice is None else {"tool_choice": tool_choice, **kwargs}
        runnables = {key: model.bind_tools(tools, **options) for key, model in self._called.items()}
        return self.bind(tools=BoundTools([_shown(each) for each in tools], runnables, options))

    def with_structured_output(
        self, schema: dict[str, Any] | type, *, include_raw: bool = False, **kwargs: Any
    ) -> Runnable[LanguageModelInput, Any]:
        """Return a runnable that gives structured output, by each model's own implementation.

        Args:
            schema: Of the output: a class of pydantic or a ``TypedDict``, or a JSON schema.
            include_raw: Whether the output is ``{"raw": message, "parsed": value,
                "parsing_error": error or None}``. Otherwise an answer that cannot be parsed tries
                the next model, unless ``on_request_error`` is ``"raise"``.
            **kwargs: More arguments of the models' ``with_structured_output``.
        """
        raw, plain = (
            {
                key: model.with_structured_output(schema, include_raw=includes_raw, **kwargs)
                for key, model in self._called.items()
            }
            for includes_raw in (True, False)
        )
        stop = {"stop": self.stop} if self.stop else {}
        return StructuredOutput(
            self._policy,
            self._called,
            raw,
            plain,
            includes_raw=include_raw,
            arguments={key: {**stop, **unshared} for key, unshared in self._unshared.items()},
        )

    # Calls. LangChain gives the run to `_generate` and keeps it from `_stream`.

    def _within(self, run: Run | None) -> FailoverChatModel:
        """Return a copy whose streams are children of a run."""
        within = copy.copy(self)
        within._run = run
        within._open = []
        return within

    async def _aclose(self) -> None:
        """Close what LangChain's own ``astream`` leaves to the garbage collector."""
        for stream in self._open:
            await stream.aclose()

    def _request(self, run_manager: Any) -> Request:
        run = Run.of_manager(run_manager)
        return Request(self._called, self._run if run is None else run, unshared=self._unshared)

    def _arguments(self, stop: list[str] | None, kwargs: dict[str, Any]) -> dict[str, Any]:
        stop = stop if stop is not None else self.stop or None
        return kwargs if stop is None else {**kwargs, "stop": stop}

    def _should_stream(self, *, async_api: bool, run_manager: Any = None, **kwargs: Any) -> bool:
        # A model that streams by itself would show content of attempts that then fail.
        if "stream" not in kwargs and any(map(streams_by_itself, self._called.values())):
            kwargs["stream"] = True
        return super()._should_stream(async_api=async_api, run_manager=run_manager, **kwargs)

    def _generate_with_cache(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> ChatResult:
        within = self._within(Run.of_manager(run_manager))
        return super(FailoverChatModel, within)._generate_with_cache(
            messages, stop=stop, run_manager=run_manager, **kwargs
        )

    async def _agenerate_with_cache(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> ChatResult:
        within = self._within(Run.of_manager(run_manager))
        try:
            return await super(FailoverChatModel, within)._agenerate_with_cache(
                messages, stop=stop, run_manager=run_manager, **kwargs
            )
        finally:
            await within._aclose()

    def stream(
        self,
        input: LanguageModelInput,  # noqa: A002  # LangChain's name
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        """Give the answer of the first model that begins one, while it is written."""
        config, run = begun(config, is_async=False)
        within = self._within(run)
        stream: Any = super(FailoverChatModel, within).stream(input, config, stop=stop, **kwargs)
        with closing(stream):
            yield from stream

    async def astream(
        self,
        input: LanguageModelInput,  # noqa: A002  # LangChain's name
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        """Give the answer of the first model that begins one, while it is written."""
        config, run = begun(config, is_async=True)
        within = self._within(run)
        stream: Any = super(FailoverChatModel, within).astream(input, config, stop=stop, **kwargs)
        try:
            async with aclosing(stream):
                async for chunk in stream:
                    yield chunk
        finally:
            await within._aclose()

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> ChatResult:
        kwargs = self._arguments(stop, kwargs)
        message: Any = self._policy.call(
            attempts.invoke, messages, request=self._request(run_manager), **kwargs
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> ChatResult:
        kwargs = self._arguments(stop, kwargs)
        message: Any = await self._policy.call(
            attempts.ainvoke, messages, request=self._request(run_manager), **kwargs
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        kwargs = self._arguments(stop, kwargs)
        stream: Any = self._policy.call(
            attempts.stream, messages, request=self._request(run_manager), **kwargs
        )
        with closing(stream):
            for item in stream:
                yield _generation(item)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: Any = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        kwargs = self._arguments(stop, kwargs)
        stream: Any = await self._policy.call(
            attempts.astream, messages, request=self._request(run_manager), **kwargs
        )
        self._open.append(stream)
        async with aclosing(stream):
            async for item in stream:
                yield _generation(item)


_LS_PARAMS = {
    "model": "ls_model_name",
    "temperature": "ls_temperature",
    "max_tokens": "ls_max_tokens",
}
"""``{parameter of a call: its name for tracers}``"""


def _without_fields(parameters: dict[str, Any], model: BaseChatModel) -> dict[str, Any]:
    """Return the parameters for which a model has no field."""
    fields = type(model).model_fields
    return {name: value for name, value in parameters.items() if name not in fields}


def _written(target: Target, models: object) -> str | Target:
    """Return the name under which a model is kept: a Target if one was given, else its key."""
    return target if isinstance(models, Mapping) and target in models else target.key


def _policy_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of the policy; LangChain's ``max_retries`` is ``attempts`` less one."""
    if "chain" in options:
        raise ConfigurationError("chain is not allowed: the chain is made of models")
    if "max_retries" not in options:
        return options
    options = dict(options)
    retries = options.pop("max_retries")
    if "attempts" in options:
        raise ConfigurationError("attempts and max_retries mean the same: write attempts only")
    if type(retries) is not int or retries < 0:
        shown = retries if type(retries) in (int, float, bool) else type(retries).__name__
        raise ConfigurationError(f"max_retries={shown}: expected a whole number of at least 0")
    return {**options, "attempts": retries + 1}


def _check_marker(stream: Any) -> None:
    """Refuse a ``restart_marker`` that is not an item of LangChain's streams."""
    marker = getattr(stream, "restart_marker", None)
    if "restart_marker" in getattr(stream, "_given", {}) and not isinstance(marker, AIMessageChunk):
        raise ConfigurationError(
            f"restart_marker of type {type(marker).__name__}: items are chunks of messages here, "
            "write an AIMessageChunk"
        )


def _generation(item: Any) -> ChatGenerationChunk:
    return ChatGenerationChunk(message=item)


def _shown(tool: Any) -> Any:
    """Return a tool in OpenAI's format, or as it is if it is one of a provider's own."""
    try:
        return convert_to_openai_tool(tool)
    except Exception:  # noqa: BLE001  # each model decides what it takes
        return tool


def failover(
    models: Mapping[str, BaseChatModel] | Mapping[Target, BaseChatModel] | Sequence[BaseChatModel],
    **options: Unpack[ChatModelOptions],
) -> FailoverChatModel:
    """Return a chat model that calls the models of a chain until one answers.

    Examples:
        >>> llm = failover(
        ...     {"groq/llama": ChatGroq(...), "openai/gpt-5-mini": ChatOpenAI(...)}, timeout=30.0
        ... )
        >>> llm.invoke("Why is the sky blue?")

    Args:
        models: ``{spec: chat model}`` in the order of the chain; a key may be a `Target` with
            options. Or a list of models, whose specs are ``ls_provider/ls_model_name``, which they
            report to tracers.
        **options: Options of `resilient_llm.failover`. Besides, LangChain's own:
            ``temperature``, ``max_tokens`` and ``stop`` for all models;
            ``max_retries``, which is ``attempts`` less one; ``streaming``; and the fields of every
            chat model, such as ``cache``, ``callbacks``, ``tags``, ``metadata``, ``rate_limiter``.

    Raises:
        ConfigurationError: If models or options are not allowed: none, not a chat model, equal
            names, a list with a model whose provider is not certain, an unknown option.
    """
    if "api_key" in options:
        raise ConfigurationError("api_key is not allowed: give each model the key of its provider")
    return FailoverChatModel(models, **options)
