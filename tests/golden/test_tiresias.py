"""Rules and queues against Tiresias' own simulator (Gu et al., NSDI 2019).

The simulator's least attained service is ``TiresiasSimulator``: 480 jobs of Philly on 128 GPUs, all
starts, ends and preemptions to the second. The rule ``tiresias``, which serves a queue's waiting
jobs by submission, is 5 % slower there.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from envs.workloads import read_tiresias
from envs.workloads.table import blank_requests
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.state.codes import Information, JobCode, NodeCode, Preemption, RuleKey
from orchestrator.kernels.state.records import NODE_DTYPE
from orchestrator.kernels.state.row import ClusterShape, ClusterState, allocate
from orchestrator.scheduling.rollout import rollout
from orchestrator.scheduling.rules import Rule, rule_named
from orchestrator.scheduling.zoo.tiresias import TiresiasSimulator
from tests.naive.tiresias import Job, simulate

pytestmark = pytest.mark.golden
_GPUS = 16  # 4 nodes of 4; the reference places by count, without node boundaries
_RULES = {
    "fifo": rule_named("fifo"),
    "srtf": rule_named("srtf"),
    "srsf": Rule("srsf", RuleKey.SRSF, preemption=Preemption.SCORE),
}


def _reference(path: Path) -> dict[str, np.ndarray]:
    with path.open(newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: int(row["job_id"]))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


def _replay(requests: np.ndarray, rule: Rule) -> np.ndarray:
    """The job table at the end, [jobs] JOB_DTYPE."""
    jobs = len(requests)
    state = allocate(ClusterShape(envs=1, jobs=jobs, devices=_GPUS))
    state.rows["information"] = Information.ORACLE  # the reference knows the durations
    state.rows["preemption_limit"] = jobs
    nodes = np.zeros(1, NODE_DTYPE)
    nodes["gpus"], nodes["state"] = _GPUS, NodeCode.UP
    entry.begin_episode(state.rows, 0, 0, nodes, requests)
    scratch = np.zeros(jobs, np.int32)
    entry.replay(state.rows, 0, rule.to_record(), np.zeros(1, np.int32), scratch)
    assert (state.job[0]["state"] == JobCode.COMPLETED).all()
    return state.job[0].copy()


@pytest.mark.traces
@pytest.mark.parametrize("name", list(_RULES))
def test_rule_reproduces_the_reference_simulator(
    name: str, traces_dir: Path, golden_dir: Path
) -> None:
    trace = read_tiresias(traces_dir / "tiresias_fixture" / "60_job.csv.gz", gpus=_GPUS)
    requests = trace.requests[np.argsort(trace.requests["source_id"])]
    assert (np.diff(requests["submit_ms"]) >= 0).all()
    expected = _reference(golden_dir / "tiresias_60job" / f"{name}.csv")
    jobs = _replay(requests, _RULES[name])
    np.testing.assert_array_equal(requests["submit_ms"] / 1000, expected["submit_s"])
    np.testing.assert_array_equal(jobs["first_start_ms"] / 1000, expected["start_s"])
    np.testing.assert_array_equal(jobs["end_ms"] / 1000, expected["end_s"])
    np.testing.assert_array_equal(jobs["preemptions"], expected["preemptions"])


def _philly(folder: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Jobs as gangs of single GPUs, and what became of them in the simulator."""
    jobs = _reference(folder / "jobs.csv")
    requests = blank_requests(len(jobs["job_id"]))
    requests["submit_ms"] = 1000 * jobs["submit_time"]
    requests["duration_ms"] = requests["requested_ms"] = 1000 * jobs["duration"]
    for name in ("workers", "min_workers", "max_workers"):
        requests[name] = jobs["num_gpu"]
    requests["gpus_per_worker"] = requests["preemptible"] = 1
    return requests, _reference(folder / "dlas-gpu-count.csv")


def _pool(requests: np.ndarray) -> ClusterState:
    """A row with these jobs on 16 nodes of 8 GPUs, on which gangs may lie anywhere."""
    workers = int(requests["workers"].max())
    state = allocate(ClusterShape(envs=1, jobs=len(requests), nodes=16, devices=8, workers=workers))
    state.rows["information"] = Information.ORACLE
    state.rows["preemption_limit"] = len(requests)
    nodes = np.zeros(16, NODE_DTYPE)
    nodes["gpus"], nodes["state"] = 8, NodeCode.UP
    entry.begin_episode(state.rows, 0, 0, nodes, requests)
    return state


def test_queues_reproduce_the_simulator_to_the_second(golden_dir: Path) -> None:
    requests, expected = _philly(golden_dir / "philly480")
    state = _pool(requests)
    assert rollout(state, TiresiasSimulator()).refused == 0
    jobs = state.job[0]
    np.testing.assert_array_equal(jobs["first_start_ms"] / 1000, expected["start_s"])
    np.testing.assert_array_equal(jobs["end_ms"] / 1000, expected["end_s"])
    np.testing.assert_array_equal(jobs["preemptions"], expected["preemptions"])
    mean = float((jobs["end_ms"] - requests["submit_ms"]).mean() / 1000)
    assert mean == pytest.approx(21_556.0, abs=0.5)


def test_the_order_of_a_queue_is_what_sets_the_rule_apart(golden_dir: Path) -> None:
    """With the simulator's thresholds, too, the rule is some 5 % slower: waiting jobs go by age."""
    requests, expected = _philly(golden_dir / "philly480")
    state = _pool(requests)
    state.rows["las_first_s"], state.rows["las_second_s"] = 3250, 7200
    workers, jobs = state.shape.workers, len(requests)
    rule = rule_named("tiresias").to_record()
    entry.replay(state.rows, 0, rule, np.zeros(workers, np.int32), np.zeros(jobs, np.int32))
    mean = float((state.job[0]["end_ms"] - requests["submit_ms"]).mean())
    ratio = mean / float(1000 * (expected["end_s"] - expected["submit_s"]).mean())
    assert 1.03 < ratio < 1.07


def test_the_naive_simulator_is_the_simulator(golden_dir: Path) -> None:
    requests, expected = _philly(golden_dir / "philly480")
    rows = zip(
        requests["workers"].tolist(),
        (requests["submit_ms"] // 1000).tolist(),
        (requests["duration_ms"] // 1000).tolist(),
        strict=True,
    )
    jobs = [Job(*row) for row in rows]
    simulate(jobs, 128, (3250, 7200))
    assert [job.end for job in jobs] == expected["end_s"].tolist()
    assert [job.preemptions for job in jobs] == expected["preemptions"].tolist()
