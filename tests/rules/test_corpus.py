"""The verdicts on real errors: every case of tests/corpus, raised again by the real client.

Cases of clients that are not installed are skipped, unless ``RESILIENT_LLM_CORPUS`` says which
environment this is: ``all``, ``litellm``, ``instructor`` or ``oldest``, as the files of
requirements in tests/corpus are named. Then everything in that file must be there, in that
release.
"""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import pytest
from packaging.version import Version

from resilient_llm import Verdict, classify
from tests.replay import Case, load_cases, missing, raised_by
from tests.replay.cases import CORPUS

# Deprecations, unclosed connections and the like: how clients treat themselves is not asked here.
pytestmark = pytest.mark.filterwarnings("ignore")

CASES = load_cases()
ENVIRONMENT = os.environ.get("RESILIENT_LLM_CORPUS", "")
# Reasons by which people decide, so that they must be right to the word.
PROMISED_REASONS = ("context_length_exceeded", "content_policy", "unsupported_parameter")
ROUNDING = 0.01


def pins(environment: str) -> dict[str, str]:
    """Return ``{package: release}`` of a file of requirements."""
    name = "requirements.txt" if environment == "all" else f"requirements-{environment}.txt"
    lines = (CORPUS / name).read_text(encoding="utf-8")
    return dict(re.findall(r"^([\w-]+)(?:\[[\w,]+\])?==(\S+)", lines, re.MULTILINE))


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


REQUIRED = pins(ENVIRONMENT) if ENVIRONMENT else {}


@pytest.fixture(autouse=True, scope="module")
def _no_litter() -> Iterator[None]:
    """Let unclosed clients warn here, where it is ignored, and not in the tests after these."""
    yield
    gc.collect()


def expected_fields(case: Case) -> dict[str, object]:
    """Return what is promised of the verdict: ``{field: value}``."""
    want = case.verdict
    fields: dict[str, object] = {
        "kind": want.kind,
        "retryable": want.retryable,
        "harms_health": want.harms_health,
        "retry_after": want.retry_after,
        "status": want.status,
    }
    if want.reason in PROMISED_REASONS or "reason" in case.doubtful_about:
        fields["reason"] = want.reason
    return fields


def actual_fields(case: Case, verdict: Verdict) -> dict[str, object]:
    """Return what the verdict says, with what is near enough put as the case has it."""
    want = case.verdict
    hint = verdict.retry_after
    if hint is not None and want.retry_after is not None:
        tolerance = ROUNDING if want.tolerance is None else want.tolerance
        hint = want.retry_after if abs(hint - want.retry_after) <= tolerance else hint
    return {
        "kind": str(verdict.kind),
        "reason": verdict.reason,
        "retryable": verdict.retryable,
        "harms_health": verdict.harms_health,
        "retry_after": hint,
        "status": want.status if verdict.status in want.status_also else verdict.status,
    }


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_the_verdict_on_a_real_error(case: Case) -> None:
    """What a client raises in a known situation is judged as the corpus says."""
    lacking = missing(case)
    if lacking and case.sdk not in REQUIRED:
        pytest.skip(f"{lacking} is not installed")
    assert lacking is None, f"the environment {ENVIRONMENT!r} has no {lacking}"
    release = installed(case.sdk)
    if release and Version(release) < Version(case.since):
        pytest.skip(f"{case.sdk} {release} is older than {case.since}")

    error = raised_by(case)
    verdict = classify(error)

    expected = expected_fields(case)
    actual = actual_fields(case, verdict)
    assert expected == {name: actual[name] for name in expected}, f"{type(error)}: {error!s:.300}"


@pytest.mark.skipif(not ENVIRONMENT, reason="RESILIENT_LLM_CORPUS names no environment")
def test_the_environment_is_the_one_that_is_named() -> None:
    """A named environment has each of its packages in the pinned release."""
    assert REQUIRED == {package: installed(package) for package in REQUIRED}


@pytest.mark.skipif(
    ENVIRONMENT in ("", "oldest"), reason="only the oldest releases may be too old for a case"
)
def test_no_case_is_skipped_for_its_age() -> None:
    """What the newest releases are pinned to is new enough for every case."""
    too_new = [
        case.id
        for case in CASES
        if case.sdk in REQUIRED and Version(REQUIRED[case.sdk]) < Version(case.since)
    ]

    assert [] == too_new


def test_every_client_has_an_environment() -> None:
    """Each client of a case is pinned in a file that CI installs from, or needs no installing."""
    pinned = {"python", *pins("all"), *pins("litellm"), *pins("instructor")}

    assert set() == {case.sdk for case in CASES} - pinned


def test_cases_have_names_of_their_own() -> None:
    """No two cases share an id."""
    ids = [case.id for case in CASES]

    assert sorted(set(ids)) == sorted(ids)
