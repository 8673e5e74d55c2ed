"""Libraries that parse a model's answer into a type, and fail if it does not fit.

The provider answered, so no target's health is harmed; another model may do better.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from resilient_llm.rules._class_info import class_of
from resilient_llm.rules._verdicts import TRUNCATED, wrong_request

if TYPE_CHECKING:
    from resilient_llm._values.verdict import Verdict
    from resilient_llm.rules._evidence import Evidence

_DOES_NOT_FIT: Final = wrong_request("invalid_output")
ONLY_FOR: Final = frozenset(
    """instructor.IncompleteOutputException langchain_core.OutputParserException
    instructor.InstructorRetryException instructor.ResponseParsingError
    instructor.ValidationError instructor.AsyncValidationError
    litellm.JSONSchemaValidationError pydantic_ai.UnexpectedModelBehavior""".split()
)
# Also the errors of its own code on an answer that lacks what it expects.
_FIT: Final = frozenset(
    """pydantic_core.ValidationError pydantic.ValidationError json.JSONDecodeError
    instructor.ResponseParsingError builtins.AssertionError builtins.IndexError
    builtins.AttributeError""".split()
)


def by_class(evidence: Evidence) -> Verdict | None:
    """Return that the answer did not fit or was cut off; for instructor, by the cause."""
    names = evidence.error_class.names
    evidence.matched_by = ("class", names[0])
    if "instructor.IncompleteOutputException" in names:
        return TRUNCATED
    if "instructor.InstructorRetryException" in names:
        cause = evidence.error.__cause__
        return (
            None if cause is None or _FIT.isdisjoint(class_of[type(cause)].names) else _DOES_NOT_FIT
        )
    if "pydantic_ai.UnexpectedModelBehavior" in names:
        return _DOES_NOT_FIT if "exceeded max" in evidence.text else None
    return _DOES_NOT_FIT
