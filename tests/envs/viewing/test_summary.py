"""A trace in numbers: they add up to the trace."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from envs import gpu_cluster, gpu_pods, lublin_feitelson, summarise_trace
from envs.workloads import Trace

_HOUR_MS = 3_600_000


@pytest.mark.parametrize(
    "trace",
    [
        lublin_feitelson(3000, 2, load=0.8),
        gpu_cluster(2000, 3, nodes=4, gpus_per_node=4, load=1.1),
        gpu_pods(200, 1),
    ],
    ids=lambda trace: trace.name,
)
def test_it_adds_up(trace: Trace) -> None:
    found = summarise_trace(trace, intervals=50)
    assert found.jobs == len(found.sizes) == len(trace)
    assert found.user_jobs.sum() == len(trace)
    assert (np.diff(found.user_work) <= 0).all()
    # Every hour of the week counts as often as it was there.
    hour = trace.requests["submit_ms"] // _HOUR_MS
    covered = np.bincount(np.arange(hour[0], hour[-1] + 1) % 168, minlength=168)
    assert (found.arrivals.ravel() * covered).sum() == pytest.approx(len(trace))
    if np.isfinite(found.run_s).all():
        mean = np.dot(found.load, np.diff(found.load_hours)) / found.load_hours[-1]
        assert mean == pytest.approx(trace.offered_load())
        assert found.user_work.sum() == pytest.approx(np.dot(found.sizes, found.run_s) / 3600)
    else:
        assert not found.load.any(), "work without an end has no amount"
    bare = summarise_trace(replace(trace, nodes=()), intervals=50)
    assert bare.capacity == 0
    assert np.isnan(bare.offered_load)


def test_quantiles_are_those_of_jobs() -> None:
    trace = lublin_feitelson(999, 5, load=0.9)
    found = dict(summarise_trace(trace).quantiles)
    assert found["run time, s"][2] == np.median(trace.requests["duration_ms"]) / 1000
    assert found["size, processors"].tolist() == sorted(found["size, processors"].tolist())
    gaps = np.diff(trace.requests["submit_ms"]) / 1000
    assert (gaps < found["gap between submissions, s"][2]).mean() <= 0.5
