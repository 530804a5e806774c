"""Where the three packages come from, what importing them costs, and how big their parts are."""

from __future__ import annotations

import ast
import functools
import importlib
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import gymnasium
import pytest

import envs  # noqa: F401  registers the environments

_ROOT = Path(__file__).resolve().parents[1]
_PACKAGES = ("agents", "envs", "orchestrator")
_LEAST_LINES, _MOST_LINES = 80, 700
_SMALL = {
    "agents/cli/__main__.py": "where a module is started",
    "agents/plots/style.py": "how pictures look",
    "envs/rows/crew.py": "threads, each a range of rows",
    "orchestrator/engine/copies.py": "addresses set anew",
    "orchestrator/foundations/consensus.py": "a port in memory",
    "orchestrator/kernels/change/log.py": "one record appended",
    "orchestrator/kernels/requests/limiter.py": "a token bucket",
    "orchestrator/live/deadlines.py": "a timer for each save",
    "orchestrator/runtimes/discovery.py": "what a machine offers",
    "orchestrator/twin/scene/lots.py": "numbers by purpose",
}
"""Files that are shorter, because their concept is small: which one it is."""
_Function = ast.FunctionDef | ast.AsyncFunctionDef
_MOST_FUNCTION_LINES, _MOST_ARGUMENTS, _MOST_FILES = 60, 7, 10
_HEAVY = ("torch", "stable_baselines3", "sb3_contrib", "gymnasium", "pandas", "hydra", "matplotlib")
_HEAVY += ("prophet", "cmdstanpy", "pyarrow")


@pytest.mark.parametrize("name", _PACKAGES)
def test_packages_are_those_of_this_checkout(name: str) -> None:
    """Another well-known distribution also installs a package called ``agents``."""
    package = importlib.import_module(name)
    assert package.__file__ is not None
    assert Path(package.__file__).resolve() == _ROOT / name / "__init__.py"
    assert [Path(folder).resolve() for folder in package.__path__] == [_ROOT / name]


_LIGHT = (
    "import orchestrator",
    "from orchestrator import *",
    "import orchestrator.orchestrator, orchestrator.engine.engine",
    "import orchestrator.kernels.run.session, orchestrator.scheduling.rules",
    "import orchestrator.autoscaler, orchestrator.autoscaler.forecast",
    "import agents",
)
_LOADING = (
    "import envs",
    "from envs import CLUSTER, Session, load_workload",
    "from agents import EvaluationResult, Suite, evaluate_rule, load_bundle, run_suite",
)


@pytest.fixture(scope="module")
def loaded() -> dict[str, set[str]]:
    """Which heavy libraries an interpreter has loaded after each statement, all in this order."""
    code = f"""
import sys
for statement in {[*_LIGHT, *_LOADING]!r}:
    exec(statement)
    print(*[m for m in {_HEAVY!r} if m in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=_ROOT
    )
    lines = done.stdout.splitlines()
    return {
        statement: set(line.split())
        for statement, line in zip([*_LIGHT, *_LOADING], lines, strict=True)
    }


@pytest.mark.parametrize("statement", _LIGHT)
def test_the_orchestrator_loads_no_learning_library(
    loaded: dict[str, set[str]], statement: str
) -> None:
    assert loaded[statement] == set()


@pytest.mark.parametrize("statement", _LOADING)
def test_environments_and_learning_load_what_is_asked_for(
    loaded: dict[str, set[str]], statement: str
) -> None:
    assert loaded[statement] == {"gymnasium"}


def _modules(package: str) -> list[Path]:
    """A package's files, but for those that only say what their folder is."""
    found = sorted((_ROOT / package).rglob("*.py"))
    assert len(found) > 5
    return [path for path in found if path.name != "__init__.py"]


def _name(path: Path) -> str:
    return path.relative_to(_ROOT).as_posix()


@pytest.mark.parametrize("package", _PACKAGES)
def test_a_file_is_a_concept(package: str) -> None:
    """Neither a splinter nor a heap."""
    lines = {
        _name(path): len(path.read_text(encoding="utf-8").splitlines())
        for path in _modules(package)
    }
    assert {path: n for path, n in lines.items() if n > _MOST_LINES} == {}
    small = {path for path, n in lines.items() if n < _LEAST_LINES}
    assert small == {path for path in _SMALL if path.startswith(f"{package}/")}


@pytest.mark.parametrize("package", _PACKAGES)
def test_a_folder_fits_on_a_page(package: str) -> None:
    files: dict[str, int] = {}
    for path in _modules(package):
        files[_name(path.parent)] = files.get(_name(path.parent), 0) + 1
    assert {folder: n for folder, n in files.items() if n > _MOST_FILES} == {}


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _functions(tree: ast.AST, owner: str = "") -> list[tuple[str, _Function]]:
    """All functions of a module, those inside others too, by their qualified names."""
    found: list[tuple[str, _Function]] = []
    for node in ast.iter_child_nodes(tree):
        inner = owner
        if isinstance(node, _Function | ast.ClassDef):
            inner = f"{owner}.{node.name}".removeprefix(".")
            if not isinstance(node, ast.ClassDef):
                found.append((inner, node))
        found += _functions(node, inner)
    return found


def _arguments(name: str, node: _Function) -> int:
    """Arguments that a reader of a call has to know.

    ``self`` and ``cls`` are none. Keyword-only arguments of a public class's constructor are
    options that the class documents, and a call names those that it gives: they do not count.
    """
    given = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args)]
    count = len([arg for arg in given if arg not in ("self", "cls")])
    owner, _, method = name.rpartition(".")
    constructs = method == "__init__" and not owner.startswith("_")
    return count if constructs else count + len(node.args.kwonlyargs)


@pytest.mark.parametrize("package", _PACKAGES)
def test_a_function_fits_into_a_head(package: str) -> None:
    too_long, too_many, seen = {}, {}, 0
    for path in _modules(package):
        for name, node in _functions(_tree(path)):
            seen += 1
            assert node.end_lineno is not None
            lines = node.end_lineno - node.lineno + 1
            arguments = _arguments(name, node)
            if lines > _MOST_FUNCTION_LINES:
                too_long[f"{_name(path)}: {name}"] = lines
            if arguments > _MOST_ARGUMENTS:
                too_many[f"{_name(path)}: {name}"] = arguments
    assert seen > 50
    assert too_long == {}
    assert too_many == {}


_FOR_TESTS = {
    "JOB_MEMO_FIELDS": "what is remembered, and can be dropped",
    "MEMO_FIELDS": "what is remembered, and can be dropped",
    "installed": "whether the compiler is reached into, or left alone",
}
"""Names that only tests use: what for."""


def _words(path: Path) -> list[str]:
    """Names and dotted strings of a file, but for those that ``__all__`` lists."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        text = re.sub(r"^__all__ = \[.*?\]", "", text, flags=re.MULTILINE | re.DOTALL)
        nodes = ast.walk(_tree(path))
        doc = {ast.get_docstring(n, clean=False) for n in nodes if _has_docstring(n)}
        for each in doc - {None}:
            text = text.replace(str(each), "")
    return re.findall(r"[A-Za-z_]\w*", text)


def _has_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)


def _defined(path: Path) -> list[str]:
    """Names that a module defines at its top."""
    found = []
    for node in _tree(path).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.append(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found += [t.id for t in targets if isinstance(t, ast.Name) and t.id != "__all__"]
    return found


def test_every_name_has_a_user() -> None:
    """What nobody but tests uses is public, or gone."""
    sources = [p for package in _PACKAGES for p in (_ROOT / package).rglob("*.py*")]
    sources = [p for p in sources if p.suffix in (".py", ".pyi")]
    others = [*(_ROOT / "conf").rglob("*.yaml"), *(_ROOT / "scripts").glob("*.py")]
    others += (_ROOT / "docs").glob("*.py")
    count = Counter(word for path in (*sources, *others) for word in _words(path))
    unused = {
        name: _name(path)
        for package in _PACKAGES
        for path in _modules(package)
        for name in _defined(path)
        if count[name] < 2
    }
    entries = {f"{e.entry_point}".rpartition(":")[2] for e in gymnasium.registry.values()}
    entries |= {f"{e.vector_entry_point}".rpartition(":")[2] for e in gymnasium.registry.values()}
    assert {name for name in unused if name not in {*_FOR_TESTS, *entries}} == set(), unused
