"""Embeddings and images: answers that are a list of results, in any provider's format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from resilient_llm.answers._format import Format
from resilient_llm.answers._reading import field, has, is_something
from resilient_llm.answers._verdicts import BROKEN

if TYPE_CHECKING:
    from resilient_llm.answers._response import ResponseInfo

# (the field with the list, another field of the same answer), since others have ``data`` as well.
_LISTS: Final = (
    ("data", "usage"),
    ("data", "created"),
    ("embeddings", "model"),
    ("embeddings", "total_tokens"),
    ("embeddings", "metadata"),
    ("generated_images", "positive_prompt_safety_attributes"),
)


def _read_answer(answer: object, info: ResponseInfo) -> bool:
    for name, beside in _LISTS:
        if has(answer, name) and has(answer, beside):
            found = field(answer, name)
            if found is None:
                info.fault = BROKEN
            info.add().has_content = is_something(found)
            return True
    return False


FORMAT: Final = Format(answer=_read_answer)
