"""Errors as clients raise them for a response: `http_error`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from resilient_llm._values import checks as check
from resilient_llm._values.errors import ConfigurationError


class _Headers(dict[str, str]):
    """``{lower-cased name: value}``, found in any spelling, as the headers of clients are."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        super().__init__({name.lower(): value for name, value in headers.items()})

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and super().__contains__(name.lower())

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name.lower(), default)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self),)


class _FakeResponse:
    """The response of a `FakeHTTPError`, with the names that httpx and requests use."""

    def __init__(self, status: int, headers: _Headers, content: bytes) -> None:
        self.status_code = status
        self.headers = headers
        self.content = self._content = content

    @property
    def text(self) -> str:
        return self.content.decode("utf-8", "replace")

    def json(self) -> Any:
        return json.loads(self.content)


class FakeHTTPError(Exception):
    """An error as a client raises it for a response; made by `http_error`.

    Attributes:
        status_code: The HTTP status.
        headers: ``{lower-cased name: value}``; a name is found in any spelling.
        body: The decoded body: a dict, a text, or None.
        response: The same as a response of httpx or requests, with ``.text`` and ``.json()``.
    """

    def __init__(
        self, status: int, headers: Mapping[str, str], body: dict[str, Any] | str | None
    ) -> None:
        super().__init__(f"Error code: {status}")
        self.status_code = status
        self.headers = _Headers(headers)
        self.body = body
        text = body if isinstance(body, str) else "" if body is None else json.dumps(body)
        self.response = _FakeResponse(status, self.headers, text.encode())

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.status_code, dict(self.headers), self.body)


def http_error(
    status: int,
    *,
    headers: Mapping[str, str | int | float] | None = None,
    body: dict[str, Any] | str | None = None,
) -> FakeHTTPError:
    """Return an error as clients raise it for a provider's response with this status.

    It is classified like the error of a real client for the same response.

    Examples:
        >>> http_error(429, headers={"retry-after": "20"})
        >>> http_error(400, body={"error": {"code": "context_length_exceeded"}})

    Args:
        status: From 100 to 599.
        headers: ``{name: value}``
        body: What the provider answers: a dict, for JSON, or a text.

    Raises:
        ConfigurationError: If one of them is not allowed; also a ValueError.
    """
    number = check.whole("status", status, low=100)
    if number > 599:
        raise ConfigurationError(f"status={number} is not allowed: expected 100 to 599")
    given = check.mapping("headers", {} if headers is None else headers)
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise ConfigurationError(
                f"headers[{name!r}] of type {type(value).__name__} is not allowed: expected a text"
            )
    if body is not None and not isinstance(body, (dict, str)):  # pyright: ignore[reportUnnecessaryIsInstance]  # users' input
        raise ConfigurationError(
            f"body of type {type(body).__name__} is not allowed: expected a dict or a text"
        )
    return FakeHTTPError(number, {name: str(value) for name, value in given.items()}, body)
