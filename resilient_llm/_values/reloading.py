"""Recognises a function that was defined again, as `importlib.reload` and notebooks do."""

from __future__ import annotations

import types


def replaces(new: object, old: object) -> bool:
    """Return whether a function is another definition of the same name of the same module.

    Only functions that stand in a module by themselves: of closures, lambdas and methods there
    may be many, each meant. A function that a decorator made is a closure, whatever its name.
    """
    name = _module_level(new)
    return new is not old and name is not None and name == _module_level(old)


def _module_level(function: object) -> tuple[str, str] | None:
    if type(function) is not types.FunctionType:
        return None
    name = function.__code__.co_qualname
    if "." in name or "<" in name or name != function.__qualname__:
        return None
    return function.__module__, name
