"""A handler of SIGHUP that has the configuration file loaded again.

The handler runs between two opcodes of whatever the main thread does, so it loads nothing itself:
it wakes the thread of `_watching`, which takes no lock, and calls the handler of before.
"""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any

from resilient_llm._runtime.runtime import runtime
from resilient_llm._values.errors import ConfigurationError
from resilient_llm.config._state import file_state
from resilient_llm.config._watching import reloader_of

if TYPE_CHECKING:
    from types import FrameType


class Handler:
    """One installed handler.

    Attributes:
        previous: What was installed before, as ``signal.getsignal`` returns it.
        is_active: Whether it still has the file loaded; else it only calls the previous one.
    """

    def __init__(self, previous: Any) -> None:
        self.previous = previous
        self.is_active = True
        self._state = state = file_state()
        self._reloader = reloader_of(state, self)
        state.on_end[self] = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle the signal."""
        if self.is_active:
            self._reloader.ask()
        if callable(self.previous):
            self.previous(number, frame)

    def uninstall(self) -> None:
        """Have the signal handled as before. A second time does nothing.

        Raises:
            ConfigurationError: Off the main thread, if the handler is still installed. It then
                only calls the previous one.
        """
        if not self.is_active:
            return
        self.end()
        if signal.getsignal(signal.SIGHUP) is self and self.previous is not None:
            raise ConfigurationError(
                "the handler of SIGHUP is still installed, since only the main thread can take "
                "it back: it now does nothing but call the one before it"
            )

    def end(self) -> None:
        """Have the file not loaded any more, and take the handler back if that is possible."""
        self.is_active = False
        self._state.on_end.pop(self, None)
        with runtime.lock:
            self._reloader.remove(self)
        while signal.getsignal(signal.SIGHUP) is self and self.previous is not None:
            previous = self.previous
            while isinstance(previous, Handler) and not previous.is_active:
                previous = previous.previous  # uninstalled while this one hid it
            try:
                signal.signal(signal.SIGHUP, previous)
            except ValueError:  # off the main thread
                break


def install() -> Handler:
    """Install a handler."""
    if not hasattr(signal, "SIGHUP"):
        raise ConfigurationError("this system has no signal SIGHUP: call watch() or reload()")
    if threading.current_thread() is not threading.main_thread():
        raise ConfigurationError(
            "reload_on_sighup() was called off the main thread: only the main thread can install "
            "a handler of a signal"
        )
    handler = Handler(signal.getsignal(signal.SIGHUP))
    try:
        signal.signal(signal.SIGHUP, handler)
    except ValueError:  # in a subinterpreter
        handler.end()
        raise ConfigurationError(
            "a handler of SIGHUP can only be installed in the main interpreter"
        ) from None
    return handler
