"""Items of the caller's own, and streams that end in their own way: nothing is taken for broken."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

import pytest

from resilient_llm import StreamInterruptedError, StreamPolicy, Target, breaker, failover, health
from tests.support.stream_sources import END, ROLE, SILENT, chunk, said
from tests.support.ways import GROQ, OPENAI


@dataclass
class Token:
    """An item with an empty field that a provider has as well."""

    text: str
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(slots=True)
class Part:
    """The same with slots."""

    data: bytes
    metadata: dict[str, Any]


OWN: dict[str, Any] = {
    "text and metadata": {"text": "hi", "metadata": {}},
    "text and usage in metadata": {"text": "hi", "metadata": {"usage": 1}},
    "a dataclass": Token("hi"),
    "slots": Part(b"hi", {}),
    "a text as message": {"message": "hi", "done": False},
    "an object as message": {"message": {"text": "hi"}, "done": False},
    "done and more": {"response": "", "done": False, "words": ["hi"]},
    "a type of anthropic": {"type": "message_delta", "text": "hi"},
    "a type and a text as delta": {"type": "content_block_delta", "delta": "hi"},
    "a type and another delta": {"type": "content_block_delta", "delta": {"word": "hi"}},
    "a type of cohere": {"type": "content-delta", "delta": "hi"},
    "a type of cohere with more": {"type": "citation-start", "text": "hi"},
    "a type of responses": {"type": "response.created", "text": "hi"},
    "a ping with more": {"type": "ping", "says": "hi"},
    "a status": {"kind": "status-update", "metadata": {}},
    "a token": {"token": {"text": ""}, "answer": "hi"},
    "choices": {"choices": ["hi"], "created": 1},
    "choices with logprobs": {"choices": [{"token": "hi", "logprobs": [-0.1]}]},
    "a text as delta of a block": {"contentBlockDelta": "hi"},
    "a text in the delta of a block": {"contentBlockDelta": {"text": "hi"}},
    "a text as start of a block": {"contentBlockStart": "hi"},
    "a text as stop of a message": {"messageStop": "hi"},
    "a text as response": {"response": "hi", "done": False},
    "an object as response": {"response": {"text": "hi"}, "done": False},
    "no text as response": {"response": ..., "done": False},
    "a ping with a number": {"type": "ping", "ms": 3},
}


@pytest.mark.parametrize("item", OWN.values(), ids=OWN)
@pytest.mark.parametrize("form", ["generator", "iterator"])
def test_own_items_are_content(item: Any, form: str) -> None:
    """They are given at once, and their end is a whole one."""
    given: list[Any] = []

    def items() -> Iterator[Any]:
        for each in repeat(item, 4):
            given.append(each)
            yield each

    if form == "generator":

        @failover([GROQ, OPENAI])
        def ask(target: Target) -> Iterator[Any]:
            yield from items()
    else:

        @failover([GROQ, OPENAI])
        def ask(target: Target) -> Iterator[Any]:
            return items()

    stream = ask()
    assert item == next(iter(stream))
    assert 1 == len(given)
    assert [item] * 3 == list(stream)
    assert (1, 0) == (health()[GROQ].total, health()[GROQ].errors)


class Sdk:
    """A stream object whose iterator is a generator, as those of SDKs."""

    def __init__(self, items: list[Any]) -> None:
        self._iterator = self._read(items)

    def _read(self, items: list[Any]) -> Iterator[Any]:
        yield from items

    def __iter__(self) -> Iterator[Any]:
        yield from self._iterator

    def __next__(self) -> Any:
        return next(self._iterator)


def _until_stop(source: Any) -> Iterator[Any]:
    for item in source:
        yield item
        if "stop" in str(item):
            return


CUT_OFF = [ROLE, said("It"), said(" is stop"), said(" so")]


@pytest.mark.parametrize("guard", ["failover", "breaker"])
@pytest.mark.parametrize("helper", [False, True], ids=["by itself", "by a helper"])
def test_a_generator_that_has_enough_has_ended(guard: str, helper: bool) -> None:
    """It stops before its source does: a success, while a source that is cut short is an error."""
    decorate: Any = failover(GROQ) if guard == "failover" else breaker(GROQ)
    stops = [True, False]

    @decorate
    def ask(target: Target) -> Iterator[Any]:
        source = Sdk(CUT_OFF)
        if stops.pop(0):
            if helper:
                yield from _until_stop(source)
                return
            for _, item in enumerate(source):
                yield item
                if "stop" in str(item):
                    return
        for item in source:
            yield item

    args = () if guard == "failover" else (Target(GROQ),)
    assert CUT_OFF[:3] == list(ask(*args))
    assert 0 == health()[GROQ].errors
    try:
        list(ask(*args))
    except StreamInterruptedError:
        assert guard == "failover"
    assert 1 == health()[GROQ].errors


def _note(number: int) -> dict[str, Any]:
    """Return what azure's asynchronous filter sends, also after the end."""
    filtered = {"hate": {"filtered": False, "severity": "safe"}}
    choice = {"index": 0, "finish_reason": None, "content_filter_results": filtered}
    return {"object": "", "choices": [choice], "number": number}


@pytest.mark.parametrize("count", [0, 1, 2, 3, 9])
def test_reports_after_the_end_are_no_interruption(count: int) -> None:
    """However many items follow the finish reason, the answer is whole."""
    items = [ROLE, said("It"), END, *(_note(number) for number in range(count))]

    @failover(GROQ)
    def ask(target: Target) -> Any:
        return iter(items)

    assert items == list(ask())
    assert 0 == health()[GROQ].errors


def test_the_end_of_one_answer_of_several_is_not_that_of_all() -> None:
    """With several answers to a question, the second is cut off after the end of the first."""
    second = chunk({"content": " goes on"})
    second["choices"][0]["index"] = 1

    @failover(GROQ)
    def ask(target: Target) -> Any:
        return iter([ROLE, said("It"), END, second])

    with pytest.raises(StreamInterruptedError):
        list(ask())


@pytest.mark.parametrize("policy", [StreamPolicy(), StreamPolicy(idle_timeout=60.0)])
def test_nothing_but_empty_deltas_is_empty(policy: StreamPolicy) -> None:
    """Also if more of them came than are held back; with words after them it is an answer."""

    @failover([GROQ, OPENAI], stream=policy.using(on_interrupt="restart"))
    def ask(target: Target) -> Any:
        if target.key == GROQ:
            return iter([SILENT] * 100 + [END])
        return iter([SILENT] * 100 + [said("It"), *[SILENT] * 9, END])

    assert said("It") in list(ask())
    assert (1, 0) == (health()[OPENAI].total, health()[OPENAI].errors)


class Helper(Sdk):
    """A stream with a helper that reads from it, as ``text_stream`` of anthropic."""

    @property
    def texts(self) -> Iterator[str]:
        for item in self._iterator:
            yield item["choices"][0]["delta"].get("content", "")


@contextmanager
def _managed() -> Iterator[Helper]:
    yield Helper([ROLE, said("It"), said(" is"), END])


def test_a_helper_reads_on_while_the_manager_is_entered() -> None:
    """What was taken from a stream gives the whole answer, though the stream itself is dropped."""

    @failover(GROQ)
    def ask(target: Target) -> Any:
        return _managed()

    with ExitStack() as stack:
        texts = stack.enter_context(ask()).texts
        assert "It is" == "".join(texts)

    assert (1, 0) == (health()[GROQ].total, health()[GROQ].errors)


def test_a_helper_of_a_dropped_stream_raises() -> None:
    """Without a manager nobody holds the stream: half an answer is not given for a whole one."""

    @failover(GROQ)
    def ask(target: Target) -> Any:
        return Helper([ROLE, said("It"), said(" is"), END])

    stream = ask()
    texts = stream.__wrapped__.texts
    next(stream)
    del stream

    with pytest.raises(RuntimeError, match="dropped before its end"):
        list(texts)
