"""Errors of Python itself: bugs of the caller, and bodies that could not be decoded.

A bug is raised at once and unchanged: a failover would hide it and pay for it. Only plain
``ValueError`` and ``RuntimeError`` count as bugs, since libraries derive their own errors
from them.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final, cast

from resilient_llm._values.built_in import class_name
from resilient_llm._values.verdict import Verdict
from resilient_llm.rules._class_info import CLIENTS, package_of
from resilient_llm.rules._foreign import attribute
from resilient_llm.rules._verdicts import (
    BAD_BODY,
    CALLER_BUG,
    DOES_NOT_FIT,
    OUT_OF_MEMORY,
    REFUSED,
)
from resilient_llm.rules.network import by_errno
from resilient_llm.rules.sentences import key_in_words

if TYPE_CHECKING:
    from types import TracebackType

    from resilient_llm.rules._evidence import Evidence

_VALIDATING: Final = frozenset(("pydantic.main", "pydantic.type_adapter"))
_DEEPEST: Final = 4
_BUGS: Final = (
    TypeError, AttributeError, NameError, AssertionError, LookupError, ArithmeticError,
    NotImplementedError, RecursionError, ImportError, StopIteration, StopAsyncIteration,
    SyntaxError,
)  # fmt: skip
# Classes that are raised where bytes or JSON are decoded.
_DECODING: Final = frozenset(
    """json.JSONDecodeError builtins.UnicodeDecodeError simplejson.JSONDecodeError
    pydantic_core.ValidationError pydantic.ValidationError msgspec.DecodeError
    ujson.JSONDecodeError""".split()
)
# How clients that validate a request name its classes: mistralai, and google-genai.
_REQUESTS: Final = ("Request", "Config", "Parameters")
_MAKES_REQUESTS: Final = "get_pydantic_model"
"""The function with which mistralai reads an argument; what it gives an error has no name."""
# Their frames are between the code that asked for the decoding and the place where it failed.
DECODERS: Final = frozenset(
    """json simplejson orjson ujson jiter msgspec pydantic pydantic_core codecs encodings typing
    functools contextlib asyncio concurrent threading anyio trio""".split()
)


def by_class(evidence: Evidence) -> Verdict | None:
    """Return whether the error is a bug, or a body that could not be decoded."""
    known = evidence.error_class.verdicts
    if "python" not in known:
        known["python"] = _of_class(type(evidence.error), evidence.error_class.names)
    verdict: Verdict | str | None = known["python"]
    evidence.matched_by = ("class", evidence.error_class.names[0])
    if verdict == "decoding":
        if not raised_in_client(evidence.error):
            return CALLER_BUG
        if "pydantic_core.ValidationError" in evidence.error_class.names:
            found = _of_validation(evidence)
            if found is not None:
                return found
        evidence.matched_by = ("raised in a client", evidence.error_class.names[0])
        return BAD_BODY
    if verdict == "oserror":
        return _of_os(evidence)
    return verdict if isinstance(verdict, Verdict) else None


def _of_class(cls: type[BaseException], names: tuple[str, ...]) -> Verdict | str | None:
    if (
        issubclass(cls, MemoryError) or class_name(cls) == "OutOfMemoryError"
    ):  # torch's is a RuntimeError
        return OUT_OF_MEMORY
    if not _DECODING.isdisjoint(names):
        return "decoding"
    if issubclass(cls, _BUGS) or cls is ValueError or cls is RuntimeError:
        return CALLER_BUG
    is_standard = names[0].partition(".")[0] in sys.stdlib_module_names
    if is_standard and issubclass(cls, ValueError):
        return CALLER_BUG
    if is_standard and issubclass(cls, OSError):
        return "oserror"
    return None


def _of_os(evidence: Evidence) -> Verdict | None:
    """Return the verdict on an OSError: network, memory, or else files, which are the caller's."""
    import errno

    error = evidence.error
    if not isinstance(error, OSError):
        return None
    evidence.matched_by = ("class", f"OSError {errno.errorcode.get(error.errno or 0, '')}".rstrip())
    if error.errno == errno.ENOMEM:
        return OUT_OF_MEMORY
    found = by_errno(error)
    if found is not None:
        return found
    # "Multiple exceptions: …" and "All connection attempts failed" have no number.
    if error.errno is None and package_of_frame(_innermost(error.__traceback__)) in (
        "asyncio",
        "anyio",
        "trio",
    ):
        return REFUSED
    return CALLER_BUG


def _of_validation(evidence: Evidence) -> Verdict | None:
    """Return what a client's ``ValidationError`` means if it is not about a broken body."""
    cls, maker = _validated(evidence.error)
    if cls is None or package_of(cls) in CLIENTS:
        if _is_of_a_request(evidence.error):
            evidence.matched_by = ("request", evidence.error_class.names[0])
            return CALLER_BUG
        # A client validates its own settings when it is made.
        return key_in_words(evidence) or (CALLER_BUG if maker not in (None, *CLIENTS) else None)
    evidence.matched_by = ("schema", evidence.error_class.names[0])
    return DOES_NOT_FIT


def _is_of_a_request(error: BaseException) -> bool:
    """Return whether a client validated what its caller passed: nothing was sent then."""
    title: object = getattr(error, "title", None)
    if isinstance(title, str) and title.endswith(_REQUESTS):
        return True
    step = error.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_name == _MAKES_REQUESTS:
            return True
        step = step.tb_next
    return False


def _validated(error: BaseException) -> tuple[type | None, str | None]:
    """Return the class that pydantic validated into, and the package that made an object of it.

    ``parse()`` of openai, anthropic and mistralai and structured output of LangChain validate a
    model's answer into the class that the caller gave them. Both are None if the frames do not
    tell; no package made an object if a method of the class was called.
    """
    step, outer = error.__traceback__, ""
    found: type | None = None
    makers: dict[int, str] = {}
    maker: str | None = None
    while step is not None:
        frame = step.tb_frame
        validates = frame.f_globals.get("__name__") in _VALIDATING
        if frame.f_code.co_name == "__init__":
            held = frame.f_locals.get("self")
            makers.setdefault(id(held), outer)
            if validates:
                found, maker = cast("type", type(held)), makers[id(held)]
        elif validates:
            cls = frame.f_locals.get("cls")
            cls = _type_of_adapter(frame.f_locals.get("self")) if cls is None else cls
            found, maker = (cls, None) if isinstance(cls, type) else (found, maker)
        outer = package_of_frame(step) or outer
        step = step.tb_next
    return found, maker


def _type_of_adapter(adapter: object) -> object:
    """Return the class in the type of a ``TypeAdapter``, such as that of a list's items."""
    if class_name(type(adapter)) != "TypeAdapter":
        return None
    held = attribute(adapter, "_type")
    for _ in range(_DEEPEST):
        items = attribute(held, "__args__")
        if not isinstance(items, tuple) or not items:
            break
        held = cast("tuple[object, ...]", items)[-1]
    return held


def raised_in_client(error: BaseException) -> bool:
    """Return whether an error was raised inside a client library, and not in the caller's code.

    The innermost frame outside of decoders is the code that wanted the data. It is a client if
    its package is in `CLIENTS`, or if it is installed and not the one that made the call.
    """
    inner = outer = ""
    filename = ""
    step = error.__traceback__
    while step is not None:
        package = package_of_frame(step)
        if package and package not in DECODERS:
            inner = package
            filename = step.tb_frame.f_code.co_filename
            if not outer and package not in ("resilient_llm", "contextvars"):
                outer = package
        step = step.tb_next
    if inner in CLIENTS:
        return True
    installed = "site-packages" in filename or "dist-packages" in filename
    return installed and inner not in (outer, "resilient_llm")


def _innermost(step: TracebackType | None) -> TracebackType | None:
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    return step


def package_of_frame(step: TracebackType | None) -> str:
    if step is None:
        return ""
    name = step.tb_frame.f_globals.get("__name__")
    top = name.partition(".")[0] if isinstance(name, str) else ""
    return top[:-1] if top in ("httpx2", "httpcore2") else top
