"""Errors that point at code, and where exactly a broken body was read.

A bug is raised at once and unchanged: to fail over would hide it and pay for it. Only
plain ``ValueError`` and ``RuntimeError`` count, since libraries derive their own errors
from them.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from resilient_llm._values.kinds import ErrorKind
from resilient_llm._values.verdict import Verdict
from resilient_llm.rules._evidence import CLIENTS, transient, wrong_request
from resilient_llm.rules.network import by_errno

if TYPE_CHECKING:
    from types import TracebackType

    from resilient_llm.rules._evidence import Evidence

BUG: Final = Verdict(ErrorKind.CALLER_BUG)
OUT_OF_MEMORY: Final = Verdict(ErrorKind.MEMORY_PRESSURE)
_BROKEN_BODY: Final = transient("invalid_response")
_TOO_LONG: Final = wrong_request("context_length_exceeded")

_BUGS: Final = (
    TypeError, AttributeError, NameError, AssertionError, LookupError, ArithmeticError, NotImplementedError,
    RecursionError, ImportError, StopIteration, StopAsyncIteration, SyntaxError,
)  # fmt: skip
# Classes raised where bytes or JSON were read, besides those of the standard library.
_DECODING: Final = frozenset(
    """json.JSONDecodeError builtins.UnicodeDecodeError simplejson.JSONDecodeError pydantic_core.ValidationError
    pydantic.ValidationError msgspec.DecodeError ujson.JSONDecodeError""".split()
)
# Their frames are on the way from whoever asked for the decoding to where it failed.
_DECODERS: Final = frozenset(
    """json simplejson orjson ujson jiter msgspec pydantic pydantic_core codecs encodings typing functools contextlib
    asyncio concurrent threading anyio trio""".split()
)


def by_class(evidence: Evidence) -> Verdict | None:
    """Return whether the class points at code, or at a body that could not be read."""
    known = evidence.shape.verdicts
    if "python" not in known:
        known["python"] = _of_class(type(evidence.error), evidence.shape.names)
    verdict: Verdict | str | None = known["python"]
    evidence.sign = ("class", evidence.shape.names[0])
    if verdict == "decoding":
        if not raised_in_client(evidence.error):
            return BUG
        evidence.sign = ("raised in a client", evidence.shape.names[0])
        return _BROKEN_BODY
    if verdict == "oserror":
        return _of_os(evidence)
    return verdict if isinstance(verdict, Verdict) else None


def _of_class(cls: type[BaseException], names: tuple[str, ...]) -> Verdict | str | None:
    if (
        issubclass(cls, MemoryError) or cls.__name__ == "OutOfMemoryError"
    ):  # torch's is a RuntimeError
        return OUT_OF_MEMORY
    if not _DECODING.isdisjoint(names):
        return "decoding"
    if issubclass(cls, _BUGS) or cls is ValueError or cls is RuntimeError:
        return BUG
    is_standard = names[0].partition(".")[0] in sys.stdlib_module_names
    if is_standard and issubclass(cls, ValueError):
        return BUG
    if is_standard and issubclass(cls, OSError):
        return "oserror"
    return None


def _of_os(evidence: Evidence) -> Verdict | None:
    """An OSError is about the network, about memory, or about files: the last is the caller's."""
    import errno

    error = evidence.error
    if not isinstance(error, OSError):
        return None
    evidence.sign = ("class", f"OSError {errno.errorcode.get(error.errno or 0, '')}".rstrip())
    if error.errno == errno.ENOMEM:
        return OUT_OF_MEMORY
    found = by_errno(error)
    if found is not None:
        return found
    # "Multiple exceptions: …" and "All connection attempts failed" carry no number.
    if error.errno is None and _package(_innermost(error.__traceback__)) in (
        "asyncio",
        "anyio",
        "trio",
    ):
        from resilient_llm.rules.network import REFUSED

        return REFUSED
    return BUG


def raised_in_client(error: BaseException) -> bool:
    """Return whether an error was raised inside a client library, and not in the caller's code.

    The innermost frame that is no decoder's tells who wanted the data. It is a client's if
    its package is known, or installed and another than the one which made the call.
    """
    inner = outer = ""
    filename = ""
    step = error.__traceback__
    while step is not None:
        package = _package(step)
        if package and package not in _DECODERS:
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


def _package(step: TracebackType | None) -> str:
    if step is None:
        return ""
    name = step.tb_frame.f_globals.get("__name__")
    top = name.partition(".")[0] if isinstance(name, str) else ""
    return top[:-1] if top in ("httpx2", "httpcore2") else top
