"""Fuzzes the reader of configuration files: bytes become a file, which is read or has problems.

    python tests/fuzz/fuzz_config.py -max_total_time=60

Needs atheris (``pip install "atheris>=3.0"``). All other arguments are libFuzzer's; a directory
among them is the corpus to start from and to add to. Without one, a fresh corpus is made of the
files in ``tests/config``. The bytes that broke something are left in a file ``crash-*``; the same
script with that file as its argument runs them again.

The test suite gives `check` bytes of hypothesis, so that it works without atheris as well.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
FORMATS: Final = ("toml", "json", "yaml")
ENVIRON: Final = {"BEST": "SECRETvalue", "X": "1"}


def check(data: bytes, folder: Path) -> None:
    """Read a file and look at what is said about it.

    Args:
        data: The first byte chooses the format, the others are the file.
        folder: Where the file is written.

    Raises:
        AssertionError: If a message is not one line, or shows what a variable stands for.
    """
    from resilient_llm._values.settings import Settings
    from resilient_llm.config import InvalidConfigError
    from resilient_llm.config._reading import read

    path = folder / f"fuzzed.{FORMATS[data[0] % len(FORMATS)] if data else 'toml'}"
    path.write_bytes(data[1:])
    try:
        layer = read(path, environ=ENVIRON)
    except InvalidConfigError as error:
        problems = error.problems
    else:
        Settings().changed(layer.settings)
        return
    assert problems
    for each in problems:
        assert is_one_line(str(each)), each
        assert "secretvalue" not in f"{each!r}".lower(), each
        assert each.line is None or each.line >= 1, each
        assert len(each.message) <= 1_001


def is_one_line(text: str) -> bool:
    """Return whether a text can neither break nor forge a line of a log."""
    from resilient_llm._values.escaping import escaped

    return escaped(text) == text and len(text.splitlines()) == 1


def seeds() -> list[bytes]:
    """Return inputs to start from."""
    found: list[bytes] = []
    for file in sorted((ROOT / "tests" / "config").glob("*/*")):
        kind = file.suffix[1:]
        if kind in FORMATS:
            found.append(bytes([FORMATS.index(kind)]) + file.read_bytes())
    return found


def main() -> None:
    import atheris

    sys.path.insert(0, str(ROOT))
    with atheris.instrument_imports(include=["resilient_llm.config", "tomllib", "json"]):
        import resilient_llm.config._reading

    assert resilient_llm.config._reading
    folder = Path(tempfile.mkdtemp())
    if all(each.startswith("-") for each in sys.argv[1:]):
        corpus = folder / "corpus"
        corpus.mkdir()
        for number, each in enumerate(seeds()):
            (corpus / str(number)).write_bytes(each)
        sys.argv.append(str(corpus))
    atheris.Setup(sys.argv, lambda data: check(data, folder))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
