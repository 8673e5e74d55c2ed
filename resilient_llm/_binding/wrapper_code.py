"""Generates a wrapper's code, which makes the healthy first attempt; `Caller` does the rest.

The wrapper has the parameters of the decorated function, as attrs and dataclasses generate
their methods: a generic ``*args, **kwargs`` closure costs more than the whole guard.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from resilient_llm._binding.limited_code import Limited, limited_template

if TYPE_CHECKING:
    import types
    from collections.abc import Sequence

    from resilient_llm._binding.injection import Injection


_P = inspect.Parameter

Code = tuple["types.CodeType", str, "tuple[Any, ...] | None", dict[str, Any]]
"""What `generate` returns."""


class Kind(NamedTuple):
    """Which code a wrapper has."""

    by_invoker: bool = False
    """Whether it calls its targets through the invokers of its `Caller`, since some have arguments
    or a function of their own."""
    counting: bool = False
    """Whether its calls are counted for an exporter of metrics."""
    in_flight: bool = False
    """Whether it counts what is in flight on its keys."""
    measuring: bool = False
    """Whether it keeps samples of its answers, if a strategy draws its targets."""
    carries_ids: bool = False
    """Whether its calls carry their names, for `call_id`."""
    limited: Limited | None = None
    """What it takes by itself of the limits and budgets of its first target, if it does."""
    order: Literal["", "drawn", "passed"] = ""
    """Empty if it calls the targets by priority; else whether it draws the first target of each
    call, or passes the arguments on as they are, for a function of the user that asks for them."""


Codes = dict[Kind, Code]
"""``{kind: what is generated}`` of one function."""

_TEMPLATE_AS_PASSED: Final = """
{define} {name}(*args, **kwargs):
    return {wait}{p}entry(args, kwargs)
"""
_TEMPLATE_OF_ITEMS: Final = """
def {name}({parameters}):
    return {p}entry({args}, {kwargs})
"""
_TEMPLATE: Final = """
{define} {name}({parameters}):{pinned}
    if {p}open_traces and {p}has_trace() is not None:
        return {wait}{p}entry({args}, {kwargs})
    {p}generation = {p}circuit.slot
    {p}entered = {p}clock()
    {p}to = {p}target
    if {p}generation is None:
        if {p}entered >= {p}circuit.shut_until:
            return {wait}{p}entry({args}, {kwargs})
        {p}generation = {p}second.slot
        {p}to = {p}second_target
        if {p}generation is None:
            for {p}other, {p}to in {p}others:
                {p}generation = {p}other.slot
                if {p}generation is not None:
                    break
                if {p}entered >= {p}other.shut_until:
                    return {wait}{p}entry({args}, {kwargs})
            else:
                return {wait}{p}entry({args}, {kwargs})
    try:
        {attempt}
    except BaseException as {p}error:
        {p}pending = {p}on_failure({p}generation, {p}entered, {p}to, {p}error)
        if {p}pending is None:
            raise
    else:
        {p}ended = {p}clock()
        if (
            {p}ended >= {p}generation.check_after
            or {p}ended - {p}entered >= {p}generation.slow_above
            or {p}type({p}result) is not {p}plain_type
        ):
            {p}took = {p}ended - {p}entered
            if (
                {p}type({p}result) is not {p}plain_type
                or {p}ended >= {p}look_at
                or not {p}generation.answered({p}ended, {p}took, {p}took)
            ):
                {p}result = {p}on_success(
                    {p}generation, {p}entered, {p}ended, {p}to, {p}result, {args}, {kwargs}
                )
                return {opened}
        else:
            {p}generation.n += 1
        return {p}result
    return {wait}{p}resume({p}pending, {args}, {kwargs})
"""

_BY_PRIORITY: Final = _TEMPLATE[
    _TEMPLATE.index("    {p}generation =") : _TEMPLATE.index("    try:")
]
_BY_DRAW: Final = """\
    {p}entered = {p}clock()
    {p}to = {p}draw({p}entered)
    {p}generation = {p}to.circuit.slot
    if {p}generation is None:
        return {wait}{p}entry({args}, {kwargs}, {p}to)
    {p}target = {p}to.target
"""
"""How a wrapper finds its first target if a strategy draws it.

What was drawn is passed on, since the rest of the order depends on it. If it cannot simply be
called, the `Caller` goes on with it, and the strategy is not asked twice.
"""

_COUNTING_TEMPLATE: Final = """
{define} {name}({parameters}):{pinned}
    if {p}open_traces and {p}has_trace() is not None:
        return {wait}{p}entry({args}, {kwargs})
    {p}counts = {p}target_counts
    {p}generation = {p}circuit.slot
    {p}entered = {p}clock()
    if {p}generation is None:
        return {wait}{p}entry({args}, {kwargs})
    {p}to = {p}target
    {p}counts.begun += 1
    try:
        {attempt}
    except BaseException as {p}error:
        {p}pending = {p}on_failure({p}generation, {p}entered, {p}to, {p}error, None, {p}counts)
        if {p}pending is None:
            raise
    else:
        {p}ended = {p}clock()
        {p}took = {p}ended - {p}entered
        {p}bucket = {p}bucket_of({p}counts.bounds, {p}took)
        if (
            {p}ended >= {p}generation.check_after
            or {p}took >= {p}generation.slow_above
            or {p}type({p}result) is not {p}plain_type
        ):
            if (
                {p}type({p}result) is not {p}plain_type
                or {p}ended >= {p}look_at
                or not {p}generation.answered({p}ended, {p}took, {p}took)
            ):
                {p}result = {p}on_success(
                    {p}generation, {p}entered, {p}ended, {p}to, {p}result, {args}, {kwargs},
                    None, None, {p}counts
                )
                return {opened}
        else:
            {p}generation.n += 1
        {p}counts.answers[{p}bucket] += 1
        {p}counts.seconds += {p}took
        return {p}result
    return {wait}{p}resume({p}pending, {args}, {kwargs})
"""
"""The same while an exporter of metrics counts (see _core/counts.py).

The counts are read together with the circuit, without a call between, so that both are of one
state. Whatever the first target cannot take at once is left to the `Caller`, which counts skips.
"""

_COUNTED_BY_PRIORITY: Final = _COUNTING_TEMPLATE[
    _COUNTING_TEMPLATE.index("    {p}counts =") : _COUNTING_TEMPLATE.index("    {p}counts.begun")
]
_COUNTED_BY_DRAW: Final = """\
    {p}counts = {p}to.counts
"""
_ANSWERED: Final = """\
        return {p}result
    return {wait}{p}resume"""
_MEASURED: Final = """\
        {p}to.keep({p}ended, {p}ended - {p}entered)
"""
_BEGUN: Final = """\
    {p}counts.in_flight.running += 1
"""
_EXPORTED: Final = {
    "    {p}counts.begun += 1\n": "    {p}counts.inner.begun += 1\n",
    "{p}counts.bounds": "{p}counts.inner.bounds",
    "{p}counts.answers": "{p}counts.inner.answers",
    "{p}counts.seconds": "{p}counts.inner.seconds",
}
"""What an exporter counts, if what is in flight on the key is counted as well."""
_NOT_EXPORTED: Final = {
    "    {p}counts.begun += 1\n": "",
    "        {p}bucket = {p}bucket_of({p}counts.bounds, {p}took)\n": "",
    "        {p}counts.answers[{p}bucket] += 1\n": "",
    "        {p}counts.seconds += {p}took\n": "",
}
_CIRCUITS: Final = ("circuit", "second.", "others", "draw(")
"""Globals without which a wrapper makes no call by itself."""
_PLAIN: Final = Kind()
_BEGIN: Final = """
    {p}number = {p}numbers.next()
    {p}token = {p}numbers.set({p}number)
    try:"""
_END: Final = """
    finally:
        {p}numbers.{end}({p}token)
"""


def variant(kind: Kind) -> str:
    """Return the prefix of the circuits that a kind of code reads.

    Each kind has its own. A coroutine that was made before its wrapper got other code, or a thread
    that has just entered it, runs the code of before. That finds no circuit any more, and so
    leaves the call to the `Caller`, which does what is wanted now.
    """
    words = {
        "counted_": kind.counting,
        "flying_": kind.in_flight,
        "measured_": kind.measuring,
        "named_": kind.carries_ids,
    }
    limited = "" if kind.limited is None else kind.limited.variant
    return "".join(word for word, is_meant in words.items() if is_meant) + limited


def _with_in_flight(template: str, *, exported: bool) -> str:
    """Return the template of a wrapper that counts what is in flight on its keys.

    Args:
        template: That of a wrapper that counts for an exporter.
        exported: Whether an exporter counts as well.
    """
    for line, instead in (_EXPORTED if exported else _NOT_EXPORTED).items():
        template = template.replace(line, instead)
    template = template.replace("    try:\n", _BEGUN + "    try:\n", 1)
    return template.replace(_ANSWERED, "        {p}counts.in_flight.running -= 1\n" + _ANSWERED)


def _with_call_id(template: str, end: str) -> str:
    """Return the template of a wrapper whose calls carry their names.

    Args:
        template: That of a wrapper whose calls do not.
        end: What ends a call.
    """
    # What counts the begin stays next to the attempt: an interrupt may come with each call.
    begin = _BEGUN if _BEGUN in template else ""
    head, attempt, rest = template.rstrip().partition(f"\n{begin}    try:")
    body = (attempt + rest).replace("\n", "\n    ")
    body = body.replace("{p}to, {p}error)", "{p}to, {p}error, {p}number)")
    body = body.replace("{args}, {kwargs}\n", "{args}, {kwargs}, None, {p}number\n")
    body = body.replace("{p}error, None, {p}counts", "{p}error, {p}number, {p}counts")
    body = body.replace("None, None, {p}counts", "None, {p}number, {p}counts")
    return head + _BEGIN + body + _END.replace("{end}", end)


def generate(
    injection: Injection, kind: Kind = _PLAIN, number: int = 0
) -> tuple[types.CodeType, str, tuple[Any, ...] | None, dict[str, Any]]:
    """Generate the wrapper of one function.

    Args:
        injection: How the function takes its target.
        kind: Which code it is to have.
        number: Makes the names of its globals other ones than those of code that it had before.

    Returns:
        Its code, the prefix of the names it expects as globals, and its defaults.
    """
    names = {p.name for p in injection.parameters}
    prefix = f"_r{number or ''}_"
    while any(name.startswith(prefix) for name in names):
        prefix = f"_{prefix}"
    outer = tuple(injection.outer.parameters.values())
    defaults: list[Any] = []
    keyword_defaults: dict[str, Any] = {}
    args, kwargs = _positional(outer), _keywords(outer)
    wait = "await " if injection.is_async else ""
    template = _template(injection, kind)
    indent = template.partition("{attempt}")[0].rpartition("\n")[2]
    own = variant(kind)
    for each in _CIRCUITS if own else ():
        template = template.replace(f"{{p}}{each}", f"{{p}}{own}{each}")
    result, to = f"{prefix}result", f"{prefix}{'target' if kind.order == 'drawn' else 'to'}"
    source = template.format(
        p=prefix,
        define="async def" if injection.is_async else "def",
        name="wrapper",
        parameters=_parameters(outer, injection.names, defaults, keyword_defaults),
        pinned="".join(
            f"\n    if {condition}: return {wait}{prefix}entry({args}, {kwargs})"
            for condition in _left_to_caller(injection)
        ),
        args=args,
        kwargs=kwargs,
        wait=wait,
        attempt=_by_invoker(
            injection, prefix, to, args, _keywords(outer, without=injection.names), indent
        )
        if kind.by_invoker
        else f"{result} = {wait}{prefix}fn({_inner_call(injection, prefix, to)})",
        opened=f"await {result}() if {prefix}type({result}) is {prefix}pending_answer else {result}"
        if wait
        else result,
    )
    namespace: dict[str, Any] = {}
    exec(compile(source, f"<failover wrapper of {_named(injection.fn)}>", "exec"), namespace)  # noqa: S102  # as dataclasses do
    # Taken out, for a function and its globals refer to each other.
    return namespace.pop("wrapper").__code__, prefix, tuple(defaults) or None, keyword_defaults


def _left_to_caller(injection: Injection) -> list[str]:
    """Return the conditions on its arguments under which a wrapper does not make a call itself."""
    conditions = [f"{name} is not None" for name in injection.names]
    if injection.taken is not None:
        conditions += [
            f"{injection.taken!r} in {each.name}"
            for each in injection.outer.parameters.values()
            if each.kind is _P.VAR_KEYWORD
        ]
    return conditions


def _template(injection: Injection, kind: Kind) -> str:
    if kind.order == "passed":
        return _TEMPLATE_AS_PASSED
    if injection.gives_items:
        return _TEMPLATE_OF_ITEMS
    template = _TEMPLATE
    if kind.counting or kind.in_flight:
        template = _COUNTING_TEMPLATE
    if kind.limited is not None:
        names = [p.name for p in injection.visible if p.name not in injection.names]
        template = limited_template(kind.limited, names[names[:1] in (["self"], ["cls"]) :])
    if kind.order == "drawn":
        template = template.replace(_BY_PRIORITY, _BY_DRAW)
        template = template.replace(_COUNTED_BY_PRIORITY, _BY_DRAW + _COUNTED_BY_DRAW)
    if kind.in_flight:
        template = _with_in_flight(template, exported=kind.counting)
    if kind.measuring:
        template = template.replace(_ANSWERED, _MEASURED + _ANSWERED)
    if kind.carries_ids:
        # A coroutine may be sent on in other contexts.
        template = _with_call_id(template, "leave" if injection.is_async else "reset")
    return template


def _named(fn: Any) -> str:
    return getattr(fn, "__qualname__", type(fn).__name__)


def _parameters(
    outer: Sequence[inspect.Parameter],
    injected: Sequence[str],
    defaults: list[Any],
    keyword_defaults: dict[str, Any],
) -> str:
    parts: list[str] = []
    starred = False
    for index, parameter in enumerate(outer):
        text = parameter.name
        if parameter.kind is _P.VAR_POSITIONAL:
            text, starred = f"*{text}", True
        elif parameter.kind is _P.VAR_KEYWORD:
            text = f"**{text}"
        elif parameter.kind is _P.KEYWORD_ONLY:
            if not starred:
                parts.append("*")
                starred = True
            if parameter.name in injected:
                keyword_defaults[parameter.name] = None
                text += "=None"
            elif parameter.default is not _P.empty:
                keyword_defaults[parameter.name] = parameter.default
                text += "=None"
        elif parameter.default is not _P.empty:
            defaults.append(parameter.default)
            text += "=None"
        parts.append(text)
        following = outer[index + 1] if index + 1 < len(outer) else None
        if parameter.kind is _P.POSITIONAL_ONLY and (
            following is None or following.kind is not _P.POSITIONAL_ONLY
        ):
            parts.append("/")
    return ", ".join(parts)


def _positional(outer: Sequence[inspect.Parameter]) -> str:
    parts = [p.name for p in outer if p.kind in (_P.POSITIONAL_ONLY, _P.POSITIONAL_OR_KEYWORD)]
    parts += [f"*{p.name}" for p in outer if p.kind is _P.VAR_POSITIONAL]
    return f"({', '.join(parts)}{',' if parts else ''})"


def _keywords(outer: Sequence[inspect.Parameter], *, without: Sequence[str] = ()) -> str:
    parts = [
        f"{p.name!r}: {p.name}"
        for p in outer
        if p.kind is _P.KEYWORD_ONLY and p.name not in without
    ]
    parts += [f"**{p.name}" for p in outer if p.kind is _P.VAR_KEYWORD]
    return f"{{{', '.join(parts)}}}"


def _by_invoker(
    injection: Injection, prefix: str, to: str, args: str, kwargs: str, indent: str
) -> str:
    call = f"{prefix}result = {prefix}invokers[{to}.key](None, {args}, {kwargs})"
    if not injection.is_async:
        return call
    # A target's own function may be a plain one.
    return f"""{call}
{indent}if {prefix}is_awaitable({prefix}result):
{indent}    {prefix}result = await {prefix}result"""


def _inner_call(injection: Injection, prefix: str, to: str) -> str:
    parts: list[str] = []
    given = {"target": to, "model": f"{to}.model", "provider": f"{to}.provider"}
    for index, parameter in enumerate(injection.parameters):
        if index == injection.first:
            parts.append(to)
        elif parameter.kind is _P.VAR_POSITIONAL:
            parts.append(f"*{parameter.name}")
        elif parameter.kind is _P.VAR_KEYWORD:
            parts.append(f"**{parameter.name}")
        elif parameter.kind is _P.KEYWORD_ONLY:
            value = given[parameter.name] if parameter.name in injection.names else parameter.name
            parts.append(f"{parameter.name}={value}")
        elif parameter.name != injection.attempt:
            parts.append(parameter.name)
    return ", ".join(parts)
