"""Whatever a file holds, it is read or has problems; nothing else is raised."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resilient_llm.config import validate
from tests.fuzz.fuzz_config import FORMATS, check, is_one_line, seeds

SMALL = [each for each in seeds() if len(each) < 4_000]
PIECES = [
    b"[", b"]", b"{", b"}", b'"', b"'", b'"""', b"'''", b"=", b",", b".", b":", b"\n", b"\r", b"#",
    b"\\", b"\\u", b"\\ud800", b"${", b"$${", b"}", b"${BEST}", b"${X}", b"${X:-", b"@", b"&a ",
    b"*a", b"!!", b"- ", b"? ", b"<<: ", b"---\n", b"...\n", b"%YAML 1.2\n", b"|", b">", b"~",
    b"\x00", b"\xff", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\xc2\x85", b"1e999", b"0x", b"NaN",
    b"inf", b"2026-11-01", b"9" * 500, b"null", b"true", b"[[", b"]]",
]  # fmt: skip


@given(st.integers(0, 2), st.binary(max_size=200) | st.lists(st.sampled_from(PIECES)).map(b"".join))
@settings(
    max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_bytes(tmp_path: Path, kind: int, data: bytes) -> None:
    """Those of no format, and those of its marks in any order."""
    check(bytes([kind]) + data, tmp_path)


@pytest.mark.parametrize("kind", range(len(FORMATS)), ids=FORMATS)
def test_mutations(kind: int, tmp_path: Path) -> None:
    """Files of which a few bytes were changed, cut, doubled or mixed with marks."""
    rng = random.Random(kind)
    corpus = [each for each in SMALL if each[0] == kind]
    for _ in range(400):
        data = bytearray(rng.choice(corpus))
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(1, len(data) + 1)
            to = min(len(data), at + rng.randint(0, 20))
            data[at:to] = rng.choice(
                [b"", rng.choice(PIECES), bytes(data[at:to]) * 2, rng.randbytes(3)]
            )
        check(bytes(data), tmp_path)


@pytest.mark.parametrize("number", range(len(SMALL)))
def test_files_that_were_cut(number: int, tmp_path: Path) -> None:
    """As a reader sees one that is being written in place."""
    data = SMALL[number]
    for end in range(1, len(data), max(1, len(data) // 25)):
        check(data[:end], tmp_path)


PLAIN: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from(["a/b", "@a", "${BEST}", "${X}", "${", "priority"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=5) | st.sampled_from(["a", "a/b", "groq"]), inner, max_size=3),
    max_leaves=12,
)  # fmt: skip
SECTIONS = st.sampled_from(
    "settings breakers targets chains profiles routes limits budgets prices state other".split()
)


@given(st.dictionaries(SECTIONS, PLAIN, max_size=4))
@settings(max_examples=500, deadline=None)
def test_structures(given: dict[str, Any]) -> None:
    """A mapping of anything gives problems whose messages are single lines."""
    for problem in validate(given):
        assert is_one_line(str(problem))


@given(
    SECTIONS,
    st.sampled_from(
        "chains settings rules otherwise chain params stream per zone price a/b groq".split()
    ),
    st.sampled_from("adaptive tool_loop idle_timeout of name has_tools regex supports".split()),
    PLAIN,
)
@settings(max_examples=500, deadline=None)
def test_structures_within(section: str, first: str, second: str, value: Any) -> None:
    """The same where options are."""
    for source in (
        {section: {first: value}},
        {section: {first: {second: value}}},
        {section: [{second: value}]},
        {section: {"a/b": {first: value, second: value}}},
        {section: {"a": {first: [{second: value, "chain": "a/b"}], "otherwise": value}}},
    ):
        for problem in validate(source):
            assert is_one_line(str(problem))
