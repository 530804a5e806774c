"""Run by ``test_jit`` in processes of its own: two kernels that look alike, from Python."""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.change.events import close_point, open_point
from orchestrator.kernels.lang.jit import on_row
from orchestrator.kernels.state.row import ROW_DTYPE

if __name__ == "__main__":
    rows = np.zeros(2, ROW_DTYPE)
    calls = on_row(open_point), on_row(close_point)
    for call in calls:
        call(rows, 1)
        print(*rows["point_open"])
    for call in calls:
        print(sum(call.stats.cache_hits.values()), sum(call.stats.cache_misses.values()))
