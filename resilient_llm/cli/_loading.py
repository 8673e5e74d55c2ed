"""Loads ``module:name`` for the commands that look at code of the user."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any, Final

from resilient_llm.cli._exits import UsageError
from resilient_llm.cli._output import shown

_HOW_TO: Final = "write module:callable"


def load(name: str) -> Any:
    """Return what ``module:name`` or ``module:Class.name`` stands for.

    The working directory is on the import path.

    Raises:
        UsageError: If it cannot be loaded. Of an error of the module itself, the message shows
            the type and the place, and no text, which may hold what must not be shown.
    """
    module_name, _, path = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
        for attribute in path.split("."):
            found = getattr(found, attribute)
    except ModuleNotFoundError as failure:
        raise UsageError(
            f"{name!r} cannot be loaded: there is no module named {failure.name!r} in the present "
            "directory or on the path"
        ) from None
    except KeyboardInterrupt:
        raise
    except BaseException as failure:  # noqa: BLE001  # a module may raise anything, and may exit
        raise UsageError(f"{name!r} cannot be loaded ({_shown(failure)}): {_HOW_TO}") from None
    return found


def _shown(failure: BaseException) -> str:
    """Return the type of an error and where it was raised."""
    said = type(failure).__name__
    name = str(failure.args[0]) if isinstance(failure, KeyError) and failure.args else ""
    if name.isidentifier() and name.isupper():
        said += f" {shown(name)}"  # a variable of the environment that is not set
    place, trace = "", failure.__traceback__
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        if file.is_relative_to(Path.cwd()) and file != Path(__file__):
            place = f", {file.name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return said + place
