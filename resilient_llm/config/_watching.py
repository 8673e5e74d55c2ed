"""`Watch`, and the thread that loads a file again: when it has changed, or when a signal asks.

Theory of operation. All watches of one state of the process, and its handlers of SIGHUP, share one
thread, which looks at the file at the shortest interval of all. It compares the version of the file
with that which was read last. A version that is another one and then stays the same for one
interval is read; if it changes while it is read, what was read is dropped. A file that cannot be
looked at is such a version, too, so a file that is replaced may be gone for a moment, and one that
stays away is a failure. What was changed within the last two seconds before it was read is read
again, since the next change may not show in its version.

The thread holds no lock while it looks, and that of the loads while it reads. It runs by real time,
rests while an ``isolated()`` inside its state is in force, starts again in a forked child, and ends
with the last watch or with its state.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, Self

from resilient_llm._runtime.background import Background, is_exiting, raise_if_asked, warn
from resilient_llm._runtime.clock import SystemClock
from resilient_llm._runtime.runtime import runtime
from resilient_llm._values import checks as check
from resilient_llm._values.built_in import class_name
from resilient_llm._values.configuration import InvalidConfigError
from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.exported import exported
from resilient_llm.config._loading import Load, NotWantedError
from resilient_llm.config._state import file_state, version_of

if TYPE_CHECKING:
    from types import TracebackType

    from resilient_llm.config._state import FileState, Version

SHORTEST_INTERVAL: Final = 0.01
LONGEST_INTERVAL: Final = 3600.0
_LOOK_AGAIN: Final = 0.5
"""Seconds after which the thread looks whether the state that it belongs to is in force again."""

_now: Final = SystemClock.monotonic


class Reloader(Background):
    """The thread that loads the file of one state of the process again.

    Args:
        state: Of the state of the process.
    """

    def __init__(self, state: FileState) -> None:
        self._state = state
        self.users: dict[object, float] = {}
        """``{watch or handler of a signal: its interval in seconds, infinite of a handler}``"""
        self._is_asked = False
        self._candidate: Version | None = None
        """The version that the file has had since the moment below, if it is not the one read."""
        self._since = 0.0
        self._has_told = False
        super().__init__("config", self._reload_if_needed, due=self._pause_for_another_state)

    def add(self, user: object, interval: float) -> None:
        """Work for a user. Called with the runtime's lock held."""
        self.users[user] = interval
        self._period = min(self.users.values())

    def remove(self, user: object) -> None:
        """Work for a user no longer; end with the last one. Called with the runtime's lock held."""
        self.users.pop(user, None)
        self._period = min(self.users.values(), default=math.inf)
        if not self.users:
            self.end()

    def ask(self) -> None:
        """Have the file loaded again soon. Allowed in a signal handler: it takes no lock."""
        self._is_asked = True
        self.wake()

    def _pause_for_another_state(self) -> float:
        return _LOOK_AGAIN if self._is_asked else math.inf

    def _reload_if_needed(self, until: float) -> bool:
        """Do what is due; the work of the thread."""
        if is_exiting() or not self._state.is_present:
            return True
        is_asked, self._is_asked = self._is_asked, False
        try:
            if is_asked:
                self._reload(None)
            elif self._period < math.inf:
                self._look()
        except BaseException as error:  # noqa: BLE001  # one failure must not end the thread
            raise_if_asked(error)
            if not self._has_told:
                self._has_told = True
                warn(f"config: a reload failed with {class_name(type(error))}")
        return True

    def _look(self) -> None:
        """Load the file again if it has changed and then stayed the same for an interval."""
        file = runtime.in_force.file
        path = None if file is None or file.origin is None else file.origin.path
        if path is None:  # a mapping took its place
            return
        version, now, read = version_of(path), _now(), self._state.version
        if read is not None and version.facts == read.facts and not read.is_recent:
            self._candidate = None
            return
        if self._candidate is None or self._candidate.facts != version.facts:
            self._candidate, self._since = version, now
            return
        if now - self._since >= self._period:
            self._candidate = None
            self._reload(version)

    def _reload(self, version: Version | None) -> None:
        """Load the file again; None for any version of it."""

        def is_wanted(found: Version | None) -> bool:
            if not (self.users and self._state.is_present):
                return False
            return version is None or found is None or found.facts == version.facts

        try:
            Load(self._state, None, is_wanted).run(tells_again=False)
        except (NotWantedError, InvalidConfigError):
            pass
        except ConfigurationError:
            if self._state.is_present and runtime.in_force.file is not None:
                raise


def reloader_of(state: FileState, user: object, interval: float = math.inf) -> Reloader:
    """Return the thread of a state, which now works for a user; it is made for the first one."""
    with runtime.lock:
        reloader = state.reloader
        if reloader is None or reloader.is_over:
            reloader = state.reloader = Reloader(state)
        reloader.add(user, interval)
    return reloader


class Watch:
    """Has the configuration file loaded again when it has changed, until it is stopped.

    It is a context manager, which stops it. Several watches of one process share one thread.

    Attributes:
        interval: Seconds between two looks at the file.
    """

    interval: float

    def __init__(self, interval: float) -> None:
        self.interval = interval
        state = file_state()
        origin = state.origin()
        if origin.path is None:
            raise ConfigurationError(
                "a mapping is loaded, which cannot be watched: load a path, or call reload()"
            )
        self._reloader = reloader_of(state, self, interval)
        self._reloader.start()
        self._reloader.hurry()  # to the shorter interval

    @property
    def running(self) -> bool:
        """Whether it was not stopped, and has not ended with its state of the process."""
        return self in self._reloader.users and not self._reloader.is_over

    def stop(self) -> None:
        """Stop it: no change of the file takes effect any more. A second time does nothing."""
        with runtime.lock:
            self._reloader.remove(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<Watch every {self.interval:g} s, {'running' if self.running else 'stopped'}>"

    def __reduce__(self) -> Any:
        raise TypeError("a Watch cannot be pickled: make one in each process")


exported(Watch, "resilient_llm.config")


def watch(interval: float) -> Watch:
    """Return a running watch."""
    return Watch(check.number("interval", interval, low=SHORTEST_INTERVAL, high=LONGEST_INTERVAL))
