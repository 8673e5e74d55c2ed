"""What type checkers must refuse. Checked by pyright and mypy, never run.

Every line that is wrong carries an ignore for each checker, and both report an ignore that
hides nothing: an error that a checker no longer finds fails the check.
"""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from resilient_llm import StreamPolicy, Target, ToolLoop, bench_model, breaker, can_call, failover


@failover("groq/llama")
def ask(target: Target, prompt: str) -> str:
    return f"{target.model}{prompt}"


@failover("groq/llama")
async def aask(target: Target, prompt: str) -> str:
    return f"{target.model}{prompt}"


@failover("groq/llama")
def by_name(prompt: str, *, model: str = "") -> str:
    return f"{model}{prompt}"


@breaker("groq")
def guarded(prompt: str) -> str:
    return prompt


class Client:
    @failover("groq/llama")
    def ask(self, target: Target, prompt: str) -> str:
        return f"{target.model}{prompt}"

    @classmethod
    @failover("groq/llama")
    def of_class(cls, target: Target, prompt: str) -> str:
        return f"{target.model}{prompt}"

    @staticmethod
    @failover("groq/llama")
    def static(target: Target, prompt: str) -> str:
        return f"{target.model}{prompt}"


# The type of an argument.
ask(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
ask.using(timeout=3.0)(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
by_name(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
guarded(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Client().ask(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Client.of_class(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
Client().ask.using(timeout=3.0)("why")  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]
Client.static(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

# An injected target is not in the signature.
ask(Target("groq/llama"), "why")  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]
ask("why", target=Target("groq/llama"))  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
Client().ask(Target("groq/llama"), "why")  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]

# An argument too few, a name that there is not.
ask()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
ask("why", temperature=1.0)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]

# The result.
number: int = ask("why")  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


async def check_async() -> None:
    await aask(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    answer: str = await aask("why")
    await aask(answer, answer)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    _: int = await aask("why")  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


# Options: a word that is not allowed, a name that there is not.
failover("groq/llama", on_unknown="sometimes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
failover("groq/llama", tool_loop=True)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
ToolLoop("warn", 3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
failover("groq/llama", atempts=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
breaker("groq", mode="off")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
breaker("groq", failure=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
bench_model("groq", until="tomorrow")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

# A stream's options have names and types.
StreamPolicy(on_interrupt="retry")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
StreamPolicy(idle="30")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
failover("groq/llama", stream=30.0)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

# A chain.
failover(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
failover(["groq/llama", 3])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
can_call(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
ask.using(chain=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
