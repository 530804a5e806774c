"""Jobs of live runs that are drawn at random."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from agents.live import LiveRun, draw_jobs
from orchestrator.errors import ConfigurationError

_DRAW: dict[str, Any] = {
    "seed": 3,
    "count": 400,
    "rate_per_s": 2.0,
    "programs": {"plain": 0.25, "train": 0.75},
    "saving": ["train"],
    "seconds": [1.0, 3.0],
    "gpus": [1, 4],
}


def test_the_same_seed_gives_the_same_jobs() -> None:
    assert draw_jobs(**_DRAW) == draw_jobs(**_DRAW)
    assert draw_jobs(**_DRAW) != draw_jobs(**{**_DRAW, "seed": 4})


def test_jobs_are_as_they_were_asked_for() -> None:
    jobs = draw_jobs(**_DRAW)
    assert len({job["name"] for job in jobs}) == 400
    at_s = np.array([job["at_s"] for job in jobs])
    assert (np.diff(at_s) >= 0).all()
    assert np.diff(at_s).mean() == pytest.approx(0.5, rel=0.2)
    assert all(1.0 <= job["seconds"] <= 3.0 for job in jobs)
    train = [job for job in jobs if job["program"] == "train"]
    assert len(train) == pytest.approx(300, abs=40)
    assert {job["preemptible"] for job in train} == {True}
    assert {job["gpus_per_worker"] for job in jobs} == {1, 4}


def test_a_live_run_takes_them() -> None:
    node = {"node_id": "n0", "gpus": 16, "gpu_memory_gb": 16, "cpu_cores": 8, "memory_gb": 64}
    node |= {"network_bandwidth_gbps": 10, "gpu_topology": "NVLink"}
    jobs = draw_jobs(**{**_DRAW, "count": 5})
    run = LiveRun(nodes=[node], programs={"plain": "", "train": ""}, jobs=jobs)
    for job, (at_s, spec, expect) in zip(jobs, run.specs(), strict=True):
        assert (at_s, expect) == (job["at_s"], "completed")
        assert spec.command[-2:] == (str(job["seconds"]), str(job["num_workers"]))
        assert spec.duration_hours == pytest.approx(job["seconds"] / 3600)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 0}, "count 0"),
        ({"rate_per_s": 0.0}, "rate_per_s 0.0"),
        ({"seconds": [3.0, 1.0]}, "the shorter time first"),
        ({"programs": {"plain": 0.5}}, "add up to 1"),
    ],
)
def test_what_makes_no_sense_is_said(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        draw_jobs(**{**_DRAW, **changes})
