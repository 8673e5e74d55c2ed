"""The page about traces says what the code does."""

from __future__ import annotations

from pathlib import Path

from resilient_llm.observers import otel
from tests.package.test_docs_tables import table

PAGE = Path(__file__).parents[2] / "docs/how-to/traces.md"


def test_the_page_has_every_attribute() -> None:
    """One table in the code, and the same on the page."""
    rows = table(PAGE, "Between attempts the span of the call is current")

    assert [list(each) for each in otel.ATTRIBUTES] == [
        [row["attribute"].strip("`"), row["span"], row["type"], row["meaning"]] for row in rows
    ]


def test_the_page_has_every_name_of_a_provider() -> None:
    """The names that differ, and no others."""
    rows = table(PAGE, "`gen_ai.provider.name` is the provider as written")

    assert dict(otel.PROVIDERS) == {
        row["provider"].strip("`"): row["`gen_ai.provider.name`"].strip("`") for row in rows
    }
