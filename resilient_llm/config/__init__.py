"""Chains, profiles, routes and defaults from a file: `validate` finds what is wrong in one.

from resilient_llm import config

for problem in config.validate("config.toml"):
    print(problem)
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from resilient_llm._values.configuration import Config, ConfigProblem, InvalidConfigError

__all__ = ["Config", "ConfigProblem", "InvalidConfigError", "validate"]


def validate(
    source: str | os.PathLike[str] | Mapping[str, Any], *, providers: Iterable[str] | None = None
) -> list[ConfigProblem]:
    """Return all problems of a configuration; an empty list if it has none.

    It changes nothing, calls no provider and connects to no store.

    Examples:
        >>> for problem in validate({"chains": {"fast": "groq"}}):
        ...     print(problem)
        mapping: chains.fast: chain entry 'groq': 'groq' names no model: write 'provider/model'

    Args:
        source: Path of a file that ends in ``.toml``, ``.json``, ``.yaml`` or ``.yml``, of at most
            256 KiB; or a mapping of what such a file holds.
        providers: Names of the providers that the application has clients for; a spec of another
            provider is a problem. None for any.
    """
    from resilient_llm.config._reading import read  # loaded when somebody asks

    try:
        read(source, providers=providers)
    except InvalidConfigError as error:
        return list(error.problems)
    return []
