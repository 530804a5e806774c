"""A workload is drawn, whatever it lacks."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from rich.console import Console

from agents.plots.trace import draw_trace
from agents.seeing.trace import describe_trace
from envs import gpu_cluster, gpu_pods, lublin_feitelson, summarise_trace
from envs.workloads import Trace


def _estimated() -> Trace:
    """Jobs of two weeks whose users expect twice their run times."""
    trace = gpu_cluster(600, 3, nodes=1, gpus_per_node=4, load=0.5)
    requests = trace.requests.copy()
    requests["requested_ms"] *= 2
    return replace(trace, requests=requests)


@pytest.mark.parametrize(
    "trace",
    [lublin_feitelson(300, 2), _estimated(), gpu_pods(50, 1)],
    ids=lambda trace: trace.name,
)
def test_it_is_drawn(trace: Trace, tmp_path: Path) -> None:
    for one in (trace, replace(trace, nodes=())):
        path = tmp_path / "trace.png"
        draw_trace(path, summarise_trace(one))
        assert path.read_bytes().startswith(b"\x89PNG")
        path.unlink()


def test_a_config_describes_its_workload(tmp_path: Path) -> None:
    workload = {"_target_": "envs.load_workload", "kind": "lublin", "jobs": 500, "seed": 1}
    cfg = OmegaConf.create({"workload": workload, "output": str(tmp_path / "out")})
    console = Console(record=True, width=120, file=(tmp_path / "told").open("w"))
    summary = describe_trace(cfg, console)
    assert "500 jobs" in console.export_text()
    folder = Path(cfg.output)
    assert {path.name for path in folder.iterdir()} == {
        *("trace.png", "table.md", "table.csv", "summary.json"),
    }
    with (folder / "table.csv").open(newline="") as stream:
        rows = {row[0]: row[1:] for row in csv.reader(stream)}
    assert [float(cell) for cell in rows["run time, s"]] == dict(summary.quantiles)[
        "run time, s"
    ].tolist()
    told = json.loads((folder / "summary.json").read_text())
    assert (told["jobs"], told["resource"]) == (500, "processors")
