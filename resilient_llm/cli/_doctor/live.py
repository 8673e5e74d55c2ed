"""Calls a function once for each target of its chain, for ``resilient-llm doctor --live``."""

from __future__ import annotations

import asyncio
import inspect
import time
import warnings
from typing import TYPE_CHECKING, Any

from resilient_llm import ErrorKind, ResponseRejectedError, Verdict, classify, reset
from resilient_llm.cli._doctor.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_ADVICE = {
    ErrorKind.TRANSIENT: "try again later, and look at the provider's status page",
    ErrorKind.RATE_LIMITED: "wait, or raise the limit of the account",
    ErrorKind.AUTH_DEAD: "look at the key, the bill, the permissions and the name of the model",
    ErrorKind.MEMORY_PRESSURE: "look at the memory of that server",
    ErrorKind.REQUEST_SPECIFIC: "look at the parameters; --args gives other arguments",
    ErrorKind.BAD_RESPONSE: "look at what `reject` says of the answer",
    ErrorKind.CALLER_BUG: "look at the function; --args gives other arguments",
    ErrorKind.UNKNOWN: "resilient-llm explain says more; write a rule for it",
}

_OUT_OF_MEMORY = Verdict(ErrorKind.MEMORY_PRESSURE)


def call_each(guarded: Any, arguments: Sequence[Any]) -> Iterator[Finding]:
    """Yield how one call of a function ends on each of its targets.

    The function is called once a target, with one attempt, and nothing of what an earlier target
    did keeps a later one from being called. A stream is read to its end.
    """
    with asyncio.Runner() as runner:
        for target in guarded.policy.chain:
            reset()  # a dead key has benched the whole provider
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of the policy, told at its import
                pinned = guarded.using(chain=(target,), attempts=1, max_attempts=1, reraise=True)
            began = time.monotonic()
            try:
                _call(pinned, arguments, runner)
            except Exception as error:  # noqa: BLE001  # what it is, is the finding
                yield Finding(target.key, "live", "error", _shown(error))
            else:
                seconds = time.monotonic() - began
                yield Finding(target.key, "live", "ok", f"answered in {seconds:.1f} s")


def _call(pinned: Any, arguments: Sequence[Any], runner: asyncio.Runner) -> None:
    result = pinned(*arguments)
    if inspect.isawaitable(result) or _has(result, "__aiter__") or _has(result, "__aenter__"):
        # One loop for all targets: the connections of a client belong to the loop it was used in.
        runner.run(_finished(result))
    elif _has(result, "__next__"):
        for _ in result:
            pass
    elif _has(result, "__enter__"):
        with result as entered:
            if entered is not result:
                _call(lambda: entered, (), runner)


async def _finished(result: Any) -> None:
    if inspect.isawaitable(result):
        result = await result
    if _has(result, "__aiter__"):
        async for _ in result:
            pass
    elif _has(result, "__aenter__"):
        async with result as entered:
            if entered is not result:
                await _finished(entered)


def _has(value: object, method: str) -> bool:
    # By what it says that it is: a proxy around a stream has the methods of all kinds of streams.
    return hasattr(value.__class__, method)


def _shown(error: Exception) -> str:
    """Return what an error means, without its text, which may hold the prompt and the key."""
    if isinstance(error, ResponseRejectedError):
        return f"the answer was refused ({error.reason}): {_ADVICE[ErrorKind.BAD_RESPONSE]}"
    verdict = classify(error)
    what = str(verdict.kind)
    if verdict.reason != what:
        what += f": {verdict.reason}"
    status = f", status {verdict.status}" if verdict.status else ""
    # By its reason: `on_memory_pressure="off"` gives it another kind.
    is_memory = verdict.reason == _OUT_OF_MEMORY.reason
    advice = _ADVICE.get(_OUT_OF_MEMORY.kind if is_memory else verdict.kind, "")
    return f"{what} ({type(error).__name__}{status}): {advice}".rstrip(": ")
