"""Errors inside successes: what is wrong with an answer that came without an exception.

Functions for the ``reject`` option; each takes what a target's function returned and gives
False for a good answer, else a `Verdict`::

    from resilient_llm import Target, answers, failover

    @failover(chain=["openai/gpt-5-mini", "anthropic/claude-haiku"], reject=answers.unusable)
    def ask(target: Target, prompt: str) -> ChatCompletion: ...

``unusable`` is the one to begin with: `broken`, `filtered` and `empty` together. `truncated`
is asked for on its own, since an answer cut short is often good enough; `any_of` puts them
together as one likes.

They know the response objects of the SDKs, typed or as the JSON they are made of, by their
shape: which fields there are. No SDK is imported. An answer that looks like none of them is
good, since nobody knows better. Only what an object holds is read: no property, no method,
no lazy body, nothing that could go to the network; and never more than 64 KiB of a text and
a bounded number of candidates, parts and chunks. What was not looked at counts as good.
They never raise, whatever the object is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast

from resilient_llm._values.verdict import Verdict
from resilient_llm.answers._collected import look_at_list
from resilient_llm.answers._responses import Look, look_at_object, look_at_text
from resilient_llm.answers._verdicts import BROKEN, COMPLETE, EMPTY, FILTERED, TRUNCATED, verdict_on

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["any_of", "broken", "empty", "filtered", "truncated", "unusable"]

Answered = Literal[False] | Verdict


def empty(answer: object) -> Answered:
    """Return ``bad_response``, reason ``empty``, for an answer in which the model said nothing.

    Something is said by any text that is not blank, a tool or function call, a refusal, an
    audio or image, a parsed object, an embedding. What a model merely thought is not an answer.
    An empty text, and None, which clients give as the text of such an answer, count as well.
    """
    return _looked_at(answer, _is_empty)


def filtered(answer: object) -> Answered:
    """Return ``request_specific``, reason ``content_policy``, for what a filter or the model refused.

    Also if some text was written before the filter came. ``on_content_policy`` decides what
    follows, as for an error of the same reason.
    """
    return _looked_at(answer, _is_filtered)


def truncated(answer: object) -> Answered:
    """Return ``request_specific``, reason ``output_truncated``, for an answer cut off at a limit of tokens."""
    return _looked_at(answer, _is_truncated)


def broken(answer: object) -> Answered:
    """Return the verdict on a failure that a client handed back as if it were an answer.

    An error in the body of a success gives the verdict that it would give as an exception,
    rules of your own included. A page of HTML, None, a body without candidates and a stream
    that never came to its end are ``transient``.
    """
    return _looked_at(answer, _is_broken)


def unusable(answer: object) -> Answered:
    """Return what `broken`, `filtered` or `empty` has against an answer, in this order."""
    return _looked_at(answer, _is_unusable)


def any_of(*predicates: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a function for ``reject`` that asks others in turn; the first that objects decides.

    Args:
        predicates: Functions as ``reject`` takes them, those of this module or your own.

    Returns:
        A function that gives what the first objecting one gave, or False.
    """

    def objection(answer: Any) -> Any:
        for predicate in predicates:
            said = predicate(answer)
            if said is not None and said is not False:
                return said
        return False

    return objection


def _looked_at(answer: object, judge: Callable[[Look], Answered]) -> Answered:
    try:
        look = Look()
        _look_at(answer, look)
        return judge(look)
    except Exception:  # noqa: BLE001  # somebody else's object may raise anything, and must not fail a call
        return False


# Each asks all candidates: of several, one good one is enough.


def _is_empty(look: Look) -> Answered:
    if look.is_piece or look.error is not None or not look.candidates:
        return False
    return False if any(one.says or one.refuses for one in look.candidates) else EMPTY


def _is_filtered(look: Look) -> Answered:
    candidates = look.candidates
    if candidates and all(one.refuses or one.stopped is FILTERED for one in candidates):
        return FILTERED
    return False


def _is_truncated(look: Look) -> Answered:
    candidates = look.candidates
    return (
        TRUNCATED if candidates and all(one.stopped is TRUNCATED for one in candidates) else False
    )


def _is_broken(look: Look) -> Answered:
    if look.error is not None:
        return verdict_on(look.error)
    if look.fault is not None:
        return look.fault
    candidates = look.candidates
    if candidates and all(
        one.stopped is not None and one.stopped not in COMPLETE for one in candidates
    ):
        return candidates[0].stopped or False
    return False


def _is_unusable(look: Look) -> Answered:
    return _is_broken(look) or _is_filtered(look) or _is_empty(look)


def _look_at(answer: object, look: Look) -> None:
    if answer is None:
        look.fault = BROKEN
        look.add()
    elif isinstance(answer, (str, bytes, bytearray)):
        look_at_text(answer, look)
    elif type(answer) in (list, tuple):
        look_at_list(cast("list[Any]", answer), look)
    elif not isinstance(answer, type):
        look_at_object(answer, look)
