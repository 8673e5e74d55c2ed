"""How the package is laid out: imports point down, names are public on purpose, loading is lazy."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import resilient_llm

ROOT = Path(resilient_llm.__file__).parent
PACKAGE = "resilient_llm"

# The folders in the order in which a call meets them, from the bottom up; a module imports
# from its own folder and from those below it.
FOLDERS = ("_values", "_core", "_runtime", "_drive", "_binding", "_api")
RANK = {name: rank for rank, name in enumerate(FOLDERS)}
VARIANTS = {"rules", "strategies", "guards", "stores", "observers"}
# What a user imports by name, and what is written with public names, as a third party would.
ABOVE = {"answers", "testing", "pytest_plugin", "admin", "cli", "__main__", "demo", "probes"}
ABOVE |= {"config", "chains", "integrations", "limits", "needs"}
# `admin` and `chains` show what no public name gives: chains, and who may be called now. `probes`
# reports to circuits what no public name does: that a key is well though no call has succeeded.
# `config` checks with the checks of `configure` and `failover`, which have no public names.
WITH_PUBLIC_NAMES = {"cli", "__main__", "demo"}
# Where pickles of an earlier release look for what has moved; gone with the next release.
FORWARDS = {
    "_errors",
    "_events",
    "_explanation",
    "_failover",
    "_policy",
    "_settings",
    "_stream_policy",
}
LONGEST_FILE = 600
"""Lines of a file of the package."""
LONGER = {"_core/circuit/circuit.py"}
# Which folders may know the list that a folder of variants gives, but none of the variants.
KNOW_A_LIST = {
    "_core": {"rules", "stores"},
    "_runtime": {"stores"},
    "_api": {"strategies"},
    "_binding": {"guards", "strategies"},
}
# Knows every variant, and puts them together.
WIRING = "_api/wiring.py"
# What exporters are built on: knows the state of the process, so that they need not.
OF_EXPORTERS = "observers/_exporter.py"
# Modules that are loaded by those who use what they are for, so that their imports are, too.
LOADED_WHEN_USED = {
    "_drive/aopening.py",
    "_drive/hosting.py",
    "_drive/hedging_trio.py",
    "_drive/astreams.py",
    "_drive/managers.py",
    "_drive/proxies.py",
    "_binding/stream_function.py",
    "admin/_app.py",
    "admin/_feed.py",
    "admin/_openapi.py",
    "admin/_watch.py",
    "integrations/httpx.py",
    "integrations/httpx2.py",
    "integrations/pydantic_ai.py",
    "integrations/_reading.py",
    "integrations/litellm.py",
    "integrations/starlette.py",
    "observers/_otel_spans.py",
    "integrations/langchain.py",
    "integrations/_langchain_attempts.py",
    "integrations/_langchain_models.py",
    "integrations/_langchain_runs.py",
    "integrations/_langchain_structured.py",
}
# Loaded only by somebody who has the extra, or pytest itself.
FREE_TO_IMPORT = {"demo", "pytest_plugin"}

PUBLIC_NAMES = """
    Adaptive Attempt AttemptCancelled AttemptFailed AttemptRecord AttemptSucceeded BenchModel
    BenchedModel Breaker BreakerOpenError Budget BudgetExceeded BudgetExceededError
    BudgetWarning CallFailed CallRejectedError CanCall Chain ChainExhaustedError ConfigReloadFailed
    ConfigReloaded ConfigurationError
    DeadlineExceededError ErrorKind Event EventStream Explanation FailedOver Failover
    HealthChanged HedgeStarted IsBenched Limit ListBenched NoCapableTargetError ObserverFailed
    OrderChanged Price RateLimitState ResilientLLMError ResponseRejectedError RetryScheduled
    RetryStopped Settings SpendRecorded SpendReport StoreAvailable StoreLost
    StoreStatus StoreUnavailable StoreUnavailableError StrategyCall StreamCommitted
    StreamInterrupted StreamInterruptedError StreamPolicy Target TargetBenched TargetHealth
    TargetSkipped TargetUnbenched ToolLoop ToolLoopDetected ToolLoopError Trace TracedCall
    UnbenchModel UnknownError Usage Verdict __version__ bench_model breaker call_id can_call
    classify configure events failover health is_benched list_benched observe rate_limits reset
    reset_spend settings spend spend_key spend_total store_status unbench_model
""".split()


class Import:
    """One imported module, as written somewhere."""

    def __init__(self, module: str, line: int, *, lazy: bool, for_types: bool) -> None:
        self.module = module
        self.line = line
        self.lazy = lazy
        self.for_types = for_types

    @property
    def parts(self) -> list[str]:
        return self.module.split(".")

    @property
    def is_ours(self) -> bool:
        return self.parts[0] == PACKAGE

    @property
    def part(self) -> str:
        """Which module or folder directly below the package; empty for the package itself."""
        return self.parts[1] if len(self.parts) > 1 else ""


class _Imports(ast.NodeVisitor):
    def __init__(self) -> None:
        self.found: list[Import] = []
        self._functions = 0
        self._type_checking = 0

    def _add(self, module: str, line: int) -> None:
        self.found.append(
            Import(module, line, lazy=self._functions > 0, for_types=self._type_checking > 0)
        )

    def visit_Import(self, node: ast.Import) -> None:
        for name in node.names:
            self._add(name.name, node.lineno)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        assert node.level == 0, f"a relative import in line {node.lineno}"
        module = node.module or ""
        for name in node.names:
            self._add(
                f"{module}.{name.name}" if _is_module(module, name.name) else module, node.lineno
            )

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._functions += 1
        self.generic_visit(node)
        self._functions -= 1

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self.visit_FunctionDef(node)

    def visit_If(self, node: ast.If) -> None:
        types_only = ast.unparse(node.test).removeprefix("typing.") == "TYPE_CHECKING"
        self._type_checking += types_only
        for child in node.body:
            self.visit(child)
        self._type_checking -= types_only
        for child in node.orelse:
            self.visit(child)


def _is_module(package: str, name: str) -> bool:
    folder = ROOT.parent.joinpath(*package.split("."))
    return package.split(".")[0] == PACKAGE and (
        (folder / name).is_dir() or (folder / f"{name}.py").exists()
    )


def _imports(path: Path) -> list[Import]:
    visitor = _Imports()
    visitor.visit(ast.parse(path.read_text(encoding="utf-8"), filename=str(path)))
    return visitor.found


def _part(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


SOURCES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")
IMPORTS = {path: _imports(path) for path in SOURCES}


def _found(path: Path, each: Import) -> str:
    return f"{path.relative_to(ROOT)}:{each.line} imports {each.module}"


def _module(path: Path) -> str:
    name = ".".join((PACKAGE, *path.relative_to(ROOT).with_suffix("").parts))
    return name.removesuffix(".__init__")


def test_every_module_has_a_place() -> None:
    """A new module or folder is put into the table on purpose."""
    homeless = {_part(path) for path in SOURCES} - RANK.keys() - VARIANTS - ABOVE
    homeless -= {"_version", *FORWARDS}

    assert set() == homeless


def test_imports_go_down() -> None:
    """No module imports from a folder above its own, not even for types or inside a function."""
    wrong: list[str] = []
    for path, imports in IMPORTS.items():
        rank = RANK.get(_part(path))
        if rank is None or path == ROOT / WIRING:
            continue
        for each in imports:
            if not each.is_ours or each.part == "_version":
                continue
            is_list = len(each.parts) == 2 and each.part in KNOW_A_LIST.get(_part(path), ())
            if not is_list and RANK.get(each.part, len(FOLDERS)) > rank:
                wrong.append(_found(path, each))

    assert [] == wrong


def _graph() -> dict[str, set[str]]:
    """Return ``{module: modules that it imports}``, for types and inside functions as well."""
    names = {_module(path) for path in SOURCES}
    return {
        _module(path): {each.module for each in imports if each.module in names} - {_module(path)}
        for path, imports in IMPORTS.items()
    }


def _reached(graph: dict[str, set[str]], start: str) -> set[str]:
    """Return what a module imports, directly or through others."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = graph[waiting.pop()] - found
        found |= new
        waiting.extend(new)
    return found


def test_no_circle_of_imports() -> None:
    """No module imports itself through others, not even for types or inside a function."""
    graph = _graph()

    assert [] == [name for name in sorted(graph) if name in _reached(graph, name)]


def test_no_file_is_too_long() -> None:
    """A file that grows beyond this is taken apart."""
    long = {
        path.relative_to(ROOT).as_posix()
        for path in SOURCES
        if len(path.read_text(encoding="utf-8").splitlines()) > LONGEST_FILE
    }

    assert LONGER == long


# Private words of the first releases, each of which has a term of the field now.
OLD_WORDS = re.compile(
    r"(?<![A-Za-z])(door|way_in|lanes?|Lane|story|Story|Told|LetThrough|Era|eras?|Loan|Hub|runtime\.hub"
    r"|Intake|intake|Pace|Glance|glance|felt|_Shut|Averages|PerClass|dice)(?![A-Za-z])"
)


def test_the_old_vocabulary_is_gone() -> None:
    """No name, comment or docstring of the package uses a private word for a term of the field."""
    wrong = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in SOURCES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if OLD_WORDS.search(line)
    ]

    assert [] == wrong


def test_variants_know_the_vocabulary_only() -> None:
    """A rule, strategy, guard, store or observer imports plain values and its own folder."""
    wrong = [
        _found(path, each)
        for path, imports in IMPORTS.items()
        if _part(path) in VARIANTS and path.relative_to(ROOT).as_posix() != OF_EXPORTERS
        for each in imports
        if each.is_ours and each.part not in (_part(path), "_values")
    ]

    assert [] == wrong


def test_what_stands_above_uses_public_names() -> None:
    """Command line, demo and the like are written as a third party would write them."""
    wrong = [
        _found(path, each)
        for path, imports in IMPORTS.items()
        if _part(path) in WITH_PUBLIC_NAMES
        for each in imports
        if each.is_ours and each.part.startswith("_") and each.part != _part(path)
    ]

    assert [] == wrong


def test_third_party_code_loads_when_used() -> None:
    """Other people's packages are imported inside functions, or for types."""
    wrong = [
        _found(path, each)
        for path, imports in IMPORTS.items()
        if _part(path) not in FREE_TO_IMPORT
        and path.relative_to(ROOT).as_posix() not in LOADED_WHEN_USED
        for each in imports
        if not each.is_ours
        and each.parts[0] not in sys.stdlib_module_names
        and not each.lazy
        and not each.for_types
    ]

    assert [] == wrong
    imported = {
        f"{PACKAGE}.{name.removesuffix('.py').replace('/', '.')}" for name in LOADED_WHEN_USED
    }
    at_once = [
        _found(path, each)
        for path, imports in IMPORTS.items()
        if path.relative_to(ROOT).as_posix() not in LOADED_WHEN_USED
        for each in imports
        if each.module in imported and not each.lazy and not each.for_types
    ]
    assert [] == at_once


def test_the_core_asks_nobody() -> None:
    """The core does no I/O, reads no clock and draws no random numbers."""
    forbidden = {"asyncio", "logging", "os", "random", "socket", "time"}
    wrong = [
        _found(path, each)
        for path, imports in IMPORTS.items()
        if _part(path) == "_core"
        for each in imports
        if each.parts[0] in forbidden and not each.for_types
    ]

    assert [] == wrong


def test_public_names() -> None:
    """What is public is public on purpose."""
    assert sorted(PUBLIC_NAMES) == sorted(resilient_llm.__all__)


@pytest.mark.parametrize("name", PUBLIC_NAMES)
def test_a_public_name_is_there(name: str) -> None:
    """Every public name can be had, and is a plain attribute afterwards."""
    value = getattr(resilient_llm, name)

    assert value is vars(resilient_llm)[name]
    assert name in dir(resilient_llm)


def test_an_unknown_name_is_an_attribute_error() -> None:
    """A name that there is not says so as any module does."""
    with pytest.raises(AttributeError, match="module 'resilient_llm' has no attribute 'failoverr'"):
        resilient_llm.failoverr  # noqa: B018  # the access is what is tested


def test_type_checkers_and_the_loader_agree() -> None:
    """What is imported for type checkers is what the lazy loader gives."""
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    seen = {
        name.name: (node.module or "").removeprefix(f"{PACKAGE}.")
        for branch in tree.body
        if isinstance(branch, ast.If)
        for node in branch.body
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    loaded = {
        name: module for module, names in resilient_llm._MODULES.items() for name in names.split()
    }

    assert seen == loaded
    assert {*seen, "__version__"} == set(resilient_llm.__all__)


def test_the_operators_calls_have_two_spellings() -> None:
    """The PascalCase names are the same objects."""
    assert resilient_llm.ListBenched is resilient_llm.list_benched
    assert resilient_llm.BenchModel is resilient_llm.bench_model
    assert resilient_llm.UnbenchModel is resilient_llm.unbench_model
    assert resilient_llm.IsBenched is resilient_llm.is_benched


HEAVY = {
    "aiohttp",
    "anthropic",
    "anyio",
    "asyncio",
    "httpx",
    "httpx2",
    "openai",
    "requests",
    "rich",
    "tenacity",
    "trio",
    "wrapt",
}


def _loaded_by(code: str) -> set[str]:
    """Return which top-level modules a fresh interpreter loads for the code."""
    script = f"import sys, json\nbefore = set(sys.modules)\n{code}\nprint(json.dumps(sorted(set(sys.modules) - before)))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT.parent,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return {name.split(".")[0] for name in json.loads(done.stdout)}


def test_importing_loads_next_to_nothing() -> None:
    """The bare import brings no SDK, no event loop, no dependency, and not even logging."""
    loaded = _loaded_by("import resilient_llm")

    assert set() == loaded & (HEAVY | {"logging", "dataclasses", "inspect", "datetime"})


def test_public_names_bring_no_sdk() -> None:
    """Not even all public names together bring an SDK, an event loop or a dependency."""
    loaded = _loaded_by("from resilient_llm import *")

    assert set() == loaded & (HEAVY | {"logging"})


def test_a_healthy_synchronous_call_brings_no_event_loop() -> None:
    """Decorating and calling a plain function needs none of the dependencies."""
    loaded = _loaded_by(
        "from resilient_llm import Target, failover\n"
        "@failover('groq/llama')\n"
        "def ask(target: Target, prompt: str) -> str: return target.model + prompt\n"
        "assert ask('?') == 'llama?'"
    )

    assert set() == loaded & HEAVY
