"""Answers of HTTP under a policy: what ``with_raw_response`` gives, and its guarded stream.

An attempt hands the policy what the answer holds, so that `reject`, usage and streams are looked
at as in any other call. The answer itself is kept beside it, and given to the caller.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Final, cast

RAW_HEADER: Final = "x-stainless-raw-response"
"""By which the SDKs ask themselves for an answer of HTTP."""

_kept: ContextVar[list[tuple[Any, Any]] | None] = ContextVar("raw_responses", default=None)
"""Of the call that is being made, ``[(what an answer holds, the answer)]``."""


def is_raw(arguments: dict[str, Any]) -> bool:
    """Return whether a call asks for the answer by a header, as the SDKs' own helpers do."""
    headers: Any = arguments.get("extra_headers")
    if not isinstance(headers, Mapping):
        return False
    named = cast("Mapping[Any, Any]", headers)
    return any(str(name).lower() == RAW_HEADER and named[name] == "true" for name in named)


class KeepingRaw:
    """Keeps the answers of the attempts that are made inside a ``with`` block."""

    __slots__ = ("_answers", "_token")

    def __enter__(self) -> KeepingRaw:
        self._answers: list[tuple[Any, Any]] = []
        self._token = _kept.set(self._answers)
        return self

    def __exit__(self, *_: object) -> None:
        _kept.reset(self._token)

    def answer_with(self, held: Any) -> Any:
        """Return the answer that held this, which the policy returned."""
        for own, raw in self._answers:
            if own is held:
                return raw
        response = getattr(held, "response", None)
        for _, raw in self._answers:
            if response is not None and response is raw.http_response:
                return RawStream(raw, held)
        return self._answers[-1][1]


class Unwrapping:
    """Takes what an attempt holds out of its answer, if the call keeps answers."""

    __slots__ = ("_kept", "_token")

    def __enter__(self) -> Unwrapping:
        self._kept = _kept.get()
        self._token = _kept.set(None)  # not for a wrapped client inside this one
        return self

    def __exit__(self, *_: object) -> None:
        _kept.reset(self._token)

    @property
    def is_raw(self) -> bool:
        """Whether the attempt gives an answer of HTTP."""
        return self._kept is not None

    def keep(self, held: Any, raw: Any) -> Any:
        """Keep an answer and return what it holds."""
        assert self._kept is not None
        self._kept.append((held, raw))
        return held


class RawStream:
    """An answer of HTTP whose ``parse`` gives the guarded stream; all else is the answer's."""

    def __init__(self, raw: Any, stream: Any) -> None:
        self._raw = raw
        self._stream = stream
        if inspect.iscoroutinefunction(raw.parse):
            self.parse = self._parse_later

    @property
    def __class__(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]  # a stand-in
        return cast("Any", type(self._raw))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    def __repr__(self) -> str:
        return repr(self._raw)

    def parse(self, **options: Any) -> Any:
        """Return the guarded stream; the answer's own for another class of items."""
        return self._raw.parse(**options) if options.get("to") is not None else self._stream

    async def _parse_later(self, **options: Any) -> Any:
        return await self._raw.parse(**options) if options.get("to") is not None else self._stream
