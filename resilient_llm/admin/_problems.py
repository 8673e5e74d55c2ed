"""`Problem`: an answer that is not what was asked for, as RFC 9457 writes it."""

from __future__ import annotations

import http
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class Problem(Exception):  # noqa: N818  # the word of RFC 9457
    """Ends a request with a status of 400 or more.

    Attributes:
        status: The HTTP status.
        detail: What is wrong with this request, and what is expected.
        headers: ``{name: value}`` to send with it.
    """

    def __init__(
        self, status: int, detail: str, *, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})

    @property
    def body(self) -> bytes:
        """The answer as ``application/problem+json``."""
        return json.dumps(
            {
                "type": "about:blank",
                "title": http.HTTPStatus(self.status).phrase,
                "status": self.status,
                "detail": self.detail,
            }
        ).encode()
