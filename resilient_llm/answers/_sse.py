"""Raw lines of server-sent events as stream items: ``data: {…}``, as ``iter_lines()`` gives them.

A text is content, and so is a line that only looks like one of these. What is read is what
a provider's stream consists of: data with a JSON object, its end, and lines without data.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, cast

from resilient_llm.answers._reading import LONGEST

STARTS: Final = ("data:", ":", "event:", "id:", "retry:")
"""How a line begins that may be one of these."""
_MOST_LINES: Final = 64
_SILENT: Final = re.compile(
    r"(event|id|retry): ?[\w.:/-]{1,128}|: ?(openrouter processing|ping|keep-?alive|heartbeat)",
    re.IGNORECASE,
)


class End:
    """The line with which a stream ends: ``data: [DONE]``."""


def items_in(text: object) -> list[Any] | None:
    """Return the items in a text of such lines; None if it is the caller's own.

    Args:
        text: A text or bytes, of one line or of several.

    Returns:
        JSON objects and `End`; nothing of lines without data.
    """
    if issubclass(type(text), (bytes, bytearray)):
        text = bytes(cast("bytes", text)[: LONGEST + 1]).decode("utf-8", "replace")
    if type(text) is not str or not text.startswith(STARTS) or len(text) > LONGEST:
        return None
    items: list[Any] = []
    for line in text.splitlines()[:_MOST_LINES]:
        if not line or _SILENT.fullmatch(line.rstrip()):
            continue
        if not line.startswith("data:"):
            return None
        data = line[5:].strip()
        if data == "[DONE]":
            items.append(End)
            continue
        if not data.startswith("{"):
            return None
        try:
            items.append(json.loads(data))
        except ValueError:
            return None
    return items
