"""Functions for operators: list, bench and unbench models, and read their health.

python examples/operators_view.py
"""

from __future__ import annotations

from datetime import timedelta

from resilient_llm import Target, bench_model, failover, health, list_benched, unbench_model

DOWN = {"groq"}


@failover(
    chain=["groq/llama-3.3-70b-versatile", "openai/gpt-5-mini", "anthropic/claude-haiku"],
    attempts=1,
)
def ask(target: Target, prompt: str) -> str:
    if target.provider in DOWN:
        raise ConnectionResetError("this provider is down")
    return f"{target.key} answers"


def show(headline: str) -> None:
    print(headline)
    for each in list_benched():
        ends = "until unbenched" if each.remaining is None else f"for {each.remaining:.0f} s"
        cause = "by hand" if each.manual else each.kind
        print(f"    benched {ends}: {each.model} ({cause}, {each.reason})")
    for key, report in health().items():
        print(
            f"    {key}: {report.status}, {report.errors} of {report.total} calls failed, "
            f"breaker {report.state}"
        )


for _ in range(6):
    ask("Hi")
show("One provider is down, and nobody noticed:")

bench_model("openai", until=timedelta(minutes=30), reason="maintenance")
print(ask("Hi"))
show("Another one is taken out by hand:")

unbench_model("openai")
print(ask("Hi"))
show("And put back:")
