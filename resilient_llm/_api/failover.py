"""`failover` and `Failover`: one policy, as decorator, as call and as loop."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    ParamSpec,
    Protocol,
    TypeVar,
    Unpack,
    overload,
)

from resilient_llm._binding.callers import Callers
from resilient_llm._binding.client_retries import warn_of_client_retries
from resilient_llm._binding.wrapper import guarded_function
from resilient_llm._runtime.chains import note_policy
from resilient_llm._runtime.names import targets_here
from resilient_llm._runtime.runtime import runtime
from resilient_llm._values.chain import Chain, plan_of
from resilient_llm._values.errors import ResilientLLMError
from resilient_llm._values.exported import exported
from resilient_llm._values.policy import (
    BUILT_IN,
    CHECKS,
    Declared,
    FailoverOptions,
    Policy,
    PolicyOptions,
    warn_of_attempts,
)
from resilient_llm._values.target import Target
from resilient_llm.strategies import by_priority

if TYPE_CHECKING:
    from resilient_llm._binding.loop import AsyncAttempts, SyncAttempts

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
S = TypeVar("S", contravariant=True)
T = TypeVar("T")


class Guarded(Protocol[P, R_co]):
    """A function under a policy: called like the function, with ``.policy`` and ``.using``."""

    @property
    def policy(self) -> Failover: ...
    @property
    def __name__(self) -> str: ...
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    def using(self, **changes: Unpack[PolicyOptions]) -> Guarded[P, R_co]: ...


class BoundMethod(Protocol[S, P, R_co]):
    """A method under a policy, bound to its object. The copy that ``.using`` gives is not."""

    @property
    def policy(self) -> Failover: ...
    @property
    def __name__(self) -> str: ...
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    def using(self, **changes: Unpack[PolicyOptions]) -> GuardedMethod[S, P, R_co]: ...


class BoundClassMethod(Protocol[S, P, R_co]):
    """A class method under a policy. The copy that ``.using`` gives takes the class first."""

    @property
    def policy(self) -> Failover: ...
    @property
    def __name__(self) -> str: ...
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    def using(self, **changes: Unpack[PolicyOptions]) -> GuardedClassMethod[S, P, R_co]: ...


class GuardedMethod(Protocol[S, P, R_co]):
    """A method under a policy. At run time it is a function, which binds by itself."""

    @property
    def policy(self) -> Failover: ...
    @property
    def __name__(self) -> str: ...
    def __call__(self, instance: S, /, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    def using(self, **changes: Unpack[PolicyOptions]) -> GuardedMethod[S, P, R_co]: ...
    @overload
    def __get__(self, instance: None, owner: type, /) -> GuardedMethod[S, P, R_co]: ...
    @overload
    def __get__(self, instance: S, owner: type | None = None, /) -> BoundMethod[S, P, R_co]: ...


class GuardedClassMethod(Protocol[S, P, R_co]):
    """A method under a policy for ``@classmethod``, bound on access to class and instance."""

    @property
    def policy(self) -> Failover: ...
    @property
    def __name__(self) -> str: ...
    def __call__(self, cls: type[S], /, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    def using(self, **changes: Unpack[PolicyOptions]) -> GuardedClassMethod[S, P, R_co]: ...
    def __get__(
        self, instance: object, owner: type | None = None, /
    ) -> BoundClassMethod[S, P, R_co]: ...


class GuardedByName(Protocol[P, R_co]):
    """A function or method that is given its target by name."""

    @property
    def policy(self) -> Failover: ...
    @property
    def __name__(self) -> str: ...
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    def using(self, **changes: Unpack[PolicyOptions]) -> GuardedByName[P, R_co]: ...
    @overload
    def __get__(self, instance: None, owner: type, /) -> GuardedByName[P, R_co]: ...
    @overload
    def __get__(
        self: GuardedByName[Concatenate[T, Q], R_co], instance: T, owner: type | None = None, /
    ) -> BoundMethod[T, Q, R_co]: ...


@exported
class Failover:
    """A policy: a chain of targets and what to do when one of them fails.

    A policy is made by `failover`. It is a decorator; ``policy.call`` calls any function;
    ``async for attempt in policy`` runs the body of a loop as attempts; and
    ``policy.using(**changes)`` is a copy with other options. It is immutable, and any number of
    threads and tasks may use it at once.

    Examples:
        >>> policy = failover(chain=["groq/llama-3.3-70b", "openai/gpt-5-mini"], attempts=2)
        >>> policy.call(lambda *, model: client.complete(model, "Hello"))
        'Hello!'
    """

    def __init__(
        self, chain: Chain, given: Mapping[str, Any], like: Declared | None = None
    ) -> None:
        self._plan = plan_of(chain)
        self._given = dict(given)
        self._declared = Declared(self._plan, given, by_priority, like)
        self._callers = Callers(self._declared)
        note_policy(self)
        attempts = self._declared.options_under(runtime.settings).attempts
        for target in self._plan.targets:
            circuit = runtime.registry.find(target.key)
            breaker = (
                runtime.settings.for_key(target.key, {}) if circuit is None else circuit.settings
            )
            if breaker.mode == "enforce":
                warn_of_attempts(attempts, breaker.failures, target.key)
            warn_of_client_retries(target)

    @property
    def chain(self) -> tuple[Target, ...]:
        """The targets of a call that would start here and now, in declared order.

        For a route these are all targets that the route can choose.

        Raises:
            ConfigurationError: If a name in the chain is not defined.
        """
        return targets_here(self._plan)

    @property
    def _policy(self) -> Policy:
        """What calls that start here read."""
        return self._declared.policy(self.chain)

    # As decorator.

    @overload
    def __call__(self, fn: Callable[Concatenate[Target, P], R], /) -> Guarded[P, R]: ...  # pyright: ignore[reportOverlappingOverload]  # the first that fits is meant
    @overload
    def __call__(
        self, fn: Callable[Concatenate[type[T], Target, P], R], /
    ) -> GuardedClassMethod[T, P, R]: ...
    @overload
    def __call__(self, fn: Callable[Concatenate[T, Target, P], R], /) -> GuardedMethod[T, P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> GuardedByName[P, R]: ...
    def __call__(self, fn: Any, /) -> Any:
        """Decorate a function, method, partial or callable object.

        Raises:
            ConfigurationError: If it cannot be guarded, or is given no target.
        """
        if isinstance(fn, (classmethod, staticmethod)):
            inner: Any = fn.__func__  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]  # users' input
            wrapper = guarded_function(self, inner)
            return classmethod(wrapper) if isinstance(fn, classmethod) else staticmethod(wrapper)
        return guarded_function(self, fn)

    # As call.

    @overload
    def call(
        self, fn: Callable[Concatenate[Target, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R: ...
    @overload
    def call(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    def call(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a function under this policy, and return its result.

        If the function is asynchronous, the result is an awaitable.

        Args:
            fn: The function; its target is filled in as by the decorator.
            *args: Its positional arguments.
            **kwargs: Its keyword arguments.

        Raises:
            ConfigurationError: If it cannot be guarded, or is given no target.
        """
        try:
            return self._callers.call(fn, args, kwargs)
        except ResilientLLMError as error:
            from resilient_llm._drive.sync import trim  # loaded by the call

            trim(error)
            raise

    def using(self, **changes: Unpack[PolicyOptions]) -> Failover:
        """Return a copy with other options.

        Args:
            **changes: Options of `failover`, ``chain`` included; the others stay.

        Raises:
            ConfigurationError: If a name is unknown or a value is out of range.
        """
        given: dict[str, Any] = {**self._given, **changes}
        return Failover(given.pop("chain", self._plan), given, self._declared)

    # As loop.

    def __iter__(self) -> SyncAttempts:
        from resilient_llm._binding.loop import SyncAttempts

        return SyncAttempts(self._callers.loop(is_async=False))

    def __aiter__(self) -> AsyncAttempts:
        from resilient_llm._binding.loop import AsyncAttempts

        return AsyncAttempts(self._callers.loop(is_async=True))

    def __repr__(self) -> str:
        return f"Failover({', '.join(self._plan.shown)})"

    def __reduce__(self) -> tuple[Any, ...]:
        chain = self._plan.written if self._plan.leading is None else self._plan
        return Failover, (chain, self._given)

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Pickles of earlier releases hold the attributes that the class had then.
        self.__init__(state["chain"], state["_given"])


def failover(chain: Chain = "@default", **options: Unpack[FailoverOptions]) -> Failover:
    """Return a policy that calls the targets of a chain until one answers.

    Examples:
        >>> @failover(chain=["groq/llama-3.3-70b", "openai/gpt-5-mini"])
        ... async def ask(target: Target, prompt: str) -> str: ...

    Args:
        chain: The targets, as a `Chain`: for example ``"provider/model"``, a `Target`, ``"@name"``
            of `resilient_llm.chains`, or a list of these. It is flattened, and the order is kept.
            Each call looks up names and routes when it starts.
        attempts: Attempts per target, the first included, 1 or more.
        max_attempts: Attempts per call over all targets, or None for no limit.
        backoff: Wait before a retry: None for full jitter, uniform in
            ``[0, min(10, 0.2 * 2**(n-1))]`` seconds after the n-th attempt; a tenacity wait; or a
            function from n to seconds.
        timeout: Seconds for the whole call: attempts, waits, all targets, and all of a stream.
        attempt_timeout: Seconds for one attempt; for a stream, until its first content.
            Asynchronous attempts are cancelled and streams are cut off; other synchronous
            functions must take a parameter annotated `Attempt` and apply its ``remaining``.
        cooldown: Seconds of the first bench, for targets whose circuit does not set it.
        strategy: How targets are ordered: ``"priority"``, ``"round_robin"``, ``"random"``,
            ``"weighted"``, ``"least_cost"``, ``"least_latency"``, ``"least_busy"``,
            ``strategies.sticky(key)``, or a function that takes the targets, and optionally the
            `StrategyCall`, and returns targets in order.
        adaptive: Whether targets that became slow or faulty move behind the others: True, False,
            or `Adaptive` with other limits.
        hedge: Seconds, or a percentile such as ``"p95"`` of the target's latency, after which a
            second attempt starts beside one that has not answered; None for never. Only
            asynchronous functions can be hedged. All attempts may be billed.
        max_hedges: Hedges per call, 1 to 10.
        needs: Words for what a call needs of a model, such as ``"tools"``, or a function from
            the call's arguments to words or None.
        tokens: Estimate of a call's input in tokens, or a function from the call's arguments to
            it. Targets with a smaller context window are skipped, and budgets and token limits
            reserve the estimate.
        tool_loop: What happens when the conversation of a call repeats one tool call: ``"off"``
            for no check, ``"warn"`` for the event `ToolLoopDetected`, ``"raise"`` for
            `ToolLoopError` as well, or `ToolLoop` with other numbers.
        usage: Function from an answer, or an item of a stream, to its `Usage`, or to None if it
            does not have one; for a stream the last one counts. By default the formats of the
            SDKs are read.
        reject: Function that validates each answer, or the first item with content of a stream.
            It returns None or False for a good one, else True, a word of up to 40 characters, an
            `ErrorKind` or a `Verdict`.
        classify: Function that classifies an error before every rule, or returns None.
        on_request_error: Whether a request error tries the next target, ``"next"``, or is raised.
        on_content_policy: The same for a content-policy refusal.
        on_unknown: The same for an error that no rule recognises; ``"transient"`` retries it.
        on_down: Whether benched targets are skipped, ``"skip"``, or tried after all others have
            failed, ``"demote"``.
        when_all_benched: What a call does when every target is benched: ``"soonest"`` tries each
            of them once, ``"wait"`` waits for the soonest, ``"raise"`` raises.
        reraise: Whether the last target's own error is raised instead of `ChainExhaustedError`.
        stream: Options of guarded streams; None for the defaults of `StreamPolicy`.
        observers: Functions that are called with the events of this policy.

    Raises:
        ConfigurationError: If a value is not allowed; the message lists what is allowed.
    """
    return Failover(chain, options)


def _signature() -> inspect.Signature:
    """Return the signature with all options and their built-in defaults.

    The function itself takes any keyword, because an option that is named wins over
    `configure` even with its built-in value.
    """
    chain, _ = inspect.signature(failover).parameters.values()
    options = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=getattr(BUILT_IN, name),
            annotation=FailoverOptions.__annotations__[name].__forward_arg__,
        )
        for name in CHECKS
    ]
    return inspect.Signature([chain, *options], return_annotation="Failover")


setattr(failover, "__signature__", _signature())  # noqa: B010  # type checkers know no such attribute
