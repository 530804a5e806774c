"""The scripts, run as people run them."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.forked import SCRIPTS, Done, play


def script(name: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "TRACES_DIR"}
    return subprocess.run(
        [sys.executable, str(SCRIPTS / f"{name}.py"), *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_train_then_evaluate(tmp_path: Path) -> None:
    """A little of everything that `make demo` does."""
    trained = script(
        "train",
        tmp_path,
        "experiment=demo",
        "workload.otherwise.jobs=4000",
        "agent.generations=2",
        "agent.windows=2",
        "agent.population=4",
        "agent.validation_windows=2",
        "task.evaluation_jobs=128",
        "evaluation.windows=4",
        "evaluation.keep_jobs=2",
        "+live.lease_s=2.5",  # after which whoever was lost is missed
    )
    assert trained.returncode == 0, trained.stderr
    output = tmp_path / "results" / "demo"
    files = {
        *("jobs.csv", "runs.csv", "table.csv", "comparisons.csv", "summary.json"),
        *("learning_curve.png", "comparison.png", "gantt.png"),
    }
    assert files <= {path.name for path in output.iterdir()}
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
    summary = json.loads((output / "summary.json").read_text())
    assert set(summary["policies"]) > {"fcfs", "sjf", "f1"}
    card = json.loads((output / "bundle" / "card.json").read_text())
    assert card["command"].startswith("python scripts/train.py experiment=demo")

    judged = script(
        "evaluate",
        tmp_path,
        "workload.otherwise.jobs=4000",
        "suite.name=again",
        "suite.length=128",
        "suite.windows=4",
        "suite.rules=[fcfs,sjf]",
        "suite.baselines=[sjf]",
        f"bundle={output / 'bundle'}",
        "card=true",
        "output=again",
    )
    assert judged.returncode == 0, judged.stderr
    with (tmp_path / "again" / "jobs.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 3 * 4 * 128
    again = json.loads((output / "bundle" / "card.json").read_text())
    assert len(again["tables"]) == len(card["tables"]) + 2


@pytest.mark.slow
def test_benchmark_plays_suites_with_everything_on(tmp_path: Path) -> None:
    done = script(
        "benchmark",
        tmp_path,
        "suite=full",
        "workload.jobs=3000",
        "suite.length=100",
        "suite.windows=3",
        "suite.rules=[fcfs+predictive,elastic_srtf+predictive,elastic_srtf]",
        "services.demand.days=16",
        "failures.rate_scale=100",
    )
    assert done.returncode == 0, done.stderr
    output = tmp_path / "results" / "runs" / "benchmark" / "full"
    assert {path.name for path in output.iterdir()} == {
        *("jobs.csv", "runs.csv", "table.csv", "table.md", "comparisons.csv", "summary.json"),
        *("comparison.png", "outcomes.png", "series.png"),
    }
    summary = json.loads((output / "summary.json").read_text())
    assert summary["scenario"]["failures"]["rate_scale"] == 100
    assert len(summary["scenario"]["tenants"]) == 11
    interruptions = [found["interruptions"] for found in summary["policies"].values()]
    assert sum(sum(found["windows"]) for found in interruptions) > 0
    assert "fairness" in (output / "table.md").read_text()


_FEW = ["workload.jobs=3000", "task.evaluation_jobs=64", "evaluation.windows=2"]


_WRONG: tuple[tuple[str, list[str], str], ...] = (
    (
        "evaluate",
        ["suite=rlscheduler", "workload.path=no/such.swf", "output=out"],
        "error: no/such.swf: no such file; check the path of the trace\n",
    ),
    ("evaluate", ["bundle=nowhere", "output=out"], "error: policy bundle nowhere"),
    ("train", ["env.window=0", "output=out"], "error: environment: 'window' is 0"),
    ("train", ["task.test=0.3", "output=out"], "error: WindowSplit: train + validation"),
    ("train", ["evaluation.metric=luck", "output=out"], "error: suite: unknown metric 'luck'"),
    ("benchmark", ["suite.measures=[warp]", "output=out"], "error: suite: unknown measurement"),
    (
        "benchmark",
        ["suite.kind=ordeal"],
        "error: suite: 'kind' is 'ordeal'; choose from evalua",
    ),
    (
        "benchmark",
        ["suite=demo", "+suite.columns=[luck]"],
        "error: suite: unknown metric 'luck'",
    ),
    (
        "evaluate",
        ["env=cluster", "scenario.quota_mode=hard"],
        "error: scenario: 'quota_mode' is set, but 'tenants' names nobody",
    ),
    ("train", ["failures=weibull", "failures.shape=0"], "error: failures: 'shape' is 0"),
    ("train", ["failures=weibull"], "error: rankers are replayed on jobs and nodes alone"),
    (
        "train",
        ["agent.budget_seconds=null", "agent.generations=null"],
        "error: agent: 'budget_",
    ),
    ("leaderboard", ["suites=ordering"], "error: leaderboard: nobody plays; give policy="),
    ("leaderboard", ["policy=no:One", "board=out"], "error: policy 'no:One': there is no such"),
    ("report", ["no/runs", "output=out"], "error: report: 'no/runs' finds no folder of a run"),
    ("report", [], "error: report: no runs are named; give folders"),
    ("train", ["seed=abc"], "error: config: 'seed' is 'abc'; give a whole number"),
    ("train", ["seed=true"], "error: config: 'seed' is True; give a whole number"),
    ("train", ["evaluation.seed=1.5"], "error: config: 'evaluation.seed' is 1.5; give"),
    ("train", ["workload.seed=-2"], "error: config: 'workload.seed' is -2; give"),
    ("train", ["scenario.failure_seed=x"], "error: config: 'scenario.failure_seed' is 'x'"),
    ("benchmark", ["suite=openb", "suite.seeds=[42,-1]"], "error: config: 'suite.seeds' is -1"),
    ("forecast", ["demand=[{kind: oracle}]"], "error: demand: 'kind' is 'oracle'; choose from"),
    ("forecast", ["forecaster=naive", "+forecaster.oracle={}"], "error: unknown forecaster"),
    ("train", ["seed=-1"], "error: config: 'seed' is -1; give a whole number"),
    ("train", ["evaluation.windows=0"], "error: evaluation: 'windows' is 0; give"),
    ("train", ["task.exclude=[1]"], "error: task: 'exclude' is [1]; give a list of"),
    ("train", ["agent=ppo", "agent.batch=1"], "error: agent: 'batch' is 1; at least 2"),
    ("train", ["workload=null"], "error: config: 'workload' is null; choose from gpu_cluster"),
    ("train", ["env=7"], "error: config: 'env' is 7; choose from autoscaling, cluster"),
    ("train", ["agent=~"], "error: config: 'agent' is ~; choose from cma, "),
    ("evaluate", ["suite="], "error: config: 'suite' is empty; choose from autoscaling, demo"),
    ("benchmark", ["suite=null"], "error: config: 'suite' is null; choose from autoscaling"),
    ("train", ["+experiment=null"], "error: config: 'experiment' is null; choose from auto"),
    ("train", ["task=null"], "error: config: 'task' is None; give it its fields"),
    ("train", ["evaluation=5"], "error: config: 'evaluation' is 5; give it its fields"),
    ("evaluate", ["bundle=5"], "error: config: 'bundle' is 5; give a text"),
    (
        "train",
        ["env=cluster", "workload=gpu_cluster", "agent=cma_autoscaling", *_FEW],
        "error: agent: of its 26 'features' this environment has 1 (the agent is made for env",
    ),
)
_HELPED = ("train", "evaluate", "benchmark")


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> list[Done]:
    """All of what is wrong, and then who asks for help."""
    runs = [(name, arguments) for name, arguments, _ in _WRONG]
    runs += [(name, ["--help"]) for name in _HELPED]
    return play(tmp_path_factory.mktemp("played"), runs)


@pytest.mark.parametrize("number", range(len(_WRONG)))
def test_wrong_input_is_one_line_and_writes_nothing(played: list[Done], number: int) -> None:
    done, (_, arguments, message) = played[number], _WRONG[number]
    assert done.returncode == 2, arguments
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
    assert list(done.folder.iterdir()) == []


def test_malformed_trace_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "bad.swf").write_text("; MaxProcs: 4\n1 0 0 x 1\n")
    done = script("evaluate", tmp_path, "suite=rlscheduler", "workload.path=bad.swf", "output=out")
    assert done.returncode == 2
    assert done.stderr.startswith("error: bad.swf, line 2: ")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.swf"]


@pytest.mark.parametrize("number", range(len(_HELPED)))
def test_help_lists_the_choices(played: list[Done], number: int) -> None:
    done = played[len(_WRONG) + number]
    assert done.returncode == 0
    assert "rlscheduler" in done.stdout
    assert list(done.folder.iterdir()) == []


def test_scripts_are_short() -> None:
    for path in SCRIPTS.glob("*.py"):
        assert len(path.read_text().splitlines()) <= 50, path.name


_SMALL = (
    "workload.jobs=3000", "agent.generations=2", "agent.windows=2", "agent.population=4",
    "agent.validation_windows=2", "task.evaluation_jobs=64", "evaluation.windows=2",
    "agent.threads=1",
)  # fmt: skip


@pytest.mark.slow
def test_jobs_of_a_sweep_have_folders_of_their_own_and_are_scored(tmp_path: Path) -> None:
    done = script("train", tmp_path, "-m", *_SMALL, "agent.sigma=0.1,0.2", "agent.resume=false")
    assert done.returncode == 0, done.stderr
    runs = tmp_path / "results" / "runs" / "train"
    assert {path.name for path in runs.iterdir()} == {"0", "0-2"}
    assert {"config.yaml", "run.json", "history.csv", "result.json", "bundle"} <= {
        path.name for path in (runs / "0-2").iterdir()
    }
    said = json.loads((runs / "0-2" / "run.json").read_text())
    assert "agent.sigma=0.2" in said["command"]
    assert said["choices"]["agent"] == "cma"
    reported = script("report", tmp_path, "results/runs/*", "output=compared")
    assert reported.returncode == 0, reported.stderr
    table = (tmp_path / "compared" / "table.md").read_text()
    assert "2 runs in 2 groups, judged on 2 windows by bounded slowdown" in table
    assert "| sigma=0.1 | 1 |" in table
    again = script("train", tmp_path, *_SMALL, f"output={runs / '0'}")
    assert again.returncode == 2
    assert "holds the results of an earlier run" in again.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_keeps_the_best_so_far(tmp_path: Path, number: signal.Signals) -> None:
    small = [item for item in _SMALL if "generations" not in item]
    command = [sys.executable, str(SCRIPTS / "train.py"), *small, "output=out"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        while not (tmp_path / "out" / "checkpoint.pkl").exists() and process.poll() is None:
            time.sleep(0.1)
        process.send_signal(number)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert (tmp_path / "out" / "bundle" / "manifest.json").is_file()
    assert "agent.resume=true output=out" in said


@pytest.mark.slow
def test_an_error_in_one_job_does_not_end_a_sweep(tmp_path: Path) -> None:
    """Errors that are refused, and those that only a job finds, in any place of the sweep."""
    jobs = "task.evaluation_jobs=999999,64", "seed=-3,2"
    small = [item for item in _SMALL if "evaluation_jobs" not in item]
    done = script("train", tmp_path, "-m", *small, *jobs, "evaluation=null")
    assert done.returncode == 2
    for job, said in ((0, "'seed' is -3"), (1, "999999"), (2, "'seed' is -3")):
        assert f"job {job}: error: " in done.stderr
        assert said in done.stderr.split(f"job {job}: error: ")[1].splitlines()[0]
    assert "jobs of the sweep that failed: 0, 1, 2" in done.stderr
    assert "Traceback" not in done.stderr
    found = (tmp_path / "results").rglob("manifest.json")
    assert [path.parents[1].name for path in found] == ["2"]  # by their seed
