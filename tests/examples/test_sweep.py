"""The sweep of examples: Optuna minimises what training returns."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tests.examples.load import ROOT


def _no_sweeper() -> bool:
    try:
        return find_spec("hydra_plugins.hydra_optuna_sweeper") is None
    except ModuleNotFoundError:
        return True


@pytest.mark.slow
@pytest.mark.skipif(_no_sweeper(), reason="no hydra-optuna-sweeper: pip install '.[sweep]'")
def test_optuna_searches_settings(tmp_path: Path) -> None:
    small = ["workload.jobs=3000", "task.evaluation_jobs=64", "agent.generations=1"]
    small += ["agent.windows=2", "agent.validation_windows=2", "agent.threads=1"]
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "scripts" / "train.py"), "-m"),
            *("--config-dir", str(ROOT / "examples" / "sweep"), "+sweep=optuna"),
            *("hydra.sweeper.n_trials=2", *small),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), *sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    runs = tmp_path / "results" / "runs"
    assert {path.name for path in (runs / "train").iterdir()} == {"0", "0-2"}
    best = OmegaConf.load(runs / "sweep-train" / "optimization_results.yaml")
    scores = [OmegaConf.load(path).score for path in (runs / "train").glob("*/result.json")]
    assert best.best_value == min(scores)
    assert set(best.best_params) == {"agent.sigma", "agent.population"}
