"""What is added to traces: by seed, the same whatever is filtered, and legal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from envs.workloads import Enrichment, Trace, enrich, gpu_cluster, of_tenants
from envs.workloads.enrich import CurveMix
from orchestrator.errors import ConfigurationError
from orchestrator.workloads.throughput import APPLICATIONS


@pytest.fixture(scope="module")
def trace() -> Trace:
    return gpu_cluster(3000, 5, nodes=8)


def test_a_seed_decides_and_the_rest_stays(trace: Trace) -> None:
    first, again = enrich(trace), enrich(trace)
    other = enrich(trace, Enrichment(seed=1))
    assert first == again
    assert first != other
    for name in ("submit_ms", "duration_ms", "tenant", "source_id", "priority"):
        np.testing.assert_array_equal(first.requests[name], trace.requests[name])
    assert first.nodes == trace.nodes


def test_demand_stays_and_elastic_jobs_have_a_worker_for_each_gpu(trace: Trace) -> None:
    rich = enrich(trace, Enrichment(elastic_share=1.0, shrink=0.5, grow=2.0)).requests
    before = trace.requests
    np.testing.assert_array_equal(
        rich["workers"].astype(int) * rich["gpus_per_worker"],
        before["workers"].astype(int) * before["gpus_per_worker"],
    )
    elastic = rich["elastic"] == 1
    several = before["workers"].astype(int) * before["gpus_per_worker"] > 1
    np.testing.assert_array_equal(elastic, several & (before["gpu_milli"] == 1000))
    assert elastic.any()
    assert (rich["gpus_per_worker"][elastic] == 1).all()
    asked = rich["workers"][elastic]
    np.testing.assert_array_equal(rich["min_workers"][elastic], -(-asked // 2))
    np.testing.assert_array_equal(
        rich["max_workers"][elastic], np.minimum(2 * asked, max(trace.gpus, 1)).clip(min=asked)
    )
    for name in ("cpu_milli", "memory_mib"):
        total = rich[name] * rich["workers"].astype(int)
        assert (total <= before[name] * before["workers"].astype(int)).all()


def test_shares_and_medians_are_as_asked(trace: Trace) -> None:
    rich = enrich(trace, Enrichment(preemptible_share=0.3, elastic_share=0.5)).requests
    assert rich["preemptible"].mean() == pytest.approx(0.3, abs=0.04)
    assert np.median(rich["restart_ms"]) == pytest.approx(30_000, rel=0.05)
    assert np.median(rich["checkpoint_ms"]) == pytest.approx(20_000, rel=0.05)
    assert np.median(rich["regroup_ms"]) == pytest.approx(5_000, rel=0.05)
    assert set(np.unique(rich["checkpoint_interval_ms"])) <= {600e3, 1800e3, 3600e3, 7200e3}
    exact = enrich(trace, Enrichment(estimate_median=1.5, estimate_ladder_s=())).requests
    error = exact["requested_ms"] / exact["duration_ms"]
    assert np.median(error) == pytest.approx(1.5, rel=0.05)
    assert np.std(np.log(error)) == pytest.approx(0.7, rel=0.06)


def test_what_is_not_asked_for_is_kept(trace: Trace) -> None:
    options = Enrichment(costs=False, estimates=False, preemptible_share=None, elastic_share=0.0)
    rich = enrich(trace, options).requests.copy()
    rich["regroup_ms"] = trace.requests["regroup_ms"]
    np.testing.assert_array_equal(rich, trace.requests)


def test_filtering_tenants_leaves_their_jobs_as_they_were(trace: Trace) -> None:
    rich = enrich(trace)
    name = rich.tenants[int(np.bincount(rich.requests["tenant"]).argmax())]
    mine, others = of_tenants(rich, only=[name]), of_tenants(rich, without=[name])
    assert len(mine) + len(others) == len(rich)
    at = rich.tenants.index(name)
    np.testing.assert_array_equal(mine.requests, rich.requests[rich.requests["tenant"] == at])
    assert not (others.requests["tenant"] == at).any()
    few = of_tenants(replace(rich, nodes=rich.nodes[:1]))
    asked = few.requests
    least = np.where(asked["elastic"] == 1, asked["min_workers"], asked["workers"])
    gpus = least * asked["gpus_per_worker"]
    assert len(few) < len(rich)
    assert gpus.max() <= few.nodes[0].gpus


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"elastic_share": 1.5}, "'elastic_share' is 1.5"),
        ({"restart_median_s": 0.0}, "'restart_median_s' is 0.0"),
        ({"regroup_sigma": -1.0}, "'regroup_sigma' is -1.0"),
        ({"shrink": 0.0}, "'shrink' is 0.0"),
        ({"checkpoint_intervals_s": ()}, "'checkpoint_intervals_s'"),
    ],
)
def test_senseless_options_are_named(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Enrichment(**options)  # type: ignore[arg-type]


def test_unknown_tenants_are_named(trace: Trace) -> None:
    with pytest.raises(ConfigurationError, match="no tenant 'nobody'"):
        of_tenants(trace, only=["nobody"])


def test_curves_are_dealt_by_gpu_time_as_pollux_authors_did(trace: Trace) -> None:
    options = Enrichment(elastic_share=1.0, curves=6, curve_mix=CurveMix.GPU_TIME)
    rich = enrich(trace, options).requests
    elastic = rich["elastic"] == 1
    assert (rich["curve"][~elastic] == 0).all()
    hours = rich["duration_ms"] / 3.6e6 * rich["workers"] * rich["gpus_per_worker"]
    names = np.array(["", *APPLICATIONS])[rich["curve"]]
    bounds = [0.0, 1.0, 10.0, 100.0, np.inf]
    mix = [{"cifar10", "ncf"}, {"bert", "deepspeech2"}, {"yolov3"}, {"imagenet"}]
    for low, high, expected in zip(bounds, bounds[1:], mix, strict=False):
        mine = names[elastic & (hours >= low) & (hours < high)]
        assert set(mine.tolist()) == expected
        if len(expected) == 2:
            assert 0.4 < (mine == min(expected)).mean() < 0.6
    # Who gets which does not change what else is drawn.
    plain = enrich(trace, Enrichment(elastic_share=1.0)).requests
    for name in ("checkpoint_ms", "requested_ms", "elastic", "max_workers"):
        np.testing.assert_array_equal(rich[name], plain[name])
    with pytest.raises(ConfigurationError, match="'curves' is 2, but by GPU time the 6 applic"):
        Enrichment(curves=2, curve_mix=CurveMix.GPU_TIME)
