"""Credentials that a client cannot put into a header: a newline in a key, a letter beyond ASCII.

The client refuses to send such a header, in words of its own, before anybody is asked. It looks
like a bug of the caller's, but it is a key that only an operator can mend.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from resilient_llm._values.built_in import cause_of, context_of
from resilient_llm.rules._class_info import CLIENTS, class_of, package_of
from resilient_llm.rules._verdicts import NO_CREDENTIALS
from resilient_llm.rules.python import package_of_frame, raised_in_client

if TYPE_CHECKING:
    from resilient_llm._values.verdict import Verdict
    from resilient_llm.rules._evidence import Evidence

_REFUSED: Final = (
    "illegal header value",  # h11, httpx, httpcore
    "invalid header value",  # http.client, urllib3, botocore
    "in header value",  # requests
    "detected in headers",  # aiohttp
    "invalid metadata",  # grpc
    "metadata was invalid",
)
_QUOTED: Final = re.compile(r"header value:? ?b?['\"](.*)['\"]", re.DOTALL)
_ESCAPES: Final = re.compile(r"\\[rnt0]|\\x[0-9a-f]{2}|\s")
_SCHEMES: Final = ("bearer", "basic", "digest", "key ", "token ", "apikey ", "api-key ")
_SHORTEST_KEY: Final = 8
_NO_LETTER: Final = re.compile(r"[-_0-9]")
_LONGEST_TEXT: Final = 1_000
_MOST_CAUSES: Final = 12  # also guards against a ring
_MOST_FRAMES: Final = 1_000
IN_PYTHON: Final = "builtins.UnicodeEncodeError"
"""What Python itself raises where clients encode a header."""


def by_header(evidence: Evidence) -> Verdict | None:
    """Return that a client, or one beneath it, refused to send a header with such a value."""
    error: BaseException = evidence.error
    if _refuses(error, evidence.text):
        evidence.matched_by = ("class", evidence.error_class.names[0])
        return NO_CREDENTIALS
    # litellm raises what it has made of an error from None, with a status that it has made up.
    is_translated = evidence.error_class.names[0].startswith("litellm.")
    inner = _beneath(error, is_translated)
    for _ in range(_MOST_CAUSES):
        if inner is None:
            break
        if _refuses(inner, inner.args[0] if inner.args else None):
            evidence.matched_by = ("class beneath", class_of[type(inner)].names[0])
            return NO_CREDENTIALS
        inner = _beneath(inner, is_translated)
    return None


def _beneath(error: BaseException, is_translated: bool) -> BaseException | None:
    cause = cause_of(error)
    return context_of(error) if cause is None and is_translated else cause


def _refuses(error: BaseException, text: object) -> bool:
    if type(error) is UnicodeEncodeError:
        return _was_encoding_a_header(error) and _may_be_key(error.object.lower())
    if not isinstance(text, str):
        return False
    text = text[:_LONGEST_TEXT].lower()
    if "header" not in text and "metadata" not in text:
        return False
    if not any(words in text for words in _REFUSED) or not (
        package_of(type(error)) in CLIENTS
        or (type(error) is ValueError and raised_in_client(error))
    ):
        return False
    quoted = _QUOTED.search(text)
    return quoted is None or _may_be_key(quoted[1])


def _may_be_key(value: str) -> bool:
    """Return whether a lower-cased value of a header may be a credential, and no user's data.

    No client tells the header's name. A credential has a scheme before it, or is one word with
    more than letters.
    """
    value = _ESCAPES.sub(" ", value).strip()
    return value.startswith(_SCHEMES) or (
        len(value) >= _SHORTEST_KEY
        and " " not in value
        and "@" not in value
        and _NO_LETTER.search(value) is not None
    )


def _was_encoding_a_header(error: BaseException) -> bool:
    """Return whether a client's function for headers was at work."""
    step, is_header = error.__traceback__, False
    for _ in range(_MOST_FRAMES):
        if step is None:
            break
        if package_of_frame(step) in CLIENTS:
            is_header = "header" in step.tb_frame.f_code.co_name
        step = step.tb_next
    return is_header
