"""Packing suites: FGD's evaluation on a seed or two, and what is written about it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from rich.console import Console

from agents.build import build_packing_suite
from agents.evaluation.pods import (
    PackingResult,
    PackingSuite,
    PublishedPacking,
    packing_table,
    print_packing,
    run_packing,
    write_packing,
)
from agents.plots.series import draw_packing
from agents.program import config_dir
from envs.workloads import Trace, read_openb
from envs.workloads.table import blank_requests
from orchestrator.errors import ConfigurationError
from orchestrator.types import NodeSpec

_LISTS = {  # the publisher's lists of which TRACES_DIR has one, and the names of their digests
    "default": "26667088d4a11a8b",
    "gpushare40": "2c3c20c14251ad7d",
    "gpuspec33": "c68cfc3cd7081216",
    "multigpu20": "9d37c3350552ef46",
}
_FOLDER = "alibaba_openb_2023"


@pytest.fixture(scope="module")
def openb(traces_dir: Path) -> Trace:
    return read_openb(traces_dir / _FOLDER, gpu_nodes_only=True)


def _suite(**changes: object) -> PackingSuite:
    """The published suite, without its trace."""
    cfg = OmegaConf.load(config_dir() / "suite" / "openb.yaml").suite
    cfg.workload = {"_target_": "envs.workloads.gpu_cluster", "jobs": 10, "seed": 1, "nodes": 2}
    suite, _ = build_packing_suite(cfg)
    return replace(suite, **changes)  # type: ignore[arg-type]


@pytest.mark.golden
@pytest.mark.traces
@pytest.mark.parametrize("name", list(_LISTS))
def test_allocations_are_the_published_ones(name: str, traces_dir: Path) -> None:
    """The six policies over the ten seeds, within two of the published standard deviations."""
    path = traces_dir / _FOLDER / f"openb_pod_list_{name}.csv.gz"
    trace = read_openb(path, gpu_nodes_only=True)
    suite = _suite()
    published = suite.published_for(trace)
    assert published is not None
    assert published.trace == _LISTS[name] == trace.digest
    policies = {policy: suite.policies[policy] for policy in published.means}
    assert len(policies) == 6
    for result in run_packing(replace(suite, policies=policies), trace):
        mean, deviation = (one[result.policy] for one in (published.means, published.deviations))
        assert abs(result.mean - mean) <= 2.0 * deviation, result.policy


def test_the_paper_and_the_suite_state_the_same_numbers() -> None:
    means = {row.trace: row.means for row in _suite().published}
    default = {"Random": 87.47, "DotProd": 90.85, "GpuClustering": 91.88}
    default |= {"GpuPacking": 92.00, "BestFit": 93.08, "FGD": 95.39}
    assert means[_LISTS["default"]] == default
    spec = means[_LISTS["gpuspec33"]]
    assert (spec["FGD"], spec["GpuClustering"], spec["GpuPacking"]) == (94.55, 92.12, 93.22)


def test_published_numbers_stand_beside_their_own_pods_only(openb: Trace) -> None:
    suite = _suite(policies={"FGD": "fgd"}, published=[])
    digest = openb.digest
    mine = PublishedPacking(digest, {"FGD": 95.39}, {"FGD": 0.08}, "somebody")
    suite = replace(suite, published=[mine])
    assert suite.published_for(replace(openb, name="renamed")) is mine
    assert replace(suite, ratio=1.2).published_for(openb) is None
    jobs = openb.requests.copy()
    jobs["cpu_milli"][7] += 1
    for other in (
        replace(openb, requests=openb.requests[:-1]),
        replace(openb, requests=jobs),
        replace(openb, nodes=openb.nodes[:-1]),
    ):
        assert suite.published_for(other) is None
        result = PackingResult(
            "FGD", *(np.ones(1) for _ in range(2)), np.ones(1, np.int64), np.ones(1)
        )
        table = packing_table(suite, other, [result])
        assert "published" not in table.lower()
        assert "95.39" not in table
        assert "95.39" in packing_table(suite, openb, [result])


def test_nodes_of_equal_score_go_in_an_order_of_the_seed() -> None:
    """One pod fits the large node only; another, if it comes first, goes to whichever is first."""
    pods = blank_requests(2)
    pods["gpus_per_worker"], pods["cpu_milli"] = [1, 4], [8000, 1000]
    pods["duration_ms"] = pods["requested_ms"] = 1000
    small, large = (
        NodeSpec(name, gpus, 16.0, 8, 64.0, 10.0, "PCIe") for name, gpus in (("a", 1), ("b", 4))
    )
    suite = PackingSuite("ties", {"first": "first_fit"}, range(16), 1.0)
    for nodes in ((small, large), (large, small)):
        trace = Trace("ties", pods, nodes=nodes)
        (found,) = run_packing(suite, trace)
        assert set(found.allocation.round(9).tolist()) == {20.0, 100.0}
        (again,) = run_packing(suite, trace)
        np.testing.assert_array_equal(found.allocation, again.allocation)


def test_what_is_written(openb: Trace, tmp_path: Path) -> None:
    small = replace(openb, nodes=openb.nodes[::25])
    published = PublishedPacking(small.digest, {"FGD": 95.39}, {"FGD": 0.08}, "a paper", 1.1)
    suite = PackingSuite("small", {"FGD": "fgd", "first": "first_fit"}, [1, 2], 1.1, [published])
    results = run_packing(suite, small)
    for result in results:
        assert result.curve.shape == (2, 111)
        assert (np.diff(result.curve, axis=1) >= 0).all()
        assert result.curve[:, 0].max() <= result.curve[:, -1].min()
        np.testing.assert_allclose(result.curve[:, -1], result.allocation, atol=1.0)
    write_packing(suite, small, results, tmp_path / "out")
    draw_packing(tmp_path / "out" / "allocation.png", results, published.means)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "table.md",
        "summary.json",
        "allocation.png",
    }
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["policies"]["FGD"]["placed"] == results[0].placed.tolist()
    table = packing_table(suite, small, results)
    assert "| FGD |" in table
    assert "95.39" in table
    assert "Published: a paper." in table
    console = Console(width=120)
    with console.capture() as capture:
        print_packing(suite, small, results, console)
    assert "first" in capture.get()


def test_unknown_policies_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="places by 'tetris'; choose from first_fit"):
        PackingSuite("x", {"a": "tetris"}, [1])
    with pytest.raises(ConfigurationError, match="'b' is published"):
        PackingSuite("x", {"a": "fgd"}, [1], published=[PublishedPacking("", {"b": 1.0}, {}, "")])
    with pytest.raises(ConfigurationError, match="at least one of"):
        PackingSuite("x", {"a": "fgd"}, [])
