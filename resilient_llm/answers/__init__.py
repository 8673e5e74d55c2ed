"""Errors inside successes: predicates for answers that came without an exception.

Functions for the ``reject`` option. Each takes what a target's function returned, and returns
False for a good answer, else a `Verdict`::

    from resilient_llm import Target, answers, failover

    @failover(chain=["openai/gpt-5-mini", "anthropic/claude-haiku"], reject=answers.unusable)
    def ask(target: Target, prompt: str) -> ChatCompletion: ...

Start with ``unusable``: it is `broken`, `filtered` and `empty` together. `truncated` is apart,
since an answer that was cut off is often good enough; `any_of` combines predicates as you like.

Response objects of the SDKs, typed or as the JSON that they are made of, are recognised by
their format: which fields they have. No SDK is imported. An answer of an unknown format is
good. Only what an object holds is read: no property, no method, no lazy body, nothing that
could use the network; and never more than 64 KiB of a text and a bounded number of choices,
parts and chunks. What is not read counts as good. The predicates never raise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast

from resilient_llm._values.verdict import Verdict
from resilient_llm.answers._collected import read_list
from resilient_llm.answers._response import ResponseInfo
from resilient_llm.answers._responses import read_object, read_text
from resilient_llm.answers._verdicts import BROKEN, COMPLETE, EMPTY, FILTERED, TRUNCATED, verdict_on

__all__ = ["any_of", "broken", "empty", "filtered", "truncated", "unusable"]

Answered = Literal[False] | Verdict


def empty(answer: object) -> Answered:
    """Return ``bad_response``, reason ``empty``, for an answer without content.

    Content is any text that is not blank, a tool or function call, a refusal, an audio or
    image, a parsed object, an embedding. Reasoning alone is not an answer. An empty text, and
    None, which clients give as the text of such an answer, count as well.
    """
    return _judged(answer, _is_empty)


def filtered(answer: object) -> Answered:
    """Return ``request_specific``, reason ``content_policy``, if a filter or the model refused.

    Also if some text was written before the filter ended the answer. ``on_content_policy``
    decides what follows, as for an error of the same reason.
    """
    return _judged(answer, _is_filtered)


def truncated(answer: object) -> Answered:
    """Return ``request_specific``, reason ``output_truncated``, for an answer cut off.

    The cause is a limit of tokens: that of the request, or that of the model.
    """
    return _judged(answer, _is_truncated)


def broken(answer: object) -> Answered:
    """Return the verdict on a failure that a client returned as if it were an answer.

    An error in the body of a success has the verdict that it would have as an exception,
    your own rules included. A page of HTML, None, a body without choices and a stream without
    its end are ``transient``.
    """
    return _judged(answer, _is_broken)


def unusable(answer: object) -> Answered:
    """Return the first verdict of `broken`, `filtered` and `empty`, in this order."""
    return _judged(answer, _is_unusable)


def any_of(*predicates: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a function for ``reject`` that asks several predicates; the first verdict decides.

    Args:
        predicates: Functions as ``reject`` takes them, those of this module or your own.

    Returns:
        A function that returns the first value that is neither None nor False, or False.
    """

    def first_verdict(answer: Any) -> Any:
        for predicate in predicates:
            verdict = predicate(answer)
            if verdict is not None and verdict is not False:
                return verdict
        return False

    return first_verdict


def _judged(answer: object, judge: Callable[[ResponseInfo], Answered]) -> Answered:
    try:
        info = ResponseInfo()
        _read(answer, info)
        return judge(info)
    except Exception:  # noqa: BLE001  # a foreign object may raise anything, and must not fail a call
        return False


# Each asks all choices: of several, one good answer is enough.


def _is_empty(info: ResponseInfo) -> Answered:
    if info.is_partial or info.error is not None or not info.choices:
        return False
    return False if any(each.has_content or each.is_refusal for each in info.choices) else EMPTY


def _is_filtered(info: ResponseInfo) -> Answered:
    choices = info.choices
    if choices and all(each.is_refusal or each.stop_verdict is FILTERED for each in choices):
        return FILTERED
    return False


def _is_truncated(info: ResponseInfo) -> Answered:
    choices = info.choices
    is_cut = choices and all(each.stop_verdict is TRUNCATED for each in choices)
    return TRUNCATED if is_cut else False


def _is_broken(info: ResponseInfo) -> Answered:
    if info.error is not None:
        return verdict_on(info.error)
    if info.fault is not None:
        return info.fault
    verdicts = [each.stop_verdict for each in info.choices]
    if verdicts and all(verdict is not None and verdict not in COMPLETE for verdict in verdicts):
        return verdicts[0] or False
    return False


def _is_unusable(info: ResponseInfo) -> Answered:
    return _is_broken(info) or _is_filtered(info) or _is_empty(info)


def _read(answer: object, info: ResponseInfo) -> None:
    if answer is None:
        info.fault = BROKEN
        info.add()
    elif isinstance(answer, (str, bytes, bytearray)):
        read_text(answer, info)
    elif type(answer) in (list, tuple):
        read_list(cast("list[Any]", answer), info)
    elif not isinstance(answer, type):
        read_object(answer, info)
