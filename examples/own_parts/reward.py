"""Reward terms: running totals whose growth is charged. The second is compiled by numba."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from envs import RowsView
from envs.testing import check_reward_term


def late_hours(view: RowsView) -> NDArray[np.float64]:
    """Hours that jobs have spent in the system beyond their first hour, [B]."""
    now = view.now_ms[:, np.newaxis]
    ended = np.where(view.job["end_ms"] > 0, view.job["end_ms"], now)
    there = np.arange(view.job.shape[1]) < view.row["num_jobs"][:, np.newaxis]
    late = np.maximum(ended - view.request["submit_ms"] - 3_600_000, 0)
    return np.where(there, late, 0).sum(axis=1) / 3_600_000


@numba.njit
def starts(view: RowsView) -> NDArray[np.float64]:
    """How often jobs were started, [B]."""
    return view.job["runs"].sum(axis=1).astype(np.float64)


if __name__ == "__main__":
    check_reward_term(late_hours)
    print("late_hours is a reward term")
