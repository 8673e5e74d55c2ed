"""Libraries that read a model's answer into a type: what the model wrote did not fit.

The provider answered, so nobody's health suffers; another model may do better.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from resilient_llm.rules._evidence import shape_of, wrong_request

if TYPE_CHECKING:
    from resilient_llm._values.verdict import Verdict
    from resilient_llm.rules._evidence import Evidence

_CUT_SHORT: Final = wrong_request("output_truncated")
_DOES_NOT_FIT: Final = wrong_request("invalid_output")
ONLY_FOR: Final = frozenset(
    """instructor.IncompleteOutputException langchain_core.OutputParserException instructor.InstructorRetryException
    instructor.ResponseParsingError instructor.ValidationError instructor.AsyncValidationError
    litellm.JSONSchemaValidationError pydantic_ai.UnexpectedModelBehavior""".split()
)
# Also how its code stumbles over an answer without what it looks for.
_FIT: Final = frozenset(
    """pydantic_core.ValidationError pydantic.ValidationError json.JSONDecodeError instructor.ResponseParsingError
    builtins.AssertionError builtins.IndexError builtins.AttributeError""".split()
)


def CLASSES(evidence: Evidence) -> Verdict | None:  # noqa: N802  # one of the names a provider's file may have
    """Return that the answer did not fit or was cut short; instructor keeps the reason as the cause."""
    names = evidence.shape.names
    evidence.sign = ("class", names[0])
    if "instructor.IncompleteOutputException" in names:
        return _CUT_SHORT
    if "instructor.InstructorRetryException" in names:
        cause = evidence.error.__cause__
        return (
            None if cause is None or _FIT.isdisjoint(shape_of[type(cause)].names) else _DOES_NOT_FIT
        )
    if "pydantic_ai.UnexpectedModelBehavior" in names:
        return _DOES_NOT_FIT if "exceeded max" in evidence.text else None
    return _DOES_NOT_FIT
