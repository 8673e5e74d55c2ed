"""Shows the options of functions that take them as ``**options``, each with type and default.

Such a function takes any keyword, because an option that is named is stronger than a default, also
with the same value. A reader of its page sees an ordinary signature all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import griffe

from resilient_llm._api import configuring
from resilient_llm._values import policy, settings, stream_policy


def _of_failover() -> Mapping[str, Any]:
    return {name: getattr(policy.BUILT_IN, name) for name in policy.CHECKS}


def _of_stream_policy() -> Mapping[str, Any]:
    unset = stream_policy.NO_MARKER
    default = {
        name: getattr(stream_policy.DEFAULT, name)
        for name in stream_policy.StreamOptions.__annotations__
    }
    return {name: ... if value is unset else value for name, value in default.items()}


def _of_breaker() -> Mapping[str, Any]:
    built_in = settings.BreakerSettings()
    return {name: getattr(built_in, name) for name in settings.BreakerOptions.__annotations__}


def _of_configure() -> Mapping[str, Any]:
    built_in = settings.Settings()
    values = {name: getattr(built_in, name) for name in configuring.Changes.__annotations__}
    return {
        name: dict(value) if isinstance(value, Mapping) else value for name, value in values.items()
    }


# {function: what gives {option: default}}
_DEFAULTS: dict[str, Callable[[], Mapping[str, Any]]] = {
    "resilient_llm._api.failover.failover": _of_failover,
    "resilient_llm._api.breaker.breaker": _of_breaker,
    "resilient_llm._api.configuring.configure": _of_configure,
    "resilient_llm._values.stream_policy.StreamPolicy.__init__": _of_stream_policy,
}


class OptionsOfFunctions(griffe.Extension):
    """Replaces ``**options: Unpack[Options]`` by the options."""

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        """Replace them in a signature; the docstring has a line for each."""
        find = _DEFAULTS.get(func.path)
        if find is None:
            return
        unpacked = func.parameters[len(func.parameters) - 1]
        options = func.modules_collection[unpacked.annotation.slice.canonical_path]
        del func.parameters[unpacked.name]
        for name, default in find().items():
            func.parameters[name] = griffe.Parameter(
                name=name,
                annotation=options.members[name].annotation,
                kind=griffe.ParameterKind.keyword_only,
                default="..." if default is ... else repr(default),
            )
