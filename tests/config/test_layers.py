"""What code sets beside a file: which of the two holds, and what shows again."""

from __future__ import annotations

from typing import Any

import pytest

from resilient_llm import Limit, chains, config, configure, settings

pytestmark = pytest.mark.usefixtures("resilient_llm")

FILE: dict[str, Any] = {
    "settings": {"attempts": 2, "timeout": 20.0},
    "breakers": {"groq": {"cooldown": 20.0, "failures": 3}, "openai": {"failures": 4}},
    "limits": {"groq": {"requests": 7}, "openai": {"requests": 8}},
    "prices": {"own/llama": [1, 2], "own/gpt": [3, 4]},
    "chains": {"fast": "file/fast", "smart": "file/smart"},
    "profiles": {"cheap": {"settings": {"attempts": 5}}},
}


def test_breakers_are_merged_by_key_and_option() -> None:
    config.load(FILE)
    configure(breakers={"groq": {"failures": 1}})

    assert {"cooldown": 20.0, "failures": 1} == settings().breakers["groq"]
    assert {"failures": 4} == settings().breakers["openai"]
    configure(breakers={"groq": None})
    assert {"cooldown": 20.0, "failures": 3} == settings().breakers["groq"]


def test_limits_are_merged_by_key() -> None:
    config.load(FILE)
    configure(limits={"groq": Limit(requests=1)})

    assert (1, 8) == tuple(settings().limits[key].requests for key in ("groq", "openai"))
    configure(limits={"groq": None})
    assert 7 == settings().limits["groq"].requests


def test_prices_are_merged_by_key() -> None:
    config.load(FILE)
    before = settings().prices["own/llama"]
    configure(prices={"own/llama": (9, 9)})

    assert before != settings().prices["own/llama"]
    assert (9, 9) == tuple(settings().prices["own/llama"])
    configure(prices={"own/llama": None})
    assert before == settings().prices["own/llama"]


def test_options_of_code_hide_those_of_the_file_until_they_are_taken_back() -> None:
    configure(attempts=9)
    config.load(FILE)

    assert (9, 20.0) == (settings().attempts, settings().timeout)
    configure(attempts=None)
    assert 2 == settings().attempts


def test_names_and_profiles_of_code_hide_those_of_the_file() -> None:
    config.load(FILE)
    chains.define({"fast": "code/fast"})
    chains.define_profile("cheap", settings={"attempts": 8})

    assert ("code/fast", "file/smart") == tuple(
        chains.resolve(name)[0].key for name in ("@fast", "@smart")
    )
    with chains.profile("cheap"):
        assert 8 == settings().attempts
    chains.remove("fast")
    assert "file/fast" == chains.resolve("@fast")[0].key
