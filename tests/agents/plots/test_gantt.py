from __future__ import annotations

import numpy as np
import pytest

from agents.plots.gantt import assign_lanes


@pytest.mark.parametrize("seed", range(5))
def test_no_two_jobs_share_a_lane(seed):
    rng = np.random.default_rng(seed)
    lanes, now, free = 16, 0, 16
    running: list[tuple[int, int]] = []
    start, end, size = [], [], []
    for _ in range(200):
        demand, length = int(rng.integers(1, 9)), int(rng.integers(1, 30))
        now += int(rng.integers(0, 4))
        while free < demand or (running and min(running)[0] <= now):
            running.sort()
            over, released = running.pop(0)
            now, free = max(now, over), free + released
        running.append((now + length, demand))
        free -= demand
        start.append(now)
        end.append(now + length)
        size.append(demand)
    start, end, size = (np.array(column) for column in (start, end, size))
    used = np.zeros((lanes, end.max()), np.int64)
    for j, runs in enumerate(assign_lanes(start, end, size, lanes)):
        assert sum(count for _, count in runs) == size[j]
        for first, count in runs:
            used[first : first + count, start[j] : end[j]] += 1
    assert used.max() == 1


def test_a_gap_that_fits_is_preferred():
    start, end = np.array([0, 0, 0, 5, 6]), np.array([9, 5, 9, 9, 9])
    size = np.array([4, 3, 1, 2, 2])
    placed = assign_lanes(start, end, size, 10)
    assert placed[3] == [(8, 2)]
    assert placed[4] == [(4, 2)]
