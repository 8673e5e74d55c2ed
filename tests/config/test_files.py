"""Finding and reading a file: what cannot be read is a problem, and nothing blocks."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from resilient_llm.config import validate
from resilient_llm.config._reading import read
from resilient_llm.config._source import LARGEST

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="has neither pipes nor devices")


def message(path: Path | str) -> str:
    """Return what is said about a path that has one problem, which is of the whole file."""
    (problem,) = validate(path)
    assert str(path) == problem.where
    return problem.message


def test_a_file_that_does_not_exist(tmp_path: Path) -> None:
    """It is said so."""
    assert "the file does not exist" == message(tmp_path / "none.toml")


def test_a_directory(tmp_path: Path) -> None:
    """It is said so, also if its name ends as that of a file."""
    folder = tmp_path / "config.toml"
    folder.mkdir()

    assert "the path is a directory: write the path of a file" == message(folder)


@POSIX
@pytest.mark.timeout(10)
def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    """Nobody writes to it, and it is not waited for."""
    path = tmp_path / "pipe.toml"
    os.mkfifo(path)

    assert "the path is a pipe: write the path of a file" == message(path)


@POSIX
@pytest.mark.timeout(10)
def test_a_device_is_not_read(tmp_path: Path) -> None:
    """It may never end."""
    path = tmp_path / "zero.toml"
    path.symlink_to("/dev/zero")

    assert "the path is a device: write the path of a file" == message(path)


@POSIX
def test_a_socket_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said so."""
    monkeypatch.chdir(tmp_path)  # since the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s.toml")

        assert "the path is a socket: write the path of a file" == message("s.toml")


@POSIX
@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    """The reason of the system is shown."""
    path = tmp_path / "config.toml"
    path.write_text("[chains]\n")
    path.chmod(0)

    assert "the file cannot be read: Permission denied" == message(path)


def test_a_path_through_a_file(tmp_path: Path) -> None:
    """Any other reason of the system is shown as well."""
    (tmp_path / "file").write_text("")

    assert "the file cannot be read: Not a directory" == message(tmp_path / "file" / "x.toml")


def test_a_path_with_a_null_character() -> None:
    """The system has no such paths."""
    (problem,) = validate("a\0b.toml")

    assert "the file cannot be read: its path is not allowed" == problem.message
    assert "a\\x00b.toml" == problem.where


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("config.txt", "the file has a name that ends in '.txt'"),
        ("config", "the file has a name without an ending"),
        (".toml", "the file has a name without an ending"),
        ("", "the file has a name without an ending"),
    ],
)
def test_a_name_that_tells_no_format(name: str, said: str) -> None:
    """The endings that do are shown."""
    assert f"{said}: write .toml or .json or .yaml or .yml" == message(name)


@pytest.mark.parametrize("name", ["a.toml", "A.TOML", "a.json", "a.yaml", "a.yml", "a.YML"])
def test_a_byte_order_mark_is_fine(name: str, tmp_path: Path) -> None:
    """Some editors write one; the case of the ending does not matter."""
    text = {
        "toml": 'chains.a = "groq/x"',
        "json": '{"chains": {"a": "groq/x"}}',
    }.get(name.lower()[2:], "chains: {a: groq/x}")
    path = tmp_path / name
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())

    assert ["a"] == list(read(path).names)


def test_a_symlink_is_followed(tmp_path: Path) -> None:
    """As Kubernetes mounts a configuration."""
    (tmp_path / "data.toml").write_text('chains.a = "groq/x"')
    (tmp_path / "config.toml").symlink_to("data.toml")

    assert ["a"] == list(read(tmp_path / "config.toml").names)


def test_the_largest_file(tmp_path: Path) -> None:
    """256 KiB are read, and one byte more is a problem."""
    text = 'chains.a = "groq/x"\n#'
    path = tmp_path / "config.toml"
    path.write_text(text + "x" * (LARGEST - len(text)))
    assert 256 * 1024 == path.stat().st_size

    assert ["a"] == list(read(path).names)

    with path.open("a") as file:
        file.write("x")
    assert "the file is above 256 KiB, which is the most allowed" == message(path)


def test_a_large_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    """A sparse file of a terabyte costs as little as any other one."""
    path = tmp_path / "config.toml"
    with path.open("wb") as file:
        try:
            file.truncate(2**40)
        except OSError:
            pytest.skip("this file system has no such files")

    assert "the file is above 256 KiB, which is the most allowed" == message(path)


def test_the_line_of_what_is_not_utf_8(tmp_path: Path) -> None:
    """It is told with the byte."""
    path = tmp_path / "config.yaml"
    path.write_bytes(b"chains:\n  a: groq/x\n  b: groq/\xff\n")

    (problem,) = validate(path)

    assert ("the file is not UTF-8: it has the byte 0xFF", 3) == (problem.message, problem.line)


def test_a_path_like_object(tmp_path: Path) -> None:
    """What `open` takes is taken, and ``source`` is the path as it was given."""
    (tmp_path / "config.toml").write_text('chains.a = "groq/x"')

    class Mine:
        def __fspath__(self) -> str:
            return str(tmp_path / "config.toml")

    assert str(tmp_path / "config.toml") == read(Mine()).source


def test_yaml_needs_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without PyYAML the message says what to install."""
    monkeypatch.setitem(sys.modules, "yaml", None)
    path = tmp_path / "config.yaml"
    path.write_text("chains: {}")

    assert "pip install 'resilient-llm[yaml]'" in message(path)


def test_yaml_without_the_parser_in_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the same, slower."""
    import yaml

    path = Path(__file__).parent / "good" / "contract.yaml"
    expected = read(path, environ={}).parts
    monkeypatch.delattr(yaml, "CSafeLoader", raising=False)

    assert expected == read(path, environ={}).parts
    wrong = tmp_path / "wrong.yaml"
    for text in ("a: [", "a: \x07", "a: &a *a", "- !!python/name:os x"):
        wrong.write_text(text)
        (problem,) = validate(wrong)
        assert 1 == problem.line, text
