"""Packing suites: FGD's evaluation on a seed or two, and what is written about it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from rich.console import Console

from agents.build import build_packing_suite, config_dir
from agents.evaluation.pods import (
    PackingSuite,
    packing_table,
    print_packing,
    run_packing,
    write_packing,
)
from agents.plots.series import draw_packing
from envs.workloads import Trace, read_openb
from orchestrator.errors import ConfigurationError

_PUBLISHED = {  # mean and standard deviation over seeds 42..51
    "Random": (87.47, 0.32),
    "DotProd": (90.85, 0.20),
    "GpuClustering": (91.88, 0.62),
    "GpuPacking": (92.00, 0.54),
    "BestFit": (93.08, 0.13),
    "FGD": (95.39, 0.08),
}


@pytest.fixture(scope="module")
def openb(traces_dir: Path) -> Trace:
    return read_openb(traces_dir / "alibaba_openb_2023", gpu_nodes_only=True)


def _suite(**changes: object) -> PackingSuite:
    """The published suite, without its trace."""
    cfg = OmegaConf.load(config_dir() / "suite" / "openb.yaml").suite
    cfg.workload = {"_target_": "envs.workloads.gpu_cluster", "jobs": 10, "seed": 1, "nodes": 2}
    suite, _ = build_packing_suite(cfg)
    return replace(suite, **changes)  # type: ignore[arg-type]


@pytest.mark.golden
@pytest.mark.traces
def test_allocations_are_the_published_ones(openb: Trace) -> None:
    """Two orders of arrival that are not at the edge; the suite runs all ten."""
    suite = _suite(seeds=[44, 45])
    results = {result.policy: result for result in run_packing(suite, openb)}
    for policy, (mean, deviation) in _PUBLISHED.items():
        assert suite.published[policy] == mean
        found = results[policy]
        assert abs(found.mean - mean) <= 2.0 * deviation, policy
    ranking = ["FGD", "BestFit", "GpuPacking", "Random"]
    means = [results[policy].mean for policy in ranking]
    assert means == sorted(means, reverse=True)


def test_what_is_written(openb: Trace, tmp_path: Path) -> None:
    small = replace(openb, nodes=openb.nodes[::25])
    suite = PackingSuite("small", {"FGD": "fgd", "first": "first_fit"}, [1, 2], 1.1, {"FGD": 95.39})
    results = run_packing(suite, small)
    for result in results:
        assert result.curve.shape == (2, 111)
        assert (np.diff(result.curve, axis=1) >= 0).all()
        assert result.curve[:, 0].max() <= result.curve[:, -1].min()
        np.testing.assert_allclose(result.curve[:, -1], result.allocation, atol=1.0)
    write_packing(suite, small, results, tmp_path / "out")
    draw_packing(tmp_path / "out" / "allocation.png", results, suite.published)
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
    console = Console(width=120)
    with console.capture() as capture:
        print_packing(suite, results, console)
    assert "first" in capture.get()


def test_unknown_policies_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="places by 'tetris'; choose from first_fit"):
        PackingSuite("x", {"a": "tetris"}, [1])
    with pytest.raises(ConfigurationError, match="'b' is published"):
        PackingSuite("x", {"a": "fgd"}, [1], published={"b": 1.0})
    with pytest.raises(ConfigurationError, match="at least one of"):
        PackingSuite("x", {"a": "fgd"}, [])
