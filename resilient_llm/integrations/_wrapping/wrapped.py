"""`WrappedClients`: the clients behind one wrapped client, its policies and its guarded methods.

It owns the policies that a ``model=`` stands for. They are made when a call first needs them and
kept for later calls, as many as `MOST_POLICIES`.
"""

from __future__ import annotations

import inspect
import threading
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from resilient_llm._runtime.runtime import runtime
from resilient_llm._values.chain import plan_of
from resilient_llm._values.errors import CallRejectedError, ConfigurationError
from resilient_llm._values.plan import Plan
from resilient_llm._values.sticky import Sticky
from resilient_llm._values.strategy_call import StrategyCall, takes_call
from resilient_llm._values.target import Attempt, Target  # noqa: TC001  # read from signatures
from resilient_llm.integrations._wrapping.protocols import VIEWS, is_given
from resilient_llm.integrations._wrapping.raw_responses import KeepingRaw, Unwrapping, is_raw
from resilient_llm.integrations._wrapping.selection import (
    CHAIN,
    OMITTED,
    Selection,
    select,
    select_embedding,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from resilient_llm._api.failover import Failover
    from resilient_llm.integrations._wrapping.protocols import Protocol

MOST_POLICIES: Final = 256
"""Guarded methods with a policy of their own that are kept."""

Path = tuple[str, ...]


class WrappedClients:
    """The clients behind one wrapped client.

    Attributes:
        protocol: What is guarded of them.
        originals: ``{provider key: the client as it was given}``.
        policy: What calls follow that name no model.
    """

    def __init__(
        self,
        protocol: Protocol,
        clients: Mapping[str, Any],
        policy: Failover,
        *,
        is_quiet: bool = False,
    ) -> None:
        self.protocol = protocol
        self.originals = dict(clients)
        self.policy = policy
        self._clients = {
            key: self._without_retries(key, client, is_quiet=is_quiet)
            for key, client in clients.items()
        }
        self._keys = list(self._clients)
        self._lock = threading.Lock()
        self._guards: dict[tuple[Path, Any], Callable[..., Any]] = {}
        """``{(path of a method, its selection): the method under the policy of that}``"""

    def _without_retries(self, key: str, client: Any, *, is_quiet: bool) -> Any:
        try:
            quiet, retries = self.protocol.without_retries(client)
        except TypeError as error:  # AnthropicFoundry of anthropic 0.75 is one
            raise ConfigurationError(
                f"the client of {key} retries by itself and cannot be copied: "
                "build it with max_retries=0"
            ) from error
        log_line = runtime.dispatcher.log_line
        if retries and log_line is not None and not is_quiet:
            log_line(
                f"the client of {key} is used as a copy with max_retries=0: its {retries} retries "
                "would multiply with those of the chain"
            )
        return quiet

    @property
    def first(self) -> Any:
        """The first of the clients that were given."""
        return self.originals[self._keys[0]]

    def check_options(self) -> None:
        """Refuse options that no method could keep.

        Raises:
            ConfigurationError: If there are any.
        """
        if self.protocol.is_async is None:
            return
        path, methods = next(iter(self.protocol.paths.items()))
        self._guard((*path.split("."), methods[0]), CHAIN)

    def original_at(self, path: Path) -> Any:
        """Return a resource of the first client that has it.

        Raises:
            AttributeError: If none has it.
        """
        failed: AttributeError | None = None
        for client in self.originals.values():
            try:
                return _at(client, path)
            except AttributeError as error:
                failed = failed or error
        assert failed is not None
        raise failed

    def with_options(self, given: dict[str, Any]) -> WrappedClients:
        """Return the same with another timeout or other attempts.

        Raises:
            ConfigurationError: If anything else is changed.
        """
        changes = {name: value for name, value in given.items() if _is_change(value)}
        own_http = [getattr(client, "_client", None) for client in self.originals.values()]
        if any(changes.get("http_client") is each for each in own_http if each is not None):
            changes.pop("http_client")
        if "timeout" in given and is_given(given["timeout"]):
            changes["timeout"] = given["timeout"]  # None is a timeout as well
        refused = sorted(changes.keys() - {"timeout", "max_retries"})
        if refused:
            raise ConfigurationError(
                f"with_options of a wrapped client takes timeout and max_retries, not "
                f"{', '.join(refused)}: make such a change on a client before it is wrapped"
            )
        policy = self.policy
        if "max_retries" in changes:
            policy = policy.using(attempts=_attempts(changes.pop("max_retries")))
        clients = {
            key: client.with_options(**changes) if changes else client
            for key, client in self._clients.items()
        }
        return WrappedClients(self.protocol, clients, policy, is_quiet=True)

    # Methods.

    def method(self, path: Path) -> Callable[[tuple[Any, ...], dict[str, Any]], Any]:
        """Return what makes the calls of a guarded method.

        Args:
            path: Names of the attributes that lead to it, with those of views.
        """
        view = next((name for name in path if name in VIEWS), None)
        if view == "with_streaming_response":
            return self._streaming(path)
        awaited = self.protocol.is_awaited(*_split(path))
        raw = self._araw(path) if awaited else self._raw(path)
        if view is not None:
            return raw
        is_embedding = self.protocol.is_embedding(*_split(path))
        has_views = self.protocol.has_views

        def call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if has_views and "extra_headers" in kwargs and is_raw(kwargs):
                return raw(args, kwargs)
            return self._guarded(path, kwargs, is_embedding=is_embedding)(*args, **kwargs)

        return call

    def _raw(self, path: Path) -> Callable[[tuple[Any, ...], dict[str, Any]], Any]:
        is_embedding = self.protocol.is_embedding(*_split(path))

        def call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            guarded = self._guarded(path, kwargs, is_embedding=is_embedding)
            with KeepingRaw() as kept:
                held = guarded(*args, **kwargs)
            return kept.answer_with(held)

        return call

    def _araw(self, path: Path) -> Callable[[tuple[Any, ...], dict[str, Any]], Any]:
        is_embedding = self.protocol.is_embedding(*_split(path))

        async def call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            guarded = self._guarded(path, kwargs, is_embedding=is_embedding)
            with KeepingRaw() as kept:
                held = await guarded(*args, **kwargs)
            return kept.answer_with(held)

        return call

    def _streaming(self, path: Path) -> Callable[[tuple[Any, ...], dict[str, Any]], Any]:
        """Return the same for answers whose body is read by the caller: guarded to the headers."""
        package = type(self.first).__module__.partition(".")[0]
        responses: Any = import_module(f"{package}._response")
        is_embedding = self.protocol.is_embedding(*_split(path))
        awaited = self.protocol.is_awaited(*_split(path))

        def call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            guarded = self._guarded(path, kwargs, is_embedding=is_embedding)
            if awaited:
                return responses.AsyncResponseContextManager(guarded(*args, **kwargs))
            return responses.ResponseContextManager(lambda: guarded(*args, **kwargs))

        return call

    def _guarded(
        self, path: Path, kwargs: dict[str, Any], *, is_embedding: bool
    ) -> Callable[..., Any]:
        """Return a method under the policy that a call chose, and take ``model`` from the call.

        Raises:
            ValueError: If the model is none that can be called, or if a credential would reach
                more than one provider.
        """
        model = kwargs.pop("model", OMITTED)
        if model is not OMITTED and not is_given(model):
            model = OMITTED
        if model == "auto" and not is_embedding:
            selection = CHAIN
        else:
            choose = select_embedding if is_embedding else select
            selection = choose(model, self.policy.chain, self._keys)
        if not selection.is_pinned and self.protocol.has_credential(kwargs):
            raise ValueError(
                "a header of this call holds a credential, which every provider of the chain would "
                "be sent: give it to the client of one provider, or name one target in model="
            )
        return self._guards.get((path, selection)) or self._guard(path, selection)

    def _guard(self, path: Path, selection: Selection) -> Callable[..., Any]:
        """Return a method under a policy, and keep it."""
        policy = self._policy_for(selection)
        guard: Any = policy(self._attempt(path))
        with self._lock:
            if len(self._guards) >= MOST_POLICIES:
                del self._guards[next(iter(self._guards))]
            return self._guards.setdefault((path, selection), guard)

    def _policy_for(self, selection: Selection) -> Failover:
        policy = self.policy
        if selection.kind == "alias":
            return policy.using(chain=selection.value)
        if selection.kind == "only":
            return policy.using(chain=list(selection.value))
        if selection.kind == "chain":
            return policy
        changes: dict[str, Any] = {"chain": Plan(plan_of(policy).entries, leading=selection.value)}
        strategy: Any = policy._declared.options.strategy
        if callable(strategy) and not isinstance(strategy, Sticky):
            changes["strategy"] = _leading(selection.value, strategy)
        return policy.using(**changes)

    # Attempts.

    def _attempt(self, path: Path) -> Callable[..., Any]:
        """Return the function that calls a method of the client of one target."""
        if not self.protocol.is_awaited(*_split(path)):
            attempt = self._sync_attempt(path)
        elif self.protocol.gives_manager(*_split(path)):
            attempt = self._manager_attempt(path)
        else:
            attempt = self._async_attempt(path)
        attempt.__module__ = self.protocol.name
        attempt.__name__ = path[-1]
        attempt.__qualname__ = ".".join(path)
        return attempt

    def _sync_attempt(self, path: Path) -> Callable[..., Any]:
        is_streaming = "with_streaming_response" in path

        def attempt(_target: Target, /, *args: Any, _attempt: Attempt, **kwargs: Any) -> Any:
            with Unwrapping() as raw:
                method, arguments = self._prepared(path, _target, kwargs, _attempt.remaining)
                answer = method(*args, **arguments)
                if is_streaming:
                    return answer.__enter__()  # the caller's block closes what this gives
                return raw.keep(answer.parse(), answer) if raw.is_raw else answer

        return attempt

    def _manager_attempt(self, path: Path) -> Callable[..., Any]:
        def attempt(_target: Target, /, *args: Any, **kwargs: Any) -> Any:
            method, arguments = self._prepared(path, _target, kwargs, None)
            return method(*args, **arguments)

        return attempt

    def _async_attempt(self, path: Path) -> Callable[..., Any]:
        is_streaming = "with_streaming_response" in path

        async def attempt(_target: Target, /, *args: Any, **kwargs: Any) -> Any:
            with Unwrapping() as raw:
                method, arguments = self._prepared(path, _target, kwargs, None)
                if is_streaming:
                    return await method(*args, **arguments).__aenter__()
                answer = await method(*args, **arguments)
                if not raw.is_raw:
                    return answer
                held: Any = answer.parse()
                if inspect.isawaitable(held):
                    held = await held
                return raw.keep(held, answer)

        return attempt

    def _prepared(
        self, path: Path, target: Target, kwargs: dict[str, Any], remaining: float | None
    ) -> tuple[Callable[..., Any], dict[str, Any]]:
        """Return the method of a target's client, and the arguments of one attempt.

        Raises:
            CallRejectedError: If the target has no client, or its client no such method.
        """
        client = self._clients.get(target.provider_key)
        if client is None:
            raise CallRejectedError(target.key, "no_client")
        try:
            method = _at(client, path)
        except AttributeError:
            raise CallRejectedError(target.key, "no_such_method") from None
        arguments = self.protocol.prepare({**kwargs, "model": target.model})
        if remaining is not None:
            arguments = self.protocol.limited(client, arguments, remaining)
        return method, arguments


def _at(holder: Any, path: Path) -> Any:
    for name in path:
        holder = getattr(holder, name)
    return holder


def _split(path: Path) -> tuple[str, str]:
    """Return the path of a resource, and the name of its method, without views."""
    names = [name for name in path if name not in VIEWS]
    return ".".join(names[:-1]), names[-1]


def _leading(model: str, strategy: Callable[..., Any]) -> Callable[..., Any]:
    """Return a strategy of a user with the targets of a model before all others."""

    def led(given: Iterable[Target]) -> list[Target]:
        return sorted(given, key=lambda target: target.model != model)

    def with_targets(targets: Sequence[Target]) -> list[Target]:
        return led(strategy(targets))

    def with_call(targets: Sequence[Target], call: StrategyCall) -> list[Target]:
        return led(strategy(targets, call))

    return with_call if takes_call(strategy) else with_targets


def _is_change(value: Any) -> bool:
    """Return whether an option of a copy says anything."""
    return is_given(value) and value is not None and value != {} and value != ()


def _attempts(retries: Any) -> int:
    if not isinstance(retries, int) or isinstance(retries, bool) or retries < 0:
        said = retries if isinstance(retries, (int, float)) else f"of type {type(retries).__name__}"
        raise ConfigurationError(f"max_retries={said}: expected a whole number of at least 0")
    return retries + 1
