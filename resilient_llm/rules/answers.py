"""Plain errors of Python that a client raises while it reads an answer.

Clients have no class for some of these: a provider's error object is put into the text of a
``ValueError``, and an answer that lacks what is expected ends in whatever Python raises. Both show
a provider that failed. The same classes in the caller's own code, or in a client that was called
with wrong arguments, are bugs of the caller; the frames tell them apart.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from resilient_llm.rules import codes, hints
from resilient_llm.rules._class_info import CLIENTS
from resilient_llm.rules._foreign import called
from resilient_llm.rules._verdicts import BAD_BODY, UNKNOWN_CODE, stamped
from resilient_llm.rules.python import DECODERS, package_of_frame, raised_in_client

if TYPE_CHECKING:
    from types import FrameType

    from resilient_llm._values.verdict import Verdict
    from resilient_llm.rules._evidence import Evidence

READING: Final = frozenset(
    """builtins.TypeError builtins.AttributeError builtins.KeyError builtins.IndexError
    builtins.AssertionError builtins.ValueError""".split()
)
"""Classes that Python and its statements raise where an answer has not the expected form."""

_LONGEST_TEXT: Final = 4_000
# An object of openai, such as "ResponseError(code='server_error', message=…)", and the text that
# langchain-openai makes of an event: "server_error: …".
_OBJECT: Final = re.compile(r"^\w*error\w*\(.*?\bcode='([\w.-]{1,128})'", re.DOTALL)
_PREFIX: Final = re.compile(r"^([a-z][a-z0-9_.-]{1,127}): ")

_HELD: Final = frozenset("response resp completion chunk event sse".split())
"""Last words of the names under which the code of clients holds an answer or a part of it."""
_STREAMING: Final = "streaming"
"""Modules with this name in clients read streams and nothing else."""
_OF_MODELS: Final = "langchain_core.language_models"
"""LangChain takes the first message of an answer here; there is no other index."""


def by_frames(evidence: Evidence) -> Verdict | None:
    """Return either verdict on such an error to which a client has added its response."""
    if evidence.error_class.names[0] == "builtins.ValueError" and raised_in_client(evidence.error):
        found = of_error_object(evidence)
        if found is not None:
            return found
    return of_unreadable(evidence)


def of_error_object(evidence: Evidence) -> Verdict | None:
    """Return the verdict on the provider's error object in a client's text."""
    text = evidence.text
    if not text:  # the object itself was given
        text = _words(evidence).lower()
    is_object = _OBJECT.match(text)
    found = is_object or _PREFIX.match(text)
    if found is None:
        return None
    before, evidence.codes = evidence.codes, (found[1],)
    verdict = codes.cause(evidence) or codes.category(evidence)
    if verdict is None:
        if is_object is None:
            evidence.codes = before  # the word was not a code, and other rules read the codes
            return None
        evidence.matched_by = ("error object", evidence.error_class.names[0])
        verdict = UNKNOWN_CODE
    return stamped(verdict, verdict.status, hints.from_text(text) if verdict.retryable else None)


def of_unreadable(evidence: Evidence) -> Verdict | None:
    """Return that a client could not read an answer, if it failed while it held one."""
    if not _held_an_answer(evidence):
        return None
    evidence.matched_by = ("raised while reading", evidence.error_class.names[0])
    return BAD_BODY


def _held_an_answer(evidence: Evidence) -> bool:
    """Return whether the frames of the client that raised an error were reading an answer."""
    step = evidence.error.__traceback__
    reads, innermost = False, None
    while step is not None:
        package = package_of_frame(step)
        if package in CLIENTS:
            innermost = step.tb_frame
            reads = reads or _reads(innermost, evidence)
        elif package not in DECODERS:  # code of the caller, also where a client calls it back
            reads, innermost = False, None
        step = step.tb_next
    if innermost is None:
        return False
    return reads or _holds(innermost, innermost.f_code.co_nlocals, evidence)


def _reads(frame: FrameType, evidence: Evidence) -> bool:
    module = str(frame.f_globals.get("__name__"))
    if any(part.strip("_") == _STREAMING for part in module.split(".")):
        return True
    if isinstance(evidence.error, IndexError) and module.startswith(_OF_MODELS):
        return True
    code = frame.f_code
    return _holds(frame, code.co_argcount + code.co_kwonlyargcount, evidence)


def _words(evidence: Evidence) -> str:
    words = called(evidence.error.__str__)
    return words[:_LONGEST_TEXT] if isinstance(words, str) else ""


def _holds(frame: FrameType, most: int, evidence: Evidence) -> bool:
    """Return whether one of a frame's first variables holds an answer; parameters come first.

    None is one if the error is about it: the body was ``null``.
    """
    names = [
        name for name in frame.f_code.co_varnames[:most] if name.rpartition("_")[2].lower() in _HELD
    ]
    if not names:
        return False
    values = frame.f_locals
    if any(values.get(name) is not None for name in names):
        return True
    return "NoneType" in _words(evidence) and any(name in values for name in names)
