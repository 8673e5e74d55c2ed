"""Reads what functions are annotated with, also where that is a text or cannot be resolved.

An annotation may name what exists for type checkers alone. So nothing is evaluated to find out
whether a parameter asks for a class of ours: the text of an annotation is parsed, and its names
are looked up in the module of the function.
"""

from __future__ import annotations

import ast
import functools
import inspect
import types
import typing
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_WRAPPERS: Final = ("Optional", "Union", "Annotated")
"""Special forms of `typing` that a class may stand in and still be what is asked for."""
_AWAITED: Final = ("Awaitable", "Coroutine", "Future", "Task")
"""What a class that is awaited is called, where there is only its name."""
_UNKNOWN: Final[Any] = object()


def signature_of(fn: Callable[..., Any]) -> inspect.Signature:
    """Return the signature of a function.

    Raises:
        TypeError: If it has none.
        ValueError: The same.
    """
    try:
        return inspect.signature(fn)
    except NameError:
        # Python 3.14 evaluates annotations when they are read, and one of these names something
        # that is not there at run time: https://peps.python.org/pep-0749/ (November 2026).
        formats: Any = _annotationlib().Format
        read: Callable[..., inspect.Signature] = inspect.signature
        return read(fn, annotation_format=formats.FORWARDREF)


def annotations_of(fn: Callable[..., Any]) -> dict[str, Any]:
    """Return ``{name: annotation}`` of a function; empty if it has none."""
    try:
        found: Any = getattr(fn, "__annotations__", None)
    except NameError:  # as above
        library = _annotationlib()
        found = library.get_annotations(fn, format=library.Format.FORWARDREF)
    return dict(found or {})


def _annotationlib() -> Any:
    import importlib

    return importlib.import_module("annotationlib")


def innermost(fn: Any) -> Any:
    """Return the function behind partials, and of a callable object its ``__call__``."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    if not inspect.isroutine(fn) and callable(fn):
        return type(fn).__call__
    return fn


def gives_awaitable(fn: Any, annotation: Any) -> bool:
    """Return whether what a function returns is annotated as something that is awaited.

    A name that is not there at run time counts by what it is called, as in ``asks_for``.
    """
    if isinstance(annotation, str):
        name = _name_of_text(annotation)
        value = _namespace(fn).get(name.partition(".")[0], _UNKNOWN)
        for part in name.split(".")[1:]:
            value = getattr(value, part, _UNKNOWN)
        if value is _UNKNOWN or isinstance(value, str):
            return name.rpartition(".")[2] in _AWAITED
        return gives_awaitable(fn, value)
    if type(annotation).__name__ == "TypeAliasType":
        return gives_awaitable(fn, annotation.__value__)
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return gives_awaitable(fn, annotation.__origin__)
    cls: Any = annotation if origin is None else origin
    return isinstance(cls, type) and hasattr(cls, "__await__")


def _name_of_text(text: str) -> str:
    """Return the dotted name of the class that an annotation names, without its parameters."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    if isinstance(tree, ast.Constant) and isinstance(tree.value, str):
        return _name_of_text(tree.value)
    if isinstance(tree, ast.Subscript):
        tree = tree.value
    names: list[str] = []
    while isinstance(tree, ast.Attribute):
        names.append(tree.attr)
        tree = tree.value
    return ".".join([tree.id, *reversed(names)]) if isinstance(tree, ast.Name) else ""


def asks_for(fn: Any, parameter: inspect.Parameter, wanted: type) -> bool:
    """Return whether a parameter is annotated with a class, alone or as a part of a union."""
    if parameter.annotation is inspect.Parameter.empty:
        return False
    return _means(parameter.annotation, wanted, _namespace(fn))


def _namespace(fn: Any) -> Mapping[str, Any]:
    try:
        function = inspect.unwrap(innermost(fn))
    except ValueError:  # it wraps itself
        function = fn
    names: dict[str, Any] = getattr(function, "__globals__", {})
    return names


def _means(annotation: Any, wanted: type, names: Mapping[str, Any]) -> bool:
    if isinstance(annotation, str):
        return _text_means(annotation, wanted, names)
    if isinstance(annotation, type):
        return annotation is wanted
    text: Any = getattr(annotation, "__forward_arg__", None)
    if isinstance(text, str):
        return _text_means(text, wanted, names)
    if type(annotation).__name__ == "TypeAliasType":  # `type MaybeAttempt = Attempt | None`
        return _means(annotation.__value__, wanted, names)
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _means(annotation.__origin__, wanted, names)
    if origin is typing.Union or origin is types.UnionType:
        return any(_means(each, wanted, names) for each in typing.get_args(annotation))
    return False


def _text_means(text: str, wanted: type, names: Mapping[str, Any]) -> bool:
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return _tree_means(tree, wanted, names)


def _tree_means(tree: ast.expr, wanted: type, names: Mapping[str, Any]) -> bool:
    """Return whether a parsed annotation asks for a class; a name that is not there may be it."""
    if isinstance(tree, ast.Constant):
        return isinstance(tree.value, str) and _text_means(tree.value, wanted, names)
    if isinstance(tree, ast.Name):
        value = names.get(tree.id, _UNKNOWN)
        if value is _UNKNOWN:
            return tree.id == wanted.__name__
        return not isinstance(value, str) and _means(value, wanted, names)
    if isinstance(tree, ast.Attribute):
        return tree.attr == wanted.__name__
    if isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.BitOr):
        return any(_tree_means(side, wanted, names) for side in (tree.left, tree.right))
    if isinstance(tree, ast.Subscript):
        form = tree.value.attr if isinstance(tree.value, ast.Attribute) else ""
        form = tree.value.id if isinstance(tree.value, ast.Name) else form
        if form not in _WRAPPERS:
            return False
        parts = tree.slice.elts if isinstance(tree.slice, ast.Tuple) else [tree.slice]
        parts = parts[:1] if form == "Annotated" else parts
        return any(_tree_means(part, wanted, names) for part in parts)
    return False


class SeenSignature(inspect.Signature):
    """The signature that callers see; annotations that are texts are resolved when it is read.

    Not before: what a text names may be defined after the function. One that cannot be resolved
    stays a text. So ``inspect.signature(fn, eval_str=True)`` gives what it gives for a function
    that is not decorated; Python does not evaluate a ``__signature__``.
    """

    __slots__ = ("_fn",)

    def __init__(self, signature: inspect.Signature, fn: Callable[..., Any]) -> None:
        super().__init__(
            tuple(signature.parameters.values()), return_annotation=signature.return_annotation
        )
        self._fn = fn

    @property
    def parameters(self) -> types.MappingProxyType[str, inspect.Parameter]:
        return types.MappingProxyType(
            {
                name: parameter.replace(annotation=_resolved(parameter.annotation, self._fn))
                for name, parameter in super().parameters.items()
            }
        )

    @property
    def return_annotation(self) -> Any:
        return _resolved(super().return_annotation, self._fn)

    def replace(self, **changes: Any) -> inspect.Signature:
        return self._plain().replace(**changes)

    __replace__ = replace

    def __reduce__(self) -> Any:
        return self._plain().__reduce__()

    def _plain(self) -> inspect.Signature:
        return inspect.Signature(
            tuple(self.parameters.values()), return_annotation=self.return_annotation
        )


def _resolved(annotation: Any, fn: Callable[..., Any]) -> Any:
    if not isinstance(annotation, str):
        return annotation
    type_parameters = {each.__name__: each for each in getattr(fn, "__type_params__", ())}
    try:
        return eval(annotation, dict(_namespace(fn)), type_parameters)  # as inspect does
    except Exception:  # noqa: BLE001  # users' input
        return annotation
