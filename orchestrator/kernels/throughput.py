"""Speed of a job on other workers than it asked for."""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.jit import kernel
from orchestrator.kernels.tables import request

__all__ = ["speed_milli"]


@kernel
def speed_milli(row, j, workers, spread, model):
    """Speed in thousandths of the nominal one: proportional to the workers."""
    return max(np.int64(1000) * workers // request(row, j).workers, np.int64(1))
