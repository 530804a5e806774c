"""Scheduling cycles of large clusters, at a small size: what is measured does happen."""

from __future__ import annotations

import time

from agents.speed.cluster import CrowdedClusters, Cycle


def test_a_cycle_places_gangs() -> None:
    cycle = Cycle(20, time.perf_counter)
    assert cycle.seconds() > 0.0
    assert cycle.placed > 0


def test_crowded_clusters_are_crowded_and_legal() -> None:
    clusters = CrowdedClusters(4)
    assert clusters.queued > 4
    assert clusters.step(20, time.perf_counter) > 0.0
    assert clusters.session.state.rows["illegal_actions"].sum() == 0
