"""`Kind`, what one option of a file may be: how it is checked, and how a JSON schema says so.

The checks are those of the library, so that a file and code refuse the same with the same words.
An option of a class is checked by building the class with that option alone, and the class is built
with all of them afterwards. A bound that is written here for the schema is compared with the
check by the tests.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from resilient_llm._values import checks as check
from resilient_llm._values.errors import ConfigurationError
from resilient_llm.config._wording import allowed_in_a_file, may_be_left_out

Check = Callable[[str, Any], Any]

VARIABLE: Final = {"$ref": "#/$defs/variable"}
"""Schema of a text that is one variable and nothing else."""
WITH_VARIABLE: Final = {"$ref": "#/$defs/with_variable"}
"""Schema of a text that has a variable in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What one option may be.

    Attributes:
        check: Returns the checked value, or raises ConfigurationError.
        doc: What it is, as one phrase.
        schema: JSON schema of its plain form.
        allowed: What may be written in a file, as a phrase.
        may_be_left_out: Whether messages say as well that it can be left out.
        words: The words that it may be, if it is one of several words.
        near: Gives words among which a near one is looked for, if a text is refused that is not in
            ``words``; None for ``words`` alone.
        is_number: Whether a value that is one variable may be read as a number.
        is_boolean: The same for true and false.
        table: ``{option: its kind}`` if it may be a table; None for a table with any keys, or none.
        build: Makes the value of a table from its checked options.
        required: Options that a table must have.
        is_open: Whether it is a table with any keys and values.
        is_secret: Whether no message shows what is written, which may hold a password.
        types: Types of values that its check is asked about, if a table may stand instead.
    """

    check: Check
    doc: str
    schema: dict[str, Any]
    allowed: str = ""
    may_be_left_out: bool = False
    words: tuple[str, ...] = ()
    near: Callable[[], Iterable[str]] | None = None
    is_number: bool = False
    is_boolean: bool = False
    table: Mapping[str, Kind] | None = None
    build: Callable[[dict[str, Any]], Any] | None = None
    required: tuple[str, ...] = ()
    is_open: bool = False
    is_secret: bool = False
    types: tuple[type, ...] = ()


def allowed_by(check: Check, name: str) -> str:
    """Return what a check says may be written, by giving it what is never allowed."""
    try:
        check(name, object())
    except ConfigurationError as error:
        return str(error).partition(": write ")[2]
    return ""


def with_allowed(kinds: dict[str, Kind]) -> dict[str, Kind]:
    """Return kinds of options with what their checks say may be written, in words of a file."""
    found: dict[str, Kind] = {}
    for name, kind in kinds.items():
        allowed = kind.allowed or allowed_by(kind.check, name)
        found[name] = replace(
            kind,
            allowed=allowed_in_a_file(allowed),
            may_be_left_out=may_be_left_out(allowed),
        )
    return found


def option_of(cls: Callable[..., Any], **others: Any) -> Check:
    """Return the check of one option of a class.

    Args:
        cls: The class, which checks its options when it is built.
        **others: Options without which it would refuse one, for want of what that belongs to.
    """

    def build(name: str, value: Any) -> Any:
        # An option that is one of the others replaces it.
        cls(**{**others, name: value})
        return value

    return build


def or_none(check: Check) -> Check:
    """Return a check that lets None pass, which takes an option back."""
    return lambda name, value: None if value is None else check(name, value)


def without_null(kind: Kind) -> Kind:
    """Return a kind that does not let None pass."""

    def own(name: str, value: Any) -> Any:
        if value is None:
            raise check.refuse(name, value, kind.allowed)
        return kind.check(name, value)

    forms = [each for each in kind.schema["anyOf"] if each != {"type": "null"}]
    return replace(kind, check=own, schema={"anyOf": forms})


def _schema(schema: dict[str, Any], *also: dict[str, Any], null: bool) -> dict[str, Any]:
    forms = [schema, *also, *([{"type": "null"}] if null else [])]
    return forms[0] if len(forms) == 1 else {"anyOf": forms}


def whole(
    check: Check, doc: str, *, low: int | None = None, high: int = sys.maxsize, null: bool = False
) -> Kind:
    """Return the kind of a whole number."""
    bounds = {"minimum": -sys.maxsize if low is None else low, "maximum": high}
    schema = _schema({"type": "integer", **bounds}, VARIABLE, null=null)
    # The check says this itself only of a whole number that is too large.
    allowed = "" if high == sys.maxsize else f"a whole number from {low} to {high}"
    return Kind(check=check, doc=doc, schema=schema, allowed=allowed, is_number=True)


def number(
    check: Check,
    doc: str,
    *,
    above: float | None = None,
    low: float | None = None,
    high: float | None = None,
    null: bool = False,
) -> Kind:
    """Return the kind of a number; ``above`` is exclusive, ``low`` and ``high`` are not."""
    bounds = {"exclusiveMinimum": above, "minimum": low, "maximum": high}
    given = {name: bound for name, bound in bounds.items() if bound is not None}
    schema = _schema({"type": "number", **given}, VARIABLE, null=null)
    return Kind(check=check, doc=doc, schema=schema, is_number=True)


def flag(check: Check, doc: str, *, null: bool = False) -> Kind:
    """Return the kind of true and false."""
    schema = _schema({"type": "boolean"}, VARIABLE, null=null)
    return Kind(check=check, doc=doc, schema=schema, is_boolean=True, types=(bool,))


def choice(check: Check, doc: str, words: tuple[str, ...], *, null: bool = False) -> Kind:
    """Return the kind of one of several words."""
    schema = _schema({"enum": list(words)}, WITH_VARIABLE, null=null)
    return Kind(check=check, doc=doc, schema=schema, words=words, types=(str,))


def text(
    check: Check,
    doc: str,
    *,
    null: bool = False,
    allowed: str = "",
    longest: int | None = None,
) -> Kind:
    """Return the kind of a text that is not empty."""
    form: dict[str, Any] = {"type": "string", "minLength": 1}
    if longest is not None:
        form["anyOf"] = [{"maxLength": longest}, WITH_VARIABLE]
    schema = _schema(form, null=null)
    return Kind(check=check, doc=doc, schema=schema, allowed=allowed)


def texts(check: Check, doc: str, *, or_one: bool = False, null: bool = False) -> Kind:
    """Return the kind of a list of texts, or of one text if that stands for a list of one."""
    form: dict[str, Any] = {"type": "array", "items": {"type": "string", "minLength": 1}}
    also = ({"type": "string", "minLength": 1},) if or_one else ()
    schema = _schema(form, *also, null=null)
    return Kind(check=check, doc=doc, schema=schema)


def table(
    options: Mapping[str, Kind],
    build: Callable[[dict[str, Any]], Any],
    doc: str,
    *,
    allowed: str,
    other: Kind | None = None,
    null: bool = False,
    required: tuple[str, ...] = (),
) -> Kind:
    """Return the kind of a table of options, or of another kind that may stand for it.

    Args:
        options: ``{option: its kind}``
        build: Makes the value from the checked options.
        doc: What it is.
        allowed: What may be written.
        other: What may be written instead of a table.
        null: Whether it may be null.
        required: Options that must be there.
    """
    form = table_schema(options, required=required)
    schema = _schema(form, *(other.schema.get("anyOf", [other.schema]) if other else ()), null=null)

    def refuse(name: str, value: Any) -> Any:
        if null and value is None:
            return None
        if other is not None and isinstance(value, other.types):
            return other.check(name, value)
        raise check.refuse(name, value, allowed)

    return Kind(
        check=refuse,
        doc=doc,
        schema=schema,
        allowed=allowed,
        words=other.words if other else (),
        is_number=other is not None and other.is_number,
        is_boolean=other is not None and other.is_boolean,
        table=options,
        build=build,
        required=required,
    )


def table_schema(
    options: Mapping[str, Kind], *, required: tuple[str, ...] = (), **more: Any
) -> dict[str, Any]:
    """Return the JSON schema of a table with these options and no others."""
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {
            name: {"description": kind.doc, **kind.schema} for name, kind in options.items()
        },
        "additionalProperties": False,
        **more,
    }
    if required:
        schema["required"] = list(required)
    return schema
