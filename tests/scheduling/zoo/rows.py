"""Rows of cluster state for the policies to play on."""

from __future__ import annotations

from typing import Any

import numpy as np

from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.state.codes import NodeCode
from orchestrator.kernels.state.records import NODE_DTYPE, REQUEST_DTYPE
from orchestrator.kernels.state.row import ClusterShape, ClusterState, allocate

SECOND, HOUR = 1000, 3_600_000


def row_of(
    jobs: list[dict[str, Any]], gpus: list[int], models: list[int] | None = None, **config: int
) -> ClusterState:
    """A row with these jobs, by submit time, on nodes of so many GPUs."""
    shape = ClusterShape(
        envs=1, jobs=max(len(jobs), 1), workers=16, nodes=len(gpus), devices=8, log=4096, curves=8
    )
    state = allocate(shape)
    nodes = np.zeros(len(gpus), NODE_DTYPE)
    nodes["gpus"], nodes["state"] = gpus, NodeCode.UP
    nodes["model"] = models or [0] * len(gpus)
    asks = np.zeros(len(jobs), REQUEST_DTYPE)
    defaults = {"gpu_milli": 1000, "gpus_per_worker": 1, "workers": 1, "preemptible": 1, "gang": 1}
    for name, value in defaults.items():
        asks[name] = value
    for record, fields in zip(asks, jobs, strict=True):
        for name, value in fields.items():
            record[name] = value
    asks["requested_ms"] = np.where(
        asks["requested_ms"] > 0, asks["requested_ms"], asks["duration_ms"]
    )
    asks["min_workers"] = np.where(asks["elastic"] == 1, asks["min_workers"], asks["workers"])
    asks["max_workers"] = np.where(asks["elastic"] == 1, asks["max_workers"], asks["workers"])
    for name, value in ({"preemption_limit": 16, "information": 1, "keep_log": 1} | config).items():
        state.rows[name] = value
    entry.begin_episode(state.rows, 0, 5, nodes, asks)
    return state


def random_jobs(count: int, seed: int, *, elastic: bool = False) -> list[dict[str, Any]]:
    """A mix of short and long, narrow and wide jobs."""
    rng = np.random.default_rng(seed)
    submit = np.cumsum(rng.exponential(300_000, count)).astype(int)
    jobs = []
    for time_ms in submit:
        duration = int(rng.lognormal(13.5, 1.3)) + 1000
        job = {
            "submit_ms": int(time_ms),
            "duration_ms": duration,
            "requested_ms": int(duration * rng.uniform(0.5, 3.0)) + 1,
            "workers": int(rng.choice([1, 1, 2, 4])),
            "gpus_per_worker": int(rng.choice([1, 1, 2])),
            "preemptible": int(rng.random() < 0.8),
            "checkpoint_ms": int(rng.choice([0, 20_000])),
            "restart_ms": int(rng.choice([0, 30_000])),
            "checkpoint_interval_ms": 600_000,
        }
        if elastic and rng.random() < 0.6:
            job |= {"elastic": 1, "min_workers": 1, "max_workers": 8, "regroup_ms": 5000}
        jobs.append(job)
    return jobs


def completions(state: ClusterState) -> list[float]:
    """Completion times of the jobs, seconds; demands that all have completed."""
    count = int(state.rows[0]["num_jobs"])
    assert int(state.rows[0]["completed_jobs"]) == count
    spent = state.job[0, :count]["end_ms"] - state.request[0, :count]["submit_ms"]
    return [float(ms) / 1000 for ms in spent]
