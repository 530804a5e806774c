"""Sizes that elastic jobs may be given, as features: against formulas over the row's tables."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from envs import CLUSTER, Session
from envs.workloads import Enrichment, Trace, enrich, gpu_cluster
from orchestrator.kernels.see.layout import Resizing, SizeChoice, SizeColumn
from tests.envs.cases import pick_legal

_CHOICES = len(SizeChoice)
CONFIG = replace(
    CLUSTER,
    window=8,
    victims=4,
    elastics=6,
    preemption_limit=4,
    episode_jobs=60,
    min_run_seconds=60.0,
    resize_lock_seconds=0.0,
    resizing=Resizing.SIZES,
)


def _trace() -> Trace:
    busy = gpu_cluster(400, 4, nodes=4, gpus_per_node=4, load=1.1)
    return enrich(busy, Enrichment(elastic_share=0.9, shrink=0.3))


def _signed(seconds: float) -> float:
    return math.copysign(0.1 * math.log1p(abs(seconds)), seconds)


def _expected(session: Session, j: int, size: int, choice: int) -> list[float]:
    state, row = session.state, session.state.rows[0]
    ask, run = state.request[0, j], state.job[0, j]
    now, asked = int(run["workers_now"]), int(ask["workers"])
    elapsed = max(int(row["now_ms"] - run["work_start_ms"]), 0)
    done = int(run["progress_ms"] + run["unsaved_ms"]) + elapsed * int(run["speed_milli"]) // 1000
    left = max(int(ask["requested_ms"]) - min(done, int(ask["duration_ms"])), 0)
    speed, before = max(1000 * size // asked, 1), int(run["speed_milli"])
    saved = left * 1000 // before - left * 1000 // speed - int(ask["regroup_ms"])
    lacking = 0
    if row["queue_len"] > 0:
        first = state.request[0, state.queue[0, 0]["job"]]
        least = max(int(first["min_workers"]), 1) if first["elastic"] else int(first["workers"])
        each = int(first["gpus_per_worker"]) * int(first["gpu_milli"])
        lacking = least * each - int(row["free_units"])
    more = 1000 * (size - now)
    return [
        *(float(choice == other) for other in range(_CHOICES)),
        (size - now) / asked,
        size / asked - 1,
        (speed - before) / 1000,
        _signed(saved / 1000),
        (int(row["free_units"]) - more) / int(row["nominal_units"]),
        float(0 < lacking <= -more),
        0.1 * math.log1p(left / 1000) if size < now else 0.0,
        0.1 * math.log1p(left / 1000) if size > now else 0.0,
    ]


def test_sizes_are_described_and_each_is_offered_once() -> None:
    session = Session(_trace(), CONFIG, 1, part="all")
    rng, met = np.random.default_rng(3), set[int]()
    head = next(head for head in session.schema.actions.heads if head.name == "resize")
    session.reset()
    for _ in range(250):
        buffers = session.buffers
        mask = buffers.mask[0, head.offset : head.offset + head.size].reshape(-1, _CHOICES)
        sizes, seen = buffers.resize_to[0].reshape(-1, _CHOICES), session.observation(0)["sizes"]
        for i, choice in np.argwhere(mask):
            j, size = int(buffers.elastic_jobs[0, i]), int(sizes[i, choice])
            expected = _expected(session, j, size, choice)
            np.testing.assert_allclose(seen[i * _CHOICES + choice], expected, rtol=1e-4, atol=2e-5)
            met.add(int(choice))
        for i in range(len(mask)):
            offered = sizes[i][mask[i] == 1].tolist()
            assert len(set(offered)) == len(offered)
            assert not seen[i * _CHOICES : (i + 1) * _CHOICES][mask[i] == 0].any()
        session.step(pick_legal(buffers.mask, rng))
        if session.buffers.terminated[0]:
            session.reset()
    assert met == set(range(_CHOICES))


@pytest.mark.parametrize("resizing", Resizing)
def test_schemas_of_steps_are_as_they_were(resizing: Resizing) -> None:
    schema = replace(CONFIG, resizing=resizing).schema
    chosen = resizing == Resizing.SIZES
    assert ("sizes" in schema.as_dict()) == ("resize" in schema.as_dict()["heads"]) == chosen  # type: ignore[operator]
    assert schema.sizes == (tuple(c.name.lower() for c in SizeColumn) if chosen else ())
    names = [head.name for head in schema.actions.heads if head.size > 0]
    assert ("shrink" in names) == ("grow" in names) == (not chosen)
