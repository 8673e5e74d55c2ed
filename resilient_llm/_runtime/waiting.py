"""Finds the socket that another thread is waiting for, and shuts it down.

A blocking call on a socket blocks in C, so its caller is the thread's innermost frame: a method
of the standard library or of a network stack. Only the call that this frame is executing counts,
and only if it is a method of a socket or of an object that keeps one. A frame that has a socket
in a variable and waits for something else is left alone.

Owns nothing.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from dis import Instruction
    from types import FrameType

_WAITS: Final = frozenset(
    """recv recv_into recvfrom recvfrom_into recvmsg recvmsg_into read do_handshake send sendall
    sendmsg write connect""".split()
)
"""Names of the methods that wait for a socket."""


def shut_down_socket_of(frame: FrameType | None) -> bool:
    """Shut down the socket that a thread waits for.

    Args:
        frame: The thread's innermost frame; None if the thread is gone.

    Returns:
        Whether there was such a socket, and it was connected.
    """
    try:
        found = None if frame is None else _socket_in(frame)
        if found is None:
            return False
        # The method of the plain class: that of a TLS socket removes state that the read uses.
        socket.socket.shutdown(found, socket.SHUT_RDWR)
    except OSError:
        return False  # already closed, or not yet connected
    else:
        return True
    finally:
        del frame


def _socket_in(frame: FrameType) -> socket.socket | None:
    """Return the socket whose method a frame is calling, or None."""
    names = _called_name(frame)
    if len(names) < 2 or names[-1] not in _WAITS:
        return None
    value: Any = frame.f_locals.get(names[0])
    holders: list[Any] = []
    for name in names[1:]:
        holders.append(value)
        try:
            value = object.__getattribute__(value, name)
        except Exception:  # noqa: BLE001  # anybody's object may raise anything
            break
    # ``self._sslobj.read(…)`` of a TLS socket: the nearest socket on the way to the method.
    for holder in reversed(holders):
        found = _socket_of(holder)
        if found is not None:
            return found
    return None


def _socket_of(value: Any) -> socket.socket | None:
    """Return a socket, or the one that an object keeps as those of network stacks do."""
    if issubclass(type(value), socket.socket):
        return value
    for name in ("_sock", "socket"):
        try:
            found: Any = object.__getattribute__(value, "__dict__").get(name)
        except Exception:  # noqa: BLE001  # anybody's object may raise anything
            return None
        if issubclass(type(found), socket.socket):
            return found
    return None


def _called_name(frame: FrameType) -> list[str]:
    """Return the dotted name that a frame is calling: ``["self", "_sock", "recv"]``, or nothing.

    An instruction knows where in the source it is, and a call begins where the name of what it
    calls begins. So the last loads that begin there are those of the name.
    """
    import dis  # here: it takes a while to load

    before: list[Instruction] = []
    for call in dis.get_instructions(frame.f_code):
        if call.offset == frame.f_lasti:
            break
        before.append(call)
    else:
        return []
    start = _start(call)
    if not call.opname.startswith("CALL") or start is None:
        return []
    names: list[str] = []
    for each in reversed(before):
        if _start(each) != start or not each.opname.startswith("LOAD"):
            continue
        # Two variables may be loaded at once; the first is the one that begins here.
        loaded: Any = each.argval
        names.append(str(cast("tuple[Any, ...]", loaded)[0] if type(loaded) is tuple else loaded))
        if each.opname not in ("LOAD_ATTR", "LOAD_METHOD"):
            break
    return names[::-1]


def _start(instruction: Instruction) -> tuple[int, int] | None:
    place = instruction.positions
    if place is None or place.lineno is None or place.col_offset is None:
        return None  # the code was compiled without positions
    return place.lineno, place.col_offset
