"""Whatever a call is given, its arguments are read without an error, and nothing of them is kept."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, StrEnum
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_llm import Target, failover, needs
from tests.support.ways import GROQ

WORDS = {"tools", "vision", "audio", "documents", "json_schema", "thinking"}
words, estimate = needs.from_messages(), needs.estimate_tokens()

# Names and words that mean something.
FIELDS = """
    args arguments audio config content data effort file file_data format function function_call
    functions id image_url images inlineData inline_data input input_schema json_schema max_tokens
    mime_type name output parameters parts reasoning response response_format role schema source
    system_instruction text thinking thinking_config title tool_calls tools type uri url _data
    __pydantic_extra__ __dict__
    """.split()
TYPES = """
    document file function_call function_call_output image image_generation_call image_url
    input_audio input_file input_image json_schema media message reasoning server_tool_use text
    tool tool_result tool_use user assistant disabled data:image/png;base64,AAAA audio/wav data:
""".split()


class OwnCode(SystemExit):
    """Code of an argument was run."""


class Hostile:
    """Raises when it is read in any way."""

    def __getattribute__(self, name: str) -> Any:
        raise OwnCode(name)

    def __bool__(self) -> bool:
        raise OwnCode("bool")

    def __len__(self) -> int:
        raise OwnCode("len")

    def __iter__(self) -> Iterator[Any]:
        raise OwnCode("iter")

    def __eq__(self, other: object) -> bool:
        raise OwnCode("eq")

    def __hash__(self) -> int:
        raise OwnCode("hash")


def refuse(self: object, *_: object) -> Any:
    raise OwnCode("its own code was run")


OVERRIDDEN = dict.fromkeys(
    (
        "__getitem__", "__iter__", "__len__", "__contains__", "__bool__", "__eq__", "__reversed__",
        "__str__", "get", "items", "keys", "values", "startswith", "endswith", "pop", "popleft",
    ),
    refuse,
)  # fmt: skip
HOSTILE: dict[type, Any] = {
    base: type(f"Hostile{base.__name__}", (base,), {**OVERRIDDEN, "__hash__": base.__hash__})
    for base in (dict, list, tuple, str, set, frozenset, deque)
}
"""``{built-in class: a subclass whose methods all raise}``"""


class HostileMeta(type):
    @property
    def __name__(cls) -> Any:
        raise OwnCode("name")

    @property
    def __mro__(cls) -> Any:
        raise OwnCode("mro")

    def __subclasscheck__(cls, other: type) -> bool:
        raise OwnCode("subclass")

    def __instancecheck__(cls, other: object) -> bool:
        raise OwnCode("instance")

    def __getattribute__(cls, name: str) -> Any:
        raise OwnCode(name)

    def __hash__(cls) -> int:
        raise OwnCode("hash")

    def __eq__(cls, other: object) -> bool:
        raise OwnCode("eq")


class Key:
    """A key of the hash of a name; it fights once it is in its place."""

    is_hostile = False

    def __init__(self, name: str) -> None:
        self._hash = hash(name)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (Key.is_hostile and refuse(self))


def of_hostile_class() -> Any:
    """Return an object of such a class, which pytest must not find in this module."""

    class OfHostileClass(metaclass=HostileMeta):
        def __init__(self) -> None:
            self.content = "abcd"

    return OfHostileClass()


class Pretender:
    """Says that it is a dict."""

    __class__ = dict  # type: ignore[assignment]  # the pretence

    def __getattr__(self, name: str) -> Any:
        raise OwnCode(name)


class Computed:
    """Everything that is known of an object by name is computed."""

    __class__ = property(lambda self: refuse(self))  # type: ignore[assignment]
    __dict__ = property(lambda self: refuse(self))  # type: ignore[assignment]
    __pydantic_extra__ = property(lambda self: refuse(self))
    __module__ = property(lambda self: refuse(self))  # type: ignore[assignment]
    content = text = role = type = property(lambda self: refuse(self))


class Borrowing:
    """Its slots are those of other classes."""

    __slots__ = ()
    __dict__ = Computed.__dict__  # type: ignore[assignment]
    content = SimpleNamespace.__dict__["__dict__"]
    hostile: Any = None


class Color(Enum):
    RED = "image"


class TextColor(StrEnum):
    RED = "tool_use"


class Slotted:
    __slots__ = ("content", "role", "type")

    def __init__(self, content: Any) -> None:
        self.content = content


@dataclass(slots=True)
class SlottedData:
    content: Any
    type: str = "text"


class Plain:
    def __init__(self, held: dict[str, Any]) -> None:
        self.__dict__.update(held)


def _named_oddly() -> Any:
    return None


_named_oddly.__name__ = HOSTILE[str]("name")
_named_oddly.__doc__ = Hostile()  # type: ignore[assignment]
Borrowing.hostile = of_hostile_class()
NAMES = ("__dict__", "__module__", "__pydantic_fields__", "_data", "content", "type")
with warnings.catch_warnings(action="ignore"):
    Crowded: Any = type("Crowded", (), {Key(name): 1 for name in NAMES})
Crowded.__name__ = HOSTILE[str]("Crowded")
crowded: Any = Crowded()
crowded.__dict__.update({Key(name): "abcd" for name in NAMES})

ODD: list[Any] = [
    Computed(), Borrowing(), _named_oddly, Crowded, crowded,
    *({Key(name): "abcd"} for name in FIELDS),
    Hostile, Hostile(), Pretender(), Color.RED, Color,
    TextColor.RED, object(), print, refuse, NotImplemented, ..., range(3), 1j, 10**5000,
    memoryview(b"abc"), Slotted.__new__(Slotted),
]  # fmt: skip
ODDEST: list[Any] = [*ODD, type(of_hostile_class()), of_hostile_class()]
"""With those that hypothesis itself cannot handle, as it compares their classes."""
Key.is_hostile = True
texts = st.sampled_from(TYPES) | st.text(max_size=20)
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    texts,
    texts.map(lambda text: HOSTILE[str](text)),
    st.binary(max_size=5),
    # Not themselves: hypothesis shows what it chooses from, and some of these cannot be shown.
    st.integers(0, len(ODD) - 1).map(lambda index: ODD[index]),
)


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    held = st.dictionaries(st.sampled_from(FIELDS) | st.integers() | st.none(), inner, max_size=5)
    named = st.dictionaries(st.sampled_from(FIELDS), inner, max_size=5)
    lists = st.lists(inner, max_size=4)
    return st.one_of(
        held,
        held.map(HOSTILE[dict]),
        named.map(lambda fields: SimpleNamespace(**fields)),
        named.map(Plain),
        inner.map(Slotted),
        inner.map(SlottedData),
        lists,
        lists.map(tuple),
        lists.map(deque),
        lists.map(HOSTILE[list]),
        lists.map(HOSTILE[tuple]),
        lists.map(HOSTILE[deque]),
        inner.map(lambda value: iter([value])),
    )


junk = st.recursive(leaves, containers, max_leaves=25)
options = st.dictionaries(st.sampled_from(FIELDS), junk, max_size=5)


@given(messages=junk, given_options=options, others=st.lists(junk, max_size=3))
def test_nothing_that_a_call_is_given_raises(
    messages: Any, given_options: dict[str, Any], others: list[Any]
) -> None:
    """The words are of the closed set, and the estimate is a number."""
    given_options.pop("messages", None)
    found = words(*others, messages=messages, **given_options)
    tokens = estimate(*others, messages=messages, **given_options)

    assert found <= WORDS
    assert type(tokens) is int
    assert tokens >= 0


@given(messages=junk, given_options=options)
def test_two_readings_agree(messages: Any, given_options: dict[str, Any]) -> None:
    """Reading changes nothing, and uses nothing up."""
    given_options.pop("messages", None)

    assert words(messages=messages, **given_options) == words(messages=messages, **given_options)
    assert estimate(messages, **given_options) == estimate(messages, **given_options)


@pytest.mark.parametrize("base", list(HOSTILE), ids=lambda base: base.__name__)
def test_a_subclass_is_read_as_the_class_that_it_is_of(base: type) -> None:
    """Whatever methods it overrides, none of them is run."""
    image = {"type": "image", "source": {"type": "base64", "data": "iVBO"}}
    if base is dict:
        message, expected = HOSTILE[dict](role="user", content=[image], text="abcd"), 801
    elif base is str:
        message, expected = {"content": [image, HOSTILE[str]("abcd")]}, 801
    elif base in (set, frozenset):
        message, expected = {"content": HOSTILE[base]({"abcd"}), "source": [image]}, 801
    else:
        message, expected = {"content": HOSTILE[base]([image, "abcd"])}, 801

    assert {"vision"} == words(messages=[message])
    assert expected == estimate(messages=[message])


def test_an_object_is_read_past_its_class() -> None:
    """Attributes that are computed are not asked for."""

    class Message:
        def __init__(self) -> None:
            self.content = [{"type": "image", "source": {}}]

        def __getattribute__(self, name: str) -> Any:
            raise OwnCode(name)

    assert {"vision"} == words(messages=[Message()])
    assert 800 == estimate(messages=[Message()])
    assert 1 == estimate(of_hostile_class())


def test_a_key_that_fights_back_hides_nothing() -> None:
    """No key is compared; one that is of a subclass of str is read as the text that it is."""
    image = {"type": "image", "source": {}}
    odd: Any = {Key("type"): "a", HOSTILE[str]("content"): [image], "role": "user", 1: 2}

    assert {"vision"} == words(messages=["Hi", odd])
    assert 801 == estimate(messages=["Hi", odd])
    assert {"vision"} == words(messages=[image, HOSTILE[dict]({Key("x"): "a"}), "Hi"])
    assert {"tools"} == words(
        odd,
        messages=[],
        config=HOSTILE[dict]({Key("tools"): "a"}),
        tools=[image],
        text={Key("format"): "a"},
    )


def test_an_option_that_fights_back_is_not_compared() -> None:
    """Those of thinking are, and only if they are of a built-in class."""
    for odd in (Hostile(), HOSTILE[str]("high"), of_hostile_class(), Computed()):
        asked = {"thinking_budget": odd, "include_thoughts": True}
        assert {"thinking"} == words(thinking={"include_thoughts": odd})
        assert {"thinking"} == words(config={"thinking_config": asked})
    assert set() == words(config={"thinking_config": {"thinking_budget": 0}})
    assert set() == words(thinking={"include_thoughts": False})


@pytest.mark.parametrize("index", range(len(ODDEST)))
def test_each_odd_value_is_read_at_every_place(index: int) -> None:
    """As a message, a part of one, a tool, a field of one, and each option."""
    odd = ODDEST[index]
    for each in (odd, [odd], {"content": odd}, {"type": odd}, {"function": odd}, {"source": odd}):
        options = dict.fromkeys((*FIELDS, "response_format", "tool_choice"), each)
        assert words(each, messages=[each, odd], **options) <= WORDS
        assert estimate(each, messages=[each, odd], **options) >= 0


class Text(str):
    """A text that can be referred to weakly."""


@pytest.mark.parametrize("is_refused", [False, True])
def test_no_message_is_kept(is_refused: bool) -> None:
    """Neither by the readers nor by a call that used them."""

    @failover(
        [Target(GROQ, supports=() if is_refused else None)],
        needs=needs.from_messages(),
        tokens=needs.estimate_tokens(),
    )
    def ask(target: Target, messages: list[Any], **options: Any) -> str:
        return target.key

    message: Any = Plain({"role": "user", "content": Text("Hi")})
    known = [weakref.ref(message), weakref.ref(message.content)]

    try:
        ask([message], tools=[message], functions=Hostile())
    except Exception:  # the error goes with it
        assert is_refused
    words(messages=message)
    estimate(message)
    del message
    gc.collect()

    assert [None, None] == [each() for each in known]
