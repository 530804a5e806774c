"""A policy for the leaderboard.

python scripts/leaderboard.py policy=examples/leaderboard/policy.py:SmallWork
"""

import numpy as np

from orchestrator.kernels.see.layout import DEFAULT_NAMES

AREA, WAIT = DEFAULT_NAMES.index("log_area"), DEFAULT_NAMES.index("log_wait")


class SmallWork:
    """The job of the least work first; who has waited for long gets ahead a little."""

    def actions(self, observation, mask):
        """Choose a job for each row: features are [rows, jobs, features], the mask [rows, jobs]."""
        jobs = observation["queue"]
        return np.where(mask, jobs[:, :, AREA] - 0.1 * jobs[:, :, WAIT], np.inf).argmin(axis=1)
