"""Where the three packages come from, what importing them costs, and how long their files are."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[1]
_PACKAGES = ("agents", "envs", "orchestrator")
_MOST_LINES = 700
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
        "import orchestrator.orchestrator, orchestrator.engine, orchestrator.kernels.session",
        "import orchestrator.scheduler.policy, orchestrator.scheduler.rules",
        "import orchestrator.autoscaler, orchestrator.autoscaler.forecasting",
    ],
)
def test_the_orchestrator_loads_no_learning_library(statement: str) -> None:
    assert _loaded_by(statement) == set()


def test_environments_load_neither_torch_nor_pandas() -> None:
    assert _loaded_by("import envs") == {"gymnasium"}


@pytest.mark.parametrize("name", _PACKAGES)
def test_no_file_is_too_long_to_read(name: str) -> None:
    lengths = {
        str(path.relative_to(_ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in sorted((_ROOT / name).rglob("*.py"))
    }
    assert len(lengths) > 5
    assert {path: n for path, n in lengths.items() if n > _MOST_LINES} == {}
