"""Rules on Tiresias' 60-job trace against its own simulator (Gu et al., NSDI 2019)."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from envs.workloads import read_tiresias
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.state.codes import Information, JobCode, NodeCode, Preemption, RuleKey
from orchestrator.kernels.state.records import NODE_DTYPE
from orchestrator.kernels.state.row import ClusterShape, allocate
from orchestrator.scheduling.rules import Rule, rule_named

pytestmark = [pytest.mark.golden, pytest.mark.traces]
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
