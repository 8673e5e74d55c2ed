"""Chains, profiles, routes and defaults from a file, which is loaded again while calls run.

    from resilient_llm import config

    config.load("config.toml")
    with config.watch():
        serve()

`validate` finds what is wrong in a file, and changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from resilient_llm._values.configuration import Config, ConfigProblem, InvalidConfigError

if TYPE_CHECKING:
    from resilient_llm.config._watching import Watch

__all__ = [
    "Config",
    "ConfigProblem",
    "InvalidConfigError",
    "Watch",
    "current",
    "load",
    "reload",
    "reload_on_sighup",
    "validate",
    "watch",
]


def __getattr__(name: str) -> Any:
    if name == "Watch":  # with the thread, which few need
        from resilient_llm.config._watching import Watch

        return Watch
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def validate(
    source: str | os.PathLike[str] | Mapping[str, Any], *, providers: Iterable[str] | None = None
) -> list[ConfigProblem]:
    """Return all problems of a configuration; an empty list if it has none.

    It changes nothing, calls no provider and connects to no store. Names and profiles that code
    has defined in this process count as defined, as they do for `load`, and the profile that the
    variable ``RESILIENT_LLM_PROFILE`` selects must also be defined, unless code has selected one.

    Examples:
        >>> for problem in validate({"chains": {"fast": "groq"}}):
        ...     print(problem)
        mapping: chains.fast: chain entry 'groq': 'groq' names no model: write 'provider/model'

    Args:
        source: Path of a file that ends in ``.toml``, ``.json``, ``.yaml`` or ``.yml``, of at most
            256 KiB; or a mapping of what such a file holds.
        providers: Names of the providers that the application has clients for; a spec or a key of
            another provider is a problem. A key of ``[breakers]`` without a slash may be the
            name of a guard, and is none. None for any.

    Raises:
        ConfigurationError: If ``providers`` is not a list of names of providers.
    """
    from resilient_llm._runtime.runtime import runtime
    from resilient_llm.config._reading import read  # loaded when somebody asks

    code = runtime.in_force.code
    try:
        read(
            source,
            providers=providers,
            known_names=code.chains,
            known_profiles=code.profiles,
            has_profile=code.profile is not None,
        )
    except InvalidConfigError as error:
        return list(error.problems)
    return []


def load(
    source: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    *,
    providers: Iterable[str] | None = None,
) -> Config:
    """Load a configuration, for calls that start afterwards; it takes the place of another one.

    All is checked first, and then exchanged in one step, so that a call sees one state. What code
    sets with `configure`, ``chains.define`` and ``chains.define_profile`` hides what the
    configuration defines under the same name. Benches, counts and the spending of budgets that did
    not change are kept.

    The profile is that of ``configure(profile=…)``; else the one that the variable
    ``RESILIENT_LLM_PROFILE`` names, unless it is blank; else ``profile`` in ``[settings]``.

    Examples:
        >>> loaded = load("config.toml", providers=["groq", "openai", "anthropic"])
        >>> loaded.chains
        ('default', 'fast')

    Args:
        source: Path of a file that ends in ``.toml``, ``.json``, ``.yaml`` or ``.yml``, of at most
            256 KiB; or a mapping of what such a file holds, which `reload` reads again; None for
            the path in the variable ``RESILIENT_LLM_CONFIG``. A path is that of the directory
            which is the current one now, also if a reload happens in another one.
        providers: Names of the providers that the application has clients for; a spec or a key of
            another provider is a problem, also in each reload, as `validate` finds it. None for
            any.

    Returns:
        What was loaded, by name. It emits `ConfigReloaded` only if another configuration was
        loaded before, and something differs.

    Raises:
        InvalidConfigError: If there are problems, also such as only the process can have: a name
            or a profile that is in use and not defined any more, a changed section ``[state]``.
            It has all of them, and nothing is changed.
        ConfigurationError: If there is no source, or ``providers`` is not a list of names of
            providers.
    """
    from resilient_llm.config import _loading  # loaded when somebody asks, as below

    try:
        return _loading.load(source, providers)
    finally:
        del source  # a mapping may hold what must not leave with an error


def reload() -> Config:
    """Load again what is loaded; nothing happens to calls if it has not changed.

    A file is read, or the mapping that `load` was given. Reloads run one at a time, whatever starts
    them: a second one waits for the first. It reads a file, so asynchronous code writes
    ``await asyncio.to_thread(config.reload)``.

    Returns:
        What is loaded now, by name. If something differs, it emits `ConfigReloaded`.

    Raises:
        InvalidConfigError: If there are problems. It has all of them, nothing is changed, and it
            emits `ConfigReloadFailed`.
        ConfigurationError: If nothing was loaded.
    """
    from resilient_llm.config import _loading

    return _loading.reload()


def current() -> Config | None:
    """Return what is loaded, by name; None if nothing is, as at the begin of an ``isolated()``.

    ``loaded_at`` is when it was last read without problems, and ``shadowed`` what code hides now.
    """
    from resilient_llm.config import _state

    return _state.current()


def watch(*, interval: float = 0.5) -> Watch:
    """Have the loaded file read again when it changes, until the watch is stopped.

    A daemon thread looks at the path by real time, and also in forked children. It follows
    symbolic links, and loads a file whose identity, size or time has changed and that has then
    stayed the same for one interval: within 2 s with the default. A file that is replaced by
    renaming another one is never seen half; one that is written in place is, if the writer pauses
    longer than an interval. A single file that a container mounts, as with ``subPath`` on
    Kubernetes, is never replaced there: mount its directory. A failure, such as a file that stays
    away for an interval, leaves what is in force as it is, emits `ConfigReloadFailed` and is logged
    once, until the problems are others or gone.

    Several watches share one thread, which looks at the shortest interval of them. A watch follows
    `load`: it looks at what is loaded now. Inside an ``isolated()`` it rests, and one that was
    made inside ends with that.

    Examples:
        >>> with watch():
        ...     serve()

    Args:
        interval: Seconds between two looks, 0.01 to 3600.

    Returns:
        The watch, a context manager with a method ``stop()``.

    Raises:
        ConfigurationError: If nothing was loaded, or a mapping, or the interval is out of range.
    """
    from resilient_llm.config import _watching

    return _watching.watch(interval)


def reload_on_sighup() -> Callable[[], None]:
    """Have what is loaded read again at each SIGHUP, in a thread.

    The handler does no more than wake that thread and call the Python handler that was installed
    before. Failures are reported as by `watch`. Before the first `load`, a signal changes
    nothing. ``asyncio``'s ``loop.add_signal_handler`` for SIGHUP replaces the handler if it is
    called later, and works on if it was called before. Workers of gunicorn reset SIGHUP after a
    fork, so install it in ``post_worker_init``, or use `watch`.

    Examples:
        >>> uninstall = reload_on_sighup()

    Returns:
        A function that has the signal handled as before, on the main thread. If another handler
        was installed meanwhile, that one stays, and this one only calls the one before it.

    Raises:
        ConfigurationError: Off the main thread, or on a system without that signal.
    """
    from resilient_llm.config import _sighup

    return _sighup.install().uninstall
