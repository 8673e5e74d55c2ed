"""`exported`: gives a public class the module that users know, wherever its code is."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T", bound=type)

PACKAGE: Final = "resilient_llm"


def exported(cls: T, package: str = PACKAGE) -> T:
    """Set the module of a class to the one that users import it from.

    Tracebacks, ``repr()`` and pickles then name what users know, and no pickle breaks when
    the code moves.
    """
    if sys.version_info < (3, 13):
        type.__setattr__(cls, "__wrapped__", _Source(cls))
    cls.__module__ = package
    if "__firstlineno__" in vars(cls):  # an enum keeps the line, which is one of another file
        type.__delattr__(cls, "__firstlineno__")
    generated: Any = vars(cls).get("__setstate__")
    if generated is not None and generated.__module__ == "dataclasses":
        type.__setattr__(cls, "__setstate__", _set_state)
    return cls


def _set_state(self: Any, state: list[Any]) -> None:
    """Restore a dataclass with slots from a pickle.

    What dataclasses generate leaves a field unset that came after the release which pickled it.
    Such a field has a default here.
    """
    values = iter(state)
    for name, field in self.__dataclass_fields__.items():
        object.__setattr__(self, name, next(values, field.default))


class _Source:
    """``__wrapped__`` of a public class: leads `inspect.getsource` to the file with its code.

    It looks for a class in the file of ``cls.__module__``, which is not where the code stands,
    but follows ``__wrapped__`` first. Neither instances nor subclasses have it. From Python
    3.13 on a class whose module was set has no source by design, and nothing changes that.
    """

    __slots__ = ("_cls", "_module")

    def __init__(self, cls: type) -> None:
        self._cls = cls
        self._module = cls.__module__

    def __get__(self, instance: object, owner: type) -> type:
        cls = self._cls
        if instance is not None or owner is not cls:
            raise AttributeError("__wrapped__")
        import inspect

        names: dict[str, Any] = {"__module__": self._module, "__qualname__": cls.__qualname__}
        try:
            names["__signature__"] = inspect.signature(cls, follow_wrapped=False)
        except ValueError:  # a class without a signature keeps having none
            pass
        return type(cls.__name__, (), {**names, "__doc__": cls.__doc__})


def plain_schema(
    cls: type[Any], to_plain: Callable[[Any], Any], of_plain: Callable[[Any], Any], *kinds: str
) -> Any:
    """Return what pydantic asks of a class that is written as a plain value.

    Args:
        cls: The class. A field takes an instance as it is, or the plain form of one.
        to_plain: Returns the plain form of an instance, which is what a model dumps.
        of_plain: Returns an instance; a ValueError is a validation error.
        *kinds: ``"str"``, ``"dict"`` or both, what the plain form may be.
    """
    from pydantic_core import core_schema

    forms: list[Any] = [
        core_schema.str_schema() if kind == "str" else core_schema.dict_schema() for kind in kinds
    ]
    form = forms[0] if len(forms) == 1 else core_schema.union_schema(forms)
    parsed = core_schema.no_info_after_validator_function(of_plain, form)
    return core_schema.json_or_python_schema(
        json_schema=parsed,
        python_schema=core_schema.union_schema([core_schema.is_instance_schema(cls), parsed]),
        serialization=core_schema.plain_serializer_function_ser_schema(to_plain),
    )
