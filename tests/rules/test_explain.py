"""Why a verdict is what it is: for an incident channel, so without a prompt or a key."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from resilient_llm import BreakerOpenError, ErrorKind, Verdict, classify, cli
from resilient_llm.cli.explain import NOTHING_RAISED

HERE = Path(__file__).parent / "explained"
RESPONSES = sorted(HERE.glob("*.http"))


@pytest.mark.parametrize("response", RESPONSES, ids=lambda path: path.stem)
def test_a_response_is_explained_as_recorded(
    response: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the command prints for a response is what stands beside it, to the letter."""
    status = cli.main(["explain", str(response)])

    assert (0, response.with_suffix(".txt").read_text()) == (status, capsys.readouterr().out)


def test_there_are_enough_recorded_explanations() -> None:
    """Ten at least, and none is forgotten beside the responses."""
    assert len(RESPONSES) >= 10
    assert [path.with_suffix(".txt") for path in RESPONSES] == sorted(HERE.glob("*.txt"))


def test_neither_prompt_nor_key_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """A message with a prompt, a header with a key and an unknown code stay out of it."""
    for flags in ([], ["--json"]):
        cli.main(["explain", str(HERE / "prompt-echoed.http"), *flags])

        said = capsys.readouterr().out
        assert said
        assert not [secret for secret in ("hunter2", "sk-", "password", "hiccup") if secret in said]


def _response(status: int, body: Any, headers: dict[str, str] | None = None) -> httpx.Response:
    return httpx.Response(
        status, json=body, headers=headers, request=httpx.Request("POST", "http://provider.invalid")
    )


def _of_openai() -> openai.RateLimitError:
    body = {"message": "Try again.", "code": "rate_limit_exceeded"}
    return openai.RateLimitError(
        "Try again.", response=_response(429, body, {"retry-after": "7"}), body=body
    )


def test_an_error_of_a_client() -> None:
    """Class, code, field, rule and where the wait was read."""
    found = classify.explain(_of_openai())

    assert classify(_of_openai()) == found.verdict
    assert (
        "openai.RateLimitError",
        "the code rate_limit_exceeded",
        "body.code",
        "rules/codes.py",
    ) == (
        found.type_name,
        found.because,
        found.field,
        found.rule,
    )
    assert ("a retry-after header", ()) == (found.hint, found.path)


def test_what_is_inside_is_named_with_the_way_there() -> None:
    """A wrapper says nothing itself: the explanation goes inwards, from the outermost."""
    wrapper = Exception("a prompt")
    wrapper.__cause__ = ExceptionGroup("a prompt", [Exception("one"), _of_openai()])

    found = classify.explain(wrapper)

    assert ("Exception", "body.code") == (found.type_name, found.field)
    assert (
        "ExceptionGroup, its cause",
        "openai.RateLimitError, a member of the group",
    ) == found.path
    assert ErrorKind.RATE_LIMITED is found.verdict.kind


class GatewayError(Exception):
    """An error that no rule knows."""


def test_an_error_that_no_rule_knows() -> None:
    """Says that there is none, and the class for which one should be written."""
    found = classify.explain(GatewayError("a prompt"))

    assert ("tests.GatewayError", "none", ErrorKind.UNKNOWN) == (
        found.type_name,
        found.rule,
        found.verdict.kind,
    )
    assert "a prompt" not in str(found)


def test_a_rule_of_the_users_own() -> None:
    """Names the function, so that it is found."""

    @classify.rule
    def of_our_gateway(error: BaseException) -> Verdict | None:
        return Verdict("rate_limited", retry_after=3.0) if isinstance(error, GatewayError) else None

    found = classify.explain(GatewayError())

    assert found.rule.startswith("yours, tests.")
    assert "of_our_gateway" in found.rule
    assert ("a rule of yours knows it", 3.0) == (found.because, found.verdict.retry_after)


@pytest.mark.parametrize(
    ("error", "because"),
    [
        (KeyboardInterrupt(), "a cancellation"),
        (BaseExceptionGroup("x", [ValueError(), asyncio.CancelledError()]), "a cancellation"),
        (BreakerOpenError("groq", reason="overloaded"), "an error of this library"),
        (TypeError(), "the class TypeError"),
        (ConnectionRefusedError(111, "refused"), "the class ConnectionRefusedError"),
        (RuntimeError("CUDA out of memory."), 'the words "out of memory"'),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_what_decides_without_a_provider(error: BaseException, because: str) -> None:
    """Cancellations, errors of this library and of Python itself are explained, too."""
    found = classify.explain(error)

    assert found.because.startswith(because)
    assert classify(error) == found.verdict


class HostileError(Exception):
    """Raises at whatever is read."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


def test_an_error_that_resists_is_explained_without_raising() -> None:
    """Nothing that an error does reaches whoever asked."""
    found = classify.explain(HostileError())

    assert (ErrorKind.UNKNOWN, "tests.HostileError") == (found.verdict.kind, found.type_name)
    assert str(found)


# --- The command -----------------------------------------------------------------------------


def test_a_status_with_headers_and_body(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A status, headers by option, and the body from a file or from standard input."""
    body = json.dumps({"error": {"code": "overloaded_error"}})
    (tmp_path / "body.json").write_text(body)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(body.encode())))

    for name in (str(tmp_path / "body.json"), "-"):
        assert 0 == cli.main(["explain", "503", "-H", "Retry-After: 20", "--body", name, "--json"])

        said = json.loads(capsys.readouterr().out)
        assert ("transient", "overloaded", 20.0, "body.error.code", "HTTP 503") == tuple(
            said[name] for name in ("kind", "reason", "retry_after", "field", "error")
        )


def test_a_response_from_standard_input(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What curl prints can be piped, with the line ends of the wire."""
    raw = b"HTTP/1.1 529 Site is overloaded\r\nretry-after: 3\r\n\r\n{}"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))

    assert 0 == cli.main(["explain", "-"])

    assert "3 s, from a retry-after header" in capsys.readouterr().out


MODULE = """
import httpx

def raises():
    raise httpx.ConnectTimeout("a prompt")

async def raises_later():
    raises()

class Client:
    @staticmethod
    def call():
        raises()

def returns():
    return 1

number = 1
"""


@pytest.mark.parametrize("name", ["raises", "raises_later", "Client.call"])
def test_what_a_callable_raises(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A function of a module here is called, and awaited if it is asynchronous."""
    (tmp_path / "broken_client.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    assert 0 == cli.main(["explain", f"broken_client:{name}"])

    said = capsys.readouterr().out
    assert said.startswith("transient: timeout\n  error        httpx.ConnectTimeout\n")
    assert "a prompt" not in said


def test_a_callable_that_raises_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nothing to explain, and the exit status says so."""
    (tmp_path / "broken_client.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    assert NOTHING_RAISED == cli.main(["explain", "broken_client:returns"])

    assert "raised nothing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["42"], "from 100 to 599"),
        (["1000000"], "from 100 to 599"),
        (["429", "-H", "retry-after"], "'name: value'"),
        (["429", "--body", "no/such/file"], "cannot be read"),
        (["no-such-file"], "cannot be read"),
        (["no_such_module:f"], "no module named"),
        (["json:no_such_function"], "module:callable"),
        (["json:decoder"], "not callable"),
        ([str(HERE.parents[1] / "conftest.py")], "no status line"),
        ([str(HERE.parents[1] / "conftest.py"), "-H", "a: b"], "go with a status"),
    ],
    ids=lambda value: value[0][-20:] if isinstance(value, list) else "",
)
def test_wrong_use_is_told_in_one_sentence(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is allowed is said where it is written, and the exit status is that of wrong use."""
    with pytest.raises(SystemExit) as left:
        cli.main(["explain", *arguments])

    assert (cli.USAGE, True) == (left.value.code, says in capsys.readouterr().err)
