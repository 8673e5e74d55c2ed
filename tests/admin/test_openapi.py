"""`openapi.json` describes what the app does: checked by schemathesis, which makes up requests."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient_llm import Target, bench_model, failover
from resilient_llm._values.errors import ConfigurationError
from resilient_llm._values.keys import check_key, parse_key
from resilient_llm.admin._moments import later_than
from resilient_llm.probes import HealthProbe
from tests.support.asgi import TOKEN, Client

PATHS = {
    "/api/health": {"get"},
    "/api/targets": {"get"},
    "/api/benches": {"get", "post", "delete"},
    "/api/chains": {"get"},
    "/api/config": {"get"},
    "/api/spend": {"get"},
    "/api/store": {"get"},
    "/api/openapi.json": {"get"},
}


def test_it_describes_every_path(client: Client) -> None:
    """The document has each path with its methods, and where the app is mounted."""
    document = client.get("/api/openapi.json").json

    assert "3.1.0" == document["openapi"]
    assert [{"url": client.root}] == document["servers"]
    assert PATHS == {path: {*methods} for path, methods in document["paths"].items()}
    assert "`GET api/events` is a stream" in document["info"]["description"]


KEYS = [
    "groq", "groq/llama", "groq@a/llama", "groq@a@b/c@d/e", " groq / llama ", "ä/😀", "a\u2028b/c", "groq/..", "groq/%2f",
    "", " ", "/", "groq/", "/x", "@a", "groq@", "groq@/x", " @a/x", "groq/ ", "\u00a0", "groq/\u3000",
    "a\nb", "groq\n", "\ngroq", "a\x7f", "a\x85/b", "x" * 512, "x" * 513, "groq@ /x", "@", "a@b", "a/@",
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS, ids=lambda key: repr(key)[:24])
def test_the_pattern_of_a_key_is_what_is_allowed(client: Client, key: str) -> None:
    """A key that fits the document is accepted, and another one is not."""
    document = client.get("/api/openapi.json").json
    schema = document["components"]["schemas"]["WantedBench"]["properties"]["model"]
    fits = schema["minLength"] <= len(key) <= schema["maxLength"]
    fits = fits and re.search(schema["pattern"], key) is not None
    try:
        check_key(key)
        parse_key(key)
        allowed = True
    except ConfigurationError:
        allowed = False

    assert allowed == fits
    assert (201 if allowed else 422) == client.bench(model=key, seconds=1).status


@given(
    now=st.datetimes(datetime.fromisoformat("2024-01-01"), datetime.fromisoformat("2999-12-31")),
    seconds=st.integers(60, 10**9) | st.integers(60, 100_000),
)
def test_moments_to_come_fit_the_document(now: datetime, seconds: int) -> None:
    """A later minute fits, but on a 29th of February of later years; others do not."""
    pattern = later_than(now)
    later, earlier = now + timedelta(seconds=seconds), now - timedelta(seconds=seconds)

    for moment, fits in (
        (later, later.strftime("%m-%d") != "02-29" or later.year == now.year),
        (earlier, False),
        (now, False),
    ):
        text = moment.isoformat(timespec="microseconds") + "Z"
        assert (re.search(pattern, text) is not None) == fits, text
        assert datetime.fromisoformat(text)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_what_fits_is_a_moment(data: st.DataObject) -> None:
    """Everything that fits the pattern is a moment to come."""
    now = datetime(2028, 2, 27, 22, 58, tzinfo=UTC)
    text = data.draw(st.from_regex(later_than(now), fullmatch=True)).rstrip("\n")

    assert datetime.fromisoformat(text) > now


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("read_only", [False, True])
def test_schemathesis_finds_nothing(serve: Any, read_only: bool, tmp_path: Path) -> None:
    """Every made-up request is answered as the document says, wrong ones by the right problem."""
    pytest.importorskip("schemathesis")

    @failover(["groq/llama", "openai/gpt"])
    def ask(target: Target) -> str:
        return target.key

    ask()
    bench_model("groq", reason="x")
    asyncio.run(HealthProbe({"groq": lambda: True, "openai": lambda: False}).tick())
    client = serve(read_only=read_only)

    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{client.url}/api/openapi.json"),
            *("--header", f"Authorization: Bearer {TOKEN}", "--max-examples", "25"),
            *("--checks", "all", "--no-color", "--seed", "1"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=280,
    )

    assert 0 == done.returncode, done.stdout + done.stderr
    assert "No issues found" in done.stdout
