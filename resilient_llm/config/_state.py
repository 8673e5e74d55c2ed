"""`FileState`: what one state of the process knows about its configuration file.

What the file says is in `InForce`. This has the rest: the lock by which reloads run one at a time,
the last failure, and which version of the file was read. It belongs to a state of the process and
ends with that, so a file that is loaded inside ``isolated()`` is forgotten at its end.

The lock is held while a file is read and checked. No call of a function takes it, and no observer
is called with it. It comes before the runtime's lock.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from resilient_llm._runtime.runtime import runtime
from resilient_llm._values.configuration import Config, ConfigProblem
from resilient_llm._values.errors import ConfigurationError
from resilient_llm.config._in_use import shadowed
from resilient_llm.config._reading import checked_providers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from resilient_llm._runtime.configuration import Code
    from resilient_llm._values.plan import FileLayer

    Source = str | os.PathLike[str] | Mapping[str, Any]

_RECENT: Final = 2.0
"""Seconds for which a file that was just changed may change again and look the same: some file
systems keep times in steps of two seconds."""


class Origin:
    """Where a configuration comes from: what a reload reads again.

    A path is made absolute, for a process that changes its directory. Of a mapping the object is
    kept, so that a reload sees what it holds by then.
    """

    __slots__ = ("name", "path", "providers", "source")

    def __init__(self, source: Source, providers: Iterable[str] | None) -> None:
        self.source = source
        self.providers = checked_providers(providers)
        self.name = "mapping"
        self.path: str | None = None
        if isinstance(source, (str, os.PathLike)):
            path: Any = os.fspath(source)
            self.name = path if isinstance(path, str) else "mapping"
            self.path = os.path.abspath(path) if isinstance(path, str) else None  # noqa: PTH100  # a Path would drop what the file system tells apart

    def __repr__(self) -> str:
        return "<origin of a configuration>"  # a mapping may hold what must not reach a log


class Version(NamedTuple):
    """By what two versions of a file are told apart, symbolic links followed.

    Attributes:
        facts: Its identity, size and times; of a file that cannot be looked at, why not.
        is_recent: Whether it was changed so lately that the next change may not show.
    """

    facts: tuple[Any, ...]
    is_recent: bool


def version_of(path: str) -> Version:
    """Return the version of the file that stands at a path."""
    try:
        found = os.stat(path)  # noqa: PTH116  # a Path would cost as much as the rest
    except OSError as error:
        return Version((error.errno,), False)
    # The time of the inode, too: a change of who may read the file shows in nothing else.
    facts = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    age = runtime.system_clock.wall() - found.st_mtime
    return Version(facts, -_RECENT < age < _RECENT)


class Failure(NamedTuple):
    """A reload that has failed.

    Attributes:
        problems: Why.
        at: When.
    """

    problems: tuple[ConfigProblem, ...]
    at: datetime


class FileState:
    """What belongs to the configuration file of one state of the process."""

    def __init__(self) -> None:
        self.attached = runtime.attached
        """Shows which state of the process it belongs to."""
        self.dispatcher = runtime.dispatcher
        self.lock = threading.RLock()
        self.depth = 0
        """How many loads are under way, one inside another: a signal handler may begin one."""
        self.count = 0
        """Grows with each load that has changed something."""
        self.failure: Failure | None = None
        self.told: frozenset[ConfigProblem] = frozenset()
        """The problems that the log has; empty after a reload without any."""
        self.lines: deque[tuple[str, bool]] = deque()
        """Lines for the log, and whether each is a warning; they are written without the lock."""
        self.version: Version | None = None
        """The version of the file that was read last, also if it has problems."""
        self.loaded_at: datetime | None = None
        self.reloader: Any = None
        """The thread that reloads the file, as long as somebody wants that: `_watching`."""
        self.on_end: dict[Any, None] = {}
        """What ends with it: objects with a method ``end``."""
        _states.add(self)
        self.attached[self] = None

    @property
    def is_present(self) -> bool:
        """Whether its state of the process is in force, and none of an `isolated()` inside it."""
        return runtime.attached is self.attached

    def origin(self) -> Origin:
        """Return what is loaded.

        Raises:
            ConfigurationError: If nothing is.
        """
        file = runtime.in_force.file
        if file is None or file.origin is None:
            raise ConfigurationError(
                "no configuration is loaded: call resilient_llm.config.load() first"
            )
        return file.origin

    def write_lines(self) -> None:
        """Write the lines that wait, without a lock."""
        while self.lines:
            try:
                text, is_warning = self.lines.popleft()
            except IndexError:  # another thread writes them
                return
            if self.dispatcher.log_line is not None:
                self.dispatcher.log_line(text, warning=is_warning)

    def end(self) -> None:
        """End what watches the file; called when its state of the process ends."""
        self.attached.pop(self, None)
        for each in list(self.on_end):
            each.end()

    def after_fork(self) -> None:
        """Forget, in a child, the load of another thread of the parent."""
        self.lock = threading.RLock()
        self.depth = 0


_states: Final[weakref.WeakSet[FileState]] = weakref.WeakSet()


def file_state() -> FileState:
    """Return that of the present state of the process; it is made when it is first asked for."""
    with runtime.lock:
        found = known_file_state()
        return FileState() if found is None else found


def known_file_state() -> FileState | None:
    """Return the same if it was asked for already; changes nothing."""
    return next((each for each in list(runtime.attached) if isinstance(each, FileState)), None)


def config_of(file: FileLayer, code: Code, loaded_at: datetime) -> Config:
    """Return what users see of a file."""
    return Config(
        source=file.source,
        loaded_at=loaded_at,
        chains=tuple(sorted(file.names)),
        profiles=tuple(sorted(file.profiles)),
        shadowed=shadowed(code, file),
    )


def current() -> Config | None:
    """Return what users see of the file that is in force, or None."""
    state, in_force = known_file_state(), runtime.in_force
    at = None if state is None else state.loaded_at
    if in_force.file is None or at is None:
        return None
    return config_of(in_force.file, in_force.code, at)


class Status(NamedTuple):
    """How the configuration file of the process does.

    Attributes:
        config: What is loaded, or None.
        problems: Why the last reload has failed; empty if it has not.
        failed_at: When it has failed, or None.
    """

    config: Config | None
    problems: tuple[ConfigProblem, ...]
    failed_at: datetime | None


def status() -> Status:
    """Return how the configuration file does, for the page; it reads no file."""
    state = known_file_state()
    failure = None if state is None else state.failure
    return Status(
        current(),
        () if failure is None else failure.problems,
        None if failure is None else failure.at,
    )


def _after_fork() -> None:
    for state in list(_states):
        state.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
