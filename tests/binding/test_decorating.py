"""What can be decorated, how it is given its target, what it looks like then, and what is refused."""

import asyncio
import functools
import gc
import inspect
import pickle
import types
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any
from unittest import mock

import pytest

from resilient_llm import (
    Attempt,
    ChainExhaustedError,
    ConfigurationError,
    Failover,
    Target,
    failover,
    health,
)
from tests.support.ways import GROQ, OPENAI, ProviderError, on_both_loops, run_async

if TYPE_CHECKING:
    from resilient_llm import Target as LateTarget

CHAIN = [GROQ, OPENAI]

POLICY = failover(chain=[GROQ, OPENAI], attempts=1)
"""Every provider below fails on the first target, so that only a guarded call is answered."""


def serve(target: Target, *rest: object) -> Any:
    """Fail on the first target and answer with the arguments on the second."""
    if target.spec == GROQ:
        raise ProviderError(503)
    return rest[0] if len(rest) == 1 else rest


@POLICY
def ask(target: Target, prompt: str = "nothing") -> str:
    """Ask a model."""
    return serve(target, prompt)  # type: ignore[no-any-return]


@POLICY
async def ask_async(target: Target, prompt: str) -> str:
    """Ask a model without blocking."""
    return serve(target, prompt)  # type: ignore[no-any-return]


@POLICY
def ask_plain(target: Target, prompt: str) -> Awaitable[str]:
    """Ask a model by a plain function."""

    async def answer() -> str:
        return serve(target, prompt)  # type: ignore[no-any-return]

    return answer()


class Client:
    """A class whose methods ask, with the decorators in both orders."""

    def __init__(self, name: str = "mine") -> None:
        self.name = name

    @POLICY
    def method(self, target: Target, prompt: str) -> Any:
        """Ask as a method."""
        return serve(target, self.name, prompt)

    @POLICY
    async def method_async(self, target: Target, prompt: str) -> Any:
        return serve(target, self.name, prompt)

    @classmethod
    @POLICY
    def class_inside(cls, target: Target, prompt: str) -> Any:
        return serve(target, cls.__name__, prompt)

    @POLICY
    @classmethod
    def class_outside(cls, target: Target, prompt: str) -> Any:
        return serve(target, cls.__name__, prompt)

    @staticmethod
    @POLICY
    def static_inside(target: Target, prompt: str) -> Any:
        return serve(target, "static", prompt)

    @POLICY
    @staticmethod
    def static_outside(target: Target, prompt: str) -> Any:
        return serve(target, "static", prompt)

    @classmethod
    @POLICY
    async def class_async(cls, target: Target, prompt: str) -> Any:
        return serve(target, cls.__name__, prompt)

    @POLICY
    @staticmethod
    async def static_async(target: Target, prompt: str) -> Any:
        return serve(target, "static", prompt)


class Child(Client):
    """A class that inherits all its methods."""


class Asker:
    """An object that is called."""

    def __call__(self, target: Target, prompt: str) -> Any:
        """Ask by calling."""
        return serve(target, prompt)


class AsyncAsker:
    """An object whose call is a coroutine."""

    async def __call__(self, target: Target, prompt: str) -> Any:
        return serve(target, prompt)


def guarded() -> bool:
    """Return whether the failure on the first target was counted."""
    return health([GROQ])[GROQ].errors == 1


# --- what can be decorated --------------------------------------------------------------------


def test_a_function() -> None:
    """A function is guarded, and its defaults are its own."""
    assert "why" == ask("why")
    assert "nothing" == ask()
    assert 2 == health()[GROQ].errors


@on_both_loops
def test_a_coroutine_function(backend: str) -> None:
    """A coroutine function is guarded until it is awaited to its end."""
    assert "why" == run_async(lambda: ask_async("why"), backend=backend)
    assert guarded()


@on_both_loops
def test_a_plain_function_that_returns_an_awaitable(backend: str) -> None:
    """The failure that comes out of the awaitable is a failure of the target."""
    assert "why" == run_async(lambda: ask_plain("why"), backend=backend)
    assert guarded()


def test_methods() -> None:
    """A method is guarded for each object, by class and object alike."""
    assert ("mine", "why") == Client().method("why")
    assert ("yours", "why") == Client("yours").method("why")
    assert ("mine", "why") == Client.method(Client(), "why")
    assert ("mine", "why") == Child().method("why")
    assert ("mine", "why") == asyncio.run(Client().method_async("why"))


@pytest.mark.parametrize("name", ["class_inside", "class_outside"])
@pytest.mark.parametrize(
    "owner", [Client, Client(), Child, Child()], ids=["class", "object", "child", "of-child"]
)
def test_class_methods_in_both_orders(name: str, owner: Any) -> None:
    """A class method is given its class, whichever decorator is written first."""
    expected = "Child" if owner is Child or isinstance(owner, Child) else "Client"

    assert (expected, "why") == getattr(owner, name)("why")
    assert guarded()


@pytest.mark.parametrize("name", ["static_inside", "static_outside"])
@pytest.mark.parametrize(
    "owner", [Client, Client(), Child, Child()], ids=["class", "object", "child", "of-child"]
)
def test_static_methods_in_both_orders(name: str, owner: Any) -> None:
    """A static method is given neither, whichever decorator is written first."""
    assert ("static", "why") == getattr(owner, name)("why")
    assert guarded()


def test_async_class_and_static_methods() -> None:
    """Coroutine functions may be class and static methods too."""
    assert ("Child", "why") == asyncio.run(Child.class_async("why"))
    assert ("static", "why") == asyncio.run(Client().static_async("why"))


def test_a_partial() -> None:
    """What a partial has bound stays bound, and the target is the first that is free."""

    def send(target: Target, prompt: str, *, loud: bool) -> Any:
        return serve(target, prompt, loud)

    call = POLICY(functools.partial(send, loud=True))

    assert ("why", True) == call("why")
    assert guarded()


def test_a_partial_that_binds_arguments_before_the_target() -> None:
    """A positional argument bound by a partial is no longer the first."""

    def send(client: str, target: Target, prompt: str) -> Any:
        return serve(target, client, prompt)

    assert ("mine", "why") == POLICY(functools.partial(send, "mine"))("why")


def test_a_partial_of_a_coroutine_function() -> None:
    """A partial of a coroutine function is awaited."""

    async def send(target: Target, prompt: str, *, loud: bool) -> Any:
        return serve(target, prompt, loud)

    call = POLICY(functools.partial(send, loud=True))

    assert ("why", True) == asyncio.run(call("why"))
    assert guarded()


def test_a_bound_method() -> None:
    """A bound method may be decorated by hand."""

    class Sdk:
        def send(self, target: Target, prompt: str) -> Any:
            return serve(target, prompt)

    assert "why" == POLICY(Sdk().send)("why")
    assert guarded()


def test_a_callable_object() -> None:
    """An object with ``__call__`` is guarded."""
    assert "why" == POLICY(Asker())("why")
    assert guarded()


@on_both_loops
def test_a_callable_object_with_a_coroutine_call(backend: str) -> None:
    """An object with an async ``__call__`` is awaited and guarded."""
    call = POLICY(AsyncAsker())

    assert "why" == run_async(lambda: call("why"), backend=backend)
    assert guarded()


def test_lambdas() -> None:
    """A lambda is decorated like any function if it names what it wants."""
    assert ("openai", "why") == POLICY(lambda prompt, *, provider="": _by_name(provider, prompt))(
        "why"
    )
    assert guarded()


def _by_name(provider: str, prompt: str) -> tuple[str, str]:
    if provider == "groq":
        raise ProviderError(503)
    return (provider, prompt)


def test_a_lambda_that_returns_a_coroutine() -> None:
    """The coroutine a lambda returns is guarded, not only its making."""

    async def answer(provider: str, prompt: str) -> tuple[str, str]:
        return _by_name(provider, prompt)

    call = POLICY(lambda prompt, *, provider="": answer(provider, prompt))

    async def main() -> Any:
        return await call("why")

    assert ("openai", "why") == asyncio.run(main())
    assert guarded()


def test_a_decorated_function_of_another_decorator() -> None:
    """A wrapper made with functools.wraps is asked for its own signature, through ``__wrapped__``."""

    def twice(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs) * 2

        return wrapper

    @POLICY
    @twice
    def call(target: Target, prompt: str) -> Any:
        return serve(target, prompt)

    assert "whywhy" == call("why")


def test_many_short_lived_closures_keep_their_own_behaviour() -> None:
    """Closures that come and go never get each other's guard, and none is kept."""
    answers: list[int] = []
    last: weakref.ref[Any] | None = None
    for number in range(500):

        def closure(target: Target, number: int = number) -> int:
            return number

        call = POLICY(closure)
        last = weakref.ref(closure)
        answers.append(call())
        del call, closure
    gc.collect()

    assert list(range(500)) == answers
    assert last is not None
    assert last() is None


# --- generators -------------------------------------------------------------------------------


def _all_of(stream: AsyncIterator[Any]) -> list[Any]:
    async def collect() -> list[Any]:
        return [item async for item in stream]

    return asyncio.run(collect())


def _generator(target: Target) -> Iterator[str]:
    yield "item"


async def _async_generator(target: Target) -> AsyncIterator[str]:
    yield "item"


async def _async_generator_of_a_class(cls: type, target: Target) -> AsyncIterator[str]:
    yield "item"


class _GeneratorClient:
    def stream(self, target: Target) -> Iterator[str]:
        yield "item"

    def __call__(self, target: Target) -> Iterator[str]:
        yield "item"


@pytest.mark.parametrize(
    "function",
    [
        _generator,
        _async_generator,
        _GeneratorClient().stream,
        _GeneratorClient(),
        staticmethod(_generator),
        classmethod(_async_generator_of_a_class),
        functools.partial(_generator),
        functools.partial(_async_generator),
    ],
    ids=["generator", "async", "method", "object", "static", "class", "partial", "async-partial"],
)
def test_generators_are_guarded(function: Any) -> None:
    """A stream is counted, whatever sort of callable gives it."""
    guarded = POLICY(function)
    call = (
        guarded.__get__(None, object)
        if isinstance(function, (staticmethod, classmethod))
        else guarded
    )

    stream = call()
    items = _all_of(stream) if hasattr(stream, "__anext__") else list(stream)

    assert ["item"] == items
    assert 1 == health()[POLICY.chain[0].key].total


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize("what", [None, 3, "ask", object(), [], property(lambda self: 1)])
def test_what_cannot_be_called_is_refused_at_decoration(what: Any) -> None:
    """What is no callable at all is a mistake that shows at once."""
    with pytest.raises(ConfigurationError):
        POLICY(what)


@pytest.mark.parametrize("what", [print, dict, int, max], ids=["print", "dict", "int", "max"])
def test_callables_that_cannot_be_given_a_target_are_refused(what: Any) -> None:
    """A builtin that has no place for a target is refused, not called unguarded."""
    with pytest.raises(ConfigurationError):
        POLICY(what)


# --- what is kept -----------------------------------------------------------------------------


def test_name_and_docstring_are_kept() -> None:
    """A decorated function still tells who it is."""
    assert ("ask", "Ask a model.", __name__) == (ask.__name__, ask.__doc__, ask.__module__)
    assert "ask" == ask.__qualname__
    assert "Client.method" == Client.method.__qualname__
    assert "Ask as a method." == Client.method.__doc__


def test_the_original_is_kept_as_wrapped() -> None:
    """``__wrapped__`` is the function as it was written."""

    def original(target: Target, prompt: str) -> str:
        return prompt

    decorated = POLICY(original)

    assert original is decorated.__wrapped__  # type: ignore[attr-defined]
    assert "why" == decorated.__wrapped__(Target(GROQ), "why")  # type: ignore[attr-defined]


def test_attributes_of_the_function_are_kept() -> None:
    """What somebody hung on the function is still there."""

    def original(target: Target) -> None: ...

    original.route = "/ask"  # type: ignore[attr-defined]

    assert "/ask" == POLICY(original).route  # type: ignore[attr-defined]


def test_the_signature_is_kept_without_the_target() -> None:
    """Names, kinds, defaults and annotations are the function's own."""

    @POLICY
    def call(
        target: Target, a: int, /, b: str, *rest: float, c: bytes = b"", **more: object
    ) -> list[int]:
        return []

    found = inspect.signature(call)

    assert "(a: int, /, b: str, *rest: float, c: bytes = b'', **more: object) -> list[int]" == str(
        found
    )


def test_coroutine_functions_are_still_distinguished() -> None:
    """Frameworks that ask whether a function is async get the right answer."""
    assert [False, True, True, True, True] == [
        inspect.iscoroutinefunction(function)
        for function in (
            ask,
            ask_async,
            Client().method_async,
            Client.class_async,
            Client().static_async,
        )
    ]


@pytest.mark.parametrize("function", [ask, ask_async, ask_plain], ids=["sync", "async", "plain"])
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_decorated_function_is_pickled_by_name(function: Any, protocol: int) -> None:
    """A pickle holds the name and gives the very same function back."""
    assert function is pickle.loads(pickle.dumps(function, protocol))


def test_a_decorated_function_has_its_policy() -> None:
    """``.policy`` is the Failover it was decorated with, on functions and on methods."""
    assert isinstance(ask.policy, Failover)
    assert isinstance(ask_async.policy, Failover)
    assert isinstance(Client.method.policy, Failover)


def test_a_decorated_function_can_be_changed_by_using() -> None:
    """``.using`` gives a copy with other options and leaves the function alone."""
    other = ask.using(chain=[OPENAI])

    assert "why" == other("why")
    assert 0 == health([GROQ])[GROQ].total
    assert "why" == ask("why")
    assert 1 == health([GROQ])[GROQ].total


@pytest.mark.parametrize("fn", [ask, ask_async])
def test_a_mock_of_a_decorated_function_has_using(fn: Any) -> None:
    """`create_autospec` copies it, since it is a method."""
    stand_in = mock.create_autospec(fn)
    stand_in.using.return_value = "other"

    assert "other" == stand_in.using(timeout=1.0)


class Copied:
    """Methods whose copies by ``.using`` are called with their object, and without it."""

    @POLICY
    def method(self, target: Target, prompt: str = "default") -> Any:
        return serve(target, type(self).__name__, prompt)

    @POLICY
    async def method_async(self, target: Target, prompt: str) -> Any:
        return serve(target, type(self).__name__, prompt)

    @POLICY
    def items(self, target: Target, prompt: str) -> Iterator[Any]:
        yield serve(target, type(self).__name__, prompt)

    @POLICY
    async def items_async(self, target: Target, prompt: str) -> AsyncIterator[Any]:
        yield serve(target, type(self).__name__, prompt)

    @classmethod
    @POLICY
    def of_class(cls, target: Target, prompt: str) -> Any:
        return serve(target, cls.__name__, prompt)

    @POLICY
    def __private(self, target: Target, prompt: str) -> Any:
        return serve(target, type(self).__name__, prompt)

    def private(self, prompt: str) -> Any:
        return Copied.__private.using(timeout=None)(self, prompt)

    patient = method.using(attempts=2, backoff=lambda number: 0.0)


async def _first(items: AsyncIterator[Any]) -> Any:
    [only] = [item async for item in items]
    return only


def test_the_copy_of_a_method_takes_its_object_first() -> None:
    """Also of a coroutine, generator, class and private method, and of a copy of a copy."""
    copied, expected = Copied(), ("Copied", "why")
    no_limit: Any = {"timeout": None}

    assert expected == Copied.method.using(**no_limit)(copied, "why")
    assert expected == Copied.method.using(**no_limit).using(**no_limit)(copied, prompt="why")
    assert expected == Copied.method.using(**no_limit)(self=copied, prompt="why")  # type: ignore[call-arg]
    assert expected == asyncio.run(Copied.method_async.using(**no_limit)(copied, "why"))
    assert [expected] == list(Copied.items.using(**no_limit)(copied, "why"))
    assert expected == asyncio.run(_first(Copied.items_async.using(**no_limit)(copied, "why")))
    assert expected == Copied.of_class.using(**no_limit)(Copied, "why")
    assert expected == copied.private("why")
    assert expected == copied.patient("why")
    assert ("Heir", "why") == Copied.method.using(**no_limit)(type("Heir", (Copied,), {})(), "why")


def test_the_copy_of_a_method_takes_what_stands_for_its_object() -> None:
    """A mock of the class is one, and so is any object that has such a method."""
    for each in (mock.create_autospec(Copied), types.SimpleNamespace(method=print)):
        assert "why" == Copied.method.using(timeout=None)(each, "why")[1]


@pytest.mark.parametrize(
    "call",
    [
        lambda: Copied().method.using(timeout=None)("why"),
        lambda: Copied().method.using(timeout=None)(prompt="why"),
        lambda: Copied().method.using(timeout=None)(),
        lambda: asyncio.run(Copied().method_async.using(timeout=None)("why")),
        lambda: list(Copied().items.using(timeout=None)("why")),
        lambda: Copied.of_class.using(timeout=None)("why"),
    ],
    ids=["takes the prompt for it", "keyword", "nothing", "coroutine", "generator", "class"],
)
def test_the_copy_of_a_bound_method_says_that_it_needs_its_object(call: Callable[[], Any]) -> None:
    """It is told how to write it, nothing is called, and what was passed is not repeated."""
    with pytest.raises(TypeError, match=r"write Copied\.\w+\.using\(…\)\(obj, …\)") as caught:
        call()

    assert "why" not in str(caught.value)
    assert 0 == health([GROQ])[GROQ].total


def test_the_copy_of_a_method_looks_like_the_method() -> None:
    """Its signature, its kind, its policy and what it wraps."""
    copied = Copied.method_async.using(attempts=2)

    assert inspect.iscoroutinefunction(copied)
    assert inspect.isgeneratorfunction(Copied.items.using(attempts=2))
    assert inspect.isasyncgenfunction(Copied.items_async.using(attempts=2))
    assert ["self", "prompt"] == list(inspect.signature(copied).parameters)
    assert vars(Copied)["method_async"].__wrapped__ is copied.__wrapped__
    assert 2 == copied.policy._policy.options.attempts


def test_a_function_that_calls_its_first_parameter_self_is_a_function() -> None:
    """Only what is written in a class is a method."""

    @POLICY
    def inner(self: str, target: Target) -> Any:
        return serve(target, self)

    assert "why" == inner.using(timeout=None)("why")


def test_decorating_changes_nothing_in_the_function() -> None:
    """The same function may be decorated twice, by two policies, and called as it is."""

    def original(target: Target, prompt: str) -> str:
        return f"{target.spec}: {prompt}"

    first, second = failover(chain=[GROQ])(original), failover(chain=[OPENAI])(original)

    assert (f"{GROQ}: why", f"{OPENAI}: why") == (first("why"), second("why"))
    assert "mistral/large: why" == original(Target("mistral/large"), "why")


# --- parameters of every kind -----------------------------------------------------------------


def test_every_kind_of_parameter_is_passed_on() -> None:
    """Positional-only, both, variable and keyword-only arguments arrive where they belong."""

    @POLICY
    def call(
        target: Target, a: int, /, b: int = 2, *rest: int, c: int, d: int = 4, **more: int
    ) -> Any:
        return serve(target, a, b, rest, c, d, more)

    assert (1, 2, (), 3, 4, {}) == call(1, c=3)
    assert (1, 9, (8, 7), 3, 5, {"a": 6, "e": 1}) == call(1, 9, 8, 7, c=3, d=5, a=6, e=1)


def test_every_kind_of_parameter_is_passed_on_to_a_coroutine() -> None:
    """The same holds for a coroutine function."""

    @POLICY
    async def call(target: Target, a: int, /, b: int = 2, *rest: int, c: int, **more: int) -> Any:
        return serve(target, a, b, rest, c, more)

    assert (1, 9, (8,), 3, {"e": 1}) == asyncio.run(call(1, 9, 8, c=3, e=1))


def test_a_function_that_takes_anything_may_ask_by_name() -> None:
    """``*args`` and ``**kwargs`` beside a keyword-only target hold what the caller passed, and no more."""

    @POLICY
    def call(*args: object, target: Target | None = None, **kwargs: object) -> Any:
        assert target is not None
        return serve(target, args, kwargs)

    assert ((1, 2), {"a": 3}) == call(1, 2, a=3)


def test_a_keyword_may_have_the_name_of_the_filled_parameter() -> None:
    """A keyword called ``target`` belongs to the caller when the target itself is positional-only."""

    @POLICY
    def call(where: Target, /, **kwargs: object) -> Any:
        return serve(where, kwargs)

    assert {"where": "here"} == call(where="here")


NAMES = [
    "_fn fn func function wrapped wrapper _wrapped",
    "s t r e a k v x n _ __",
    "policy call attempt attempts args kwargs result error state now clock target_ chain",
    "_target _call _policy _state _clock _time _now _next _run _story _slow _fast _self cls",
    "s_ _s _t _r _e _a _0 _1 _d _d0 _default _defaults _missing _UNSET _kwargs _args",
    "Target Attempt Exception BaseException isinstance type len None_ True_ globals locals print",
]


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("kind", ["positional", "keyword", "both", "async"])
def test_no_parameter_name_collides_with_ours(names: str, kind: str) -> None:
    """A parameter may have any name, also one that a helper of the library could have had."""
    words = names.split()
    listed = ", ".join(words)
    star = {
        "positional": f"{listed}, /",
        "keyword": f"*, {listed}",
        "both": listed,
        "async": listed,
    }[kind]
    scope: dict[str, Any] = {"T_": Target, "serve_": serve}
    head = "async def" if kind == "async" else "def"
    exec(f"{head} made(our_target: T_, {star}): return serve_(our_target, ({listed},))", scope)  # noqa: S102
    decorated = POLICY(scope["made"])
    expected = tuple(range(len(words)))

    if kind == "keyword":
        answer = decorated(**dict(zip(words, expected, strict=True)))
    else:
        answer = decorated(*expected)

    assert expected == (asyncio.run(answer) if inspect.isawaitable(answer) else answer)
    assert words == list(inspect.signature(decorated).parameters)
    assert guarded()


@pytest.mark.parametrize("name", ["_fn", "s", "t", "r", "e", "self_", "policy", "result"])
def test_the_filled_parameter_may_have_a_helpers_name_too(name: str) -> None:
    """Neither does the name of the target's own parameter matter."""
    scope: dict[str, Any] = {"T_": Target, "serve_": serve}
    exec(f"def made({name}: T_, prompt, *, extra=1): return serve_({name}, prompt, extra)", scope)  # noqa: S102

    assert ("why", 1) == POLICY(scope["made"])("why")


def test_a_mutable_default_is_the_same_object() -> None:
    """A default is passed as the very object that was written, not a copy of it."""
    shared: list[int] = []
    marker = object()

    @failover(chain=[GROQ])
    def call(target: Target, items: list[int] = shared, *, marker: object = marker) -> Any:
        items.append(1)
        return items, marker

    items, found = call()
    call()

    assert shared is items
    assert marker is found
    assert [1, 1] == shared
    assert shared is inspect.signature(call).parameters["items"].default


def test_a_default_that_cannot_be_compared_or_shown_is_passed_on() -> None:
    """A default with its own ideas about equality and repr is left alone."""

    class Awkward:
        def __eq__(self, other: object) -> bool:
            raise AssertionError("nobody compares a default")

        def __repr__(self) -> str:
            return "}{ not python"

        __hash__ = None  # type: ignore[assignment]

    awkward = Awkward()

    @failover(chain=[GROQ])
    def call(target: Target, value: Any = awkward, *, other: Any = awkward) -> Any:
        return value, other

    value, other = call()

    assert awkward is value
    assert awkward is other


def test_an_argument_is_the_same_object_in_every_attempt() -> None:
    """An argument is passed as the same object to every attempt."""
    given: list[int] = []
    seen: list[object] = []

    @POLICY
    def call(target: Target, prompt: object) -> Any:
        seen.append(prompt)
        return serve(target, prompt)

    assert given is call(given)
    assert [True, True] == [item is given for item in seen]


def test_the_result_is_the_functions_own() -> None:
    """What the function returns is handed on as it is, be it None or false."""
    for result in (None, 0, "", [], object()):

        @failover(chain=[GROQ])
        def call(target: Target, result: object = result) -> object:
            return result

        assert result is call()


def test_a_function_may_call_itself_and_others() -> None:
    """A decorated function inside another is guarded, too; their one answer is counted once."""

    @failover(chain=[OPENAI])
    def outer(target: Target, prompt: str) -> str:
        return ask(prompt)

    assert "why" == outer("why")
    assert (1, 0) == (health()[OPENAI].total, health()[OPENAI].errors)


def test_calls_from_another_thread_and_a_second_loop() -> None:
    """A decorated function belongs to no thread and to no loop."""
    first = asyncio.run(ask_async("one"))
    second = asyncio.run(asyncio.to_thread(ask, "two"))
    third = asyncio.run(ask_async("three"))

    assert ("one", "two", "three") == (first, second, third)


# --- how it is given its target ---------------------------------------------------------------


@failover(chain=CHAIN)
def module_level(
    target: Target, prompt: str, n: int = 2, *, flag: bool = False
) -> tuple[str, str, int, bool]:
    """Say something."""
    return target.key, prompt, n, flag


def test_the_target_is_filled_in_and_leaves_the_signature() -> None:
    """The first parameter annotated Target is given and no longer asked for."""
    assert (GROQ, "hi", 2, False) == module_level("hi")
    assert (GROQ, "hi", 3, True) == module_level("hi", n=3, flag=True)
    assert ["prompt", "n", "flag"] == list(inspect.signature(module_level).parameters)
    assert "target" not in module_level.__annotations__


def test_name_doc_wrapped_and_pickling_are_kept() -> None:
    """A decorated function is known by its own name, and pickles by it."""
    assert ("module_level", "Say something.") == (module_level.__name__, module_level.__doc__)
    assert "module_level" == module_level.__wrapped__.__name__  # type: ignore[attr-defined]
    assert module_level is pickle.loads(pickle.dumps(module_level))


def test_a_wrong_call_is_the_functions_own_type_error() -> None:
    """Missing and surplus arguments are a TypeError, before anything is sent."""
    with pytest.raises(TypeError, match="prompt"):
        module_level()  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        module_level("hi", 1, 2)  # type: ignore[call-arg]
    assert GROQ not in health()


@pytest.mark.parametrize(
    "function",
    [
        lambda target, prompt: None,
        lambda prompt: None,
        lambda target=None: None,
        lambda *args, **kwargs: None,
    ],
)
def test_a_function_that_is_given_no_target_is_refused_with_help(function: Any) -> None:
    """The error shows a function with a target in place of the lambda."""
    with pytest.raises(ConfigurationError, match=r"def ask\(target: Target[,)]"):
        failover(chain=CHAIN)(function)


def test_annotations_as_text_are_understood() -> None:
    """A text, a dotted text, one under TYPE_CHECKING and Annotated are all a Target."""

    def text(target: "Target") -> str:
        return target.key

    def late(target: "LateTarget") -> str:
        return target.key

    late.__annotations__["target"] = "resilient_llm.Target"

    def annotated(target: Annotated[Target, "where"]) -> str:
        return target.key

    def optional(target: Target | None) -> str:
        assert target is not None
        return target.key

    assert [GROQ] * 4 == [
        failover(chain=CHAIN)(each)() for each in (text, late, annotated, optional)
    ]  # type: ignore[arg-type]


def test_injection_by_name_and_pinning() -> None:
    """Keyword-only target, model and provider are filled in, and pin the call when they are passed."""

    @failover(chain=[GROQ, OPENAI, "mistral/x/y"])
    def ask(
        *, target: Target | None = None, model: str = "", provider: str = ""
    ) -> tuple[str, str, str]:
        assert target is not None
        return target.key, model, provider

    assert (GROQ, "llama", "groq") == ask()
    assert (OPENAI, "gpt", "openai") == ask(model="gpt")
    assert (OPENAI, "gpt", "openai") == ask(model=OPENAI)
    assert (OPENAI, "gpt", "openai") == ask(target=Target(OPENAI))
    assert ("mistral/x/y", "x/y", "mistral") == ask(target="Mistral/x/y")  # type: ignore[arg-type]
    assert ["target", "model", "provider"] == list(inspect.signature(ask).parameters)
    with pytest.raises(ValueError, match="groq/llama, openai/gpt, mistral/x/y"):
        ask(model="nobody")


def test_a_pinned_call_is_still_retried_guarded_and_counted(clock: Any) -> None:
    """Pinning chooses the target and nothing else."""
    outcomes: list[Any] = [ConnectionResetError(), "yes"]

    @failover(chain=CHAIN, backoff=lambda n: 1.0)
    def ask(*, model: str = "") -> str:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return f"{model}: {outcome}"

    assert ("gpt: yes", [1.0], 2) == (ask(model="gpt"), clock.sleeps, health()[OPENAI].total)


def test_every_entry_with_a_call_of_its_own_needs_no_injection() -> None:
    """Each target's callable gets the arguments, and its target by the same rules."""
    chain = [
        Target(GROQ, call=lambda prompt, *, model: f"{model}: {prompt}"),
        Target(OPENAI, call=lambda prompt: prompt),
    ]

    @failover(chain=chain)
    def ask(prompt: str) -> str:
        raise AssertionError("never called")

    assert "llama: hi" == ask("hi")
    assert "hi" == ask.using(chain=chain[1:])("hi")


def test_a_module_level_function_is_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is called when the chain comes to it."""

    @failover(chain=[GROQ, fallback], attempts=1)
    def ask(target: Target, prompt: str) -> str:
        raise ConnectionResetError

    assert "fallback: hi" == ask("hi")


def fallback(prompt: str) -> str:
    return f"fallback: {prompt}"


def test_params_are_merged_over_the_calls_own() -> None:
    """A target's params win over what the caller passes, by position or name; UNSET takes one out."""
    target = Target(GROQ, params={"temperature": 0.0, "top_p": Target.UNSET, "seed": 7})

    @failover(chain=[target])
    def ask(
        prompt: str, temperature: float = 1.0, top_p: float = 1.0, *, model: str = "", **more: Any
    ) -> Any:
        return prompt, temperature, top_p, model, more

    assert ("hi", 0.0, 1.0, "llama", {"seed": 7}) == ask("hi", 0.5, top_p=0.3, seed=1)


def test_params_that_would_be_lost_are_refused() -> None:
    """A function that neither takes a param nor sees its target cannot honour it."""
    with pytest.raises(ConfigurationError, match="temperature"):
        failover(chain=[Target(GROQ, params={"temperature": 0})])(lambda prompt, *, model: None)


class Assistant:
    @failover(chain=CHAIN)
    def method(self, target: Target, prompt: str) -> tuple[str, str]:
        return target.key, prompt

    @classmethod
    @failover(chain=CHAIN)
    def of_class(cls, target: Target, prompt: str) -> tuple[str, str, str]:
        return cls.__name__, target.key, prompt

    @failover(chain=CHAIN)  # type: ignore[arg-type]
    @classmethod
    def of_class_too(cls, target: Target, prompt: str) -> tuple[str, str, str]:
        return cls.__name__, target.key, prompt

    @staticmethod
    @failover(chain=CHAIN)
    def static(target: Target, prompt: str) -> tuple[str, str]:
        return target.key, prompt

    @failover(chain=CHAIN)  # type: ignore[arg-type]
    @staticmethod
    def static_too(target: Target, prompt: str) -> tuple[str, str]:
        return target.key, prompt

    def __call__(self, target: Target, prompt: str) -> tuple[str, str]:
        return target.key, prompt


def test_methods_class_methods_and_static_methods() -> None:
    """All bind as they should, in either order of the decorators."""
    client = Assistant()

    assert [(GROQ, "x")] * 3 == [
        client.method("x"),
        Assistant.method(client, "x"),
        client.static("x"),
    ]
    assert [("Assistant", GROQ, "x")] * 2 == [Assistant.of_class("x"), client.of_class_too("x")]  # type: ignore[operator]
    assert (GROQ, "x") == client.static_too("x")  # type: ignore[operator]


def test_partials_callable_objects_and_lambdas() -> None:
    """Whatever is callable and given its target is guarded."""

    def ask(target: Target, prompt: str, suffix: str) -> tuple[str, str]:
        return target.key, prompt + suffix

    partial: Any = failover(chain=CHAIN)(functools.partial(ask, suffix="!"))
    callable_object: Any = failover(chain=CHAIN)(Assistant())
    by_lambda: Any = failover(chain=CHAIN)(lambda prompt, *, model: (model, prompt))

    assert ((GROQ, "x!"), (GROQ, "x"), ("llama", "x")) == (
        partial("x"),
        callable_object("x"),
        by_lambda("x"),
    )


def test_what_gives_an_awaitable_is_guarded_until_it_is_awaited(clock: Any) -> None:
    """Coroutine functions, and plain functions that return a coroutine, fail over alike."""

    async def answer(target: Target) -> str:
        if target.key == GROQ:
            raise ConnectionResetError
        return target.key

    policy = failover(chain=CHAIN, attempts=1)
    coroutine_function = policy(answer)

    @policy
    def plain(target: Target) -> Any:
        return answer(target)

    async def main() -> list[str]:
        return [await coroutine_function(), await plain(), await policy.call(answer)]

    assert [OPENAI, OPENAI, OPENAI] == asyncio.run(main())
    assert (True, False) == (
        inspect.iscoroutinefunction(coroutine_function),
        inspect.iscoroutinefunction(plain),
    )
    assert 3 == health()[GROQ].errors


def test_generators_and_functions_that_give_one_are_guarded() -> None:
    """A generator function, an async one, and a function that turns out to give one."""

    def sync(target: Target) -> Iterator[int]:
        yield 1

    async def asynchronous(target: Target) -> AsyncIterator[int]:
        yield 1

    @failover(chain=CHAIN)
    def gives_one(target: Target) -> Any:
        return (number for number in range(3))

    async def all_of(items: AsyncIterator[int]) -> list[int]:
        return [item async for item in items]

    assert [1] == list(failover(chain=CHAIN)(sync)())
    assert [1] == asyncio.run(all_of(failover(chain=CHAIN)(asynchronous)()))
    for _ in range(2):
        assert [0, 1, 2] == list(gives_one())
    assert 4 == health()[GROQ].total


@pytest.mark.parametrize("what", [Client, 3, "text", None])
def test_what_cannot_be_guarded_is_refused(what: Any) -> None:
    """A class or no function at all is a ConfigurationError where it is decorated."""
    with pytest.raises(ConfigurationError):
        failover(chain=CHAIN)(what)


def test_the_decorator_without_its_chain_is_explained() -> None:
    """`@failover` without parentheses says how to write it."""
    with pytest.raises(ConfigurationError, match=r"@failover\(chain="):
        failover(fallback)


def test_every_kind_of_parameter_arrives_as_it_was_passed() -> None:
    """Positional-only, defaults, stars and keyword-only parameters arrive as they were passed."""
    marker: list[int] = []

    @failover(chain=CHAIN)
    def ask(
        target: Target, first: int, /, second: int = 2, *rest: int, third: Any = marker, **more: int
    ) -> tuple[Any, ...]:
        return first, second, rest, third, more

    assert (1, 2, (), marker, {}) == ask(1)
    assert ask(1)[3] is marker
    assert (1, 5, (6, 7), 8, {"x": 9}) == ask(1, 5, 6, 7, third=8, x=9)


def test_the_attempt_is_passed(clock: Any) -> None:
    """A parameter annotated Attempt gets the target, the number, what is left, and the call's name."""
    received: list[Attempt] = []

    @failover(chain=[GROQ], attempts=2, timeout=10.0, backoff=lambda n: 1.0)
    def ask(target: Target, attempt: Attempt) -> str:
        received.append(attempt)
        clock.advance(2)
        raise ConnectionResetError

    with pytest.raises(ChainExhaustedError):
        ask()

    assert [(GROQ, 1, 10.0), (GROQ, 2, 7.0)] == [
        (each.target.key, each.number, each.remaining) for each in received
    ]
    assert 1 == len({each.call_id for each in received})


def test_two_functions_and_using_have_policies_of_their_own() -> None:
    """`.policy` shows the policy, `.using` changes a copy."""
    other = module_level.using(chain=OPENAI, attempts=1)

    assert ([GROQ, OPENAI], [OPENAI]) == (
        [each.key for each in module_level.policy.chain],
        [each.key for each in other.policy.chain],
    )
    assert (GROQ, OPENAI) == (module_level("x")[0], other("x")[0])
    with pytest.raises(ConfigurationError, match="attempts"):
        module_level.using(attempts=0)
