"""What an error of a call tells of its attempts: notes, and tracebacks without our own frames."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from resilient_llm._values.built_in import class_name, is_raised_by, traceback_of
from resilient_llm._values.errors import BreakerOpenError
from resilient_llm._values.escaping import escaped
from resilient_llm._values.kinds import ErrorKind

if TYPE_CHECKING:
    import types

    from resilient_llm._values.kinds import AttemptRecord
    from resilient_llm._values.target import Target


def note_of(record: AttemptRecord) -> str:
    attempt = "" if record.number == 0 else f"attempt {record.number}, "
    return f"{record.target}: {attempt}{outcome_of(record)}"


def outcome_of(record: AttemptRecord) -> str:
    reason = escaped(record.reason)
    if record.number == 0:
        if record.type_name != BreakerOpenError.__name__:
            return f"skipped ({reason})"
        return f"skipped (benched: {reason.removeprefix('benched ')})"
    if record.kind is ErrorKind.UNKNOWN:  # its reason says that no rule knows the class
        return f"{record.kind}, {record.type_name}"
    return f"{record.kind}, {reason}"


def trim_traceback(error: BaseException) -> None:
    """Take the frames that lead from a driver to the caller's function out of a traceback."""
    with suppress(Exception):  # a foreign class
        traceback = _foreign(traceback_of(error))
        if traceback is not None:  # else it was raised by this library
            error.__traceback__ = traceback


def _foreign(traceback: types.TracebackType | None) -> types.TracebackType | None:
    while traceback is not None and is_ours(traceback.tb_frame):
        traceback = traceback.tb_next
    return traceback


def is_ours(frame: types.FrameType) -> bool:
    """Return whether a frame executes code of this library."""
    name = frame.f_globals.get("__name__", "")
    return isinstance(name, str) and name.partition(".")[0] == __name__.partition(".")[0]


def note_bug(error: BaseException, target: Target) -> None:
    """Add a note to an error of the caller's code: which target was called, and why it ended."""
    note = (
        f"raised while calling {target.key}: {class_name(type(error))} is treated as a bug in the "
        "program, so no other target is tried"
    )
    names = ("provider", "provider_key", "model", "key", "spec")  # no other key is shown
    if type(error) is KeyError and len(error.args) == 1:
        found = [name for name in names if _equal_texts(error.args[0], getattr(target, name))]
        if found:
            note += f"; the key that was not found is the {found[0]} of this target"
    add_note(error, note)


def _equal_texts(one: object, other: str) -> bool:
    return type(one) is str and one == other


def add_note(error: BaseException, note: str) -> None:
    # An error that is raised again and again must not collect the same note each time.
    try:
        if note not in getattr(error, "__notes__", ()):
            error.add_note(note)
    except BaseException as failure:
        if not is_raised_by(error, failure):  # a class may take no notes, as a frozen dataclass
            raise
