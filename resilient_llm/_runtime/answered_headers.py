"""`hear_if_any`: takes the headers of an answer or an error; loads `hearing` only if it has some.

Apart from `response_headers`, which `hearing` itself uses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from resilient_llm._runtime.response_headers import headers_in

if TYPE_CHECKING:
    from resilient_llm._core.limits.held import Held


def hear_if_any(source: object, key: str, began_at: float, held: Held | None) -> None:
    """Take the headers that an error or an answer of an attempt holds, if it does. Never raises.

    Args:
        source: What the attempt raised or gave.
        key: Key of its target.
        began_at: When it began, monotonic seconds.
        held: What it held of limits, if anything.
    """
    try:
        if headers_in(source) is None:
            return
    except Exception:  # noqa: BLE001  # a property of a foreign class
        return
    from resilient_llm._runtime.hearing import hear_in  # loaded with the first

    hear_in(source, key, began_at, held)
