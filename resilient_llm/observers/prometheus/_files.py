"""The multiprocess mode of prometheus_client: the metrics of this process in its files.

A thread adds what is new to the files of the process each second, and once more at exit. Whoever
scrapes reads the files of all processes. So a healthy call costs what it costs without this mode,
and a process that is killed loses its last second.

prometheus_client writes its files under one lock, which is not renewed in a forked child. A fork
of another thread in the midst of a write would leave it locked in the child for ever, and with it
every metric of the application. So a fork waits until the write is done (see `_before_fork`).
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from resilient_llm.observers.prometheus._families import (
    BENCH_UNTIL,
    BENCHED,
    BUDGET_RATIO,
    LIVE_TARGETS,
    STATE,
    bound_texts,
    encodable,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from resilient_llm.observers.prometheus._families import Family, Labels, Metrics

_writing = threading.RLock()
"""Held while values are written, and by a fork. Nothing but prometheus_client runs under it."""

_ZERO_AT_END: Final = (BENCHED, BENCH_UNTIL, STATE, BUDGET_RATIO)


class Files:
    """Adds what is new to the files of this process."""

    def __init__(self, namespace: str, metrics: Metrics) -> None:
        self._namespace = namespace
        self._metrics = metrics
        self._series: dict[tuple[str, Labels], Any] = {}
        """``{(name of the time series, values of its labels): its value in the file}``"""
        self._written: dict[tuple[str, Labels], float] = {}
        """What each of them was the last time, as it was read."""

    def write(self) -> None:
        """Write what is new."""
        self._write(list(self._metrics.values()))

    def end(self) -> None:
        """Write what is new, and let no gauge say for ever that something is benched or spent."""
        values = list(self._metrics.values())
        self._write(values)
        self._write(
            [
                (family, dict.fromkeys(of_labels, 0.0 if family in _ZERO_AT_END else 1.0))
                for family, of_labels in values
                if family in (*_ZERO_AT_END, LIVE_TARGETS)
            ]
        )

    def _write(self, values: list[tuple[Family, Any]]) -> None:
        with _writing:
            for family, of_labels in values:
                if family.type == "counter":
                    for labels, value in of_labels.items():
                        self._add(family, "_total", family.labels, labels, float(value))
                elif family.type == "gauge":
                    for labels, value in of_labels.items():
                        self._set(family, labels, float(value))
                    if family is BUDGET_RATIO:
                        self._clear_gone(family, of_labels)
                else:
                    self._add_buckets(family, of_labels)

    def after_fork(self) -> None:
        """Start in a child process with empty counts; its files are its own."""
        self._written.clear()

    def _clear_gone(self, family: Family, present: Mapping[Labels, Any]) -> None:
        """Set to 0 what is there no more, since a time series stays in the file."""
        for name, labels in list(self._written):
            if name == family.name and labels not in present:
                self._set(family, labels, 0.0)

    def _set(self, family: Family, labels: Labels, present: float) -> None:
        series = (family.name, labels)
        if self._written.get(series) != present:
            self._value(family, "", family.labels, labels).set(present)
            self._written[series] = present

    def _add_buckets(self, family: Family, values: Mapping[Labels, Any]) -> None:
        bounds = bound_texts(self._metrics.reading.bounds)
        for labels, seconds in values.items():
            for bound, number in zip(bounds, seconds.buckets, strict=True):
                self._add(
                    family,
                    "_bucket",
                    (*family.labels, "le"),
                    (*labels, bound),
                    float(number),
                )
            self._add(family, "_sum", family.labels, labels, seconds.seconds)

    def _add(
        self, family: Family, suffix: str, names: Labels, labels: Labels, present: float
    ) -> None:
        series = (family.name + suffix, labels)
        before = self._written.get(series)
        if before is None or present > before:
            # Also a zero: a counter that begins with its first event shows no increase by that.
            self._value(family, suffix, names, labels).inc(present - (before or 0.0))
            self._written[series] = present

    def _value(self, family: Family, suffix: str, names: Labels, labels: Labels) -> Any:
        series = (family.name + suffix, labels)
        value = self._series.get(series)
        if value is None:
            from prometheus_client import values

            name = f"{self._namespace}_{family.name}"
            value = self._series[series] = values.ValueClass(
                family.type,
                name,
                name + suffix,
                names,
                encodable(labels),
                family.help,
                multiprocess_mode=family.mode,
            )
        return value


def is_multiprocess() -> bool:
    """Return whether prometheus_client is in its multiprocess mode."""
    from prometheus_client import values

    return bool(getattr(values.ValueClass, "_multiprocess", False))


def has_directory() -> bool:
    """Return whether there is a directory for the files that can be written."""
    # The client reads the older spelling, too.
    names = ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir")
    directory = next((os.environ[name] for name in names if name in os.environ), "")
    return Path(directory).is_dir() and os.access(directory, os.W_OK)


def _before_fork() -> None:
    _writing.acquire()


def _after_fork_in_parent() -> None:
    _writing.release()


def _after_fork_in_child() -> None:
    global _writing  # noqa: PLW0603  # the lock of the parent is held by a thread that is gone
    _writing = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
