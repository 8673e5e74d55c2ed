"""Asks the policy's ``usage=`` what an answer or an item of a stream used.

A call never fails because of it: if it raises or gives something else, there is no usage, and the
log has one line for each such function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilient_llm._runtime.classify import classify
from resilient_llm._runtime.runtime import runtime
from resilient_llm._values.built_in import class_name
from resilient_llm._values.kinds import ErrorKind
from resilient_llm._values.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Callable


def own_reader(
    function: Callable[[Any], Any] | None, called: str
) -> Callable[[Any], Usage | None] | None:
    """Return what asks a function of the user, or None if there is none.

    Args:
        function: The policy's ``usage=``.
        called: Name of the decorated function, for the log.
    """
    if function is None:
        return None

    def usage_of(answer: Any) -> Usage | None:
        try:
            given: object = function(answer)
            if given is None or isinstance(given, Usage):
                return given
            said = f"gave {class_name(type(given))}, which is no Usage"
        except Exception as error:
            if classify(error).kind is ErrorKind.CANCELLED:  # a time limit that is over
                raise
            said = f"raised {class_name(type(error))}"
        log_line = runtime.dispatcher.log_line
        if log_line is not None and runtime.dispatcher.fails_first(function):
            log_line(f"usage of {called} {said}: an estimate is booked", warning=True)
        return None

    return usage_of
