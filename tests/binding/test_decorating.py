"""How a function is given its target, what can be decorated, and what is refused with a word of help."""

import asyncio
import functools
import inspect
import pickle
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import pytest

from resilient_llm import Attempt, ChainExhaustedError, ConfigurationError, Target, failover, health

if TYPE_CHECKING:
    from resilient_llm import Target as LateTarget

A, B = "groq/a", "openai/b"
CHAIN = [A, B]


@failover(chain=CHAIN)
def module_level(
    target: Target, prompt: str, n: int = 2, *, flag: bool = False
) -> tuple[str, str, int, bool]:
    """Say something."""
    return target.key, prompt, n, flag


def test_the_target_is_filled_in_and_leaves_the_signature() -> None:
    """The first parameter annotated Target is given and no longer asked for."""
    assert (A, "hi", 2, False) == module_level("hi")
    assert (A, "hi", 3, True) == module_level("hi", n=3, flag=True)
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
    assert A not in health()


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
    """The error shows the three ways to write it."""
    with pytest.raises(ConfigurationError, match=r"target: Target.*target=None.*call="):
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

    assert [A] * 4 == [failover(chain=CHAIN)(each)() for each in (text, late, annotated, optional)]  # type: ignore[arg-type]


def test_injection_by_name_and_pinning() -> None:
    """Keyword-only target, model and provider are filled in, and pin the call when they are passed."""

    @failover(chain=[A, B, "mistral/x/y"])
    def ask(
        *, target: Target | None = None, model: str = "", provider: str = ""
    ) -> tuple[str, str, str]:
        assert target is not None
        return target.key, model, provider

    assert (A, "a", "groq") == ask()
    assert (B, "b", "openai") == ask(model="b")
    assert (B, "b", "openai") == ask(model=B)
    assert (B, "b", "openai") == ask(target=Target(B))
    assert ("mistral/x/y", "x/y", "mistral") == ask(target="Mistral/x/y")  # type: ignore[arg-type]
    assert ["target", "model", "provider"] == list(inspect.signature(ask).parameters)
    with pytest.raises(ValueError, match="groq/a, openai/b, mistral/x/y"):
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

    assert ("b: yes", [1.0], 2) == (ask(model="b"), clock.sleeps, health()[B].total)


def test_every_entry_with_a_call_of_its_own_needs_no_injection() -> None:
    """Each target's callable gets the arguments, and its target by the same rules."""
    chain = [
        Target(A, call=lambda prompt, *, model: f"{model}: {prompt}"),
        Target(B, call=lambda prompt: prompt),
    ]

    @failover(chain=chain)
    def ask(prompt: str) -> str:
        raise AssertionError("never called")

    assert "a: hi" == ask("hi")
    assert "hi" == ask.using(chain=chain[1:])("hi")


def test_a_module_level_function_is_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is called when the chain comes to it."""

    @failover(chain=[A, fallback], attempts=1)
    def ask(target: Target, prompt: str) -> str:
        raise ConnectionResetError

    assert "fallback: hi" == ask("hi")


def fallback(prompt: str) -> str:
    return f"fallback: {prompt}"


def test_params_are_merged_over_the_calls_own() -> None:
    """A target's params win over what the caller passes, by position or name; UNSET takes one out."""
    target = Target(A, params={"temperature": 0.0, "top_p": Target.UNSET, "seed": 7})

    @failover(chain=[target])
    def ask(
        prompt: str, temperature: float = 1.0, top_p: float = 1.0, *, model: str = "", **more: Any
    ) -> Any:
        return prompt, temperature, top_p, model, more

    assert ("hi", 0.0, 1.0, "a", {"seed": 7}) == ask("hi", 0.5, top_p=0.3, seed=1)


def test_params_that_would_be_lost_are_refused() -> None:
    """A function that neither takes a param nor sees its target cannot honour it."""
    with pytest.raises(ConfigurationError, match="temperature"):
        failover(chain=[Target(A, params={"temperature": 0})])(lambda prompt, *, model: None)


class Client:
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
    client = Client()

    assert [(A, "x")] * 3 == [client.method("x"), Client.method(client, "x"), client.static("x")]
    assert [("Client", A, "x")] * 2 == [Client.of_class("x"), client.of_class_too("x")]  # type: ignore[operator]
    assert (A, "x") == client.static_too("x")  # type: ignore[operator]


def test_partials_callable_objects_and_lambdas() -> None:
    """Whatever is callable and given its target is guarded."""

    def ask(target: Target, prompt: str, suffix: str) -> tuple[str, str]:
        return target.key, prompt + suffix

    partial: Any = failover(chain=CHAIN)(functools.partial(ask, suffix="!"))
    callable_object: Any = failover(chain=CHAIN)(Client())
    by_lambda: Any = failover(chain=CHAIN)(lambda prompt, *, model: (model, prompt))

    assert ((A, "x!"), (A, "x"), ("a", "x")) == (partial("x"), callable_object("x"), by_lambda("x"))


def test_what_gives_an_awaitable_is_guarded_until_it_is_awaited(clock: Any) -> None:
    """Coroutine functions, and plain functions that return a coroutine, fail over alike."""

    async def answer(target: Target) -> str:
        if target.key == A:
            raise ConnectionResetError
        return target.key

    policy = failover(chain=CHAIN, attempts=1)
    coroutine_function = policy(answer)

    @policy
    def plain(target: Target) -> Any:
        return answer(target)

    async def main() -> list[str]:
        return [await coroutine_function(), await plain(), await policy.call(answer)]

    assert [B, B, B] == asyncio.run(main())
    assert (True, False) == (
        inspect.iscoroutinefunction(coroutine_function),
        inspect.iscoroutinefunction(plain),
    )
    assert 3 == health()[A].errors


def test_generators_are_guarded() -> None:
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
    assert 4 == health()[A].total


@pytest.mark.parametrize("what", [Client, 3, "text", None])
def test_what_cannot_be_guarded_is_refused(what: Any) -> None:
    """A class or no function at all is a ConfigurationError where it is decorated."""
    with pytest.raises(ConfigurationError):
        failover(chain=CHAIN)(what)


def test_the_decorator_without_its_chain_is_explained() -> None:
    """`@failover` without parentheses says how to write it."""
    with pytest.raises(ConfigurationError, match=r"@failover\(chain="):
        failover(fallback)


def test_every_kind_of_parameter_is_passed_on() -> None:
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


def test_the_attempt_is_told(clock: Any) -> None:
    """A parameter annotated Attempt gets the target, the number, what is left, and the call's name."""
    told: list[Attempt] = []

    @failover(chain=[A], attempts=2, timeout=10.0, backoff=lambda n: 1.0)
    def ask(target: Target, attempt: Attempt) -> str:
        told.append(attempt)
        clock.advance(2)
        raise ConnectionResetError

    with pytest.raises(ChainExhaustedError):
        ask()

    assert [(A, 1, 10.0), (A, 2, 7.0)] == [
        (each.target.key, each.number, each.remaining) for each in told
    ]
    assert 1 == len({each.call_id for each in told})


def test_two_functions_and_using_have_policies_of_their_own() -> None:
    """`.policy` shows the policy, `.using` changes a copy."""
    other = module_level.using(chain=B, attempts=1)

    assert ([A, B], [B]) == (
        [each.key for each in module_level.policy.chain],
        [each.key for each in other.policy.chain],
    )
    assert (A, B) == (module_level("x")[0], other("x")[0])
    with pytest.raises(ConfigurationError, match="attempts"):
        module_level.using(attempts=0)
