"""Libraries that parse a model's answer into a type, and fail if it does not fit.

The provider answered, so no target's health is harmed; another model may do better.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from resilient_llm.rules._class_info import class_of
from resilient_llm.rules._verdicts import DOES_NOT_FIT, POLICY, TRUNCATED

if TYPE_CHECKING:
    from resilient_llm._values.verdict import Verdict
    from resilient_llm.rules._evidence import Evidence

ONLY_FOR: Final = frozenset(
    """instructor.IncompleteOutputException langchain_core.OutputParserException
    instructor.InstructorRetryException instructor.ResponseParsingError
    instructor.ValidationError instructor.AsyncValidationError
    litellm.JSONSchemaValidationError pydantic_ai.UnexpectedModelBehavior
    agents.ModelBehaviorError agents.ModelRefusalError""".split()
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
            None if cause is None or _FIT.isdisjoint(class_of[type(cause)].names) else DOES_NOT_FIT
        )
    if "agents.ModelRefusalError" in names:
        return POLICY
    if "pydantic_ai.UnexpectedModelBehavior" in names:
        return DOES_NOT_FIT if "exceeded max" in evidence.text else None
    return DOES_NOT_FIT


# jiter's last words. openai and anthropic read with it what a model has written, not the body.
_UNREADABLE: Final = re.compile(r" at line \d+ column \d+$|^unable to parse tool parameter json")


def of_partial_json(evidence: Evidence) -> Verdict | None:
    """Return that a client could not read the JSON that a model wrote piece by piece."""
    if _UNREADABLE.search(evidence.text) is None:
        return None
    evidence.matched_by = ("schema", evidence.error_class.names[0])
    return DOES_NOT_FIT
