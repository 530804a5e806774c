"""What a job's process loads, and what it does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]
_CLUSTER = ("numba", "llvmlite", "scipy", "orchestrator.kernels", "orchestrator.types")


def _loaded(statement: str, names: tuple[str, ...]) -> list[str]:
    code = f"import sys\n{statement}\nprint(*[m for m in {names!r} if m in sys.modules])"
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=_ROOT
    ).stdout.split()


def test_a_training_script_loads_nothing_of_the_cluster() -> None:
    statement = (
        "from orchestrator.worker import Checkpoints, Elastic\nassert 'torch' in sys.modules"
    )
    assert _loaded(statement, _CLUSTER) == []


@pytest.mark.parametrize(
    "names",
    ["Control, World", "BatchInference, check_output", "LocalController", "Found, Manifest"],
)
def test_what_needs_no_torch_does_not_load_it(names: str) -> None:
    assert _loaded(f"from orchestrator.worker import {names}", (*_CLUSTER, "torch")) == []


def test_the_orchestrator_s_own_checkpoints_need_no_torch() -> None:
    assert _loaded("from orchestrator import FolderCheckpoints", ("torch",)) == []
