"""What type checkers make of a `FailoverModel`. Checked by pyright and mypy, never run.

Not named after its library, which mypy would take it for.

A line that must be refused is marked for both; the mark is an error itself if nothing is wrong.
"""

# pyright: strict

from __future__ import annotations

from typing import assert_type

from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models import Model
from pydantic_ai.models.test import TestModel

from resilient_llm import Failover, StreamPolicy, Target
from resilient_llm.integrations.pydantic_ai import FailoverModel


class City(BaseModel):
    """What a run returns."""

    name: str


async def models() -> None:
    """A chain is a model, made of models, texts or one mapping, with the options of a policy."""
    one = FailoverModel(TestModel(), "openai:gpt-5-mini", timeout=30.0, attempts=2)
    named = FailoverModel({"groq/llama": TestModel(), Target("openai/gpt"): TestModel()})
    model: Model = FailoverModel(one, stream=StreamPolicy(idle_timeout=10.0))
    assert_type(one.policy, Failover)

    result = await Agent(named, output_type=City).run("Hi")
    assert_type(result.output, City)
    text = await Agent(model).run("Hi")
    assert_type(text.output, str)


def refused() -> None:
    """A wrong keyword, a wrong type of an option and what is no model are errors."""
    FailoverModel(TestModel(), timeot=30.0)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    FailoverModel(TestModel(), attempts="3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    FailoverModel(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
