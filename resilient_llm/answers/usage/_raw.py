"""Bodies of responses that were not parsed: ``with_raw_response`` of openai, anthropic and groq.

What they return has the response of the HTTP client as ``http_response``. Its body is read if the
client has read all of it already, which is never so for a stream; nothing here reads the network.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, cast

from resilient_llm.answers._reading import inside

if TYPE_CHECKING:
    from collections.abc import Mapping

_MOST: Final = 1_048_576
"""Bytes of a body that is parsed, which takes about 10 ms."""
_RESPONSE: Final = "http_response"
_BODY: Final = "_content"
"""Where httpx, httpx2 and requests keep a body that was read."""


def is_raw(fields: Mapping[str, Any]) -> bool:
    """Return whether something with these fields is a response that was not parsed."""
    return _RESPONSE in fields or (_BODY in fields and "status_code" in fields)


def body_in(fields: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the body of such a response; None if it was not read, or is no JSON object."""
    response = fields.get(_RESPONSE)
    body = (fields if response is None else inside(response)).get(_BODY)
    if type(body) is not bytes or len(body) > _MOST or not body.lstrip().startswith(b"{"):
        return None
    found: Any = json.loads(body)
    return cast("dict[str, Any]", found) if type(found) is dict else None
