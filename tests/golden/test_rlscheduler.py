"""Rules on Lublin-1 against the numbers of RLScheduler (Zhang et al., SC 2020)."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from envs.workloads import read_swf
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.state.codes import Information, JobCode, NodeCode
from orchestrator.kernels.state.records import NODE_DTYPE
from orchestrator.kernels.state.row import ClusterShape, allocate
from orchestrator.scheduling.rules import rule_named

pytestmark = [pytest.mark.golden, pytest.mark.traces]
_RULES = {"fcfs": "fcfs", "sjf": "sjf", "f1": "f1", "wfp3_compat": "wfp", "unicep_compat": "uni"}
_PROCESSORS = 256
_BOUND_MS = 10_000


@pytest.fixture(scope="module")
def reference(golden_dir: Path) -> dict[str, Any]:
    path = golden_dir / "rlscheduler_lublin_256.json.gz"
    content: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
    return content


@pytest.fixture(scope="module")
def requests(traces_dir: Path) -> np.ndarray:
    return read_swf(traces_dir / "swf" / "lublin_256.swf.gz").requests


def _replay(requests: np.ndarray, rule: str, backfill: bool) -> np.ndarray:
    """Start times of the jobs, ms."""
    state = allocate(ClusterShape(envs=1, jobs=len(requests)))
    state.rows["commitment"] = 1
    state.rows["backfill"] = backfill
    state.rows["information"] = Information.ESTIMATE
    nodes = np.zeros(1, NODE_DTYPE)
    nodes["cpu_cap_milli"], nodes["state"] = 1000 * _PROCESSORS, NodeCode.UP
    entry.begin_episode(state.rows, 0, 0, nodes, requests)
    scratch = np.zeros(len(requests), np.int32)
    record = rule_named(rule).to_record()
    entry.replay(state.rows, 0, record, np.zeros(1, np.int32), scratch)
    assert (state.job[0]["state"] == JobCode.COMPLETED).all()
    return state.job[0]["start_ms"].copy()


def _mean_bounded_slowdown(requests: np.ndarray, starts: np.ndarray) -> float:
    run = requests["duration_ms"]
    turnaround = starts - requests["submit_ms"] + run
    return float(np.maximum(1.0, turnaround / np.maximum(run, _BOUND_MS)).mean())


def _windows(requests: np.ndarray, reference: dict[str, Any]) -> list[np.ndarray]:
    length = reference["sequence_length"]
    return [requests[start : start + length] for start in reference["starts"]]


@pytest.mark.parametrize("backfill", [False, True], ids=["plain", "backfill"])
@pytest.mark.parametrize("rule", list(_RULES))
def test_rule_reproduces_the_published_numbers(
    rule: str, backfill: bool, requests: np.ndarray, reference: dict[str, Any]
) -> None:
    expected = reference["backfill"][str(backfill).lower()]
    windows = _windows(requests, reference)
    starts = [_replay(window, rule, backfill) for window in windows]
    published = expected["start_times_of_sequence_0"][_RULES[rule]]
    np.testing.assert_array_equal(starts[0], np.rint(np.multiply(published, 1000)))
    averages = [_mean_bounded_slowdown(w, s) for w, s in zip(windows, starts, strict=True)]
    np.testing.assert_allclose(averages, expected["avg_bounded_slowdown"][_RULES[rule]], rtol=1e-9)
    np.testing.assert_allclose(np.mean(averages), expected["mean"][_RULES[rule]], rtol=1e-9)


@pytest.mark.parametrize("backfill", [False, True], ids=["plain", "backfill"])
@pytest.mark.parametrize("rule", ["wfp3", "unicep"])
def test_corrected_rule_differs_from_the_published_one(
    rule: str, backfill: bool, requests: np.ndarray, reference: dict[str, Any]
) -> None:
    # The published rows take the waiting time from a start time that is still unset.
    window = _windows(requests, reference)[0]
    corrected = _replay(window, rule, backfill)
    average = _mean_bounded_slowdown(window, corrected)
    assert np.isfinite(average)
    assert average >= 1.0
    assert (corrected != _replay(window, f"{rule}_compat", backfill)).any()
