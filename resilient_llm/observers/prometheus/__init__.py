"""Metrics for Prometheus: an exporter, alert rules and a dashboard.

A scrape reads counts that are kept beside the circuits, and what every circuit is at the moment.
The rules and the dashboard are texts and need no other package; `install` needs the extra
``prometheus``.

Examples:
    >>> from resilient_llm.observers import prometheus
    >>> uninstall = prometheus.install()
    >>> uninstall()
"""

from __future__ import annotations

import math
import threading
import weakref
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from resilient_llm._values import checks as check
from resilient_llm._values.errors import ConfigurationError
from resilient_llm.observers._exporter import Exporter, installed, reading
from resilient_llm.observers.prometheus._dashboard import dashboard
from resilient_llm.observers.prometheus._families import Metrics, checked_namespace
from resilient_llm.observers.prometheus._rules import rules

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client import CollectorRegistry

__all__ = ["dashboard", "install", "rules"]

BUCKETS: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300)
"""Upper bounds in seconds: from an embedding to a long answer of a reasoning model."""
MOST_TARGETS: Final = 1000
PERIOD: Final = 1.0
"""Seconds between two writes in the multiprocess mode."""

_lock = threading.Lock()
_registries: Final[weakref.WeakSet[Any]] = weakref.WeakSet()
"""Registries that have an exporter."""
_namespaces: Final[set[str]] = set()
"""Namespaces that are written to the files of the multiprocess mode."""


def install(
    registry: CollectorRegistry | None = None,
    *,
    namespace: str = "resilient_llm",
    buckets: Iterable[float] = BUCKETS,
    max_targets: int = MOST_TARGETS,
) -> Exporter:
    """Export metrics of all calls that begin from now on, also of functions decorated before.

    In the multiprocess mode of prometheus_client (``PROMETHEUS_MULTIPROC_DIR``) a thread adds what
    is new to the files of the process each second and at exit, and nothing is registered: scrape
    with a ``MultiProcessCollector``.

    Args:
        registry: A registry of prometheus_client; None for its default one.
        namespace: What the names of the metrics begin with.
        buckets: Upper bounds of the histograms in seconds, ascending.
        max_targets: Keys, targets and providers together, that have separate time series.
            Those that are seen after them count as target ``other``.

    Returns:
        The exporter; calling it uninstalls it.

    Raises:
        ConfigurationError: If an option is wrong, or the registry has an exporter already.
        ImportError: If prometheus_client is not installed.
    """
    try:
        import prometheus_client
    except ImportError as error:
        raise ImportError(
            'prometheus.install needs prometheus_client: pip install "resilient-llm[prometheus]"'
        ) from error
    if registry is None:
        registry = prometheus_client.REGISTRY
    elif not isinstance(registry, prometheus_client.CollectorRegistry):  # pyright: ignore[reportUnnecessaryIsInstance]  # users' input
        raise ConfigurationError(
            f"registry of type {type(registry).__name__} is not allowed: "
            "write a CollectorRegistry of prometheus_client, or None for its default one"
        )
    name = checked_namespace(namespace)
    bounds = _checked_buckets(buckets)
    most = check.whole("max_targets", max_targets, low=1)
    return _installed(registry, name, bounds, most)


def _installed(
    registry: CollectorRegistry, namespace: str, bounds: tuple[float, ...], most: int
) -> Exporter:
    from resilient_llm.observers.prometheus._files import is_multiprocess

    in_files = is_multiprocess()
    _take(registry, namespace, in_files=in_files)
    try:
        counted = reading(bounds, most)
        try:
            metrics = Metrics(counted, installed)
            if in_files:
                return _in_files(registry, namespace, metrics)
            return _in_registry(registry, namespace, metrics)
        except BaseException:
            counted.end()
            raise
    except BaseException:
        _give_back(registry, namespace)
        raise


def _in_registry(registry: CollectorRegistry, namespace: str, metrics: Metrics) -> Exporter:
    from resilient_llm.observers.prometheus._collector import Collector

    collector = Collector(namespace, metrics)
    try:
        registry.register(collector)
    except ValueError as error:
        raise ConfigurationError(
            f"namespace={namespace!r} is not allowed: the registry has metrics of such names "
            f"already, which are not ours: {error}"
        ) from None

    def close() -> None:
        registry.unregister(collector)
        metrics.reading.end()
        _give_back(registry, namespace)

    return Exporter("prometheus", close=close)


def _in_files(registry: CollectorRegistry, namespace: str, metrics: Metrics) -> Exporter:
    from resilient_llm.observers.prometheus._files import Files, has_directory

    if not has_directory():
        raise ConfigurationError(
            "PROMETHEUS_MULTIPROC_DIR is set, and is no directory that can be written: "
            "make it before the first process starts, and empty it then"
        )
    files = Files(namespace, metrics)

    def work(_: float) -> bool:
        files.write()
        return True

    def close() -> None:
        try:
            files.end()
        finally:
            metrics.reading.end()
            _give_back(registry, namespace)

    exporter = Exporter(
        "prometheus", work=work, period=PERIOD, after_fork=files.after_fork, close=close
    )
    if exporter.background is not None:
        exporter.background.start()
    return exporter


def _take(registry: CollectorRegistry, namespace: str, *, in_files: bool) -> None:
    with _lock:
        if registry in _registries:
            raise ConfigurationError(
                "this registry has an exporter already: "
                "call that one to uninstall it, or write another registry"
            )
        if in_files:
            if namespace in _namespaces:
                raise ConfigurationError(
                    f"namespace={namespace!r} is not allowed: another exporter of this process "
                    "writes it to the files of PROMETHEUS_MULTIPROC_DIR: write another one"
                )
            _namespaces.add(namespace)
        _registries.add(registry)


def _give_back(registry: CollectorRegistry, namespace: str) -> None:
    with _lock:
        _registries.discard(registry)
        _namespaces.discard(namespace)


def _checked_buckets(buckets: Any) -> tuple[float, ...]:
    if isinstance(buckets, (str, bytes)) or not hasattr(buckets, "__iter__"):
        raise ConfigurationError(
            f"buckets of type {type(buckets).__name__} is not allowed: "
            "write a sequence of seconds, such as (0.5, 1, 5, 30)"
        )
    given = list(buckets)
    if given and given[-1] == math.inf:  # what prometheus_client adds by itself
        given.pop()
    bounds = tuple(check.number("buckets", each, above=0.0) for each in given)
    if not bounds or any(low >= high for low, high in pairwise(bounds)):
        raise ConfigurationError(
            f"buckets={bounds} is not allowed: write seconds that ascend, such as (0.5, 1, 5, 30)"
        )
    return bounds
