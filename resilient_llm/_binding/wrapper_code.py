"""Generates a wrapper's code, which makes the healthy first attempt; `Caller` does the rest.

The wrapper has the parameters of the decorated function, as attrs and dataclasses generate
their methods: a generic ``*args, **kwargs`` closure costs more than the whole guard.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import types
    from collections.abc import Sequence

    from resilient_llm._binding.injection import Injection


_P = inspect.Parameter

Code = tuple["types.CodeType", str, "tuple[Any, ...] | None", dict[str, Any]]
"""What `generate` returns."""
Codes = dict[tuple[bool, bool, bool], Code]
"""``{(by invoker, counting, with names of calls): what is generated}`` of one function."""

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

_CIRCUITS: Final = ("circuit", "second.", "others")
"""Globals without which a wrapper makes no call by itself."""
_BEGIN: Final = """
    {p}number = {p}numbers.next()
    {p}token = {p}numbers.set({p}number)
    try:"""
_END: Final = """
    finally:
        {p}numbers.{end}({p}token)
"""


def variant(*, counting: bool, carries_ids: bool) -> str:
    """Return the prefix of the circuits that a kind of code reads.

    Each kind has its own. A coroutine that was made before its wrapper got other code, or a thread
    that has just entered it, runs the code of before. That finds no circuit any more, and so
    leaves the call to the `Caller`, which does what is wanted now.
    """
    return ("counted_" if counting else "") + ("named_" if carries_ids else "")


def _with_call_id(template: str, end: str) -> str:
    """Return the template of a wrapper whose calls carry their names.

    Args:
        template: That of a wrapper whose calls do not.
        end: What ends a call.
    """
    head, attempt, rest = template.rstrip().partition("\n    try:")
    body = (attempt + rest).replace("\n", "\n    ")
    body = body.replace("{p}to, {p}error)", "{p}to, {p}error, {p}number)")
    body = body.replace("{args}, {kwargs}\n", "{args}, {kwargs}, None, {p}number\n")
    body = body.replace("{p}error, None, {p}counts", "{p}error, {p}number, {p}counts")
    body = body.replace("None, None, {p}counts", "None, {p}number, {p}counts")
    return head + _BEGIN + body + _END.replace("{end}", end)


def generate(
    injection: Injection,
    *,
    by_invoker: bool = False,
    counting: bool = False,
    carries_ids: bool = False,
) -> tuple[types.CodeType, str, tuple[Any, ...] | None, dict[str, Any]]:
    """Generate the wrapper of one function.

    Args:
        injection: How the function takes its target.
        by_invoker: Whether it calls its targets through the invokers of its `Caller`, since some
            have arguments or a function of their own.
        counting: Whether its calls are counted for an exporter of metrics.
        carries_ids: Whether its calls carry their names, for `call_id`.

    Returns:
        Its code, the prefix of the names it expects as globals, and its defaults.
    """
    names = {p.name for p in injection.parameters}
    prefix = "_r_"
    while any(name.startswith(prefix) for name in names):
        prefix = f"_{prefix}"
    outer = tuple(injection.outer.parameters.values())
    defaults: list[Any] = []
    keyword_defaults: dict[str, Any] = {}
    args, kwargs = _positional(outer), _keywords(outer)
    wait = "await " if injection.is_async else ""
    template = _COUNTING_TEMPLATE if counting else _TEMPLATE
    if injection.gives_items:
        template = _TEMPLATE_OF_ITEMS
    elif carries_ids:
        # A coroutine may be sent on in other contexts.
        template = _with_call_id(template, "leave" if wait else "reset")
    own = variant(counting=counting, carries_ids=carries_ids)
    for each in _CIRCUITS if own else ():
        template = template.replace(f"{{p}}{each}", f"{{p}}{own}{each}")
    result = f"{prefix}result"
    source = template.format(
        p=prefix,
        define="async def" if injection.is_async else "def",
        name="wrapper",
        parameters=_parameters(outer, injection.names, defaults, keyword_defaults),
        pinned="".join(
            f"\n    if {name} is not None: return {wait}{prefix}entry({args}, {kwargs})"
            for name in injection.names
        ),
        args=args,
        kwargs=kwargs,
        wait=wait,
        attempt=_by_invoker(injection, prefix, args, _keywords(outer, without=injection.names))
        if by_invoker
        else f"{result} = {wait}{prefix}fn({_inner_call(injection, prefix)})",
        opened=f"await {result}() if {prefix}type({result}) is {prefix}pending_answer else {result}"
        if wait
        else result,
    )
    namespace: dict[str, Any] = {}
    exec(compile(source, f"<failover wrapper of {_named(injection.fn)}>", "exec"), namespace)  # noqa: S102  # as dataclasses do
    return namespace["wrapper"].__code__, prefix, tuple(defaults) or None, keyword_defaults


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


def _by_invoker(injection: Injection, prefix: str, args: str, kwargs: str) -> str:
    call = f"{prefix}result = {prefix}invokers[{prefix}to.key](None, {args}, {kwargs})"
    if not injection.is_async:
        return call
    # A target's own function may be a plain one.
    return f"""{call}
        if {prefix}is_awaitable({prefix}result):
            {prefix}result = await {prefix}result"""


def _inner_call(injection: Injection, prefix: str) -> str:
    parts: list[str] = []
    given = {
        "target": f"{prefix}to",
        "model": f"{prefix}to.model",
        "provider": f"{prefix}to.provider",
    }
    for index, parameter in enumerate(injection.parameters):
        if index == injection.first:
            parts.append(f"{prefix}to")
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
