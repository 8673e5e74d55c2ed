"""The commands against a store: which one is meant, what it has, and what is sent to it.

A command is one more process that shares the store. It has the state of the process for itself
meanwhile, reads everything before it does anything, and waits until what it has done was sent.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from resilient_llm.cli._exits import CommandError, UsageError
from resilient_llm.cli._output import shown

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Generator

    from resilient_llm import StoreAvailable, StoreStatus, StoreUnavailable
    from resilient_llm.admin._store import StoreReader

T = TypeVar("T")

URL_VARIABLE: Final = "RESILIENT_LLM_STATE"
NAMESPACE: Final = "resilient_llm"
"""Where a service keeps its state that names no other namespace."""

SLOWEST: Final = 10.0
"""Seconds within which everything has to be read, and afterwards sent."""
STEP: Final = 5.0
"""Seconds that one step with the store may take."""
_AGAIN: Final = 0.05
"""Seconds between two looks at how it is going."""
_GRACE: Final = 0.5
"""Seconds for which a fault that was there before may end, when something is to be sent."""
FAULTS: Final = {
    "unreachable": "cannot be reached",
    "timeout": "does not answer in time",
    "auth": "refuses the user, the password or the access",
    "read_only": "can be read and not written",
    "full": "is full",
    "corrupt": "is damaged",
    "newer_schema": "was written by a newer release: upgrade resilient-llm here",
    "network_filesystem": "is on a network file system, where SQLite cannot be shared safely",
    "error": "answered with an error",
}
"""``{reason of StoreUnavailable: what it means to somebody who has written its URL}``"""
_STILL_READ: Final = ("read_only", "full")
"""Reasons for which reading goes on."""


class StoreAddress(NamedTuple):
    """Which store is meant; its URL may have a password in it and is never shown."""

    url: str
    namespace: str

    def __repr__(self) -> str:
        return "StoreAddress(…)"


def add_arguments(parser: Any) -> None:
    """Add the options that say which store is meant, to a parser or a group of it."""
    parser.add_argument(
        "--state",
        metavar="URL",
        help="the store that processes share, such as redis://host:6379/0 or "
        "sqlite:///var/lib/app.db; other users of this machine see a password in it, so prefer the "
        f"variable (default: {URL_VARIABLE})",
    )
    parser.add_argument(
        "--namespace",
        metavar="NAME",
        help=f"the namespace in the store, as in state_options (default: {NAMESPACE})",
    )


def address_of(options: argparse.Namespace, *, has_service: bool = False) -> StoreAddress | None:
    """Return the store that the options or the environment name, or None.

    Args:
        options: With ``state`` and ``namespace``.
        has_service: Whether a service is named as well, which comes before the environment's store.

    Raises:
        UsageError: If an option is empty, or a namespace goes with no store.
    """
    for name, given in (("state", options.state), ("namespace", options.namespace)):
        if given is not None and not given.strip():
            raise UsageError(f"--{name} is empty: write a value, or leave --{name} out")
    url = options.state
    if url is None and not has_service:
        url = os.environ.get(URL_VARIABLE, "").strip()
    if not url:
        if options.namespace is not None:
            raise UsageError(f"--namespace goes with --state URL or {URL_VARIABLE}")
        return None
    return StoreAddress(url, options.namespace or NAMESPACE)


class Connection:
    """The store, while a command shares it."""

    def __init__(self) -> None:
        self.fault: StoreUnavailable | None = None
        """Why the store cannot be used, or None."""

    @property
    def status(self) -> StoreStatus:
        """How the store is doing."""
        from resilient_llm import store_status

        return store_status()

    @property
    def url(self) -> str:
        """Where it is, without a user and a password, as it may be printed."""
        return shown(self.status.url)

    @property
    def source(self) -> str:
        """What the processes that share it see as the source of what the command does."""
        from resilient_llm.admin._store_check import own_source

        return own_source()

    def read(self) -> None:
        """Wait until everything was read.

        Raises:
            CommandError: If the store cannot be used, or takes too long.
        """
        from resilient_llm import store_status

        until = time.monotonic() + SLOWEST
        while store_status(wait=_AGAIN).last_sync_at is None:
            if self.fault is not None and self.fault.reason not in _STILL_READ:
                raise CommandError(self.why_not())
            if time.monotonic() >= until:
                raise CommandError(f"{self.url} was not read within {SLOWEST:g} s")

    def send(self) -> None:
        """Wait until everything was sent that this process has changed.

        Raises:
            CommandError: If it cannot be sent, or that takes too long.
        """
        began = time.monotonic()
        while self.status.pending:
            took = time.monotonic() - began
            if self.fault is not None and took > _GRACE:
                raise CommandError(f"it was not sent: {self.why_not()}")
            if took > SLOWEST:
                raise CommandError(f"it was not sent to {self.url} within {SLOWEST:g} s")
            time.sleep(_AGAIN)

    def why_not(self) -> str:
        """Return why the store cannot be used."""
        fault = self.fault
        if fault is None:
            return f"{self.url} has not answered yet"
        return why_not(self.url, fault.reason, fault.type_name)

    def is_down(self, event: StoreUnavailable) -> None:
        """Note that the store cannot be used: an observer."""
        self.fault = event

    def is_back(self, event: StoreAvailable) -> None:
        """Note that the store can be used again: an observer."""
        self.fault = None


@contextlib.contextmanager
def shared(address: StoreAddress) -> Generator[Connection]:
    """Share a store inside the block, in a state of the process of its own.

    Raises:
        UsageError: If the URL or the namespace cannot be used.
    """
    from resilient_llm import (
        ConfigurationError,
        StoreAvailable,
        StoreUnavailable,
        configure,
        observe,
    )
    from resilient_llm.testing import isolated

    with isolated():
        connection = Connection()
        try:
            configure(
                logging=False,
                state=address.url,
                # Whoever looks moves no file.
                state_options={"namespace": address.namespace, "on_corrupt": "refuse"},
                state_timeout=STEP,
            )
        except ConfigurationError as error:
            raise UsageError(f"--state: {error}") from None
        observe(connection.is_down, StoreUnavailable)
        observe(connection.is_back, StoreAvailable)
        path = new_file(address)
        yield connection
        warn_of_new_file(path)


def why_not(url: str, reason: str, type_name: str) -> str:
    """Return why a store cannot be used, in words."""
    kind = f" ({shown(type_name)})" if type_name else ""
    remedy = ""
    if reason == "unreachable":
        remedy = (
            ": is its directory there, and may this user write into it?"
            if url.startswith("sqlite:")
            else ": look at its address, the network, and whether the server runs"
        )
    return f"{url} {FAULTS.get(reason, shown(reason))}{kind}{remedy}"


def new_file(address: StoreAddress) -> str:
    """Return the path of a file that the store would make now; empty if there is none.

    A path that is misspelt would show an empty store, and seem to be in order.
    """
    from pathlib import Path
    from urllib.parse import unquote, urlsplit

    try:
        parts = urlsplit(address.url)
        path = Path("/" + unquote(parts.path).lstrip("/"))
        is_new = parts.scheme == "sqlite" and path.parent.is_dir() and not path.exists()
    except (ValueError, OSError):
        return ""
    return str(path) if is_new else ""


def warn_of_new_file(path: str) -> None:
    """Tell, on the error output, that the command has made the file of the store."""
    if path:
        print(f"warning: {shown(path)} is new: is that the file of the service?", file=sys.stderr)


def reader_of(address: StoreAddress) -> StoreReader:
    """Return what reads the store without sharing anything.

    Raises:
        UsageError: If the URL or the namespace cannot be used.
    """
    from resilient_llm import ConfigurationError
    from resilient_llm.admin._store import StoreReader

    try:
        return StoreReader(address.url, address.namespace, timeout=STEP)
    except ConfigurationError as error:
        raise UsageError(f"--state: {error}") from None


def read_once(address: StoreAddress, work: Callable[[StoreReader], T]) -> T:
    """Read a store, and return what the function makes of it.

    Raises:
        CommandError: If it cannot be used.
        UsageError: If the URL or the namespace cannot be used.
    """
    from resilient_llm.stores import StoreError

    path, reader = new_file(address), reader_of(address)
    with contextlib.closing(reader):
        try:
            reader.look()
        except StoreError as fault:
            raise CommandError(why_not(shown(reader.url), fault.reason, fault.type_name)) from None
        warn_of_new_file(path)
        return work(reader)


def operator() -> str:
    """Return the name of the user of the system who runs this, at most 200 characters."""
    import getpass

    try:
        return getpass.getuser()[:200]
    except (OSError, KeyError, ImportError):  # a container may have no name for its user
        return f"uid {os.getuid()}" if hasattr(os, "getuid") else ""
