"""The generator against the figures of the Philly trace that it is calibrated to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from envs.workloads import (
    GpuClusterParameters,
    Trace,
    gpu_cluster,
    gpu_pods,
    lublin_feitelson,
    unplaceable,
)
from envs.workloads.services import generate_services
from orchestrator.errors import ConfigurationError


@pytest.fixture(scope="module")
def large() -> Trace:
    """As many jobs as Philly's dense window, on about as many GPUs, at its load."""
    return gpu_cluster(88_867, 11, nodes=311, load=0.3225)


def total_gpus(trace: Trace) -> np.ndarray:
    return trace.requests["workers"].astype(int) * trace.requests["gpus_per_worker"]


def run_s(trace: Trace) -> np.ndarray:
    return trace.requests["duration_ms"] / 1000


def test_same_seed_same_trace() -> None:
    assert gpu_cluster(300, 4) == gpu_cluster(300, 4)
    assert gpu_cluster(300, 4) != gpu_cluster(300, 5)


@pytest.mark.parametrize("nodes", [1, 2, 16])
@pytest.mark.parametrize("gpus_per_node", [1, 4, 6, 8])
@pytest.mark.parametrize("load", [0.4, 1.2])
def test_load_is_met_and_every_job_fits(nodes: int, gpus_per_node: int, load: float) -> None:
    parameters = GpuClusterParameters(fractional_share=0.4)
    trace = gpu_cluster(
        500, 3, nodes=nodes, gpus_per_node=gpus_per_node, load=load, parameters=parameters
    )
    assert len(trace) == 500
    assert trace.gpus == nodes * gpus_per_node
    assert trace.offered_load() == pytest.approx(load, rel=1e-3)
    assert not unplaceable(trace.requests, trace.nodes).any()
    assert trace.requests["submit_ms"][0] == 0


def test_gpu_counts_are_those_of_philly(large: Trace) -> None:
    counts = total_gpus(large)
    published = {1: 0.8916, 2: 0.0226, 4: 0.0347, 8: 0.0426, 16: 0.0061, 32: 0.0022}
    for size, share in published.items():
        # Whole bursts share a size, so shares vary much more than those of independent draws.
        assert (counts == size).mean() == pytest.approx(share, rel=0.5, abs=0.002)
    assert counts.mean() == pytest.approx(1.60, rel=0.1)


def test_durations_are_those_of_philly(large: Trace) -> None:
    duration = run_s(large)
    published = {0.25: 125, 0.5: 1196, 0.75: 3564, 0.9: 16_094, 0.95: 72_452, 0.99: 391_171}
    for level, value in published.items():
        assert abs(np.log(np.quantile(duration, level) / value)) < np.log(2.2)
    assert (duration * total_gpus(large)).mean() == pytest.approx(69_681, rel=0.25)
    assert duration.max() <= 30 * 86_400


def test_arrivals_are_bursty_and_follow_the_week(large: Trace) -> None:
    submit_s = large.requests["submit_ms"] / 1000
    gaps = np.diff(submit_s)
    assert np.median(gaps) == pytest.approx(8, rel=0.4)
    assert gaps.std() / gaps.mean() > 2.0
    hourly = np.bincount((submit_s // 3600).astype(int))
    assert 1.0 < hourly.std() / hourly.mean() < 2.2  # Philly: 1.94
    weekday = (submit_s // 86_400).astype(int) % 7
    rate = np.bincount(weekday, minlength=7)
    assert rate[5:].mean() / rate[:5].mean() == pytest.approx(0.52, abs=0.25)


def test_tenants_are_skewed_as_in_philly(large: Trace) -> None:
    shares = np.sort(np.bincount(large.requests["tenant"]) / len(large))[::-1]
    assert shares[0] == pytest.approx(0.46, abs=0.1)
    assert shares[:3].sum() == pytest.approx(0.76, abs=0.08)


def test_neighbours_are_alike_within_bursts(large: Trace) -> None:
    logarithm = np.log(run_s(large))
    # Philly: 0.43 over all neighbours in the order of submission.
    assert np.corrcoef(logarithm[1:], logarithm[:-1])[0, 1] == pytest.approx(0.47, abs=0.15)


def test_policy_fields_follow_their_parameters(large: Trace) -> None:
    r = large.requests
    p = GpuClusterParameters()
    share = np.bincount(r["priority"], minlength=4) / len(r)
    np.testing.assert_allclose(share, p.priority_shares, atol=0.06)
    assert not r["preemptible"][r["priority"] == 0].any()
    assert r["preemptible"][r["priority"] == 3].all()
    assert set(r["checkpoint_interval_ms"] // 1000) == set(p.checkpoint_intervals_s)
    assert np.median(r["restart_ms"]) == pytest.approx(30_000, rel=0.1)
    assert r["user"].max() < len(large.tenants) * p.users_per_tenant
    assert (r["user"] // p.users_per_tenant == r["tenant"]).all()
    assert (r["application"] // p.applications_per_user == r["user"]).all()


def test_estimates_are_rounded_up_and_mostly_too_long(large: Trace) -> None:
    r = large.requests
    ladder = np.array(GpuClusterParameters().estimate_ladder_s) * 1000
    inside = r["requested_ms"] <= ladder[-1]
    assert np.isin(r["requested_ms"][inside], ladder).all()
    assert 0.75 < (r["requested_ms"] >= r["duration_ms"]).mean() < 0.95
    exact = GpuClusterParameters(estimate_median=1.0, estimate_sigma=0.0, estimate_ladder_s=())
    r = gpu_cluster(300, 0, parameters=exact).requests
    np.testing.assert_array_equal(r["requested_ms"], r["duration_ms"])


def test_fractional_gpus_only_for_single_gpu_jobs() -> None:
    r = gpu_cluster(3000, 2, parameters=GpuClusterParameters(fractional_share=0.44)).requests
    shared = r["gpu_milli"] < 1000
    assert 0.2 < shared.mean() < 0.6
    assert (r["gpus_per_worker"][shared] == 1).all()
    assert (r["workers"][shared] == 1).all()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"jobs": 1, "seed": 0}, "'jobs'"),
        ({"jobs": 9, "seed": -1}, "'seed'"),
        ({"jobs": 9, "seed": 0, "nodes": 0}, "'nodes'"),
        ({"jobs": 9, "seed": 0, "gpus_per_node": 65}, "'gpus_per_node'"),
        ({"jobs": 9, "seed": 0, "load": -1.0}, "'load'"),
    ],
)
def test_bad_arguments(arguments: dict[str, float], word: str) -> None:
    with pytest.raises(ConfigurationError, match=word):
        gpu_cluster(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "values",
    [
        {"tenants": ()},
        {"duration_max_days": 0.01},
        {"priority_shares": (1.0,)},
        {"hours": (1.0,)},
    ],
)
def test_bad_parameters(values: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(values))):
        replace(GpuClusterParameters(), **values)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [2.5, float("nan"), "4", None])
def test_counts_are_whole_numbers(value: object) -> None:
    for call in (
        lambda: gpu_cluster(value, 0),  # type: ignore[arg-type]
        lambda: gpu_cluster(10, value),  # type: ignore[arg-type]
        lambda: gpu_cluster(10, 0, nodes=value),  # type: ignore[arg-type]
        lambda: gpu_pods(value, 0),  # type: ignore[arg-type]
        lambda: lublin_feitelson(value, 0),  # type: ignore[arg-type]
        lambda: generate_services(2, value, 0),  # type: ignore[arg-type]
        lambda: generate_services(2, 4, value),  # type: ignore[arg-type]
    ):
        with pytest.raises(ConfigurationError, match="whole number"):
            call()
