"""Where the three packages come from, what importing them costs, and how big their parts are."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[1]
_PACKAGES = ("agents", "envs", "orchestrator")
_LEAST_LINES, _MOST_LINES = 80, 700
_SMALL = {
    "agents/plots/style.py": "how pictures look",
    "orchestrator/foundations/checkpoints.py": "a port in memory",
    "orchestrator/foundations/consensus.py": "a port in memory",
    "orchestrator/foundations/shards.py": "rendezvous hashing",
    "orchestrator/kernels/change/log.py": "one record appended",
    "orchestrator/kernels/requests/limiter.py": "a token bucket",
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


def _loaded_by(statement: str) -> set[str]:
    """Which heavy libraries a fresh interpreter has loaded after a statement."""
    code = f"import sys\n{statement}\nprint(*[m for m in {_HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=_ROOT
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import orchestrator",
        "from orchestrator import *",
        "import orchestrator.orchestrator, orchestrator.engine.engine",
        "import orchestrator.kernels.run.session, orchestrator.scheduling.rules",
        "import orchestrator.autoscaler, orchestrator.autoscaler.forecast",
    ],
)
def test_the_orchestrator_loads_no_learning_library(statement: str) -> None:
    assert _loaded_by(statement) == set()


def test_environments_load_neither_torch_nor_pandas() -> None:
    assert _loaded_by("import envs") == {"gymnasium"}
    assert _loaded_by("from envs import CLUSTER, Session, load_workload") == {"gymnasium"}


def test_learning_loads_what_is_asked_for() -> None:
    assert _loaded_by("import agents") == set()
    judging = "from agents import EvaluationResult, Suite, evaluate_rule, load_bundle, run_suite"
    assert _loaded_by(judging) == {"gymnasium"}


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
        for name, node in _functions(ast.parse(path.read_text(encoding="utf-8"))):
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
