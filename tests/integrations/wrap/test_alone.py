"""`wrap` in a process that imports nothing else of the library."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integrations.wrap.providers import TEXT, AnyProvider
from tests.support.pages import run

pytest.importorskip("openai")

CODE = """
from openai import OpenAI
from resilient_llm.integrations import wrap

given = OpenAI(base_url="{url}", api_key="not-a-key", max_retries=0)
with wrap({{"openai": given}}, chain="openai/gpt-5-mini") as client:
    reply = client.chat.completions.create(model="auto", messages=[])
    print(reply.choices[0].message.content)
    with client.chat.completions.create(model="auto", messages=[], stream=True) as stream:
        print("".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices))
"""


def test_a_process_may_import_wrap_alone(tmp_path: Path) -> None:
    """Calls and streams work where wrap is the only name that is imported."""
    with AnyProvider() as server:
        code = tmp_path / "alone.py"
        code.write_text(CODE.format(url=f"{server.root}/v1"), encoding="utf-8")
        done = run(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == [TEXT, TEXT]
