"""Every test starts with a fresh state of the library and leaves none behind."""

import gc
import signal
from collections.abc import Iterator

import pytest

from resilient_llm import testing
from resilient_llm._runtime import call_ids, hearing
from resilient_llm._runtime.runtime import runtime

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # So starts a shell what it runs in the background, and what that starts ignores Ctrl-C, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _whole_heap() -> Iterator[None]:
    """Give back what was frozen: the end of the session looks for what was not closed."""
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True, scope="module")
def _frozen_heap(_whole_heap: None) -> None:
    """Let the garbage collector look only at what the tests of this module make."""
    # The SDKs make hundreds of thousands of objects when they are imported. Hundreds of tests
    # ask for a collection, and each would walk over all of these for up to half a second. Once
    # a session is not enough: the tests of a module import and make more that stays.
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _fresh_state() -> Iterator[None]:
    """Run the test on circuits, settings and observers of its own.

    Calls carry no names and nobody listens to a client, as in a process that never asks for
    either: a module that was collected may have asked, and an earlier test.
    """
    if call_ids.switch.is_on:
        call_ids.switch_off()
    if runtime.is_listening:
        hearing.switch_off()
    with testing.isolated():
        yield


@pytest.fixture
def clock(_fresh_state: None) -> Iterator[object]:
    """The library's clock, moved by the test alone: ``clock.advance(seconds)``, ``clock.sleeps``."""
    with testing.fake_clock() as fake:
        yield fake
