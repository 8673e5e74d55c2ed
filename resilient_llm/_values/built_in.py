"""The built-in attributes of errors and classes, read past what a foreign class puts over them.

A property, a ``__getattribute__`` or a metaclass of an SDK may raise. What looks at an error
while a call goes on reads these, so that the failure is judged and not replaced.
``issubclass(type(error), …)`` belongs to the same rule: ``isinstance`` asks for ``__class__``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

_error: Any = BaseException
_group: Any = BaseExceptionGroup

cause_of: Final[Callable[[BaseException], BaseException | None]] = _error.__cause__.__get__
context_of: Final[Callable[[BaseException], BaseException | None]] = _error.__context__.__get__
traceback_of: Final[Callable[[BaseException], TracebackType | None]] = _error.__traceback__.__get__
members_of: Final[Callable[[BaseException], tuple[BaseException, ...]]] = _group.exceptions.__get__
attributes_of: Final[Callable[[BaseException], dict[str, Any]]] = _error.__dict__[
    "__dict__"
].__get__
class_name: Final[Callable[[type], str]] = type.__dict__["__name__"].__get__


def is_raised_by(error: BaseException, failure: BaseException) -> bool:
    """Return whether an error's own code raised a failure while the error was looked at.

    So not by a signal handler, which may raise anywhere: a ``SystemExit`` is nobody's to drop.
    A ``KeyboardInterrupt`` never counts, since Python raises it in whatever code runs.

    Args:
        error: The error.
        failure: What looking at an attribute of it, or of its class, has raised.
    """
    if issubclass(type(failure), Exception):
        return True
    step = traceback_of(failure)
    if step is None or issubclass(type(failure), KeyboardInterrupt):
        return False
    while step.tb_next is not None:
        step = step.tb_next
    code = step.tb_frame.f_code
    if code.co_argcount == 0:
        return False
    first: object = step.tb_frame.f_locals.get(code.co_varnames[0])
    return first is error or first is type(error)
