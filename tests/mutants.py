"""Break the core in every way that mutmut knows, and see whether the tests notice.

    python tests/mutants.py            make the mutants, run them, print what came of it
    python tests/mutants.py --report   print what came of the last run

What is mutated and which tests are asked stands in ``pyproject.toml``. Exits with 1 when
less than 95 % of a file's mutants are killed, or when a survivor is not among those that
``docs/explanation/mutants.md`` explains.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXPLAINED = ROOT / "docs" / "explanation" / "mutants.md"
LEAST = 0.95
_RESULT = re.compile(r"^\s*(?P<name>resilient_llm\.\S+): (?P<status>.+)$")
_NOTICED = ("killed", "timeout", "segfault", "suspicious", "caught by type check")


def main() -> int:
    """Return the exit code."""
    mutmut = str(Path(sys.executable).parent / "mutmut")
    if "--report" not in sys.argv[1:]:
        shutil.rmtree(ROOT / "mutants", ignore_errors=True)
        subprocess.run([mutmut, "run"], cwd=ROOT, check=True)  # our own tool
    listed = subprocess.run(
        [mutmut, "results", "--all", "true"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    statuses: dict[str, Counter[str]] = defaultdict(Counter)
    survivors: list[str] = []
    for line in listed.stdout.splitlines():
        if (match := _RESULT.match(line)) is not None:
            module = match["name"].rpartition(".")[0]
            statuses[module][match["status"]] += 1
            if match["status"] not in _NOTICED:
                survivors.append(match["name"])
    if not statuses:
        print("no mutants: run without --report first", file=sys.stderr)
        return 1
    return _report(mutmut, statuses, survivors)


def _report(mutmut: str, statuses: dict[str, Counter[str]], survivors: list[str]) -> int:
    failed = False
    print(f"{'':<32}{'mutants':>8}{'killed':>8}{'share':>9}")
    for module, counts in sorted(statuses.items()):
        total = sum(counts.values())
        killed = sum(counts[status] for status in _NOTICED)
        failed = failed or killed < LEAST * total
        print(f"{module:<32}{total:>8}{killed:>8}{killed / total:>9.1%}")
    explained = " ".join(EXPLAINED.read_text("utf-8").split()) if EXPLAINED.exists() else ""
    for name in survivors:
        shown = subprocess.run(
            [mutmut, "show", name], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout
        changed = [
            line
            for line in shown.splitlines()
            if line[:1] in "+-" and line[:3] not in ("+++", "---")
        ]
        # By what they change, since mutmut numbers them anew whenever the function changes.
        is_explained = all(" ".join(line[1:].split()) in explained for line in changed) and bool(
            changed
        )
        failed = failed or not is_explained
        print(f"\n{'explained' if is_explained else 'NOT EXPLAINED'}: {name}", *changed, sep="\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
