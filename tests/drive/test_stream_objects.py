"""The objects that callers get for streams, and the functions that give them."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import AsyncIterator, Iterator
from contextlib import nullcontext
from typing import Any
from unittest.mock import AsyncMock, MagicMock, Mock, NonCallableMagicMock

import httpx
import pytest

from resilient_llm import (
    ChainExhaustedError,
    ConfigurationError,
    StreamInterruptedError,
    StreamPolicy,
    Target,
    breaker,
    failover,
    health,
)
from tests.support.stream_forms import (
    SYNC_FORMS,
    Form,
)
from tests.support.stream_sources import (
    ROLE,
    AsyncSdkStream,
    SdkStream,
    Supply,
    said,
    says,
)
from tests.support.ways import (
    GROQ,
    OPENAI,
    down,
    on_both_loops,
    over,
    run_async,
)

# --- What comes back ---------------------------------------------------------------------------


def _sdk(lines: list[Any], **options: Any) -> tuple[Any, Supply]:
    supply = Supply({GROQ: [lines], OPENAI: [says("other")]})

    @failover([GROQ, OPENAI], **options)
    def ask(target: Target) -> SdkStream:
        return SdkStream(supply.open(target))

    return ask(), supply


def test_a_proxy_passes_for_the_clients_object() -> None:
    """Its class, attributes and methods are those of the object of the target that serves."""
    stream, supply = _sdk(says("It", " is"))

    assert isinstance(stream, SdkStream)
    assert {"x-served-by": GROQ} == stream.response.headers
    stream.mine = 1
    assert 1 == stream.mine
    assert ["", "It", " is", ""] == stream.texts()
    assert [] == supply.left_open


def test_the_object_of_the_target_that_serves_comes_back() -> None:
    """After a failure before content its attributes are those of the next target's object."""
    stream, _ = _sdk([ROLE, down], attempts=1)

    assert {"x-served-by": OPENAI} == stream.response.headers


def test_methods_of_the_client_read_guarded_items() -> None:
    """A method that reads all items sees an interruption, and what a loop left over."""
    stream, supply = _sdk([ROLE, said("It"), down])

    assert ROLE == next(stream)
    with pytest.raises(StreamInterruptedError) as caught:
        stream.texts()

    assert 2 == caught.value.items_sent
    assert [] == supply.left_open
    assert 1 == health()[GROQ].errors


def test_methods_and_loops_share_the_items() -> None:
    """A method and a loop each get the next item; after the end there is none."""
    stream, _ = _sdk(says("It", " is", " so"))

    assert ROLE == next(stream)
    assert said("It") == next(iter(stream))
    assert [" is", " so", ""] == stream.texts()
    assert [] == list(stream)


def test_a_stream_is_a_manager_as_before() -> None:
    """``with`` on it gives the proxy and closes what served."""
    stream, supply = _sdk(says("It", " is"))

    with stream as entered:
        assert entered is stream
        assert [ROLE, said("It")] == [next(entered), next(entered)]

    assert [] == supply.left_open
    assert (1, 0) == (health()[GROQ].total, health()[GROQ].errors)


def test_closing_twice_is_fine() -> None:
    """The second time does nothing, and a closed stream has no more items."""
    stream, _ = _sdk(says("It", " is"))
    next(stream)

    stream.close()
    stream.close()

    assert [] == list(stream)
    assert 1 == health()[GROQ].total


def test_an_error_in_a_with_block_leaves_unchanged() -> None:
    """An error of the consumer's own code leaves the block as it is."""
    stream, supply = _sdk(says("It", " is"))
    next(stream)

    with pytest.raises(KeyError), stream:
        raise KeyError("mine")

    assert [] == supply.left_open
    assert 0 == health([GROQ])[GROQ].errors


def test_a_stream_is_not_pickled() -> None:
    """An open connection cannot be put into a pickle, and says so."""
    stream, _ = _sdk(says("It"))

    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(stream)


def test_what_has_no_close_gets_none() -> None:
    """A stream object without ``close`` is given none."""

    class Bare:
        def __init__(self) -> None:
            self._items = iter(["It"])

        def __iter__(self) -> Bare:
            return self

        def __next__(self) -> str:
            return next(self._items)

    @failover([GROQ])
    def ask(target: Target) -> Bare:
        return Bare()

    stream = ask()

    assert not hasattr(stream, "close")
    assert ["It"] == list(stream)


def test_files_and_other_answers_are_not_streams() -> None:
    """A list, text, dict or file is a plain answer and is returned unchanged."""
    import io

    for answer in (
        ["It"],
        "It",
        {"It": 1},
        io.StringIO("It"),
        io.BytesIO(b"It"),
        ("It",),
        range(2),
    ):

        @failover([GROQ])
        def ask(target: Target, answer: Any = answer) -> Any:
            return answer

        assert answer is ask()


@on_both_loops
@pytest.mark.parametrize("kind", [Mock, MagicMock, AsyncMock, NonCallableMagicMock])
def test_a_mock_is_an_answer(backend: str, kind: type) -> None:
    """A mock, which has every method of a stream, is a plain answer and is returned unchanged."""
    answer = kind()

    @failover([GROQ])
    def ask(target: Target) -> Any:
        return answer

    @failover([GROQ])
    async def aask(target: Target) -> Any:
        return answer

    @breaker(GROQ)
    def guarded() -> Any:
        return answer

    assert answer is ask()
    assert answer is guarded()
    assert answer is run_async(aask, backend=backend)
    assert (3, 0) == (health()[GROQ].total, health()[GROQ].errors)


@on_both_loops
def test_an_async_proxy_passes_for_the_clients_object(backend: str) -> None:
    """The same in async code: its class, attributes, methods, ``async with`` and ``close``."""
    supply = Supply({GROQ: [says("It", " is")]})

    @failover([GROQ])
    async def ask(target: Target) -> AsyncSdkStream:
        return AsyncSdkStream(supply.aopen(target))

    async def main() -> None:
        stream = await ask()
        assert isinstance(stream, AsyncSdkStream)
        assert {"x-served-by": GROQ} == stream.response.headers
        async with stream as entered:
            assert entered is stream
            assert ROLE == await anext(aiter(entered))
            assert ["It", " is", ""] == await entered.texts()
        await stream.close()

    run_async(main, backend=backend)

    assert [] == supply.left_open
    assert (1, 0) == (health()[GROQ].total, health()[GROQ].errors)


def test_a_manager_is_entered_once() -> None:
    """As the clients' own: entering it makes the call, a second time is refused."""
    form = next(form for form in SYNC_FORMS if form.name == "manager")
    supply = Supply({GROQ: [says("It")]})
    manager = form.make(failover([GROQ]), supply)()

    with manager as stream:
        assert says("It") == list(stream)
    with pytest.raises(RuntimeError), manager:
        pass

    assert [] == supply.left_open


def test_an_error_in_the_block_of_a_manager_reaches_it() -> None:
    """The client's own manager gets the error of the block, and may swallow it."""
    seen: list[Any] = []

    class Manager:
        def __init__(self, swallows: bool) -> None:
            self._swallows = swallows

        def __enter__(self) -> Iterator[Any]:
            return iter(says("It"))

        def __exit__(self, kind: Any, error: Any, traceback: Any) -> bool:
            seen.append(kind)
            return self._swallows

    @failover([GROQ])
    def ask(target: Target, swallows: bool) -> Any:
        return Manager(swallows)

    with pytest.raises(KeyError), ask(False):
        raise KeyError
    with ask(True):
        raise KeyError

    assert [KeyError, KeyError] == seen
    assert 0 == health([GROQ])[GROQ].errors


class Plain:
    """An answer that is no stream, inside a manager as ``client.stream()`` of httpx gives it."""

    def __init__(self) -> None:
        self.left_with: list[Any] = []

    def __enter__(self) -> str:
        return "an answer"

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        self.left_with.append(error)

    async def __aenter__(self) -> str:
        return "an answer"

    async def __aexit__(self, kind: Any, error: Any, traceback: Any) -> None:
        self.left_with.append(error)


@pytest.mark.parametrize("ends", ["well", "with an error"])
@pytest.mark.parametrize("backend", ["sync", "asyncio", "trio"])
def test_a_manager_of_another_answer_is_left_as_it_is(backend: str, ends: str) -> None:
    """It is left with the block's own error or none, which leaves unchanged; one success counts."""
    manager, error = Plain(), None if ends == "well" else KeyError("of the block")

    @failover([GROQ, OPENAI])
    def ask(target: Target) -> Plain:
        return manager

    def block() -> None:
        with ask() as answer:
            assert "an answer" == answer
            if error is not None:
                raise error

    async def ablock() -> None:
        async with ask() as answer:  # type: ignore[attr-defined]  # the proxy of its manager
            assert "an answer" == answer
            if error is not None:
                raise error

    with pytest.raises(KeyError) if error is not None else nullcontext() as caught:
        block() if backend == "sync" else run_async(ablock, backend=backend)

    if caught is not None:
        assert caught.value is error
    assert [error] == manager.left_with
    assert (1, 0) == (health()[GROQ].total, health()[GROQ].errors)


def test_a_response_of_httpx_is_read_inside_its_manager() -> None:
    """``client.stream()`` gives a response, whose body the caller reads."""
    transport = httpx.MockTransport(lambda request: httpx.Response(200, text="hello"))

    with httpx.Client(transport=transport) as client:

        @failover([GROQ, OPENAI])
        def ask(target: Target) -> Any:
            return client.stream("GET", "http://provider.invalid/")

        with ask() as response:
            assert b"hello" == response.read()

    assert response.is_closed
    assert (1, 0) == (health()[GROQ].total, health()[GROQ].errors)


# --- What a decorated function looks like -------------------------------------------------------


@failover([GROQ])
def of_module(target: Target, prompt: str, *, loud: bool = False) -> Iterator[str]:
    """Give the prompt."""
    yield prompt


@failover([GROQ])
async def of_module_async(target: Target, prompt: str) -> AsyncIterator[str]:
    """Give the prompt, too."""
    yield prompt


class OfModule:
    """Has guarded methods."""

    @failover([GROQ])
    def ask(self, target: Target, prompt: str) -> Iterator[str]:
        yield prompt

    @classmethod
    @failover([GROQ])
    def ask_class(cls, target: Target, prompt: str) -> Iterator[str]:
        yield prompt

    @staticmethod
    @failover([GROQ])
    def ask_static(target: Target, prompt: str) -> Iterator[str]:
        yield prompt


def test_generator_functions_pass_for_ones() -> None:
    """`inspect` and the frameworks that ask it see what was decorated, without the target."""
    assert inspect.isgeneratorfunction(of_module)
    assert inspect.isasyncgenfunction(of_module_async)
    assert not inspect.isasyncgenfunction(of_module)
    assert not inspect.iscoroutinefunction(of_module_async)
    assert inspect.isgeneratorfunction(OfModule().ask)
    assert "(prompt: str, *, loud: bool = False) -> collections.abc.Iterator[str]" == str(
        inspect.signature(of_module)
    )
    assert "(prompt: str) -> collections.abc.Iterator[str]" == str(
        inspect.signature(OfModule().ask)
    )
    assert ("of_module", "Give the prompt.", __name__) == (
        of_module.__name__,
        of_module.__doc__,
        of_module.__module__,
    )
    assert inspect.isgenerator(of_module("It"))


@on_both_loops
def test_an_async_generator_passes_for_one(backend: str) -> None:
    """What a decorated async generator function gives is seen as an async generator."""

    async def main() -> None:
        stream = of_module_async("It")
        assert inspect.isasyncgen(stream)
        assert ["It"] == [item async for item in stream]
        await stream.aclose()

    run_async(main, backend=backend)


@pytest.mark.parametrize("function", [of_module, of_module_async], ids=["sync", "async"])
def test_functions_are_pickled_by_name(function: Any) -> None:
    """They come back as the same object, and are copied as functions are."""
    assert function is pickle.loads(pickle.dumps(function))
    assert function is copy.copy(function)
    assert function is copy.deepcopy(function)


def test_methods_of_each_kind() -> None:
    """Instance, class and static methods give items however they are found."""
    assert ["It"] == list(OfModule().ask("It"))
    assert ["It"] == list(OfModule.ask(OfModule(), "It"))
    assert ["It"] == list(OfModule.ask_class("It"))
    assert ["It"] == list(OfModule().ask_class("It"))
    assert ["It"] == list(OfModule.ask_static("It"))
    assert OfModule.ask.policy.chain == of_module.policy.chain
    assert ["It"] == list(OfModule().ask.policy.using(chain=[OPENAI])(of_module.__wrapped__)("It"))


def test_using_gives_another_stream_function() -> None:
    """``using`` of a generator function gives one with other options."""
    changed = of_module.using(chain=[OPENAI])

    assert inspect.isgeneratorfunction(changed)
    assert [OPENAI] == [target.key for target in changed.policy.chain]
    assert ["It"] == list(changed("It"))
    assert 1 == health()[OPENAI].total


@pytest.mark.parametrize("names", ["target", "model", "provider"])
def test_a_stream_function_is_given_its_target_by_name(names: str) -> None:
    """Keyword-only parameters are filled in as for any function; a caller may pin the call."""
    supply = Supply({GROQ: [[ROLE, down]], OPENAI: [says("It")]})

    @failover([GROQ, OPENAI], attempts=1)
    def ask(*, target: Target | None = None, model: str = "", provider: str = "") -> Iterator[Any]:
        assert target is not None
        assert (target.model, target.provider) == (model, provider)
        yield from supply.open(target)

    assert says("It") == list(ask())
    if names == "target":
        assert says("It") == list(ask(target=Target(OPENAI)))
    elif names == "model":
        assert says("It") == list(ask(target=OPENAI))
    with pytest.raises(ValueError, match="openai/gpt"):
        list(ask(target="unknown/x"))
    assert [GROQ, *([OPENAI] * (len(supply.calls) - 1))] == supply.calls


@over([form for form in SYNC_FORMS if form.name in ("generator", "sdk")])
def test_a_pinned_stream_goes_nowhere_else(form: Form) -> None:
    """A call pinned by ``model=`` is guarded, and never leaves its target."""
    supply = Supply({GROQ: [says("no")], OPENAI: [[ROLE, down]]})

    @failover([GROQ, OPENAI], attempts=1)
    def ask(*, model: str = "", target: Target | None = None) -> Any:
        assert target is not None
        return supply.open(target)

    with pytest.raises(ChainExhaustedError):
        list(ask(model="gpt"))

    assert [OPENAI] == supply.calls
    assert 1 == health()[OPENAI].errors


def test_a_target_with_a_call_of_its_own() -> None:
    """A target's ``call=`` may be a generator function, too."""

    def own(prompt: str) -> Iterator[str]:
        yield f"own {prompt}"

    @failover([Target(GROQ, call=own), OPENAI])
    def ask(target: Target, prompt: str) -> Iterator[str]:
        yield prompt

    assert ["own It"] == list(ask("It"))


def test_a_target_that_does_not_stream_where_others_do() -> None:
    """A plain answer where the decorated function is a generator is a ConfigurationError."""

    @failover([Target(GROQ, call=lambda: "answer"), OPENAI])
    def ask(target: Target) -> Iterator[str]:
        yield "It"

    with pytest.raises(ConfigurationError, match="stream"):
        list(ask())


def test_arguments_are_let_go_when_the_stream_has_begun() -> None:
    """A prompt is released when the stream has begun, if no other target can be called."""
    import gc
    import weakref

    class Prompt:
        pass

    @failover([GROQ, OPENAI])
    def ask(target: Target, prompt: Prompt) -> Any:
        return iter(says("It", " is"))

    prompt = Prompt()
    gone = weakref.ref(prompt)
    stream = ask(prompt)
    next(stream)
    del prompt
    gc.collect()

    assert gone() is None
    assert 3 == len(list(stream))


@pytest.mark.parametrize("where", ["entering", "committing"])
def test_a_stop_iteration_of_the_callers_code_leaves_unchanged(where: str) -> None:
    """A StopIteration of a manager or of ``commit=`` leaves ``with`` and is not replaced."""
    raised = StopIteration("of the caller")

    class Manager:
        def __enter__(self) -> Any:
            if where == "entering":
                raise raised
            return iter(says("It"))

        def __exit__(self, *error: object) -> None:
            pass

    def commit(item: Any) -> bool:
        raise raised

    @failover([GROQ], stream=StreamPolicy(commit=commit))
    def ask(target: Target) -> Any:
        return Manager()

    with pytest.raises(StopIteration) as caught, ask():
        pass

    assert raised is caught.value
    assert raised.__context__ is None
    assert 0 == health()[GROQ].errors
