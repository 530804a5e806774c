"""A policy on observations: the job of least area, of a batch of states at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.testing import check_batch_policy
from envs import JOB_ORDERING

AREA = JOB_ORDERING.schema.queue.index("log_area")


class LeastArea:
    """Keeps ``agents.BatchPolicy``."""

    name = "least_area"

    def actions(self, seen: Mapping[str, NDArray[Any]], mask: NDArray[np.bool_]) -> NDArray[Any]:
        """An action for each row: the legal one of the smallest run time x processors."""
        return np.where(mask, seen["queue"][:, :, AREA], np.inf).argmin(axis=1)


if __name__ == "__main__":
    check_batch_policy(LeastArea)
    print("LeastArea keeps what policies on observations promise")
