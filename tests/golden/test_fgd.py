"""Placements of FGD's simulator, node for node, on 48 nodes (Weng et al., USENIX ATC 2023).

All five policies match on every pod, as do BestFit and FGD, of which that is demanded. What it
takes, beside the formulas: nodes of equal score go by name; BestFit's min-max normalisation to
integers leaves the highest score alone at the top, so that it changes nothing; GpuClustering tells
pods apart by their number of GPUs, shared ones being one kind; DotProd runs with merged GPU
dimensions, normalised by the largest machine (128 cores, 8 GPUs), and all but FGD take the GPU with
the least idle share that fits.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from envs.workloads.readers.openb import read_openb, typical_pods
from orchestrator.engine.records import node_records
from orchestrator.kernels.run import packing
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.state.codes import JobCode, Placement
from orchestrator.kernels.state.row import ClusterShape, allocate

pytestmark = pytest.mark.golden

_CASES = {
    "best_fit": (Placement.BEST_FIT_FGD, 1.0),
    "fgd": (Placement.FGD, 1.0),
    "dot_product": (Placement.DOT_PRODUCT, 0.95),
    "gpu_packing": (Placement.GPU_PACKING, 0.95),
    "gpu_clustering": (Placement.GPU_CLUSTERING, 0.95),
}


@pytest.mark.parametrize("kinds", [0, 64], ids=["scanned", "remembered"])
@pytest.mark.parametrize("policy", list(_CASES))
def test_placements_are_those_of_the_reference(policy: str, kinds: int, golden_dir: Path) -> None:
    folder = golden_dir / "fgd_small48"
    trace = read_openb(folder / "pods.csv", nodes=folder / "nodes.csv")
    typical = typical_pods(trace.requests)
    state = allocate(
        ClusterShape(
            envs=1,
            jobs=len(trace),
            nodes=len(trace.nodes),
            devices=8,
            typical=len(typical),
            kinds=kinds,
        )
    )
    entry.begin_episode(state.rows, 0, 0, node_records(trace.nodes), trace.requests)
    packing.load_typical(state.rows, 0, typical)
    generator, least = _CASES[policy]
    free = np.zeros(len(trace), np.int64)
    packing.pack_arrivals(state.rows, 0, len(trace), int(generator), np.zeros(1, np.int32), free)
    with (folder / f"decisions_{policy}.csv").open(encoding="utf-8") as file:
        expected = [line["node"] for line in csv.DictReader(file)]
    placed = state.job[0]["state"] == JobCode.RUNNING
    found = [
        trace.nodes[state.worker[0, j, 0]["node"]].node_id if placed[j] else ""
        for j in range(len(trace))
    ]
    same = np.mean([a == b for a, b in zip(found, expected, strict=True)])
    assert len(expected) == 367
    assert same >= least
