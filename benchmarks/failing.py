"""Functions whose first target fails, and the errors that it fails with."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from _timing import Function, is_installed

from resilient_llm import Target, breaker, failover

if TYPE_CHECKING:
    from collections.abc import Callable

NEVER = 10**9
"""More failures than there are: the target is never benched."""


class Unavailable(Exception):  # noqa: N818  # what the HTTP status is called
    """What an SDK raises for an HTTP 503."""

    status_code = 503


class Unprocessable(Exception):  # noqa: N818  # what the HTTP status is called
    """What an SDK raises for an HTTP 422: wrong for this target, and no fault of its health."""

    def __init__(self) -> None:
        super().__init__("unprocessable")
        self.status_code = 422
        self.response = _REFUSAL


_REFUSAL = SimpleNamespace(status_code=422, headers={})


def errors() -> dict[str, Callable[[], Exception]]:
    """Return ``{what: what makes one}`` of the errors that a target fails with."""
    kinds: dict[str, Callable[[], Exception]] = {
        "an HTTP 503": Unavailable,
        "an HTTP 422": Unprocessable,
        "a refused connection": ConnectionRefusedError,
    }
    if is_installed("openai"):
        import openai

        http: Any = sys.modules.get("httpx2") or sys.modules["httpx"]
        response = http.Response(
            503, request=http.Request("POST", "https://api.example.com/v1/chat/completions")
        )
        error = openai.InternalServerError("unavailable", response=response, body=None)
        kinds["an `openai.InternalServerError`"] = lambda: _copied(error)
    return kinds


def _copied(error: Exception) -> Exception:
    """Return a new error with the same attributes: what a client spends on one is not ours."""
    copy = type(error).__new__(type(error), *error.args)
    copy.__dict__.update(error.__dict__)
    return copy


def failing_over(error: Callable[[], Exception]) -> Function:
    """Return a decorated function whose first target always fails and is never benched."""
    one, two = f"down{id(error)}/model", f"up{id(error)}/model"
    for key in (one, one.partition("/")[0]):
        breaker(key, failures=NEVER, min_calls=NEVER)

    @failover(chain=[one, two], attempts=1)
    def ask(target: Target, prompt: str) -> str:
        if target.key == one:
            raise error()
        return prompt

    return ask
