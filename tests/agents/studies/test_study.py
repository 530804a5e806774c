"""Studies: runs are grouped by what differs, compared on the same windows only, and drawn."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf
from rich.console import Console

from agents.evaluation.statistics import group_improvement, group_ratio
from agents.program import _named
from agents.studies.folders import check_comparable, find_folders, read_run
from agents.studies.groups import group_runs
from agents.studies.pictures import curve_of, grid_of
from agents.studies.report import make_study, report
from orchestrator.errors import ConfigurationError, ValidationError

WINDOWS = 40
CMA = {"_target_": "agents.linear.train.CMATrainer", "sigma": 0.1, "resume": False}
PPO = {"_target_": "agents.ppo.train.PPOTrainer", "hidden": 32, "resume": False}


def write_run(folder: Path, seed: int, level: float, **changes: Any) -> Path:
    """A run's folder whose policy costs ``level`` times what the rule costs, give or take."""
    rng = np.random.default_rng(7)
    rule = rng.lognormal(3.0, 1.0, WINDOWS)
    noise = np.random.default_rng(seed).normal(0.0, 0.02, WINDOWS)
    config = {"name": "train", "seed": seed, "output": str(folder), "agent": CMA, **changes}
    folder.mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(config), folder / "config.yaml")
    policies = {"mine": rule * (level + noise), "sjf": rule, "fcfs": rule * 3.0}
    summary = {
        "metric": "bounded_slowdown",
        "information": "estimate",
        "trace": {"name": "t", "jobs": 5000},
        "windows": {"length": 64, "starts": list(range(WINDOWS))},
        "policies": {
            name: {"bounded_slowdown": {"windows": values.tolist()}}
            for name, values in policies.items()
        },
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    result = {"score": level / 2, "seconds": 30.0, "updates": 9, "stopped": None}
    (folder / "result.json").write_text(json.dumps(result))
    lines = [f"{t},{t},{2 - t / 40 + level},2,0.5" for t in range(0, 31, 10)]
    head = "seconds,steps,validation,reference,score"
    (folder / "history.csv").write_text("\n".join([head, *lines]) + "\n")
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two trainers, one of them with two settings, three seeds of each."""
    for seed in range(3):
        write_run(tmp_path / f"cma/{seed}", seed, 0.8)
        write_run(tmp_path / f"wide/{seed}", seed, 0.9, agent={**CMA, "sigma": 0.2})
        write_run(tmp_path / f"ppo/{seed}", seed, 0.801, agent=PPO)
    return tmp_path


def read(*folders: Path | str) -> list[Any]:
    found = [read_run(folder) for folder in find_folders(map(str, folders))]
    assert None not in found
    return found


def test_groups_are_named_by_what_differs(runs: Path) -> None:
    groups = group_runs(read(runs))
    assert {group.name: [run.seed for run in group.runs] for group in groups} == {
        "CMATrainer, sigma=0.1": [0, 1, 2],
        "CMATrainer, sigma=0.2": [0, 1, 2],
        "PPOTrainer": [0, 1, 2],
    }
    assert [group.name for group in group_runs(read(runs / "cma"))] == ["train"]
    assert [group.name for group in group_runs(read(runs / "cma", runs / "wide"))] == [
        "sigma=0.1",
        "sigma=0.2",
    ]


def test_a_run_that_was_stopped_has_not_ended(tmp_path: Path) -> None:
    path = write_run(tmp_path / "0", 0, 0.8) / "result.json"
    assert read_run(path.parent) is not None
    path.write_text(json.dumps({**json.loads(path.read_text()), "stopped": 15}))
    assert read_run(path.parent) is None


def test_a_run_that_comes_twice_is_refused(runs: Path) -> None:
    write_run(runs / "again", 1, 0.8)
    with pytest.raises(ConfigurationError, match=r"cma/1.*same settings and the same seed, 1"):
        group_runs(read(runs))


def test_a_study_says_who_is_better(runs: Path) -> None:
    study = make_study(read(runs))
    assert study.best == "sjf"
    assert [group.name for group in study.groups][-1] == "CMATrainer, sigma=0.2"
    ratios = {group.name: study.group_ratio(group) for group in study.groups}
    assert ratios["PPOTrainer"].value == pytest.approx(0.8, abs=0.01)
    assert ratios["CMATrainer, sigma=0.2"].high < 0.93
    clear = {(pair.mine, pair.other): pair.improvement.low > 0.5 for pair in study.pairs}
    assert clear == {
        ("CMATrainer, sigma=0.1", "CMATrainer, sigma=0.2"): True,
        ("PPOTrainer", "CMATrainer, sigma=0.2"): True,
        min(clear, key=lambda pair: "0.2" in pair[1]): False,
    }


@pytest.mark.parametrize("what", ["windows", "rule", "trace"])
def test_other_windows_are_refused(runs: Path, what: str) -> None:
    path = runs / "ppo" / "2" / "summary.json"
    summary = json.loads(path.read_text())
    if what == "windows":
        summary["windows"]["starts"][3] = 999
    elif what == "trace":
        summary["trace"]["jobs"] = 4999
    else:  # the same jobs under other semantics: what rules cost gives it away
        summary["policies"]["sjf"]["bounded_slowdown"]["windows"][5] *= 1.001
    path.write_text(json.dumps(summary))
    said = {"windows": "another 'windows'", "trace": "another 'trace'", "rule": "rule 'sjf'"}
    with pytest.raises(ConfigurationError, match=f"ppo/2' was judged on .*{said[what]}"):
        check_comparable(read(runs))


def test_a_report_has_tables_and_pictures(runs: Path) -> None:
    (runs / "cma" / "2" / "result.json").unlink()
    cfg = OmegaConf.create({"runs": [f"{runs}/*"], "output": str(runs / "out"), "overwrite": False})
    console = Console(record=True, width=150)
    report(cfg, console)
    said = console.export_text()
    assert "8 runs in 3 groups, judged on 40 windows by bounded slowdown; best rule: sjf" in said
    assert "cma/2 is left out: it has not ended, or was not judged" in said.replace("\n", " ")
    folder = runs / "out"
    assert {path.name for path in folder.iterdir()} == {
        *("table.md", "runs.csv", "groups.csv", "pairs.csv", "curves.png", "improvement.png")
    }
    with (folder / "runs.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 8
    assert all(float(row["low"]) <= float(row["ratio"]) <= float(row["high"]) for row in rows)
    assert "| CMATrainer, sigma=0.2 |" in (folder / "table.md").read_text()
    cfg.runs = [str(runs / "nowhere")]
    with pytest.raises(ConfigurationError, match="finds no folder of a run"):
        report(cfg, console)


def test_a_curve_holds_the_last_validation(runs: Path) -> None:
    run = read(runs / "cma" / "0")[0]
    grid = grid_of([run])
    assert (grid[0], grid[-1]) == (0.0, 30.0)
    np.testing.assert_allclose(
        curve_of(run, np.array([0.0, 9.9, 10.0, 30.0])), [1.4, 1.4, 1.275, 1.025]
    )


def test_intervals_of_groups_by_hand() -> None:
    # One run each, two windows: resamples have both, or one of them twice.
    found = group_ratio(np.array([[1.0, 3.0]]), np.array([[2.0, 2.0]]))
    assert (found.value, found.low, found.high) == (1.0, 0.5, 1.5)
    mine, other = np.array([[1.0, 1.0], [3.0, 1.0]]), np.array([[2.0, 1.0]])
    better = group_improvement(mine, other)
    assert better.value == ((1 + 0) / 2 + (0.5 + 0.5) / 2) / 2
    assert better.low < 0.5 < better.high
    with pytest.raises(ValidationError, match="give one row for each run"):
        group_ratio(np.ones(3), np.ones((1, 3)))


def test_arguments_that_set_nothing_are_runs() -> None:
    given = ["a/b", "--config-dir", "my conf", "output=x", "it's, [odd]"]
    assert _named(given, "runs") == [
        *("--config-dir", "my conf", "output=x", r"runs=['a/b','it\'s, [odd]']")
    ]
    assert _named(["--help"], "runs") == ["--help"]
