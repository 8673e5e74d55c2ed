"""Loads a configuration file, and loads it again: read, check, exchange, tell.

Theory of operation. A load reads the file under the lock of loads, which no call takes. What is
found to be right is exchanged in one step by `Runtime.change`, under the runtime's lock, after a
last check against what the process uses at that moment. Facts for observers are put into the
outbox of the process in the order of the loads, and handed over when no lock is held.

A signal handler may load while the code that it interrupts does, on the same thread. Then what the
outer load has read is older than what is in force, and it reads again. The same happens if code
removes a name while a file that refers to it is read.
"""

from __future__ import annotations

import gc
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from resilient_llm._api.configuring import heed_changes
from resilient_llm._core.circuit.outbox import Fact
from resilient_llm._runtime.runtime import runtime
from resilient_llm._values import event_names
from resilient_llm._values.configuration import Config, ConfigProblem, InvalidConfigError
from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.escaping import escaped
from resilient_llm.config._in_use import (
    STORE_OF_LIMITS,
    changes,
    problems_in_process,
    without_effect,
)
from resilient_llm.config._reading import read
from resilient_llm.config._state import (
    Failure,
    Origin,
    config_of,
    file_state,
    version_of,
)
from resilient_llm.config._tree import Problems

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from resilient_llm._runtime.configuration import Code, InForce
    from resilient_llm._values.plan import FileLayer
    from resilient_llm.config._state import FileState, Source, Version

PATH_VARIABLE: Final = "RESILIENT_LLM_CONFIG"
_MOST_HIDDEN: Final = 20
"""Entries without effect that a line of the log lists."""


class _OvertakenError(Exception):
    """What was read is older than what is in force: it has to be read again."""


class _InUseError(InvalidConfigError):
    """The process cannot use what the file says, as far as is known."""


class NotWantedError(Exception):
    """A load in the background is not wanted any more, or the file is just being written."""


class Load:
    """One load, of a new source or of the one that is loaded.

    Args:
        state: Of the state of the process.
        origin: A new source; None to load again what is loaded.
        is_wanted: Whether a load in the background goes on. It is asked with the version of the
            file before and after that is read, and with None under the runtime's lock.
    """

    def __init__(
        self,
        state: FileState,
        origin: Origin | None = None,
        is_wanted: Callable[[Version | None], bool] = lambda _: True,
    ) -> None:
        self._state = state
        self._given = origin
        self._is_wanted = is_wanted
        self._has_collected = False
        self._hidden: list[str] = []
        """Why some of what this load has changed has no effect."""

    def run(self, *, tells_again: bool = True) -> Config:
        """Load, and have observers told when no lock is held.

        Args:
            tells_again: Whether a failure is an event even if the log has the same problems.

        Raises:
            InvalidConfigError: If there are problems; nothing is changed.
            ConfigurationError: If nothing is loaded, or the state of the process was exchanged.
            NotWantedError: If it is not wanted any more.
        """
        state = self._state
        try:
            with state.lock:
                state.depth += 1
                try:
                    config = self._load(tells_again=tells_again)
                finally:
                    state.depth -= 1
        finally:
            if not state.depth:  # else the load that this one has interrupted does it
                state.dispatcher.deliver(state.dispatcher.of_process)
                state.write_lines()
        heed_changes()
        return config

    def _load(self, *, tells_again: bool) -> Config:
        while True:
            origin = self._state.origin() if self._given is None else self._given
            version = self._version(origin)
            try:
                return self._exchange(origin, version)
            except _OvertakenError:
                continue
            except InvalidConfigError as error:
                problems, is_in_use = error.problems, isinstance(error, _InUseError)
            if not is_in_use or self._has_collected:
                break
            # A function that refers to itself is found to be gone by the collector only, and an
            # operator who has removed it from the code does not expect that it keeps a name.
            self._has_collected = True
            gc.collect()
        self._version(origin)  # half a file is no failure
        if self._given is None:
            self._note_failure(origin, version, problems, tells_again=tells_again)
        raise InvalidConfigError(problems)  # without the frames of what has read the file

    def _version(self, origin: Origin) -> Version | None:
        """Return the present version of the file, if the load is wanted; None of a mapping."""
        version = None if origin.path is None else version_of(origin.path)
        if version is not None and not self._is_wanted(version):
            raise NotWantedError
        return version

    def _exchange(self, origin: Origin, version: Version | None) -> Config:
        """Read and check the file, and put it in force."""
        before, count = runtime.in_force, self._state.count
        layer = _read(origin, before)
        self._version(origin)
        settings = layer.settings
        if runtime.asks_environment and settings.get("limits") and not settings.get("state"):
            runtime._ask_environment()  # which may name the store of shared limits
        changed: tuple[str, ...] = ()
        in_force = layer

        def exchanged(was: InForce) -> tuple[Code, FileLayer | None]:
            nonlocal changed, in_force
            self._check(was, before, count)
            problems = problems_in_process(was, layer)
            if problems:
                raise _InUseError(problems)
            in_force = layer
            if was.file is not None:
                changed = changes(was.file, layer)
                self._hidden = without_effect(was.code, was.file, layer, changed)
                if not changed and self._given is None:
                    in_force = was.file
            return was.code, in_force

        try:
            was = runtime.change(exchanged)
        except InvalidConfigError:
            raise
        except _ExchangedError:
            raise ConfigurationError(
                "the state of the process was exchanged while the configuration was read: load "
                "it again"
            ) from None
        except ConfigurationError as error:
            raise InvalidConfigError([_of_process(layer, error)]) from None
        except BaseException:  # an observer's KeyboardInterrupt, when all is exchanged
            if runtime.in_force.file is in_force:
                self._done(in_force, runtime.in_force.code, version, changed)
            raise
        return self._done(in_force, was.code, version, changed)

    def _check(self, was: InForce, before: InForce, count: int) -> None:
        """Give up what is not wanted any more, and what is older than what is in force."""
        state = self._state
        if not self._is_wanted(None):
            raise NotWantedError
        if not state.is_present:
            raise _ExchangedError
        gone = before.code.chains.keys() - was.code.chains.keys()
        if gone or state.count != count or before.code.profiles.keys() - was.code.profiles.keys():
            raise _OvertakenError

    def _done(
        self, layer: FileLayer, code: Code, version: Version | None, changed: tuple[str, ...]
    ) -> Config:
        state, at = self._state, runtime.moment(runtime.clock())
        state.count += 1
        state.version, state.loaded_at = version, at
        had_failed, source = state.failure is not None, escaped(layer.source)
        state.failure, state.told = None, frozenset()
        if changed:
            self._tell(event_names.ConfigReloaded, {"source": layer.source, "changed": changed})
        elif had_failed:  # no event tells that the problems are gone
            state.lines.append((f"{source} can be read again; nothing changed", False))
        if self._hidden:
            more = len(self._hidden) - _MOST_HIDDEN
            listed = escaped("; ".join(self._hidden[:_MOST_HIDDEN]))
            rest = f"; and {more} more" if more > 0 else ""
            state.lines.append((f"{source} was loaded: {listed}{rest}", True))
        return config_of(layer, code, at)

    def _note_failure(
        self,
        origin: Origin,
        version: Version | None,
        problems: tuple[ConfigProblem, ...],
        *,
        tells_again: bool,
    ) -> None:
        state = self._state
        state.failure = Failure(problems, runtime.moment(runtime.clock()))
        state.version = version
        if tells_again or frozenset(problems) != state.told:
            state.told = frozenset(problems)
            fields = {"source": origin.name, "problems": problems}
            self._tell(event_names.ConfigReloadFailed, fields)

    def _tell(self, kind: event_names.EventName, fields: dict[str, Any]) -> None:
        """Note what happened, in the order of the loads; observers are told without the lock."""
        fact = Fact(kind, runtime.clock(), None, fields)
        self._state.dispatcher.of_process.add(fact)


class _ExchangedError(Exception):
    """Another state of the process is in force than that whose file is loaded."""


def load(source: Source | None, providers: Iterable[str] | None) -> Config:
    """Load a source; None for the path in the environment."""
    if source is None:
        source = os.environ.get(PATH_VARIABLE) or None
    if source is None:
        raise ConfigurationError(
            f"load() was given no source, and {PATH_VARIABLE} is not set: set it to the path of "
            "a file, or write load('config.toml')"
        )
    origin = Origin(source, providers)
    del source  # a mapping may hold what must not leave with an error
    return Load(file_state(), origin).run()


def reload() -> Config:
    """Load again what is loaded."""
    return Load(file_state()).run()


def _read(origin: Origin, in_force: InForce) -> FileLayer:
    """Return what a source says, with the profile that the environment selects.

    Raises:
        InvalidConfigError: If there are problems.
    """
    code = in_force.code
    layer = read(
        origin.source,
        providers=origin.providers,
        known_names=code.chains,
        known_profiles=code.profiles,
        has_profile=code.profile is not None,
        path=origin.path,
    )
    return replace(layer, origin=origin)


def _of_process(layer: FileLayer, error: ConfigurationError) -> ConfigProblem:
    """Return why the process cannot use what the file says."""
    problems = Problems(layer.source)
    if any(each.shared for each in layer.settings.get("limits", {}).values()):
        # The error names the store, which may come from the environment.
        problems.add(("limits",), f"a limit with shared = true needs {STORE_OF_LIMITS}")
    else:
        problems.add((), str(error))
    return problems.found[0]
