"""`call_id`, and when calls begin to carry their names: with the first access of its name."""

from __future__ import annotations

import sys

from resilient_llm._runtime.call_ids import call_id, switch_on
from resilient_llm._values.exported import PACKAGE

__all__ = ["call_id"]

call_id.__module__ = PACKAGE


def asked_for() -> None:
    """Have calls carry their names, unless it was all names of the package that were asked for.

    Mostly that is when the module which uses it is imported, before any call. Somebody who
    imports all names may not mean this one: then its first call has the same effect.
    """
    if not _is_import_of_all():
        switch_on()


def _is_import_of_all() -> bool:
    """Return whether ``from resilient_llm import *`` made the package look for a name.

    The import system looks for every name of ``__all__`` then, in a function that calls itself
    for that. If it does not, as in other interpreters, the name counts as asked for.
    """
    importer = sys._getframe(3)  # of: here, `asked_for`, the package's `__getattr__`
    if importer.f_code.co_name != "_handle_fromlist":
        return False
    return importer.f_locals.get("recursive") is True
