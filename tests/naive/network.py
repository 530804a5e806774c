"""The set network, one job after the other and one sum after the other."""

from __future__ import annotations

import math

import numpy as np

from orchestrator.kernels.run.network import STEPS, weight_layout
from orchestrator.kernels.see.layout import QueueColumn


def named_parts(weights, hidden):
    """The parts of a network's weights, by name."""
    layout = weight_layout(hidden)
    return {
        name: np.array(weights[at : at + math.prod(shape)], np.float64).reshape(shape)
        for name, (at, shape) in layout.items()
    }


def network_scores(jobs, around, weights, hidden):
    """Scores of the jobs [n, 14] of a window."""
    part, n = named_parts(weights, hidden), len(jobs)
    units = [np.maximum(part["bias"] + job @ part["own"], 0.0) for job in jobs]
    average = sum(units) / n
    most = np.max(units, axis=0)
    scores = []
    for i, job in enumerate(jobs):
        beside = np.zeros(hidden)
        for other, active in zip(jobs, units, strict=True):
            if _fits_beside(job, other):
                beside += active / n
        inner = (
            part["inner_bias"]
            + units[i] @ part["inner"]
            + average @ part["mean"]
            + most @ part["most"]
            + beside @ part["beside"]
            + around @ part["around"]
        )
        scores.append(job @ part["linear"] + np.maximum(inner, 0.0) @ part["out"])
    return np.array(scores)


def _fits_beside(job, other):
    """Whether the other one would fit into what the job leaves, in whole steps."""
    slack = float(job[QueueColumn.SLACK])
    needed = math.ceil(float(other[QueueColumn.DEMAND_SHARE]) * STEPS - 1e-3)
    return slack >= 0.0 and needed <= math.floor(slack * STEPS + 1e-3)
