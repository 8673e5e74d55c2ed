"""`SqliteStore`: shares state between the processes of one machine, in a file.

Theory of operation. A step is one transaction. It begins with the write lock (``BEGIN IMMEDIATE``),
so that it never has to be repeated, and waits for it as long as the timeout says. The journal is a
write-ahead log, so looks wait for nobody. Of two durabilities, a connection takes the one that its
next transaction needs: what was spent is on the disk when it is answered (``FULL``), and for the
rest it is enough that the file stays whole (``NORMAL``).

*Another file.*  Before each step, and after each that has written, the store looks whether the path
    still leads to the file that it has open. If not, it opens the new one, whose epoch is another.
    An old copy of the same file is found by the stamps.
*A new file* is empty, and one process alone makes it, after it has renamed what lies beside it:
    that belongs to the one which has gone, and other processes may still have it open.
*Another log.*  A log that somebody removes, with the file left there, goes on for those who have it
    open, and a new one begins for those who open the file then: two groups that share nothing, of
    which each may write over the pages of the other. SQLite removes it as well, for who comes last,
    if a process that uses the file has lost its locks by opening and closing it in another way. So
    the store looks at what lies beside the file, and whether that was emptied, as often as at the
    file itself, and takes it for damage: with all of it set aside, all processes find another file.
*A damaged file* is renamed under a lock, with its log, and a fresh one begins; all other processes
    find another file. The connection is closed after that. Before, SQLite would write the log into
    the file and remove the log; afterwards it notices that the file has moved, and leaves the log
    of the new file alone.
*Checks.*  A page that was written by something else, such as a backup that is copied over an open
    file, may go unnoticed by SQLite while its indexes and tables contradict each other. So the
    first step on a file, and one each minute, looks at the whole of it, if it is not large.
*Forks.*  SQLite remembers per process which locks it has, so after a fork a child may neither use
    its copy of a connection nor open a new one to the same file. Hence no connection is open while
    the process forks: `before_fork` closes it, and both processes open one when they need it. If a
    step does not end in time for that, the child cannot use the store.
*Waiting.*  Each ``poll`` seconds the store asks for ``PRAGMA data_version``, which another process
    changes by writing, and only then whether that was a bench.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote

from resilient_llm._values import checks as check
from resilient_llm._values.sharing import DataLostError, StoreError, namespace_of
from resilient_llm.stores import _forks, _sqlite_file
from resilient_llm.stores._sqlite_errors import refusal
from resilient_llm.stores._sqlite_tables import APPLICATION, SCHEMA, VERSION, SqliteTables
from resilient_llm.stores._steps import Forgetting, Steps
from resilient_llm.stores._waiting import Waiter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from resilient_llm._values.sharing import (
        Balance,
        Bench,
        Changes,
        Claim,
        Claimed,
        End,
        Published,
        Reserve,
        Reserved,
        Settle,
        Stamp,
    )
    from resilient_llm.stores import Readable

T = TypeVar("T")

_LONGEST_FORK: Final = 1.0
"""Seconds that a fork waits for a step to end."""
_CHECK_EVERY: Final = 60.0
"""Seconds after which the whole file is looked at."""
_LARGEST_CHECK: Final = 8 * 2**20
"""Bytes of the largest file for which that is done: it takes less than 0.1 s."""
_LARGEST_LOG: Final = 16 * 2**20
"""Bytes to which the log shrinks after it was written into the file."""


class SqliteStore:
    """Shares state between the processes of one machine, in a file.

    Examples:
        >>> SqliteStore("/var/lib/app/llm.db").url
        'sqlite:///var/lib/app/llm.db'

    Args:
        path: The file, made with mode 0600 if there is none; its directory has to be there.
        namespace: 1 to 64 of ``A-Za-z0-9_.-``; others in the same file are apart.
        poll: Seconds between two looks while it waits, 0.1 to 60.
        on_corrupt: ``"replace"`` sets a damaged file aside and begins a new one; with
            ``"refuse"`` the store cannot be used until somebody has repaired it.

    Raises:
        ConfigurationError: If a value is not allowed.
    """

    has_limits = False

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        namespace: str = "resilient_llm",
        poll: float = 1.0,
        on_corrupt: str = "replace",
    ) -> None:
        # Absolute, since the process may change its directory.
        self._path: str = os.path.abspath(os.fspath(path))  # noqa: PTH100
        self._real = self._path
        """Where the file that is open lies, as SQLite sees it: without links."""
        self.url = f"sqlite://{quote(self._path)}"
        self._namespace = namespace_of(namespace)
        self._poll = check.number("poll", poll, low=0.1, high=60.0)
        self._replaces = check.choice("on_corrupt", on_corrupt, ("replace", "refuse")) == "replace"
        self._wall: Callable[[], float] = time.time
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._half_open: sqlite3.Connection | None = None
        """One that could not be prepared. If the file is damaged, it is renamed first."""
        self._is_frozen = False
        """Whether the connection sees the file as it was when it was opened."""
        self._file: tuple[int, int] | None = None
        """Which file it has open, or had last."""
        self._beside: tuple[tuple[int, int] | None, ...] = ()
        """Which files beside it belong to that connection, as `_sqlite_file.beside` tells."""
        self._torn: tuple[int, int] | None = None
        """The file, if they were no longer there when its connection was closed."""
        self._check_at = 0.0
        """When the whole file is looked at next; at once after damage was found."""
        self._opened = 0
        """How often a connection was opened."""
        self._moves = 0
        """How often another file was found at the path."""
        self._moves_read = 0
        """The same, when a look was answered last. After another move the file is a loss, whatever
        its stamps say: others may have written into an old copy until it looks newer."""
        self._durability = ""
        self._forgetting = Forgetting()
        self._waiters: list[Waiter] = []
        self._is_left_over = False
        """Whether this is a child that was forked in the midst of a step."""
        self._process = os.getpid()
        """In which the connection was opened."""
        self._forking: set[int] = set()
        """The thread that forks and has the lock for it."""
        _forks.register(self)

    # Steps.

    def publish(
        self,
        stamp: Stamp,
        changes: Sequence[Bench | End],
        balances: Sequence[Balance] = (),
        *,
        timeout: float,
    ) -> tuple[Published, ...]:
        """See `resilient_llm.stores.Store`."""
        durability = "FULL" if balances else "NORMAL"
        published = self._write(
            lambda steps: steps.publish(stamp, changes, balances), timeout, durability
        )
        for waiter in list(self._waiters):
            waiter.wake()
        return published

    def changes(self, stamp: Stamp, since: int, *, limit: int = 1000, timeout: float) -> Changes:
        """See `resilient_llm.stores.Store`."""
        until = time.monotonic() + timeout

        def look(steps: Steps) -> tuple[bool, Changes]:
            moves[0] = self._moves
            of_another = stamp.epoch is not None and self._moves != self._moves_read
            return steps.is_due(stamp), steps.look(
                stamp._replace(epoch="") if of_another else stamp, since, limit
            )

        moves = [0]
        is_due, seen = self._read(look, timeout)
        if is_due:
            try:
                self._write(
                    lambda steps: steps.sight(stamp),
                    until - time.monotonic(),
                    "NORMAL",
                    is_look=True,
                )
            except StoreError:  # it can be read and not written
                self._moves_read = moves[0]
                return seen
            except DataLostError:  # the file was set aside meanwhile
                pass
            _, seen = self._read(look, until - time.monotonic())
        self._moves_read = moves[0]
        return seen

    def claim(
        self, stamp: Stamp, claims: Sequence[Claim], *, timeout: float
    ) -> tuple[Claimed, ...]:
        """See `resilient_llm.stores.Store`."""
        return self._write(lambda steps: steps.claim(stamp, claims), timeout, "NORMAL")

    def reserve(
        self, stamp: Stamp, reserves: Sequence[Reserve], *, lasts: float, timeout: float
    ) -> tuple[Reserved, ...]:
        """See `resilient_llm.stores.Store`."""
        return self._write(lambda steps: steps.reserve(stamp, reserves, lasts), timeout, "FULL")

    def settle(
        self, stamp: Stamp, settles: Sequence[Settle], *, timeout: float
    ) -> tuple[Balance, ...]:
        """See `resilient_llm.stores.Store`."""
        return self._write(lambda steps: steps.settle(stamp, settles), timeout, "FULL")

    def wait(self, since: int, seconds: float, wake: Readable | None = None) -> bool:
        """See `resilient_llm.stores.Store`."""
        until = time.monotonic() + seconds
        waiter = Waiter()
        self._waiters.append(waiter)
        try:
            version: object = None
            moves = self._moves
            while True:
                version, is_news = self._news(since, version)
                is_news = is_news or self._moves != moves
                left = until - time.monotonic()
                if is_news or left <= 0:
                    return is_news
                is_woken, is_over = waiter.wait(min(self._poll, left), wake)
                if is_over or waiter.is_closed:
                    return False
                if is_woken:
                    version = None
        finally:
            self._waiters.remove(waiter)
            waiter.close()

    def _news(self, since: int, version: object) -> tuple[object, bool]:
        """Return the version of the data, and whether a bench was published after a revision."""

        def look(connection: sqlite3.Connection) -> tuple[object, bool]:
            (new,) = connection.execute("PRAGMA data_version").fetchone()
            # Of another connection, the versions say nothing; it may have the same address.
            seen = (self._opened, new)
            if seen == version:
                return seen, False
            tables = SqliteTables(connection, self._namespace)
            return seen, not tables.is_there or tables.published > since

        return self._guarded(look, self._poll)

    def close(self) -> None:
        """Close the connection, and end the waits of other threads."""
        for waiter in list(self._waiters):
            waiter.is_closed = True
            waiter.wake()
        with self._lock:
            self._disconnect()

    # Transactions.

    def _read(self, run: Callable[[Steps], T], timeout: float) -> T:
        def step(connection: sqlite3.Connection) -> T:
            tables = SqliteTables(connection, self._namespace)
            connection.execute("BEGIN")
            try:
                if not tables.is_there:
                    # Somebody has removed it; a step that writes begins it again.
                    connection.execute("ROLLBACK")
                    connection.execute("BEGIN IMMEDIATE")
                found = run(Steps(tables, self._wall()))
            except BaseException:
                _roll_back(connection)
                raise
            connection.execute("COMMIT")
            return found

        return self._guarded(step, timeout)

    def _write(
        self,
        run: Callable[[Steps], T],
        timeout: float,
        durability: str,
        *,
        is_look: bool = False,
    ) -> T:
        def step(connection: sqlite3.Connection) -> T:
            if self._moves != self._moves_read and not is_look:
                raise DataLostError
            if durability != self._durability:
                connection.execute(f"PRAGMA synchronous = {durability}")
                self._durability = durability
            connection.execute("BEGIN IMMEDIATE")
            try:
                steps = Steps(SqliteTables(connection, self._namespace), self._wall())
                done = run(steps)
                steps.forget(self._forgetting)
            except DataLostError:
                connection.execute("COMMIT")  # a new epoch may have begun
                raise
            except BaseException:
                _roll_back(connection)
                raise
            try:
                connection.execute("COMMIT")
            except BaseException:
                _roll_back(connection)
                raise
            if _sqlite_file.identity(self._path) != self._file or self._has_other_log():
                raise DataLostError  # it was written into a file that was set aside
            return done

        return self._guarded(step, timeout)

    def _guarded(self, run: Callable[[sqlite3.Connection], T], timeout: float) -> T:
        """Run something with a connection, once more after a damaged file was replaced."""
        until = time.monotonic() + max(timeout, 0.0)
        renamed: str | None = None
        try:
            with self._lock:
                try:
                    return self._run(run, until)
                except StoreError as error:
                    if error.reason != "corrupt" or not self._replaces:
                        raise
                    left = max(0.0, until - time.monotonic())
                    renamed = _sqlite_file.set_aside(self._real, self._file, left)
                    self._disconnect()
                    self._check_at = 0.0
                    self._moves += 1
                finally:
                    self._give_up_half()
                    if self._is_frozen:  # what others write from now on is not seen with it
                        self._disconnect()
                return self._run(run, until)
        finally:
            if renamed is not None:  # without the lock, since handlers of logs are foreign code
                _sqlite_file.warn_of(renamed)

    def _run(self, run: Callable[[sqlite3.Connection], T], until: float) -> T:
        try:
            connection = self._connected(until)
            left = max(0.0, until - time.monotonic())
            connection.execute(f"PRAGMA busy_timeout = {round(left * 1000)}")
            self._check(connection)
            return run(connection)
        except (StoreError, DataLostError):
            raise
        except (sqlite3.Error, OSError) as error:
            found = refusal(error)
            if found.reason == "error" and self._is_gone():  # what SQLite says of that depends
                found = StoreError("unreachable", found.type_name)
            raise found from None
        except Exception as error:  # noqa: BLE001  # whatever the file may hold
            raise StoreError("error", type(error).__name__) from None

    def _check(self, connection: sqlite3.Connection) -> None:
        """Look at the whole file, if it is time to."""
        now = time.monotonic()
        if now < self._check_at:
            return
        if os.stat(self._real).st_size <= _LARGEST_CHECK:  # noqa: PTH116
            (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
            if found != "ok":
                raise StoreError("corrupt", "IntegrityCheck")
        self._check_at = now + _CHECK_EVERY

    # The connection.

    def _connected(self, until: float) -> sqlite3.Connection:
        if self._connection is not None and self._process != os.getpid():
            self._leave()  # forked by something that called no hooks
        if self._is_left_over:
            raise StoreError("error", "Forked")
        if self._connection is not None:
            if _sqlite_file.identity(self._path) == self._file:
                if self._has_other_log():
                    raise StoreError("corrupt", "AnotherLog")
                return self._connection
            self._move(until)
        if self._torn is not None and _sqlite_file.identity(self._path) == self._torn:
            self._file = self._torn
            raise StoreError("corrupt", "AnotherLog")
        self._real = os.path.realpath(self._path)
        if _sqlite_file.is_on_network(self._real):
            raise StoreError("network_filesystem")
        connection = self._made(until)
        while connection is None:
            if time.monotonic() >= until:
                raise StoreError("timeout")
            self._real = os.path.realpath(self._path)  # a link may lead elsewhere now
            connection = self._made(until)
        self._durability = ""
        self._process = os.getpid()
        self._connection = connection
        self._torn = None
        self._opened += 1
        return connection

    def _made(self, until: float) -> sqlite3.Connection | None:
        """Open the file, and make it if there is none; None if the one that was there is gone."""
        left = max(0.0, until - time.monotonic())
        # A new file is made by one process alone, and set aside by one alone.
        is_new = _sqlite_file.is_empty(self._real)
        with _sqlite_file.locked(self._real, left, alone=is_new):
            if is_new:
                _sqlite_file.make(self._real)
            elif _sqlite_file.is_empty(self._real):
                return None
            self._file = _sqlite_file.identity(self._real)
            try:
                return self._open("mode=rw", until)
            except sqlite3.Error as error:
                if self._is_gone():
                    self._give_up_half()
                    return None
                if refusal(error).reason not in ("read_only", "unreachable"):
                    raise
                self._give_up_half()
                if not os.access(self._real, os.R_OK):
                    raise StoreError("auth", type(error).__name__) from None
                if _sqlite_file.identity(self._real + _sqlite_file.LOG) is not None:
                    raise
                # Nobody writes the file, and this process may make nothing beside it.
                connection = self._open("mode=ro&immutable=1", until)
                self._is_frozen = True
                return connection

    def _move(self, until: float) -> None:
        """Leave a file that another one has replaced."""
        log = self._beside[0] if self._beside else None
        if log is not None:
            left = max(0.0, until - time.monotonic())
            _sqlite_file.drop_log(self._real, log, left)
        self._disconnect()
        self._check_at = 0.0
        self._moves += 1

    def _is_gone(self) -> bool:
        """Return whether the file that was opened is no longer at its path."""
        return self._file is not None and _sqlite_file.identity(self._path) != self._file

    def _has_other_log(self) -> bool:
        """Return whether the file has another log than the connection, or is empty."""
        if not any(self._beside):
            return False
        found = _sqlite_file.beside(self._real)
        # One that was not there is of no use to it: nobody could write the file.
        is_other = any(
            was is not None and was != now for was, now in zip(self._beside, found, strict=True)
        )
        return is_other or _sqlite_file.is_empty(self._real)

    def _open(self, mode: str, until: float) -> sqlite3.Connection:
        self._half_open = connection = sqlite3.connect(
            f"file:{quote(self._real)}?{mode}",
            uri=True,
            timeout=max(0.0, until - time.monotonic()),
            isolation_level=None,
            check_same_thread=False,
        )
        self._prepare(connection, may_write="immutable" not in mode)
        self._beside = _sqlite_file.beside(self._real)
        self._half_open = None
        return connection

    def _prepare(self, connection: sqlite3.Connection, *, may_write: bool) -> None:
        """Set a connection up, and make the tables if the file is new."""
        connection.text_factory = _text
        for pragma in (
            "trusted_schema = OFF",
            "mmap_size = 0",
            f"journal_size_limit = {_LARGEST_LOG}",
        ):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        is_ours = self._is_ours(connection)
        if is_ours and not may_write:
            return
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
        if mode != "wal" and not (is_ours and not os.access(self._real, os.W_OK)):
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode != "wal":
                raise StoreError("error", "NoWriteAheadLog")
        if is_ours:
            return
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION}")
            connection.execute(f"PRAGMA user_version = {VERSION}")
            SqliteTables(connection, self._namespace).meta()
            connection.execute("COMMIT")
        except BaseException:
            _roll_back(connection)
            raise

    @staticmethod
    def _is_ours(connection: sqlite3.Connection) -> bool:
        """Return whether the file has our tables; False if it is empty."""
        connection.execute("BEGIN")
        try:
            (application,) = connection.execute("PRAGMA application_id").fetchone()
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        finally:
            _roll_back(connection)
        if application == APPLICATION and version > VERSION:
            raise StoreError("newer_schema")
        if application != APPLICATION and tables:
            raise StoreError("error", "ForeignDatabase")
        return tables > 0

    def _disconnect(self) -> None:
        self._give_up_half()
        connection, self._connection = self._connection, None
        self._is_frozen = False
        if connection is None:
            return
        try:
            is_there = _sqlite_file.identity(self._path) == self._file
            is_torn = is_there and self._has_other_log()
        except StoreError:  # it cannot be found out
            is_torn = True
        if is_torn:
            self._torn = self._file
            _sqlite_file.keep_log(connection)
        _close(connection)

    def _give_up_half(self) -> None:
        connection, self._half_open = self._half_open, None
        if connection is not None:
            _close(connection)

    # Forks.

    def before_fork(self) -> None:
        """Close the connection, and let no step begin."""
        if self._lock.acquire(timeout=_LONGEST_FORK):
            self._forking.add(threading.get_ident())
            self._disconnect()

    def after_fork_in_parent(self) -> None:
        """Let steps begin again."""
        if threading.get_ident() in self._forking:
            self._forking.discard(threading.get_ident())
            self._lock.release()

    def after_fork_in_child(self) -> None:
        """Begin without what the threads of the parent have."""
        if threading.get_ident() not in self._forking:
            self._leave()
        self._forking = set()
        self._lock = threading.Lock()
        self._waiters = []

    def _leave(self) -> None:
        """Leave the connection of the parent alone, and the store with it."""
        self._is_left_over = True
        _left_over.append((self._connection, self._half_open))
        self._connection = self._half_open = None

    def __del__(self) -> None:
        if self.__dict__.get("_connection") is None:
            return
        if self._process == os.getpid():
            self._disconnect()
        else:
            self._leave()


_left_over: list[Any] = []
"""Connections of a parent, which a child must not even close."""


def _close(connection: sqlite3.Connection) -> None:
    try:
        connection.close()
    except sqlite3.Error:  # what was answered is written
        pass


def _text(data: bytes) -> str:
    """Return a text; one that is none is given to readers in a form which they refuse."""
    return data.decode("utf-8", "surrogateescape")


def _roll_back(connection: sqlite3.Connection) -> None:
    try:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    except sqlite3.Error:  # SQLite has done it
        pass
