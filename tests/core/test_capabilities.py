"""Which targets can take a call, decided without a call: words, context windows, and reasons."""

from __future__ import annotations

import pytest

from resilient_llm import Target
from resilient_llm._core.call.capabilities import Demand, Lack, lack_of, lacks_of


def demand(*words: str, tokens: int | None = None) -> Demand:
    """Return what a call needs."""
    return Demand(frozenset(words), tokens)


@pytest.mark.parametrize(
    ("supports", "words", "lacks"),
    [
        (None, ("tools", "vision"), None),
        ((), (), None),
        ((), ("tools",), Lack("lacks tools", ("tools",))),
        ("tools", ("tools",), None),
        (("tools", "audio"), ("tools",), None),
        (("audio",), ("vision", "tools"), Lack("lacks tools, vision", ("tools", "vision"))),
        (("tools",), ("vision", "tools"), Lack("lacks vision", ("vision",))),
    ],
)
def test_a_target_must_support_every_word(
    supports: tuple[str, ...] | str | None, words: tuple[str, ...], lacks: Lack | None
) -> None:
    """What is unknown fits; what is missing is named, sorted."""
    target = Target("groq/llama", supports=supports)

    assert lacks == lack_of(target, demand(*words), 0)


@pytest.mark.parametrize(
    ("window", "tokens", "output", "fits"),
    [
        (None, 10**9, 10**9, True),
        (100, None, 1000, True),
        (100, 100, 0, True),
        (100, 101, 0, False),
        (100, 60, 40, True),
        (100, 60, 41, False),
        (100, 0, 101, False),
    ],
)
def test_input_and_output_must_fit_into_a_known_window(
    window: int | None, tokens: int | None, output: int, fits: bool
) -> None:
    """A window that is filled to its last token is large enough."""
    target = Target("groq/llama", context_window=window)

    expected = None if fits else Lack("context_window", ("context_window",), (tokens or 0) + output)
    assert expected == lack_of(target, demand(tokens=tokens), output)


def test_missing_words_come_before_a_small_window() -> None:
    """One reason is enough, and a larger window would not help."""
    target = Target("groq/llama", supports=(), context_window=1)

    assert Lack("lacks tools", ("tools",)) == lack_of(target, demand("tools", tokens=9), 0)


def test_a_word_may_be_called_as_the_window() -> None:
    """A word that a target lacks is said to be one, whatever it is."""
    target = Target("groq/llama", supports=())

    assert "lacks context_window" == lack_of(target, demand("context_window"), 0).reason  # type: ignore[union-attr]  # it is not None


def test_the_longest_answer_is_asked_only_where_it_matters() -> None:
    """Without a known window or an estimate nobody looks for the longest answer."""
    asked: list[str] = []

    def output(target: Target) -> int:
        asked.append(target.key)
        return 50

    targets = [Target("a/x"), Target("b/x", context_window=100), Target("c/x", context_window=200)]
    with_tokens = lacks_of(targets, demand(tokens=60), output)
    without = lacks_of(targets, demand("tools"), output)

    assert ["b/x", "c/x"] == asked
    assert {"b/x": Lack("context_window", ("context_window",), 110)} == dict(with_tokens)
    assert {} == dict(without)
