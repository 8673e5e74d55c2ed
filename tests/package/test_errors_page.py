"""The page that says what every known error means is made of the rules and the cases."""

from __future__ import annotations

import re

from resilient_llm import classify
from tests import errors_page


def test_the_page_is_what_the_rules_and_the_cases_say() -> None:
    """A rule or a case that changes is written with ``python -m tests.errors_page``."""
    assert errors_page.page() == errors_page.PAGE.read_text("utf-8")


def test_every_doubtful_case_says_how_it_was_decided() -> None:
    """No reason is missing, and none is left over."""
    assert {case["id"] for case in errors_page.cases() if case.get("doubtful_about")} == set(
        errors_page.WHY
    )


def test_every_reason_that_a_case_expects_is_in_the_closed_set() -> None:
    """The reasons of the corpus are those that the reference of kinds lists."""
    listed = (errors_page.PAGE.parent / "kinds.md").read_text("utf-8")

    assert {case["verdict"]["reason"] for case in errors_page.cases()} <= set(
        re.findall(r"`(\w+)`", listed)
    )
    assert classify(TimeoutError()).reason in listed
