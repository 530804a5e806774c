"""A reader of traces: a CSV file of submission, run time and GPUs, one job a line."""

from __future__ import annotations

import numpy as np

from envs import Trace, blank_requests
from orchestrator import NodeSpec


def read_plain(path: str, nodes: int = 4) -> Trace:
    """Read ``submit_s,run_s,gpus`` with a heading; the cluster has nodes of eight GPUs."""
    table = np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2)
    requests = blank_requests(len(table))
    requests["submit_ms"], requests["duration_ms"] = 1000 * table[:, 0], 1000 * table[:, 1]
    requests["requested_ms"] = requests["duration_ms"]
    requests["gpus_per_worker"] = table[:, 2]
    requests["cpu_milli"] = 4000 * table[:, 2]
    cluster = [NodeSpec(f"n{n}", 8, 80.0, 64, 512.0, 100.0, "NVLink") for n in range(nodes)]
    return Trace("plain", requests, nodes=tuple(cluster))
