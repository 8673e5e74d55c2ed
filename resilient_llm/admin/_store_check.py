"""Whether the store of this process can be used, for ``resilient-llm doctor``."""

from __future__ import annotations

import os
import secrets
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from resilient_llm._core.sharing.session import Session
from resilient_llm._runtime.runtime import runtime
from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.sharing import DataLostError, StoreError

if TYPE_CHECKING:
    from resilient_llm.stores import Store

SLOWEST: Final = 5.0
"""Seconds that one step may take."""


class StoreCheck(NamedTuple):
    """What was found.

    Attributes:
        url: Of the store, without a user and a password; empty if it cannot be told.
        wrong: What is wrong with the options; empty if nothing is.
        fault: Why the store cannot be read, or could not be written; None if it could be.
        type_name: Class of the error, or empty.
        is_read: Whether it was read.
        seconds: How long it took to write it.
        skew: Seconds that this machine's clock is ahead of that of the store.
    """

    url: str = ""
    wrong: str = ""
    fault: str | None = None
    type_name: str = ""
    is_read: bool = False
    seconds: float = 0.0
    skew: float = 0.0


def check_store() -> StoreCheck | None:
    """Read and write the store that this process is configured to share; None if there is none.

    Nothing in it is changed but that a session was there, which others count as a process for 60 s.
    """
    given: Any = runtime.state_given
    if given is None and runtime.asks_environment:
        given = os.environ.get("RESILIENT_LLM_STATE") or None
    if given is None:
        return None
    options = dict(runtime.settings.state_options)
    options["on_corrupt"] = "refuse"  # whoever looks moves no file
    try:
        # One of the user's own is used by one thread, which may be at work.
        store = runtime.open_store(given, options)
    except ConfigurationError as error:
        return StoreCheck(wrong=str(error))
    if not isinstance(given, str) and runtime.sharing is not None and runtime.sharing.is_started:
        return StoreCheck(store.url)
    try:
        return _tried(store)
    finally:
        if isinstance(given, str):
            store.close()


def _tried(store: Store) -> StoreCheck:
    session, is_read, skew = Session(secrets.token_hex(12)), False, 0.0
    try:
        changes = store.changes(session.stamp(), 0, limit=1, timeout=SLOWEST)
        is_read, skew = True, time.time() - changes.now
        session.follow(changes)
        began = time.monotonic()
        store.publish(session.stamp(session.next_number()), (), timeout=SLOWEST)
    except StoreError as error:
        return StoreCheck(store.url, "", error.reason, error.type_name, is_read, skew=skew)
    except DataLostError:  # just now, and by somebody else
        return StoreCheck(store.url, "", "error", "DataLostError", is_read, skew=skew)
    return StoreCheck(store.url, is_read=True, seconds=time.monotonic() - began, skew=skew)


def own_source() -> str:
    """Return what other processes see as the source of this one's changes; empty if alone."""
    return "" if runtime.sharing is None else runtime.sharing.source
