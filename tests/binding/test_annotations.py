"""Annotations in every form that Python has, and the signature that frameworks read."""

from __future__ import annotations

import inspect
import pickle
import sys
import types
import typing
from typing import Annotated, Any, ClassVar

import pytest

from resilient_llm import ConfigurationError, Target, failover
from resilient_llm._binding.annotations import annotations_of
from tests.support.ways import GROQ

FUTURE = "from __future__ import annotations\n"
IMPORTS = (
    "import typing\nfrom typing import Annotated, Literal, Optional, Union\n"
    "from resilient_llm import Attempt, Target\n"
)


def module_of(source: str, name: str = "annotated_by_a_user") -> types.ModuleType:
    """Return a new module with this source, as if it had been imported."""
    module = types.ModuleType(name)
    sys.modules[module.__name__] = module
    exec(source, vars(module))  # noqa: S102  # annotations depend on how a module begins
    return module


# --- which parameter is meant -----------------------------------------------------------------

ASKS = [
    "Attempt | None",
    "None | Attempt",
    "Optional[Attempt]",
    "typing.Optional[Attempt]",
    "Union[Attempt, None]",
    "Union[None, int, Attempt]",
    "Annotated[Attempt, 'x']",
    "Annotated[Attempt | None, 'x']",
    "Annotated[Optional[Attempt], 'x', 'y']",
    "Optional[Annotated[Attempt, 'x']]",
    "Maybe",
    "Optional['Attempt']",
]


@pytest.mark.parametrize("head", ["", FUTURE], ids=["evaluated", "text"])
@pytest.mark.parametrize("annotation", ASKS)
def test_an_attempt_is_passed_however_its_annotation_is_written(annotation: str, head: str) -> None:
    """A union with None, an alias and an `Annotated` ask for the attempt as the class does."""
    module = module_of(
        f"{head}{IMPORTS}Maybe = Optional[Attempt]\n"
        f"def ask(target: Target, *, attempt: {annotation} = None): return attempt"
    )

    ask = failover(GROQ, attempt_timeout=5.0)(module.ask)

    assert 1 == ask().number
    assert [] == list(inspect.signature(ask).parameters)


@pytest.mark.parametrize("head", ["", FUTURE], ids=["evaluated", "text"])
@pytest.mark.parametrize(
    "annotation",
    ["list[Target]", "Callable[[Target], str]", "Literal['Target']", "Annotated[str, Target]"],
)
def test_what_only_mentions_a_target_is_not_filled_in(annotation: str, head: str) -> None:
    """A list of targets is an argument of the caller's, and not a place for the target."""
    module = module_of(
        f"{head}{IMPORTS}from collections.abc import Callable\n"
        f"def ask(places: {annotation}, prompt): return places"
    )

    with pytest.raises(ConfigurationError, match="is given no target"):
        failover(GROQ)(module.ask)


def test_a_class_of_the_same_name_is_not_ours() -> None:
    """A text names what its module defines, also if that is called as a class of ours is."""
    module = module_of(
        FUTURE + "class Attempt: ...\nfrom resilient_llm import Target\n"
        "def ask(target: Target, attempt: Attempt | None = None): return attempt"
    )

    assert failover(GROQ)(module.ask)() is None


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the statement is new in Python 3.12")
def test_a_type_statement_is_followed() -> None:
    """A lazily evaluated alias stands for its value."""
    module = module_of(
        IMPORTS + "type Maybe = Attempt | None\n"
        "def ask(target: Target, *, attempt: Maybe = None): return attempt"
    )

    assert 1 == failover(GROQ)(module.ask)().number


# --- Python 3.14, where annotations are evaluated when they are read ---------------------------


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="this Python has the real thing")
def test_an_annotation_that_cannot_be_evaluated_is_no_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Names under TYPE_CHECKING stay forward references, and the others are what they are."""

    def ask(target: Any, amount: Any, *, attempt: Any = None) -> Any:
        return (target.key, amount, attempt.number)

    unknown = typing.ForwardRef("Decimal")
    known = {"target": Target, "amount": unknown, "attempt": typing.ForwardRef("Attempt")}
    read = inspect.signature

    def signature(fn: Any, *, annotation_format: Any = "value", **options: Any) -> Any:
        if fn is not ask:
            return read(fn, **options)
        if annotation_format != "forwardref":
            raise NameError("name 'Decimal' is not defined")
        ask.__annotations__ = known
        return read(ask)

    monkeypatch.setitem(sys.modules, "annotationlib", annotationlib())
    monkeypatch.setattr(inspect, "signature", signature)

    guarded = failover(GROQ)(ask)

    assert (GROQ, 3, 1) == guarded(3)
    assert {"amount": unknown} == guarded.__annotations__
    assert unknown == read(guarded).parameters["amount"].annotation


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="this Python has the real thing")
def test_annotations_are_read_as_forward_references(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where reading them raises, they are asked for in the form that never does."""

    class LikeIn314:
        known: ClassVar = {"amount": typing.ForwardRef("Decimal")}

        @property
        def __annotations__(self) -> Any:
            raise NameError("name 'Decimal' is not defined")

    monkeypatch.setitem(sys.modules, "annotationlib", annotationlib())

    assert LikeIn314.known == annotations_of(LikeIn314())  # type: ignore[arg-type]


def annotationlib() -> Any:
    """Return a stand-in for the module of Python 3.14."""
    library: Any = types.ModuleType("annotationlib")
    library.Format = types.SimpleNamespace(VALUE="value", FORWARDREF="forwardref")
    library.get_annotations = lambda fn, **options: fn.known if options else None
    return library


@pytest.mark.skipif(sys.version_info < (3, 14), reason="annotations are evaluated late from 3.14")
def test_annotations_under_type_checking_do_not_break_the_decoration() -> None:
    """The same on a Python that has it."""
    module = module_of(
        "from typing import TYPE_CHECKING\nfrom resilient_llm import Target\n"
        "if TYPE_CHECKING:\n    from decimal import Decimal\n    from resilient_llm import Attempt\n"
        "def ask(target: Target, amount: Decimal, *, attempt: Attempt | None = None):\n"
        "    return (amount, attempt.number)\n"
        "def words(target: Target, amount: Decimal):\n    yield amount"
    )

    assert (3, 1) == failover(GROQ)(module.ask)(3)
    assert [3] == list(failover(GROQ)(module.words)(3))


# --- the signature that frameworks read --------------------------------------------------------

TOOLS = (
    FUTURE + IMPORTS + "from resilient_llm import failover\n"
    "@failover('groq/llama')\n"
    "async def ask(target: Target, prompt: Annotated[str, 'x'], tone: Literal['dry'] = 'dry')"
    " -> Answer: ...\n"
    "@failover('groq/llama')\n"
    "def named(prompt: str, *, model: Optional[str] = None) -> Answer: ...\n"
    "@failover('groq/llama')\n"
    "def words(target: Target, prompt: str) -> typing.Iterator[Answer]: yield prompt\n"
    "class Client:\n"
    "    @failover('groq/llama')\n"
    "    def ask(self, target: Target, prompt: str) -> Answer: ...\n"
    "class Answer: ...\n"
)


def test_the_signature_is_evaluated_as_that_of_a_plain_function() -> None:
    """Annotations that are texts are resolved, also those that name what is defined later."""
    module = module_of(TOOLS)

    ask = inspect.signature(module.ask, eval_str=True)

    assert Annotated[str, "x"] == ask.parameters["prompt"].annotation
    assert module.Answer is ask.return_annotation
    for fn in (module.named, module.Client().ask, module.Client.ask):
        assert module.Answer is inspect.signature(fn, eval_str=True).return_annotation
        assert str is inspect.signature(fn).parameters["prompt"].annotation
    assert typing.Iterator[module.Answer] == inspect.signature(module.words).return_annotation
    assert (
        typing.get_type_hints(module.named)["model"]
        == inspect.signature(module.named).parameters["model"].annotation
    )


def test_what_cannot_be_resolved_stays_a_text() -> None:
    """One name that exists for type checkers alone takes nothing from the others."""
    module = module_of(
        FUTURE + IMPORTS + "def ask(target: Target, a: Unknown, b: int) -> 1 / 0: ..."
    )

    signature = inspect.signature(failover(GROQ)(module.ask), eval_str=True)

    assert ["Unknown", int] == [each.annotation for each in signature.parameters.values()]
    assert "1 / 0" == signature.return_annotation


def test_the_signature_is_one_like_any_other() -> None:
    """It can be bound, changed, compared and pickled."""
    module = module_of(
        FUTURE + IMPORTS + "def ask(target: Target, prompt: str, n: int = 1) -> str: ..."
    )

    signature = inspect.signature(failover(GROQ)(module.ask))

    assert {"prompt": "why", "n": 2} == signature.bind("why", n=2).arguments
    assert "(prompt: str, n: int = 1) -> str" == str(signature)
    assert str is signature.replace(parameters=()).return_annotation
    assert signature == pickle.loads(pickle.dumps(signature))
    assert hash(signature) == hash(signature.replace())
