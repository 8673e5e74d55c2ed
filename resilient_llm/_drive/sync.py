"""Does what the story asks, in synchronous code."""

from __future__ import annotations

from types import AsyncGeneratorType, GeneratorType
from typing import TYPE_CHECKING, Any

from resilient_llm._core.permit import hold, let_go
from resilient_llm._core.steps import Done, LetThrough, Raise, Told, Try, Wait
from resilient_llm._errors import ConfigurationError
from resilient_llm._runtime import runtime

if TYPE_CHECKING:
    from resilient_llm._core.call import Call
    from resilient_llm._core.steps import Step
    from resilient_llm._core.story import Story


def drive(call: Call, steps: Story, step: Step) -> Any:
    """Drive a story from its present step to its end.

    Returns:
        The answer; an awaitable of it if the function turns out to give awaitables.
    """
    try:
        while True:
            if type(step) is Try:
                try:
                    value = attempt(call, step)
                    refuse_stream(value)
                except BaseException as error:
                    step = steps.send(Told(runtime.clock(), error=error))
                    if type(step) is LetThrough:
                        raise
                    continue
                if is_awaitable(value):
                    from resilient_llm._drive import aio

                    handed_over, call, steps = (call, steps), None, None  # type: ignore[assignment]  # no longer ours to clear
                    return aio.drive(*handed_over, step, pending=value)
                step = steps.send(Told(runtime.clock(), value))
            elif type(step) is Done:
                return step.value
            elif type(step) is Raise:
                raise_from(step)
            elif type(step) is Wait:
                runtime.time.sleep(step.seconds)
                step = steps.send(Told(runtime.clock()))
    finally:
        # What an error's traceback can reach must not hold the error.
        step = None  # type: ignore[assignment]
        if steps is not None:  # pyright: ignore[reportUnnecessaryComparison]  # handed over above
            steps.close()
            call.clear()


def is_awaitable(value: object) -> bool:
    """Return whether ``await`` takes it; a tenth of what ``inspect.isawaitable`` costs."""
    return hasattr(type(value), "__await__")


def refuse_stream(value: Any) -> None:
    """Refuse a generator that a function turned out to give: its items would not be guarded.

    Raises:
        ConfigurationError: If the value is a generator or an asynchronous generator.
    """
    if not isinstance(value, (GeneratorType, AsyncGeneratorType)):
        return
    if isinstance(value, GeneratorType):
        value.close()
    raise ConfigurationError(
        "the function gave a generator: @failover does not support streams yet; guard it with @breaker"
    )


def attempt(call: Call, step: Try) -> Any:
    """Make one attempt, known to guards inside it if it holds a leased place."""
    places = step.permit.places
    if not places:
        return step.lane.invoke(step, call.args, call.kwargs)
    hold(places)
    try:
        return step.lane.invoke(step, call.args, call.kwargs)
    finally:
        let_go(places)


def raise_from(step: Raise) -> None:
    """Raise what the story ends with, leaving no frame that holds it."""
    error, cause = step.error, step.cause
    step.error = step.cause = None
    assert error is not None
    try:
        if cause is None:
            raise error
        raise error from cause
    finally:
        error = cause = None
