"""The error that a guard below a client has charged for an answer, found again from above it.

A guard of an HTTP transport charges a refusal before the client has made an error of it. The
client's error refers to the same response, whose ``extensions`` lead to the one that was charged.
"""

from __future__ import annotations

from typing import Any, Final, cast

from resilient_llm._values.built_in import attributes_of

CHARGED: Final = "resilient_llm.charged"
"""The name in ``extensions``, which clients neither send nor pickle."""


def charged_answer(error: BaseException) -> BaseException | None:
    """Return the error that was charged for the response of this one, or None."""
    response: Any = attributes_of(error).get("response")
    if response is None:
        return None
    try:
        extensions = response.extensions
        found = cast("dict[str, Any]", extensions) if type(extensions) is dict else {}
        return found.get(CHARGED)
    except Exception:  # noqa: BLE001  # a foreign class
        return None
