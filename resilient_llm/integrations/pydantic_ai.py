"""`FailoverModel`: several models of pydantic-ai as one, under a `Failover` policy.

    from resilient_llm.integrations.pydantic_ai import FailoverModel

    agent = Agent(FailoverModel(groq_model, openai_model, timeout=30.0))

A `FailoverModel` is a ``FallbackModel`` of pydantic-ai whose decisions are made by the policy:
which model is called, how often, and which error moves on. Everything that a model does for one
request is left to pydantic-ai: each attempt is made by a ``FallbackModel`` of one model, which
merges settings, prepares tools and messages, and applies deadlines as the installed release does.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, Final, Unpack, cast
from urllib.parse import urlsplit

# Names of annotations are imported at run time, too: frameworks resolve those of a class's methods.
from pydantic_ai import RunContext  # noqa: TC002  # see above
from pydantic_ai.messages import (
    ModelMessage,
    ModelResponse,
    ModelResponseStreamEvent,
    PartDeltaEvent,
    PartStartEvent,
)
from pydantic_ai.models import (
    KnownModelName,
    Model,
    ModelRequestParameters,
    StreamedResponse,
    fallback,
    infer_model,
)
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.settings import ModelSettings, merge_model_settings

from resilient_llm import (
    ChainExhaustedError,
    ConfigurationError,
    Failover,
    StreamPolicy,
    Target,
    failover,
)
from resilient_llm._values.policy import FailoverOptions  # noqa: TC001  # see above
from resilient_llm.answers._items import inspect_item
from resilient_llm.integrations._warning import warn_at_declaration

__all__ = ["FailoverModel"]

_HOSTS: Final[Mapping[str, tuple[str, ...]]] = {
    "openai": ("openai.com",),
    "anthropic": ("anthropic.com",),
    "groq": ("groq.com",),
    "mistral": ("mistral.ai",),
    "cohere": ("cohere.com", "cohere.ai"),
    "google": ("googleapis.com",),
    "google-gla": ("googleapis.com",),
    "alibaba": ("aliyuncs.com",),
    "moonshotai": ("moonshot.ai", "moonshot.cn"),
    "sambanova": ("sambanova.ai",),
    "zai": ("z.ai",),
}
"""``{system: the domains of its API}``, of those whose base URL can be changed.

The name of any other provider of pydantic-ai, such as Ollama or Azure, stands for a server of the
user's, or its address cannot be changed.
"""
_HAS_RETRIES_SETTING: Final = "max_retries" in ModelSettings.__annotations__
"""Whether a request can switch the retries of the SDK off; older releases of pydantic-ai cannot."""
_ADVICE: Final = "its retries multiply with those of the chain; build the client with max_retries=0"
_serving: ContextVar[list[tuple[Any, ...]]] = ContextVar("resilient_llm_pydantic_ai_serving")
"""Collects, for one call, what each attempt tells the span of pydantic-ai."""


class FailoverModel(FallbackModel):
    """Several models of pydantic-ai as one ``Model``, under a `Failover` policy.

    Models are named ``system/model_name``, for example ``openai/gpt-5-mini``; benches, events and
    budgets use these names. One mapping ``{spec: model}`` gives other names. A model may be
    written as pydantic-ai's text, such as ``"openai:gpt-5-mini"``.

    Examples:
        >>> from pydantic_ai.models.test import TestModel
        >>> model = FailoverModel({"groq/llama": TestModel(), "openai/gpt-5-mini": TestModel()},
        ...                       timeout=30.0)
        >>> model.policy
        Failover(groq/llama, openai/gpt-5-mini)

    Args:
        *models: The models in order, or one mapping of specs or `Target` objects to models. The
            ``params`` of a `Target` are settings of its model, which win over those of a request.
        **options: Those of `failover`.

    Raises:
        ConfigurationError: If there is no model, if two have the same name, if the base URL of a
            model makes its name untrue, or if an option is wrong.
    """

    def __init__(
        self,
        *models: Model | KnownModelName | str | Mapping[Any, Model | KnownModelName | str],
        **options: Unpack[FailoverOptions],
    ) -> None:
        named = _named(models)
        if "chain" in options:
            raise ConfigurationError("chain is not allowed: the models are the chain, in order")
        _check_stream(options.get("stream"))
        super().__init__(*named.values())
        self._one_by_key: dict[str, _OneModel] = {
            target.key: _OneModel(target, model)
            for target, model in zip(named, self.models, strict=True)
        }
        self._policy = failover(list(named), **options)
        self._ask = self._policy(self._request_one)
        self._open = self._policy(self._open_one)
        # With reraise=True, an outage of the model that goes on would leave before the others are
        # asked.
        going_on = self._policy.using(reraise=False)
        self._ask_to_go_on = going_on(self._request_one)
        self._open_to_go_on = going_on(self._open_one)

    @property
    def policy(self) -> Failover:
        """The policy, for example for ``model.policy.chain``."""
        return self._policy

    # `FallbackModel` is a dataclass, which compares its models alone and has no hash.

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"FailoverModel({', '.join(self._one_by_key)})"

    # One request.

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """Ask the models of the chain until one answers, as the policy says.

        Raises:
            ChainExhaustedError: If none answered.
        """
        given = (messages, model_settings, model_request_parameters)
        started_by = self._started_by(messages)
        if started_by is None:
            return await self._answer(given)
        try:
            return await self._answer(given, started_by)
        except ChainExhaustedError:
            given = (await self._given_up(messages), *given[1:])
        response = await self._answer(given)
        _note_replacement(response)
        return response

    async def _answer(
        self, given: tuple[Any, ...], started_by: Target | None = None
    ) -> ModelResponse:
        ask, pinned = self._ask, {}
        if started_by is not None:
            ask, pinned = self._ask_to_go_on, {"target": started_by}
        token = _serving.set(told := [])
        try:
            response = await ask(*given, **_max_tokens(given), **pinned)
        finally:
            _serving.reset(token)
        self._tell_span(told)
        return response

    async def _request_one(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        *,
        target: Target,
        **params: Any,
    ) -> ModelResponse:
        one = self._one(target)
        settings = one.settings_for(model_settings, params)
        return await one.request(messages, settings, model_request_parameters)

    # One stream.

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse, None]:
        """Ask for a stream, which has its first content when it is handed over.

        Raises:
            ChainExhaustedError: If no stream came to its first content.
            StreamInterruptedError: If it broke after that, from the stream itself.
        """
        given = (messages, model_settings, model_request_parameters, run_context)
        started_by = self._started_by(messages)
        opened = await self._opened(given, started_by)
        if opened is None:
            given = (await self._given_up(messages), *given[1:])
            opened = await self._opened(given)
        assert opened is not None
        manager, events = opened
        async with AsyncExitStack() as stack:
            stack.push_async_exit(manager)
            response: StreamedResponse = events.response
            if given[0] is not messages:
                _note_replacement(response)
            response._event_iterator = _WithoutEnd(events)  # as pydantic-ai's own FallbackModel
            yield response

    async def _opened(
        self, given: tuple[Any, ...], started_by: Target | None = None
    ) -> tuple[Any, Any] | None:
        """Return the guarded manager of a stream, and what it gave when it was entered.

        None if the target that has begun the answer cannot go on with it.
        """
        open_one, pinned = self._open, {}
        if started_by is not None:
            open_one, pinned = self._open_to_go_on, {"target": started_by}
        token = _serving.set(told := [])
        try:
            manager: Any = await open_one(
                handover := _Handover(), *given, **_max_tokens(given), **pinned
            )
            events = await manager.__aenter__()
            handover.is_over = True
        except ChainExhaustedError:
            if started_by is None:
                raise
            return None
        finally:
            _serving.reset(token)
        self._tell_span(told)
        return manager, events

    async def _open_one(
        self,
        handover: _Handover,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None,
        *,
        target: Target,
        **params: Any,
    ) -> _Opening:
        one = self._one(target)
        settings = one.settings_for(model_settings, params)
        stream = one.request_stream(messages, settings, model_request_parameters, run_context)
        return _Opening(stream, handover)

    # What both need.

    def _one(self, target: Target) -> _OneModel:
        try:
            return self._one_by_key[target.key]
        except KeyError:
            raise ConfigurationError(
                f"there is no model for {target.key}: this FailoverModel has "
                f"{', '.join(self._one_by_key)}"
            ) from None

    def _tell_span(self, told: list[tuple[Any, ...]]) -> None:
        """Name the model that served in the span of pydantic-ai, which is the current one here."""
        if told:
            set_attributes: Any = super()._set_span_attributes
            set_attributes(*told[-1])

    def _started_by(self, messages: list[ModelMessage]) -> Target | None:
        """Return which target has begun the answer that these messages go on with, if one has."""
        find: Any = getattr(super(), "_get_continuation_model", None)  # none in old releases
        model = None if find is None else find(messages)
        if model is None:
            return None
        return next(one.target for one in self._one_by_key.values() if one.model is model)

    async def _given_up(self, messages: list[ModelMessage]) -> list[ModelMessage]:
        """Return the messages without an unfinished answer, whose job is cancelled."""
        with suppress(Exception):
            await cast("Any", self).cancel_suspended_response(messages[-1])
        return messages[:-1]


class _OneModel(FallbackModel):
    """Makes the attempts at one model, as pydantic-ai makes a request of its ``FallbackModel``."""

    def __init__(self, target: Target, model: Model) -> None:
        super().__init__(model, fallback_on=_never)
        self.target: Final = target
        self.model: Final = model
        self._retries_off = _switches_retries_off(target, model)

    def settings_for(
        self, settings: ModelSettings | None, params: Mapping[str, Any]
    ) -> ModelSettings | None:
        """Return the settings of a request, with those of the target and without SDK retries."""
        if self._retries_off and not any(
            "max_retries" in (each or ()) for each in (settings, params, self.model.settings)
        ):
            params = {"max_retries": 0, **params}
        if not params:
            return settings
        return merge_model_settings(settings, cast("ModelSettings", params))

    def _set_span_attributes(self, *served: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]  # old releases give it less
        # The span of an attempt may be the current one here, so the outer model does it.
        _serving.get().append(served)


class _Handover:
    """Notes that the stream of one call was handed over, after which no model can replace it."""

    is_over = False


class _Opening:
    """The manager of a stream of one model, as the policy guards it."""

    def __init__(self, stream: Any, handover: _Handover) -> None:
        self._stream = stream
        self._handover = handover

    async def __aenter__(self) -> _Events:
        if self._handover.is_over:
            raise ConfigurationError(
                "on_interrupt is not allowed with pydantic-ai, where an answer has one model: "
                "write StreamPolicy(on_interrupt='raise')"
            )
        return _Events(await self._stream.__aenter__())

    async def __aexit__(self, *error: Any) -> Any:
        return await self._stream.__aexit__(*error)


class _Events:
    """The events of a stream, and after them the whole response, which shows how it ended.

    The events before the first content are kept until it comes, and the content is put into the
    start of its part. Otherwise the response would have text whose event is still to come, and an
    agent gives the reader both.
    """

    def __init__(self, response: StreamedResponse) -> None:
        self.response = response
        self._events: Any = aiter(response)
        self._first: list[Any] | None = None
        """The first events, the next one last; None until there are any."""
        self._is_over = False

    def __aiter__(self) -> _Events:
        return self

    async def __anext__(self) -> ModelResponseStreamEvent | ModelResponse:
        if self._first is None:
            self._first = await self._until_content()
        if self._first:
            return self._first.pop()
        if self._is_over:
            raise StopAsyncIteration
        try:
            return await self._events.__anext__()
        except StopAsyncIteration:
            self._is_over = True
            return _last_item(self.response)

    async def _until_content(self) -> list[Any]:
        """Return the first events, the next one last."""
        first: list[Any] = []
        async for event in self._events:
            if not _is_put_into_start(first, event):
                first.append(event)
            if inspect_item(event).content or len(first) >= _MOST_FIRST:
                break
        return first[::-1]

    async def aclose(self) -> None:
        closing = getattr(self._events, "aclose", None)
        if closing is not None:
            await closing()


_MOST_FIRST: Final = 64
"""Events that are kept while there is no content."""
_TELL_THE_END: Final = frozenset(
    ("OpenAIStreamedResponse", "AnthropicStreamedResponse", "GroqStreamedResponse")
)
"""Streams of protocols in which each answer has a finish reason."""


def _last_item(response: StreamedResponse) -> ModelResponse:
    """Return the whole response, marked if it was cut off."""
    whole: Any = response.get()
    if not hasattr(whole, "state") or not hasattr(whole, "finish_reason"):
        return whole  # an old release of pydantic-ai, in which no response tells
    if whole.state == "incomplete" or (whole.state == "complete" and _lacks_end(response, whole)):
        return replace(whole, state="incomplete", finish_reason="error")
    return whole


def _lacks_end(response: StreamedResponse, whole: Any) -> bool:
    """Return whether the provider gave no finish reason, of a protocol in which it has to."""
    has_reason: Any = getattr(response, "_has_finish_reason", None)
    if has_reason is not None:  # pydantic-ai itself puts one in the place of what is missing
        return not has_reason and whole.finish_reason != "content_filter"
    if whole.finish_reason is not None or "finish_reason" in (whole.provider_details or ()):
        return False
    return any(each.__name__ in _TELL_THE_END for each in type(response).__mro__)


def _is_put_into_start(first: list[Any], event: Any) -> bool:
    """Put a piece of a part into the event that started the part; return whether there is one."""
    if not isinstance(event, PartDeltaEvent):
        return False
    for place, earlier in enumerate(first):
        if isinstance(earlier, PartStartEvent) and earlier.index == event.index:
            part: Any = event.delta.apply(cast("Any", earlier.part))
            first[place] = replace(earlier, part=part)
            return True
    return False


class _WithoutEnd:
    """The events of a guarded stream, without the response that follows them."""

    def __init__(self, events: Any) -> None:
        self._next: Any = events.__anext__

    def __aiter__(self) -> _WithoutEnd:
        return self

    async def __anext__(self) -> Any:
        event = await self._next()
        # Nothing comes after the response but the end.
        return await self._next() if type(event) is ModelResponse else event


def _max_tokens(given: tuple[Any, ...]) -> dict[str, Any]:
    """Return the limit of the answer as a keyword, by which budgets know it."""
    settings: dict[str, Any] | None = given[1]
    most = None if settings is None else settings.get("max_tokens")
    return {} if most is None else {"max_tokens": most}


def _never(error: Exception) -> bool:
    """Never fall back: the policy decides what follows an error."""
    return False


def _note_replacement(response: Any) -> None:
    """Have the agent drop the unfinished answer that this response takes the place of."""
    stamp: Any = getattr(fallback, "_stamp_replace_previous", None)
    if stamp is not None:
        stamp(response)


# Names and checks.


def _named(models: tuple[Any, ...]) -> dict[Target, Any]:
    """Return ``{target: model}`` in order."""
    if len(models) == 1 and isinstance(models[0], Mapping):
        return _of_mapping(cast("Mapping[Any, Any]", models[0]))
    if not models:
        raise ConfigurationError(
            "FailoverModel() has no model: write models in order, or a mapping {spec: model}"
        )
    named: dict[Target, Any] = {}
    keys: set[str] = set()
    for each in models:
        model = _model(each)
        target = _target_named_by(model)
        if target.key in keys:
            raise ConfigurationError(f"two models are named {target.key}: {_WRITE_A_MAPPING}")
        keys.add(target.key)
        named[target] = model
    return named


_WRITE_A_MAPPING: Final = (
    "write a mapping with names of your own, such as "
    "FailoverModel({'groq/llama': model, 'openai/gpt-5-mini': other})"
)


def _of_mapping(models: Mapping[Any, Any]) -> dict[Target, Any]:
    if not models:
        raise ConfigurationError("the mapping has no model: write {spec: model}")
    named: dict[Target, Any] = {}
    keys: set[str] = set()
    for spec, model in models.items():
        target = spec if isinstance(spec, Target) else Target(spec)
        if target.call is not None:
            raise ConfigurationError(f"{target.key} has call=: the model of the mapping is called")
        if target.key in keys:
            raise ConfigurationError(f"two models are named {target.key}: give each its own name")
        keys.add(target.key)
        named[target] = _model(model)
    return named


def _model(given: Any) -> Model:
    """Return a model, which pydantic-ai may have to make of a text."""
    if isinstance(given, (Model, str)):
        return infer_model(cast("Model | str", given))
    raise ConfigurationError(
        f"a model of type {type(given).__name__} is not allowed: write a Model of pydantic-ai, "
        "a text such as 'openai:gpt-5-mini', or one mapping {spec: model}"
    )


def _target_named_by(model: Model) -> Target:
    """Return the target of a model without a name of its own.

    Raises:
        ConfigurationError: If its base URL is not one of the provider that its name states.
    """
    system, name, base_url = model.system, model.model_name, model.base_url
    if base_url is not None and system in _HOSTS:
        host = urlsplit(base_url).hostname or ""
        if not any(host == each or host.endswith(f".{each}") for each in _HOSTS[system]):
            raise ConfigurationError(
                f"{system}/{name} would be a wrong name, since its base URL is at {host}: "
                f"{_WRITE_A_MAPPING}"
            )
    try:
        return Target(f"{system}/{name}")
    except ConfigurationError as error:
        raise ConfigurationError(f"{error}; {_WRITE_A_MAPPING}") from None


def _check_stream(stream: Any) -> None:
    if isinstance(stream, StreamPolicy) and stream.on_interrupt != "raise":
        raise ConfigurationError(
            "stream=StreamPolicy(on_interrupt=…) is not allowed with pydantic-ai, where an answer "
            "has one model: write on_interrupt='raise', and start the run again"
        )


def _switches_retries_off(target: Target, model: Model) -> bool:
    """Return whether requests switch the retries of the SDK off; warn if they cannot."""
    client: Any = getattr(model, "client", None)
    retries: Any = getattr(client, "max_retries", None)
    if client is None or retries == 0:
        return False
    if _HAS_RETRIES_SETTING:
        return "max_retries" not in cast("Any", getattr(model, "unsupported_settings", ()))
    if isinstance(retries, int):
        warn_at_declaration(f"the client of {target.key} has max_retries={retries}: {_ADVICE}")
    return False
