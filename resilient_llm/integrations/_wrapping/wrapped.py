"""`WrappedClients`: the clients behind one wrapped client, its policies and its guarded methods.

It owns the policies that a ``model=`` stands for. They are made when a call first needs them and
kept for later calls, as many as `MOST_POLICIES`.
"""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from resilient_llm._runtime.names import targets_here
from resilient_llm._runtime.profiles import open_blocks
from resilient_llm._runtime.runtime import runtime
from resilient_llm._values.chain import plan_of
from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.plan import Plan
from resilient_llm._values.sticky import Sticky
from resilient_llm._values.strategy_call import StrategyCall, takes_call
from resilient_llm._values.stream_policy import StreamPolicy
from resilient_llm.integrations._wrapping.attempts import Attempts, Path, at, split
from resilient_llm.integrations._wrapping.protocols import VIEWS, is_given
from resilient_llm.integrations._wrapping.raw_responses import KeepingRaw, is_raw
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
    from resilient_llm._values.target import Target
    from resilient_llm.integrations._wrapping.protocols import Protocol

MOST_POLICIES: Final = 256
"""Guarded methods with a policy of their own that are kept."""
_MOST_NAMED: Final = 4
"""Keys of clients in the name of a guarded method."""


class _Shape(NamedTuple):
    """What the calls have in common that one guarded method makes.

    Attributes:
        path: Names of the attributes that lead to the method, with those of views.
        selection: What its ``model=`` stands for.
        is_limited: Whether its attempts are told how long they may take.
        is_stream: Whether it asks for a stream.
    """

    path: Path
    selection: Selection
    is_limited: bool = True
    is_stream: bool = False


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
        self._attempts = Attempts(protocol, self._clients)
        self._guards: dict[_Shape, Callable[..., Any]] = {}
        """``{shape of a call: its method under the policy of that}``"""
        self._limits: tuple[Any, bool] | None = None
        """``(state of the process, whether a limit may hold for an attempt in it)``"""

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
        patched = self.protocol.patched(client) if retries and not is_quiet else None
        if patched is not None and log_line is not None:
            log_line(
                f"{patched} of the client of {key} was replaced on that object, and its copy does "
                "not have that: build the client with max_retries=0, so that no copy is needed",
                warning=True,
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
        self._guard(_Shape((*path.split("."), methods[0]), CHAIN))

    def original_at(self, path: Path) -> Any:
        """Return a resource of the first client that has it.

        Raises:
            AttributeError: If none has it.
        """
        failed: AttributeError | None = None
        for client in self.originals.values():
            try:
                return at(client, path)
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
            policy = policy.using(attempts=_attempts(changes["max_retries"]))
        clients = {
            key: client.with_options(**changes) if changes else client
            for key, client in self.originals.items()
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
        awaited = self.protocol.is_awaited(*split(path))
        raw = self._araw(path) if awaited else self._raw(path)
        if view is not None:
            return raw
        is_embedding = self.protocol.is_embedding(*split(path))
        has_views = self.protocol.has_views

        def call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if has_views and "extra_headers" in kwargs and is_raw(kwargs):
                return raw(args, kwargs)
            return self._guarded(path, kwargs, is_embedding=is_embedding)(*args, **kwargs)

        return call

    def _raw(self, path: Path) -> Callable[[tuple[Any, ...], dict[str, Any]], Any]:
        is_embedding = self.protocol.is_embedding(*split(path))

        def call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            guarded = self._guarded(path, kwargs, is_embedding=is_embedding)
            with KeepingRaw() as kept:
                held = guarded(*args, **kwargs)
            return kept.answer_with(held)

        return call

    def _araw(self, path: Path) -> Callable[[tuple[Any, ...], dict[str, Any]], Any]:
        is_embedding = self.protocol.is_embedding(*split(path))

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
        is_embedding = self.protocol.is_embedding(*split(path))
        awaited = self.protocol.is_awaited(*split(path))

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
        if "config" in kwargs:
            kwargs.update(self.protocol.checked(path[-1], kwargs))
        model = kwargs.pop("model", OMITTED)
        if model is not OMITTED and not is_given(model):
            model = OMITTED
        if model == "auto" and not is_embedding:
            selection = CHAIN
        else:
            choose = select_embedding if is_embedding else select
            selection = choose(model, self.policy.chain, self._keys)
        self._check(path, selection)
        if not selection.is_pinned and self.protocol.has_credential(kwargs):
            raise ValueError(
                "a header of this call holds a credential, which every provider of the chain would "
                "be sent: give it to the client of one provider, or name one target in model="
            )
        is_limited = not self._attempts.is_told(path) or self._has_limits(selection)
        is_stream = self.protocol.gives_stream(path[-1], kwargs)
        shape = _Shape(path, selection, is_limited, is_stream)
        return self._guards.get(shape) or self._guard(shape)

    def _check(self, path: Path, selection: Selection) -> None:
        """Refuse a call for what only the call can tell.

        Raises:
            ConfigurationError: If a name stands for a target with a ``call=``.
            ValueError: If a name stands for targets without a client.
            AttributeError: If the client that a call is pinned to lacks the method.
        """
        if selection.is_pinned:
            at(self._clients[selection.value[0].provider_key], path)
        elif selection.kind == "alias" or self.policy._declared.plan.is_late:
            chain = selection.value if selection.kind == "alias" else self.policy
            targets = targets_here(chain)
            refuse_calls(targets)
            if not any(target.provider_key in self._clients for target in targets):
                raise ValueError(
                    f"none of the targets of {selection.value or 'the chain'} has a client: there "
                    f"is {', '.join(map(repr, self._keys))}"
                )

    def _has_limits(self, selection: Selection) -> bool:
        """Return whether a limit may hold for the attempts of a call that starts now.

        An attempt that is told of its limit takes longer to begin.
        """
        if open_blocks or selection.kind in ("alias", "only"):
            return True
        known, state = self._limits, runtime.in_force
        if known is None or known[0] is not state:
            policy = self.policy
            options = policy._declared.options_under(state.settings)
            has_any = (
                policy._declared.plan.is_late
                or options.timeout is not None
                or options.attempt_timeout is not None
                or any(target.attempt_timeout is not None for target in policy.chain)
            )
            known = self._limits = state, has_any
        return known[1]

    def _guard(self, shape: _Shape) -> Callable[..., Any]:
        """Return a method under the policy of a call, and keep it."""
        policy = self._policy_for(shape.selection)
        if not shape.is_stream and policy._declared.options.stream is not None:
            # The call says that it wants a whole answer, so limits of streams do not concern it.
            policy = policy.using(stream=StreamPolicy())
        if self.protocol.gives_manager(*split(shape.path)):
            policy = policy.using(hedge=None)  # two managers cannot race: neither has begun
        attempt = self._attempts.function(shape.path, is_told=shape.is_limited)
        # What metrics call it: two wrapped clients of one SDK are told apart.
        attempt.__module__ = f"wrap[{shortened(self._keys)}]"
        guard: Any = policy(attempt)
        # Without a lock, which a child of another thread's fork would never get.
        guards = self._guards
        while len(guards) >= MOST_POLICIES:
            with suppress(KeyError, RuntimeError, StopIteration):  # another thread was faster
                del guards[next(iter(guards))]
        return guards.setdefault(shape, guard)

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


def refuse_calls(targets: Iterable[Target]) -> None:
    """Refuse targets that would be called instead of a client.

    Raises:
        ConfigurationError: If there is one.
    """
    for target in targets:
        if target.call is not None:
            raise ConfigurationError(
                f"target {target.key!r} has a call= of its own, which a wrapped client would not "
                "use: leave it out"
            )


def shortened(keys: Sequence[str]) -> str:
    """Return keys of clients for the name of a method, the first of many."""
    more = f",+{len(keys) - _MOST_NAMED}" if len(keys) > _MOST_NAMED else ""
    return ",".join(keys[:_MOST_NAMED]) + more


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
