"""`Expansions`: the callers of one function, one for each chain that its policy can mean.

A policy may say its chain in names and routes, and a configuration file may have options for its
targets. Then only a call knows its targets. There is a `Caller` for each expansion of the chain
that calls have met in the present state of the process; each reads one state, so that a call never
has the chain of one and the settings of another.

If all calls of a function have the same targets, its wrapper has the code of their caller, and a
healthy call costs what it costs with a chain of targets. When other targets take their place, the
wrapper gets other code, whose globals have names of their own: calls that run the code of before
end with the caller that they began with.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Final, Self

from resilient_llm._binding.caller import Caller
from resilient_llm._binding.injection import keeps_limits
from resilient_llm._binding.invoking import lost_params
from resilient_llm._binding.wrapper_code import Kind, generate
from resilient_llm._runtime.configuration import PROCESS
from resilient_llm._runtime.names import expanded
from resilient_llm._runtime.profiles import open_blocks, profile_here
from resilient_llm._runtime.runtime import runtime
from resilient_llm._runtime.spending import present_key
from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.names import unknown_in
from resilient_llm._values.plan import Route
from resilient_llm._values.target import Target

if TYPE_CHECKING:
    import types
    from collections.abc import Callable

    from resilient_llm._binding.binding import Binding
    from resilient_llm._binding.injection import Injection
    from resilient_llm._drive.session import Suspended
    from resilient_llm._runtime.configuration import InForce, Process
    from resilient_llm._values.plan import Plan
    from resilient_llm._values.policy import Declared
    from resilient_llm._values.settings import Settings

_AS_PASSED: Final = Kind(order="passed")
_WITH_MODEL: Final = "model"
"""After the choices of a call whose own ``model=`` gives way to that of its target."""


def unusable_options(target: Target, injection: Injection) -> dict[str, Any]:
    """Return the options of a target that a function cannot use, each without what it cannot."""
    changes: dict[str, Any] = {}
    if not keeps_limits(injection, (target,), None):
        changes["attempt_timeout"] = None
    lost = lost_params(target, injection)
    if lost:
        params = target.options()["params"]
        changes["params"] = {name: params[name] for name in params if name not in lost}
    return changes


class _Undecided(Exception):  # noqa: N818  # it is no error
    """A route that an expansion meets and whose choice is not known."""

    def __init__(self, route: Route) -> None:
        self.route = route


class _Known:
    """What is known of the expansions in one state of the process.

    Attributes:
        in_force: The state.
        under: ``{profile: {choices: the caller, or the next route to ask}}``. Choices are the
            rule that each route took which a call met, in order; None for no rule.
    """

    __slots__ = ("in_force", "under")

    def __init__(self, in_force: InForce) -> None:
        self.in_force = in_force
        self.under: dict[Any, dict[tuple[Any, ...], Caller | Route]] = {}


class Expansions:
    """The callers of one function under one policy."""

    def __init__(self, declared: Declared, injection: Injection) -> None:
        self.declared = declared
        self.injection = injection
        self.usual: Caller | None = None
        """The caller of all calls outside of profile blocks; None if a call has to find out."""
        self._known: _Known | None = None
        self._wrapper: weakref.ref[types.FunctionType] | None = None
        self._front: tuple[types.CodeType, str] | None = None
        """Code of a wrapper that leaves every call to `enter`, and the prefix of its globals."""
        self._owner: Caller | None = None
        """The caller whose code the wrapper has."""
        self._is_giving = False
        """Whether the wrapper is just given other code, on this thread."""
        self._count = 0
        """The highest number that code of the wrapper had."""
        self.free_numbers: list[int] = []
        """Lower ones whose code is gone; finalisers append to it."""
        self.enter = self._entry()
        """The method that makes a call, given its arguments."""

    # Calls.

    def _entry(self) -> Callable[..., Any]:
        if self.injection.gives_items:
            return self.stream
        if not self.injection.is_async:
            return self._call
        # A function that is passed is called at once, and its call starts when it is awaited.
        is_later = self.injection.is_passed and self.declared.plan.is_late
        return self._call_later if is_later else self._call_async

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        caller = self.usual
        if caller is None or open_blocks:
            caller, args, kwargs = self.chosen(args, kwargs)
        return caller.call(args, kwargs)

    def _call_async(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        caller = self.usual
        if caller is None or open_blocks:
            caller, args, kwargs = self.chosen(args, kwargs)
        return caller.call_async(args, kwargs)

    async def _call_later(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return await self._call_async(args, kwargs)

    def stream(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return an iterator that makes one call when its first item is asked for."""
        key = present_key.get()

        def start() -> Suspended:
            caller, own_args, own_kwargs = self.chosen(args, kwargs)
            return caller.start_stream(own_args, own_kwargs, key)

        if self.injection.gives_items == "sync":
            from resilient_llm._drive import streams

            return streams.StreamSession(start).present()
        from resilient_llm._drive import astreams

        return astreams.StreamSession(start).present()

    def chosen(
        self, args: tuple[Any, ...] | None, kwargs: dict[str, Any]
    ) -> tuple[Caller, Any, dict[str, Any]]:
        """Return the caller of a call that starts now, and the arguments that it is given.

        Args:
            args: Its positional arguments; None in the loop form, which has no arguments.
            kwargs: Its keyword arguments.

        Raises:
            ConfigurationError: If a name in the chain is not defined.
        """
        profile, usual = profile_here(), self.usual
        if usual is not None and profile is PROCESS:
            return usual, args, kwargs
        known = self._present()
        found = self._root(known, profile)
        if isinstance(found, Caller):
            return found, args, kwargs
        from resilient_llm._binding.routing import CallFacts  # loaded with the first route

        under, choices = known.under[profile], ()
        facts = CallFacts(self.injection, args, kwargs)
        while isinstance(found, Route):
            choices = (*choices, facts.choose(found))
            found = under.get(choices) or self._learn(known, profile, choices)
        if facts.uses_model:
            args, kwargs = facts.arguments_without_model()
            if facts.replaces_model:
                key = (*choices, _WITH_MODEL)
                found = under.get(key) or self._with_model(known, profile, key, found)
                assert isinstance(found, Caller)
        return found, args, kwargs

    # Callers.

    def _present(self) -> _Known:
        """Return what is known in the present state; what was known before is taken over."""
        known = self._known
        if known is not None and known.in_force is runtime.in_force:
            return known
        with runtime.lock:
            before, known = self._known, _Known(runtime.in_force)
            if before is not None:
                if before.in_force is known.in_force:
                    return before
                self._take_over(before, known)
            self._known = known
        return known

    def _take_over(self, before: _Known, known: _Known) -> None:
        """Have callers that all calls had go on, if their targets are the same. Under the lock."""
        for profile, under in list(before.under.items()):
            caller = under.get(())
            if isinstance(caller, Caller) and caller.policy.chain == self._chain(profile):
                caller.in_state = known.in_force
                known.under[profile] = {(): caller}

    def _chain(self, profile: str | Process | None) -> tuple[Target, ...] | None:
        """Return the targets of all calls in the present state; None if there are none."""
        try:
            found = self._expand(runtime.in_force, profile, ())
        except ConfigurationError:  # a name is not defined any more
            return None
        return found if isinstance(found, tuple) else None

    def _root(self, known: _Known, profile: str | Process | None) -> Caller | Route:
        """Return the caller of all calls under a profile, or the first route that chooses it."""
        found = known.under.setdefault(profile, {}).get(()) or self._learn(known, profile, ())
        if profile is PROCESS:
            self._use(known, found)
        return found

    def _learn(
        self, known: _Known, profile: str | Process | None, choices: tuple[int | None, ...]
    ) -> Caller | Route:
        """Find out what follows from choices, and remember it."""
        found = self._expand(known.in_force, profile, choices)
        if isinstance(found, tuple):
            policy = self.declared.policy(found)
            found = Caller(policy, self.injection, self, known.in_force, profile)
        return known.under[profile].setdefault(choices, found)

    def _with_model(
        self, known: _Known, profile: str | Process | None, key: tuple[Any, ...], found: Caller
    ) -> Caller | Route:
        """Return a caller of the same targets that gives each its model as an argument."""
        caller = Caller(found.policy, self.injection, self, known.in_force, profile)
        caller.replace_model()
        return known.under[profile].setdefault(key, caller)

    def _expand(
        self, in_force: InForce, profile: str | Process | None, choices: tuple[int | None, ...]
    ) -> tuple[Target, ...] | Route:
        """Return the targets that follow from choices, or the next route that has to choose."""
        left = list(choices)

        def choose(route: Route) -> Plan:
            if not left:
                raise _Undecided(route)
            rule = left.pop(0)
            return route.otherwise_plan if rule is None else route.rules[rule].plan

        try:
            chain = expanded(self.declared.plan, in_force, profile, choose)
        except _Undecided as undecided:
            return undecided.route
        own = set(self.declared.plan.entries)
        return tuple(each if each in own else self._usable(each) for each in chain)

    def _usable(self, target: Target) -> Target:
        """Return a target of a name or a file without options that the function cannot use.

        An edit of a file must not stop a service, so calls ignore these, and ``chains.check``
        lists them.
        """
        changes = unusable_options(target, self.injection)
        return Target(target.spec, **{**target.options(), **changes}) if changes else target

    def settings_for(self, caller: Binding) -> Settings:
        """Return the settings with which a caller is bound now.

        Those of the present state, if its calls have these targets there, too.
        """
        if caller.in_state is not runtime.in_force:
            self._present()  # which takes it over then
        return caller.in_state.settings_under(caller.profile)

    def unbind(self) -> None:
        """Have the next call find out its caller; called with the runtime's lock held."""
        self.usual = None

    def _use(self, known: _Known, found: Caller | Route) -> None:
        """Have a caller make all calls, and the wrapper have its code; or each call find out."""
        caller = found if isinstance(found, Caller) else None
        if caller is self._owner and caller is self.usual:
            return
        if self._wrapper is not None and caller is not self._owner and caller is not None:
            caller.prepare_code()  # compiled without the lock
        with runtime.lock:
            # A signal handler may define names, and call the function, in the midst of this.
            if self._is_giving or known.in_force is not runtime.in_force:
                return
            try:
                self._is_giving = True
                if caller is not self._owner:
                    self._give_wrapper(caller)
            finally:
                self._is_giving = False
            runtime.bind(self)
            # Nothing is called between the question and the store, so that no handler is, either.
            if caller is not None and known.in_force is runtime.in_force:
                self.usual = caller

    # The wrapper.

    def caller_now(self) -> Caller | None:
        """Return the caller of all calls in the present state; None if each has to find out."""
        plan = self.declared.plan
        if plan.is_late and unknown_in(plan, runtime.in_force.chains_under(PROCESS)):
            return None
        found = self._root(self._present(), PROCESS)
        return found if isinstance(found, Caller) else None

    def own(self, wrapper: types.FunctionType) -> None:
        """Give a wrapper the code of the caller of all calls, whenever that is another one."""
        self._wrapper = weakref.ref(wrapper)

    def front(self) -> tuple[types.CodeType, dict[str, Any]]:
        """Return code that leaves every call to `enter`, and its globals."""
        if self._front is None:
            self._front = generate(self.injection, _AS_PASSED, self.next_number())[:2]
        code, prefix = self._front
        module = getattr(self.injection.fn, "__module__", __name__)
        own = {"__builtins__": __builtins__, "__name__": module}
        return code, {**own, f"{prefix}entry": self.enter}

    def _give_wrapper(self, caller: Caller | None) -> None:
        """Give the wrapper the code of another caller, or of none. Called under the lock."""
        wrapper = None if self._wrapper is None else self._wrapper()
        if wrapper is not None:
            if self._owner is not None:
                self._owner.retire()
            if caller is not None:
                caller.adopt(wrapper)
            else:
                code, needed = self.front()
                wrapper.__globals__.update(needed)
                wrapper.__code__ = code
        self._owner = caller  # last: after an interrupt before this line, it is given once more

    def next_number(self) -> int:
        """Return a number for globals of the wrapper that no other code of it has."""
        with runtime.lock:
            if self.free_numbers:
                return self.free_numbers.pop()
            self._count += 1
            return self._count

    # Sent to another process.

    def __reduce__(self) -> tuple[Any, ...]:
        wrapper = None if self._wrapper is None else self._wrapper()
        return Expansions._revived, (self.declared, self.injection, wrapper, self._count)

    @classmethod
    def _revived(
        cls,
        declared: Declared,
        injection: Injection,
        wrapper: types.FunctionType | None,
        count: int,
    ) -> Self:
        """Return what an unpickled wrapper needs, of the process that it has come to."""
        expansions = cls(declared, injection)
        expansions._count = count
        if wrapper is not None:
            expansions.own(wrapper)
        return expansions
