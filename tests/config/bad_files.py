"""The files in ``bad`` and what is said about each.

    python -m tests.config.bad_files

writes what is said now; look at each message that changes as prose.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from resilient_llm.config import ConfigProblem, InvalidConfigError
from resilient_llm.config._reading import read

FOLDER: Final = Path(__file__).parent / "bad"
ENVIRON: Final = {
    "SECRET": "SECRETvalue",
    "NUMBER": "714159",
    "NEGATIVE": "-714159",
    "EMPTY": "",
    "NAME": "SECRETname",
}
"""Variables of the environment; no value of one may be in a message."""
PROVIDERS: Final = {"variable_providers.toml": ["groq", "openai"]}
"""``{file: the providers that there are}``"""


def files() -> list[Path]:
    """Return the files that have problems, sorted."""
    return sorted(each for each in FOLDER.iterdir() if each.suffix != ".txt")


def problems_of(file: Path, **options: Any) -> tuple[ConfigProblem, ...]:
    """Return what is wrong in a file; the present directory must be its folder."""
    try:
        read(file.name, environ=ENVIRON, providers=PROVIDERS.get(file.name), **options)
    except InvalidConfigError as error:
        return error.problems
    return ()


def expected(file: Path) -> Path:
    """Return where the messages of a file are."""
    return file.with_name(f"{file.name}.txt")


if __name__ == "__main__":
    os.chdir(FOLDER)
    for each in files():
        said = "".join(f"{problem}\n" for problem in problems_of(each))
        expected(each).write_text(said, encoding="utf-8")
