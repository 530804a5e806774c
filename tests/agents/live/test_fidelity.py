"""A live run, read from its log, and simulated again with costs that were fitted to it."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from agents.live import FidelityRun, LiveRun, draw_jobs, run_fidelity, run_live
from agents.live.fidelity import compare
from agents.live.fit import (
    FittedCosts,
    Measured,
    can_save,
    fit_costs,
    program_of,
    read_costs,
    work_done_ms,
    write_costs,
)
from agents.live.record import JobRecord, LiveRecord, read_log, recorded
from agents.live.replay import replay
from orchestrator.clock import VirtualClock
from orchestrator.errors import ConfigurationError
from orchestrator.foundations.consensus import InMemoryConsensus
from orchestrator.foundations.sqlite import SQLiteLog
from orchestrator.messages import (
    Cancel,
    Command,
    Decommission,
    Establish,
    Event,
    NodeFailed,
    NodeRecovered,
    Preempt,
    Scale,
    Undrain,
    WorkersLost,
)
from orchestrator.orchestrator import DEFAULT_SHAPE
from orchestrator.scheduling.rules import rule_named
from orchestrator.semantics import Semantics
from orchestrator.types import JobSpec, NodeSpec

_ROOT = Path(__file__).resolve().parents[3]
_BEGIN_MS = 1_000_000
_NODES = tuple(NodeSpec(f"n{k}", 4, 16.0, 8, 64.0, 10.0, "NVLink") for k in range(3))
_PROGRAMS = {"plain": "import sys, time; time.sleep(float(sys.argv[1]))", "train": "pass"}
_KNOWN = {
    "decide_ms": 21,
    "start_ms": 80,
    "start_per_worker_ms": 12,
    "save_ms": 9,
    "stop_ms": 17,
    "lost_ms": 250,
    "regroup_ms": 40,
}
_COSTS = FittedCosts({name: Measured(float(ms), ms, ms, 1) for name, ms in _KNOWN.items()})


def _specs(seed: int, count: int = 40) -> list[tuple[float, JobSpec]]:
    shares = {"plain": 0.5, "train": 0.5}
    jobs = draw_jobs(seed=seed, count=count, rate_per_s=1.0, programs=shares, saving=["train"])
    more = {"name": "elastic", "program": "train", "seconds": 12, "duration_hours": 12 / 3600}
    more |= {"num_workers": 2, "elastic": True, "max_workers": 4, "preemptible": False}
    more |= {"priority": "CRITICAL", "max_duration_hours": 0.01}
    nodes = [
        {name: getattr(node, name) for name in ("node_id", "gpus", "gpu_memory_gb", "cpu_cores")}
        | {"memory_gb": 64.0, "network_bandwidth_gbps": 10.0, "gpu_topology": "NVLink"}
        for node in _NODES
    ]
    run = LiveRun(nodes=nodes, programs=_PROGRAMS, jobs=jobs, also=[more])
    return [(at_s, replace(spec, checkpoint_seconds=0.001)) for at_s, spec, _ in run.specs()]


def _lived(seed: int, *happenings: tuple[int, Command | Event], **options: Any) -> LiveRecord:
    """What the log of a simulated cluster with known costs tells."""
    settings = Establish(DEFAULT_SHAPE, _NODES, Semantics(), (), seed)
    wanted = LiveRecord(settings, _BEGIN_MS)
    for at_s, spec in _specs(seed):
        # An end that has to be there, for it to be simulated at all.
        job = JobRecord(spec, _BEGIN_MS + round(1000 * at_s), end_ms=_BEGIN_MS + 100_000)
        wanted.jobs[spec.job_id] = job
    wanted.happenings += [(_BEGIN_MS + at_ms, body) for at_ms, body in happenings]
    return replay(wanted, _COSTS, **options)


_MISFORTUNES: tuple[tuple[int, Command | Event], ...] = (
    (4000, Scale("elastic", 3)),
    (9000, Scale("elastic", 2)),
    (12_000, NodeFailed("n1")),
    (15_000, Preempt("train-12", "somebody says so")),
    (20_000, NodeRecovered("n1")),
    (22_000, WorkersLost("plain-20", 1, "killed")),
    (31_000, Cancel("train-30", "not wanted")),
    (32_000, Decommission("n1")),
    (32_100, Undrain("n1")),
)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_known_costs_are_found_again_and_the_run_is_foretold_to_the_millisecond(seed: int) -> None:
    live = _lived(seed, *_MISFORTUNES)
    fitted = fit_costs(live)
    for name in ("decide_ms", "start_ms", "start_per_worker_ms"):
        assert fitted.measured[name].median == _KNOWN[name], name
        assert fitted.measured[name].count > 10
    seen = {name: one for name, one in fitted.measured.items() if one.count}
    assert {"save_ms", "regroup_ms"} <= set(seen)
    assert seen["save_ms"].median == _KNOWN["save_ms"]
    assert seen["regroup_ms"].median == pytest.approx(_KNOWN["regroup_ms"], abs=1.5)
    again = compare(live, replay(live, _with(fitted, "stop_ms", "lost_ms", "regroup_ms")))
    ended = [job for job in live.jobs.values() if job.end_ms is not None]
    assert len(ended) >= 40  # one is cancelled, perhaps before it starts
    assert [job.error for job in again.jobs] == [0.0] * len(ended)
    assert again.same_starts


def _with(fitted: FittedCosts, *names: str) -> FittedCosts:
    """Costs that a run need not show, or that are found to a millisecond or two, as they are."""
    return replace(fitted, measured={**fitted.measured, **{n: _COSTS.measured[n] for n in names}})


def test_what_jobs_have_done_is_found_where_they_do_not_say_it() -> None:
    live = _lived(2, *_MISFORTUNES)
    for job in live.jobs.values():
        told = round(job.spec.duration_hours * 3_600_000)
        assert work_done_ms(job, _COSTS) == pytest.approx(told, abs=3), job.spec.job_id
    silent = replace(live, jobs={n: _silent(job) for n, job in live.jobs.items()})
    errors = [job.error for job in compare(silent, replay(silent, _COSTS)).jobs]
    assert max(abs(error) for error in errors) < 0.002
    with pytest.raises(ConfigurationError, match="give jobs 'duration_hours'"):
        fit_costs(silent)


def _silent(job: JobRecord) -> JobRecord:
    return replace(job, spec=replace(job.spec, duration_hours=None))


def test_programs_have_costs_of_their_own() -> None:
    live = _lived(1)
    fitted = fit_costs(live)
    kinds = {program_of(job.spec) for job in live.jobs.values()}
    assert set(fitted.programs) == kinds
    assert len(kinds) == 2
    one = next(job.spec for job in live.jobs.values() if "plain" in job.spec.name)
    dear = Measured(500.0, 500.0, 500.0, 9)
    priced = replace(fitted, programs={program_of(one): dear})
    assert priced.costs_of(one).until_work_ms(2) == 500 + 12
    first = min(live.jobs.values(), key=lambda job: job.submit_ms)
    costs = priced.costs_of(first.spec)
    run = replay(live, priced).jobs[first.spec.job_id].runs[0]
    work_ms = round(first.spec.duration_hours * 3_600_000)
    assert run.end_ms - run.begin_ms == work_ms + costs.until_work_ms(run.stretches[0].workers)


def test_who_ends_when_asked_to_save_is_known_by_that() -> None:
    live = _lived(1)
    saved = [job for job in live.jobs.values() if any(run.end == "saved" for run in job.runs)]
    assert saved
    assert all(can_save(job, _COSTS) for job in live.jobs.values())
    run = saved[0].runs[0]
    late = replace(run, end="unsaved", asked_ms=run.begin_ms + 5000)
    soon = replace(run, end="unsaved", asked_ms=run.begin_ms + 5)
    assert not can_save(replace(saved[0], runs=[late]), _COSTS)
    assert can_save(replace(saved[0], runs=[soon]), _COSTS)


def test_a_rule_decides_that_the_log_or_who_asks_names() -> None:
    live = _lived(3)
    other = replay(live, _COSTS, rule_named("fcfs"))
    assert other.starts() != live.starts()
    named = replay(replace(live, rule=rule_named("fcfs")), _COSTS)
    assert named.starts() == other.starts()
    found = compare(live, other)
    assert not found.same_starts
    assert found.swapped > 0
    assert found.summary()["p95"] > 0.05


def test_specifications_that_are_charged_tell_nearly_the_same() -> None:
    live = _lived(1, *_MISFORTUNES)
    crude = compare(live, replay(live, _COSTS, in_specifications=True)).summary()
    unpriced = compare(live, replay(live, FittedCosts({}))).summary()
    # One start (0.1 s) too many where all work was lost, on jobs of 2 to 8 s.
    assert crude["p95"] < 0.02
    assert unpriced["mean"] > 10 * crude["mean"]


def test_a_job_that_does_not_end_is_said() -> None:
    live = _lived(1)
    lacks = replace(live, jobs={n: job for n, job in live.jobs.items() if n != "elastic"})
    with pytest.raises(ConfigurationError, match="elastic did not end"):
        compare(live, lacks)
    with pytest.raises(ConfigurationError, match="no job of the live run has ended"):
        replay(replace(live, jobs={}), _COSTS)


def test_costs_are_written_and_read(tmp_path: Path) -> None:
    fitted = fit_costs(_lived(1, *_MISFORTUNES))
    write_costs(tmp_path / "costs.yaml", fitted)
    assert read_costs(tmp_path / "costs.yaml") == fitted
    for text in ("start_ms: 5\n", "- 1\n", "x: {median: 1}\n", "a: [", ""):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(ConfigurationError, match="costs: "):
            read_costs(tmp_path / "bad.yaml")


async def test_what_is_no_whole_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no file"):
        read_log(tmp_path / "log.sqlite")
    with pytest.raises(ConfigurationError, match="the log holds no cluster"):
        recorded(InMemoryConsensus())
    with SQLiteLog(tmp_path / "cut.sqlite", cut_every=5) as log:
        await _fill(log)
    with pytest.raises(ConfigurationError, match="the log was cut at entry"):
        read_log(tmp_path / "cut.sqlite")


async def _fill(log: SQLiteLog) -> None:
    from orchestrator.foundations import in_memory
    from orchestrator.orchestrator import InfrastructureOrchestrator

    clock = VirtualClock()
    parts = in_memory(clock)._replace(consensus_engine=log)
    them = InfrastructureOrchestrator(*parts, clock=clock, nodes=_NODES)
    for _, spec in _specs(1, 12):
        await them.submit_job(spec)
    await them.stop()  # when the log is cut that was to be


_NODE = {"gpus": 2, "gpu_memory_gb": 16, "cpu_cores": 8, "memory_gb": 64}
_NODE |= {"network_bandwidth_gbps": 10, "gpu_topology": "NVLink"}


def test_a_real_run_goes_through_the_whole_command(tmp_path: Path) -> None:
    jobs = [
        {"name": f"j{k}", "program": "plain", "seconds": 0.4, "duration_hours": 0.4 / 3600}
        | {"at_s": 0.1 * k, "num_workers": 1 + k % 2}
        for k in range(8)
    ]
    nodes = [{"node_id": name, **_NODE} for name in ("n0", "n1")]
    run = LiveRun(nodes=nodes, programs=_PROGRAMS, jobs=jobs)
    assert run_live(run, tmp_path / "live", Console(file=io.StringIO()), rule="fcfs")
    log, output = tmp_path / "live" / "log.sqlite", tmp_path / "found"
    ended = subprocess.run(
        [sys.executable, str(_ROOT / "scripts" / "fidelity.py"), f"log={log}", f"output={output}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "completion times of 8 jobs are off by" in ended.stdout
    files = {"fidelity.csv", "summary.json", "costs.yaml", "fidelity.png"}
    assert files <= {path.name for path in output.iterdir()}
    live = read_log(log)
    assert live.rule == rule_named("fcfs")
    with (output / "fidelity.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["job"] for row in rows] == list(live.jobs)
    for row in rows:
        job = live.jobs[row["job"]]
        assert float(row["live_s"]) == pytest.approx((job.end_ms - job.submit_ms) / 1000)
        assert float(row["simulated_s"]) >= 0.4
    asked = FidelityRun(log, costs=output / "costs.yaml")
    again = run_fidelity(asked, tmp_path / "again", Console(file=io.StringIO()))
    assert [job.error for job in again.jobs] == pytest.approx([float(r["error"]) for r in rows])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "sjf", "bundle": "there"}, "'rule' and 'bundle'"),
        ({"fit": [Path("a")], "costs": Path("b")}, "'fit' and 'costs'"),
    ],
)
def test_two_answers_to_one_question_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        FidelityRun(Path("log"), **options)
