"""The advice for a function that takes no target: its own signature, with a target in it.

Only names of parameters are shown: a default may be a key or a prompt.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

_P = inspect.Parameter


def how_to_take_target(fn: Any, signature: inspect.Signature) -> str:
    """Return what to write in place of a function's signature.

    Args:
        fn: The function.
        signature: Its signature.
    """
    name = getattr(fn, "__name__", type(fn).__name__)
    rest = list(signature.parameters.values())
    leading: list[str] = []
    if rest and rest[0].name in ("self", "cls"):
        leading = [rest.pop(0).name]
    rest = [each for each in rest if each.name != "target"]
    keyword = "async def" if inspect.iscoroutinefunction(fn) else "def"
    if name == "<lambda>":
        wanted = _header("def", "ask", [*leading, "target: Target", *_names(rest)])
        return (
            "the parameters of a lambda have no annotations, so use a function such as "
            f"`{wanted}: …`"
        )
    first = _header(keyword, name, [*leading, "target: Target", *_names(rest)])
    by_name = _header(keyword, name, [*leading, *_with_keyword(rest)])
    return (
        f"write `{first}`, and call it without the target, which the decorator supplies. "
        f"Two other ways: `{by_name}` takes it by keyword (or model=, or provider=), "
        "and no parameter is needed if every entry of the chain has its own call="
    )


def _header(keyword: str, name: str, parameters: Iterable[str]) -> str:
    return f"{keyword} {name}({', '.join(parameters)})"


def _names(parameters: Iterable[inspect.Parameter]) -> list[str]:
    """Return the parameters as they are written, without annotations and defaults."""
    shown: list[str] = []
    has_star = False
    for each in parameters:
        if each.kind is _P.KEYWORD_ONLY and not has_star:
            shown.append("*")
            has_star = True
        has_star = has_star or each.kind is _P.VAR_POSITIONAL
        stars = {_P.VAR_POSITIONAL: "*", _P.VAR_KEYWORD: "**"}.get(each.kind, "")
        default = "" if each.default is _P.empty else "=…"
        shown.append(f"{stars}{each.name}{default}")
    return shown


def _with_keyword(parameters: list[inspect.Parameter]) -> list[str]:
    """Return the parameters with a keyword-only ``target`` after those that are positional."""
    target = _P("target", _P.KEYWORD_ONLY, default=None)
    kinds = (_P.KEYWORD_ONLY, _P.VAR_KEYWORD)
    before = [each for each in parameters if each.kind not in kinds]
    after = [each for each in parameters if each.kind in kinds]
    return [shown.replace("target=…", "target=None") for shown in _names([*before, target, *after])]
