"""A generator of workloads: short jobs on one GPU, long ones on four, at random times."""

from __future__ import annotations

import numpy as np

from envs import Trace, blank_requests
from envs.testing import check_generator
from orchestrator import NodeSpec


def two_kinds(jobs: int, seed: int, gap_s: float = 300.0) -> Trace:
    """Draw jobs for two nodes of four GPUs; the same seed gives the same jobs."""
    dice = np.random.default_rng(seed)
    long = dice.random(jobs) < 0.2
    requests = blank_requests(jobs)
    requests["submit_ms"] = 1000 * np.cumsum(dice.exponential(gap_s, jobs))
    requests["duration_ms"] = 1000 * dice.gamma(2.0, np.where(long, 3000.0, 400.0))
    requests["duration_ms"] = requests["requested_ms"] = np.maximum(requests["duration_ms"], 1)
    requests["gpus_per_worker"], requests["cpu_milli"] = np.where(long, 4, 1), 1000
    nodes = [NodeSpec(f"n{n}", 4, 80.0, 32, 256.0, 100.0, "NVLink") for n in range(2)]
    return Trace("two kinds of jobs", requests, nodes=tuple(nodes))


if __name__ == "__main__":
    check_generator(two_kinds, jobs=60)
    print("two_kinds is a generator")
