"""Value types shared by every folder: targets, settings, errors, events, verdicts, health.

Nothing here does I/O or keeps state, and only the standard library is imported.
"""

from typing import Any

# For pickles that earlier releases made, when this was one module; goes with the next release.
_MOVED = {
    "AttemptRecord": "kinds",
    "BenchedModel": "health",
    "ErrorKind": "kinds",
    "LastError": "kinds",
    "Target": "target",
    "TargetHealth": "health",
    "Unset": "target",
    "Verdict": "verdict",
    "Attempt": "target",
}


__all__ = ["_rebuild_target"]


def _rebuild_target(spec: str, options: dict[str, Any]) -> Any:
    from resilient_llm._values.target import Target

    return Target(spec, **options)


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MOVED[name]}"), name)
