"""`WrapperGlobals`: what the generated wrapper of one function reads for one caller.

Owns the globals of the wrapper that have its caller's prefix, and the wrapper's code while it is
that of this caller.
"""

from __future__ import annotations

import copyreg
import weakref
from bisect import bisect_left
from typing import TYPE_CHECKING, Any, Protocol

from resilient_llm._binding.first_attempt import NoAnswer, PendingAnswer
from resilient_llm._binding.inlined_limits import InlinedLimits, contexts
from resilient_llm._binding.ordering import nothing_drawn
from resilient_llm._binding.wrapper_code import Code, Codes, Kind, generate
from resilient_llm._binding.wrapper_code import variant as variant_of
from resilient_llm._core.base64_text import SHORTEST
from resilient_llm._core.call.spending import AttemptsInside
from resilient_llm._core.circuit.circuit import Circuit
from resilient_llm._core.circuit.window import NEVER
from resilient_llm._core.contents import BARE, size_of
from resilient_llm._core.limits.around import holding
from resilient_llm._core.limits.buckets import ROUNDING, TAKEN
from resilient_llm._core.limits.places import HELD
from resilient_llm._drive.results import is_awaitable
from resilient_llm._runtime import call_ids
from resilient_llm._runtime.runtime import runtime
from resilient_llm._runtime.tracing import has_trace, open_traces

if TYPE_CHECKING:
    import types
    from collections.abc import Callable

    from resilient_llm._binding.injection import Injection
    from resilient_llm._values.policy import Policy
    from resilient_llm._values.settings import Settings
    from resilient_llm._values.target import Target


class Unbound:
    """Stands in an unbound wrapper for a circuit: it never admits a call."""

    slot = None
    shut_until = NEVER


def _unbound() -> Any:
    return Unbound


# Circuits are of one process. A wrapper that is sent to another one by value, as cloudpickle does
# with functions of `__main__`, arrives there unbound. Circuits are pickled by nothing else.
copyreg.pickle(Circuit, lambda _: (_unbound, ()))
copyreg.pickle(InlinedLimits, lambda _: (_unbound, ()))


class AllCallers(Protocol):
    """The callers of one function; see `Expansions`."""

    usual: Any
    enter: Callable[..., Any]

    def stream(self, args: tuple[Any, ...], kwargs: dict[str, Any], /) -> Any: ...
    def chosen(
        self, args: tuple[Any, ...] | None, kwargs: dict[str, Any], /
    ) -> tuple[Any, Any, dict[str, Any]]: ...
    def settings_for(self, caller: Any, /) -> Settings: ...

    free_numbers: list[int]

    def next_number(self) -> int: ...


class WrapperGlobals:
    """What a wrapper reads for one caller of its function."""

    variants = ("",)
    """Prefixes of the circuits that the wrapper's code reads, of all code it had; now the last."""
    candidates: Any
    invokers: dict[str, Callable[..., Any]]
    """``{key: function that calls the target}``"""

    def __init__(self, policy: Policy, injection: Injection, expansions: AllCallers) -> None:
        self.policy = policy
        self.injection = injection
        self.expansions = expansions
        """All callers of the function."""
        self.calls_by_invoker = any(
            target.call is not None or target.params or target.removed for target in policy.chain
        )
        """Whether the wrapper calls its targets through ``invokers``."""
        self.wrapper: dict[str, Any] = {}
        """The wrapper's globals; empty if there is no wrapper."""
        self.prefix = ""
        self.wrapper_function: weakref.ref[types.FunctionType] | None = None
        """The wrapper itself, if there is one."""
        self.plain_type_name = ""
        """What the wrapper calls the class of answers that it need not look at."""
        self.is_retired = False
        """Whether the wrapper had this caller's code, and has that of another one now."""
        self._number = 0
        """That of the code in the names of its globals."""
        self._own_codes: CodesOfNumber | None = None
        """The code of that number; None of the first, which copies of the function share."""
        self._prepared: tuple[int, CodesOfNumber, Codes] | None = None
        """Code that the wrapper has not got yet, with its number. Exchanged in one step: two
        threads may prepare some."""

    def unbind(self) -> None:
        """Send the next call to the caller; called with the runtime's lock held."""
        raise NotImplementedError

    def pass_arguments_on(self) -> None:
        """Have an unbound wrapper pass its arguments on as they are, if a function wants that."""
        raise NotImplementedError

    def _use_code(self, kind: Kind) -> None:
        """Have the wrapper run another kind of code. Called under the lock."""
        wrapper = None if self.wrapper_function is None else self.wrapper_function()
        if wrapper is None:
            return
        code = self._code(kind)[0]
        if wrapper.__code__ is code:
            return
        variant = variant_of(kind)
        # Before the code: a thread may run it at once.
        self._put(numbers=call_ids.call_numbers)
        self._put_circuits(variant, Unbound, Unbound, ())
        self.variants = (*(each for each in self.variants if each != variant), variant)
        # A signal handler may have had another caller take the wrapper over since this began;
        # nothing is called between the question and the store, so that no handler is, either.
        if not self.is_retired:
            wrapper.__code__ = code

    def _put_circuits(
        self,
        variant: str,
        first: Any,
        second: Any,
        others: tuple[tuple[Any, Target], ...],
        draw: Callable[[float], Any] = nothing_drawn,
    ) -> None:
        # The circuit last: once it is there, the wrapper reads the rest.
        self._put(
            **{
                f"{variant}others": others,
                f"{variant}second": second,
                f"{variant}circuit": first,
                f"{variant}draw": draw,
            }
        )

    def _code(self, kind: Kind) -> Code:
        codes: Codes = self.wrapper.setdefault(f"{self.prefix}codes", {})
        if kind not in codes:
            codes[kind] = code = generate(self.injection, kind, self._number)
            if self._own_codes is not None:
                self._own_codes.add(code[0])
        return codes[kind]

    def _put(self, **values: Any) -> None:
        for name, value in values.items():
            self.wrapper[self.prefix + name] = value

    def wrap(self, prefix: str, codes: Codes) -> dict[str, Any]:
        """Return the globals of a wrapper, unbound.

        Args:
            prefix: Of the names of the globals.
            codes: The code that was generated for the function.
        """
        self._name(prefix)
        self.wrapper = {
            "__builtins__": __builtins__,
            "__name__": getattr(self.injection.fn, "__module__", __name__),
        }
        self._put_first(codes)
        return self.wrapper

    def _put_first(self, codes: Codes) -> None:
        """Put what the wrapper reads before it is bound."""
        self._put(
            circuit=Unbound,
            second=Unbound,
            others=(),
            draw=nothing_drawn,
            target=self.policy.chain[0],
            second_target=self.policy.chain[0],
            clock=runtime.clock,
            plain_type=NoAnswer,
            look_at=NEVER,
            target_counts=None,
            codes=codes,
            **self._constants(),
        )

    def prepare_code(self) -> None:
        """Generate the code of a wrapper that had the code of another caller."""
        if self._prepared is None:
            kind, number = Kind(self.calls_by_invoker), self.expansions.next_number()
            own = CodesOfNumber(number, self.expansions.free_numbers)
            code = generate(self.injection, kind, number)
            own.add(code[0])
            self._prepared = number, own, {kind: code}

    def adopt(self, wrapper: types.FunctionType) -> None:
        """Give a wrapper the prepared code. Called under the runtime's lock."""
        self.prepare_code()
        assert self._prepared is not None
        (self._number, self._own_codes, codes), self._prepared = self._prepared, None
        ((code, prefix, _, _),) = codes.values()
        self._name(prefix)
        self.wrapper, self.wrapper_function = wrapper.__globals__, weakref.ref(wrapper)
        self._put_first(codes)
        self.candidates = None  # the next call binds it, and puts in what the code reads
        wrapper.__code__ = code
        self.pass_arguments_on()

    def retire(self) -> None:
        """Leave the wrapper to another caller. Called under the runtime's lock.

        Calls that run this caller's code go on with it, and what that reads stays until the last
        of them is over.
        """
        self.unbind()
        self.is_retired = True
        own = self._own_codes or CodesOfNumber(0, [])
        own.names, own.prefix = self.wrapper, self.prefix
        codes: Codes = self.wrapper.pop(f"{self.prefix}codes", {})  # none after an interrupt
        if self._own_codes is None:
            for code, _, _, _ in codes.values():
                own.add(code)
        # What a call that is still under way finds out must not come to others of the number.
        self.wrapper = {}

    def _name(self, prefix: str) -> None:
        self.prefix = prefix
        self.plain_type_name = f"{prefix}plain_type"

    def _constants(self) -> dict[str, Any]:
        """Return what the wrapper reads and no binding changes."""
        return {
            "fn": self.injection.fn,
            "invokers": self.invokers,
            "open_traces": open_traces,
            "has_trace": has_trace,
            "type": type,
            "is_awaitable": is_awaitable,
            "bucket_of": bisect_left,
            "pending_answer": PendingAnswer,
            "unbound": Unbound,
            "contexts": contexts,
            "new_inside": AttemptsInside,
            "rounding": ROUNDING,
            "str": str,
            "len": len,
            "shortest": SHORTEST,
            "bare": BARE,
            "size_of": size_of,
            "holding": holding,
            "HELD": HELD,
            "TAKEN": TAKEN,
        }

    # Sent to another process.

    def __reduce__(self) -> tuple[Any, ...]:
        return SentCaller, (self.expansions,)


class SentCaller:
    """Stands for a caller in a wrapper that was sent here by value, until its first call."""

    def __init__(self, expansions: AllCallers) -> None:
        self.expansions = expansions

    def enter(self, args: Any, kwargs: Any, drawn: Any = None) -> Any:
        """Make one call."""
        return self.expansions.enter(args, kwargs)

    enter_async = stream = enter

    def on_failure(self, *_: Any) -> Any:
        """Stand for what only calls of the wrapper's own code reach, and there are none."""
        raise RuntimeError("a wrapper that was sent here makes no call by itself")

    on_success = on_limited_success = resume = resume_async = on_failure


class CodesOfNumber:
    """Removes what code of one number reads when no call runs it any more, and frees the number.

    A number is used again because the names of what code reads are never freed on some versions
    of Python (they are *interned*), and a service may get other chains for years.

    Attributes:
        names: The globals of the wrapper, once that has other code. Not before: they refer to the
            code, which would then never go.
        prefix: Of the names in these.
    """

    def __init__(self, number: int, free_numbers: list[int]) -> None:
        self.names: dict[str, Any] = {}
        self.prefix = ""
        self._number = number
        self._free_numbers = free_numbers
        self._left = 0

    def add(self, code: types.CodeType) -> None:
        """Count one more."""
        self._left += 1
        weakref.finalize(code, self._one_less).atexit = False

    def _one_less(self) -> None:
        """Note that one of them is gone; called by finalisers."""
        self._left -= 1
        if self._left:
            return
        # Once: code that is generated later is dropped, and others have the number by then.
        names, self.names = self.names, {}
        number, self._number = self._number, 0
        for name in list(names):
            if name.startswith(self.prefix):
                names.pop(name, None)
        if number:
            self._free_numbers.append(number)
