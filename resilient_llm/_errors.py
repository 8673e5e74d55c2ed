"""Not the code (``_values/errors.py``): forwards pickles of 0.1.0, until the next release."""

from typing import Any

from resilient_llm._values import errors as _moved

__all__ = ["_rebuild", "_rebuild_chain"]


def _rebuild(factory: Any, args: tuple[Any, ...]) -> Any:
    return factory(*args)


def _rebuild_chain(message: str, members: Any, fields: tuple[Any, ...], notes: list[str]) -> Any:
    named: dict[str, Any] = dict(
        zip(("attempts", "kind", "retry_after", "records"), fields, strict=True)
    )
    return _moved.ChainExhaustedError._unpickled(message, members, named, notes)


def __getattr__(name: str) -> Any:
    return getattr(_moved, name)
