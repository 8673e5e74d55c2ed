"""`Callers`: the callers of one policy for what is not decorated: ``policy.call`` and loops."""

from __future__ import annotations

import weakref
from types import MethodType
from typing import TYPE_CHECKING, Any

from resilient_llm._binding.expansions import Expansions
from resilient_llm._binding.injection import loop_injection
from resilient_llm._binding.tool_loops import check_tool_loop
from resilient_llm._binding.wrapper import checked_injection
from resilient_llm._values.errors import ConfigurationError

if TYPE_CHECKING:
    from resilient_llm._binding.caller import Caller
    from resilient_llm._values.policy import Declared


class Callers:
    """Keeps the callers of each function, as long as the function exists, and for the loops.

    A caller that is kept does not refer to its function, which would then never be collected:
    the function is the first argument of each call. A bound method is a new object at each
    access, so its function stands for it.
    """

    __slots__ = ("_declared", "_known", "_loops")

    def __init__(self, declared: Declared) -> None:
        self._declared = declared
        self._known: dict[tuple[int, bool], tuple[Expansions, weakref.ref[Any]]] = {}
        self._loops: dict[bool, Expansions] = {}

    def call(self, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a function under the policy."""
        is_method = type(fn) is MethodType
        try:
            expansions = self._known[id(fn.__func__ if is_method else fn), is_method][0]
        except KeyError:
            expansions = self._learn(fn, is_method=is_method)
        return expansions.enter((fn, *args), kwargs)

    def _learn(self, fn: Any, *, is_method: bool) -> Expansions:
        expansions = Expansions(self._declared, checked_injection(self._declared, fn).passed())
        held = fn.__func__ if is_method else fn
        known, key = self._known, (id(held), is_method)
        try:
            known[key] = expansions, weakref.ref(held, lambda _: known.pop(key, None))
        except TypeError:
            pass  # it takes no weak references, so its caller is made for each call
        return expansions

    def loop(self, *, is_async: bool) -> Caller:
        """Return the caller of a call in the loop form.

        Raises:
            ConfigurationError: If the policy names a hedge, or wants to know the arguments of a
                call, or if a name in its chain is not defined.
        """
        if callable(self._declared.options.needs):
            raise ConfigurationError(
                "needs is a function of the call's arguments, and a loop has none: write words, "
                "as in needs=('tools',), or decorate a function"
            )
        if self._declared.options.hedge is not None:
            raise ConfigurationError(
                "hedge has no effect in a loop: its block cannot run a second time beside itself, "
                "and a thread that runs it cannot be stopped; decorate an async function"
            )
        expansions = self._loops.get(is_async)
        if expansions is None:
            injection = loop_injection(is_async=is_async)
            check_tool_loop(self._declared.options, injection)
            expansions = self._loops[is_async] = Expansions(self._declared, injection)
        return expansions.chosen(None, {})[0]
