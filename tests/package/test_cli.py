"""What the command line says of wrong use."""

from __future__ import annotations

import pytest

from resilient_llm.cli import USAGE, main


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["explain", "999"], "no HTTP status"),
        (["explain", "there_is_no_such_module.inside:fn"], "'there_is_no_such_module'"),
        (["explain", "os:nope"], "AttributeError"),
        (["explain", "429", "-H", "foo"], "name: value"),
        (["explain", "there-is-no-such-file"], "cannot be read"),
    ],
)
def test_errors_show_the_usage_of_their_command(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong argument of ``explain`` is answered with how ``explain`` is used."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)

    shown = capsys.readouterr().err
    assert USAGE == caught.value.code
    assert shown.startswith("usage: resilient-llm explain")
    assert said in shown


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["expain", "429"], "did you mean explain?"),
        (["dmeo"], "did you mean demo?"),
        (["zebra"], "there are benches, bench,"),
    ],
)
def test_a_misspelt_command_is_answered_with_the_nearest(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the usage of the program and the status of a wrong use."""
    with pytest.raises(SystemExit) as left:
        main(argv)

    assert USAGE == left.value.code
    assert said in capsys.readouterr().err


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    """The commands are listed, and the exit status is that of wrong use."""
    with pytest.raises(SystemExit) as caught:
        main([])

    assert USAGE == caught.value.code
    assert "explain" in capsys.readouterr().err


def test_a_body_may_be_written_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    """What a provider answered can be pasted."""
    assert 0 == main(["explain", "401", "--body", ' {"error": {"code": "invalid_api_key"}}'])
    assert "body.error.code" in capsys.readouterr().out
