"""Where errors and answers of clients hold the headers of a response.

Apart from `hearing`, which is loaded with the first headers that are found.
"""

from __future__ import annotations

from typing import Any, Final, cast

_HEADERS: Final = ("headers", "litellm_response_headers")
_RESPONSES: Final = ("response", "http_response")
_BARE: Final = (str, dict, list, tuple, type(None))


def headers_in(source: object) -> Any:
    """Return the headers of the response that an error or an answer holds, or None.

    Errors of SDKs and their streams have the response, what ``with_raw_response`` gives has it as
    ``http_response``, and a response has them itself. Nothing that is computed is asked for but
    the headers of such a response.
    """
    if type(source) in _BARE:
        return None
    try:
        own: Any = object.__getattribute__(source, "__dict__")
    except AttributeError:
        return None
    if type(own) is not dict:
        return None
    fields = cast("dict[str, Any]", own)
    for name in _HEADERS:
        if name in fields and (headers := fields[name]):
            return headers
    for name in _RESPONSES:
        if name in fields and (response := fields[name]) is not None:
            if type(response) is dict:  # botocore
                found: Any = cast("dict[str, Any]", response).get("ResponseMetadata")
                return cast("dict[str, Any]", found).get("HTTPHeaders") if found else None
            return getattr(response, "headers", None)
    return None
