"""What is entered and left around calls and attempts costs nothing while nothing is installed."""

from __future__ import annotations

from typing import Any

from resilient_llm import Target, failover
from resilient_llm._runtime.runtime import runtime
from resilient_llm.testing import isolated


class Hook:
    """A hook of calls that notes what is done with it, and is its own hook of attempts."""

    def __init__(self) -> None:
        self.done: list[Any] = []

    def __call__(self, call_id: str, function: str, chain: Any) -> Hook:
        self.done.append("begin")
        return self

    def attempt(self, target: Target, number: int) -> Hook:
        self.done.append(("attempt", target.key, number))
        return self

    def enter(self) -> str:
        self.done.append("enter")
        return "token"

    def leave(self, entered: str) -> None:
        assert "token" == entered
        self.done.append("leave")

    def answered(self, answer: object) -> None:
        self.done.append(("answered", answer))

    def read(self, items: Any) -> None: ...

    def note(self, kind: str, target: str, details: Any) -> None:
        self.done.append(kind)

    def failed(self, verdict: Any, type_name: str) -> None:
        self.done.append("failed")

    def settled(self, benched_until: float | None) -> None:
        self.done.append("settled")

    def over(self) -> None:
        self.done.append("over")


def _ask(target: Target) -> str:
    return "hello"


def test_the_wrapper_is_the_same_before_and_after() -> None:
    """The healthy path has the same code and calls the function itself again."""
    ask = failover(["groq/llama", "openai/gpt"])(_ask)
    ask()
    ask()
    code = ask.__code__
    before = _reads(ask)
    hook = Hook()
    remove = runtime.add_hook(hook)
    ask()
    assert "begin" in hook.done
    assert ask.__code__ is code
    remove()
    ask()
    ask()

    assert ask.__code__ is code
    assert _reads(ask) == before


def _reads(ask: Any) -> dict[str, Any]:
    """Return what the wrapper reads, except what each binding makes anew."""
    changing = ("look_at", "others", "__builtins__")
    return {name: value for name, value in ask.__globals__.items() if not name.endswith(changing)}


def test_the_order_of_a_healthy_call() -> None:
    """Begun, its attempt entered and left, the judgement inside the call, and over."""
    hook = Hook()
    ask = failover("groq/llama")(_ask)
    ask()  # the first call of a key takes another way
    runtime.add_hook(hook)
    ask()

    assert [
        "begin",
        ("attempt", "groq/llama", 1),
        "enter",
        "leave",
        ("answered", "hello"),
        "enter",
        "AttemptSucceeded",
        "over",
        "leave",
    ] == hook.done


def test_each_state_has_its_own() -> None:
    """A hook inside `isolated()` sees nothing of the outer state, and the outer one nothing of it."""
    outer, inner = Hook(), Hook()
    ask = failover("groq/llama")(_ask)
    runtime.add_hook(outer)
    with isolated():
        ask()
        assert [] == outer.done
        runtime.add_hook(inner)
        ask()
    count = len(inner.done)
    ask()

    assert count == len(inner.done)
    assert "over" in outer.done
