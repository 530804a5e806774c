from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from envs.workloads import Trace, inflate, load_workload, read_openb, typical_pods
from orchestrator.errors import ConfigurationError, TraceError
from orchestrator.types import JobPriority

_NODES = (
    "sn,cpu_milli,memory_mib,gpu,model\nb,96000,393216,8,G2\na,64000,262144,2,T4\nc,32000,1024,0,\n"
)
_PODS = (
    "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,pod_phase,creation_time,"
    "deletion_time,scheduled_time\n"
    "p0,1000,2048,1,460,,LS,Running,100,1100,110\n"
    "p1,2000,4096,2,1000,G2|T4,BE,Failed,150,400,\n"
    "p2,500,512,0,0,,Burstable,Succeeded,120,130,125\n"
    "p3,500,512,1,1000,G2|V100,Guaranteed,Running,200,200,200\n"
)


def _files(folder: Path, pods: str = _PODS, nodes: str = _NODES) -> Path:
    (folder / "nodes.csv").write_text(nodes)
    (folder / "pods.csv").write_text(pods)
    return folder / "pods.csv"


def _read(folder: Path, pods: str = _PODS, nodes: str = _NODES, **options: bool) -> Trace:
    return read_openb(_files(folder, pods, nodes), nodes=folder / "nodes.csv", **options)


def test_columns_become_requests(tmp_path: Path) -> None:
    trace = _read(tmp_path)
    assert [node.node_id for node in trace.nodes] == ["a", "b", "c"]
    assert [node.gpu_model for node in trace.nodes] == ["T4", "G2", "none"]
    asks = trace.requests  # by submission: p0, p2, p1, p3
    assert asks["submit_ms"].tolist() == [0, 20_000, 50_000, 100_000]
    assert asks["duration_ms"].tolist() == [990_000, 5000, 250_000, 1000]
    assert asks["gpus_per_worker"].tolist() == [1, 0, 2, 1]
    assert asks["gpu_milli"].tolist() == [460, 1000, 1000, 1000]
    assert asks["model_mask"].tolist() == [0, 0, 0b11, 0b01]  # G2, T4, none
    production, batch = JobPriority.PRODUCTION.value, JobPriority.BATCH.value
    best_effort = JobPriority.BEST_EFFORT.value
    assert asks["priority"].tolist() == [production, batch, best_effort, production]
    assert asks["preemptible"].tolist() == [0, 0, 1, 0]
    assert len(_read(tmp_path, gpu_nodes_only=True).nodes) == 2


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("p0,1000", "p0,-5", "'cpu_milli' is out of range"),
        ("p0,1000", "p0,", "'cpu_milli' is out of range"),
        (",1,460,", ",65,460,", "'num_gpu' is out of range"),
        ("LS", "XS", "'qos' holds an unknown class"),
        ("G2|V100", "V100", "'gpu_spec' names no GPU model"),
        ("gpu_milli", "share", "column 'gpu_milli' is missing"),
    ],
)
def test_errors_name_line_and_column(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        _read(tmp_path, pods=_PODS.replace(old, new, 1))


def test_errors_of_the_node_list(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no whole number of cores"):
        _read(tmp_path, nodes=_NODES.replace("96000", "96500"))
    with pytest.raises(TraceError, match="column 'model' is missing"):
        _read(tmp_path, nodes=_NODES.replace("model", "kind"))


def test_typical_pods_cover_most_and_weigh_one(tmp_path: Path) -> None:
    requests = np.concatenate([_read(tmp_path).requests] * 3 + [_read(tmp_path).requests[:1]])
    classes = typical_pods(requests, share=0.5)
    assert classes["weight"].sum() == pytest.approx(1.0)
    assert classes["cpu_milli"].tolist() == [1000, 2000]  # the most frequent, then the largest
    assert classes["gpu_milli"].tolist() == [460, 1000]
    everything = typical_pods(requests, share=1.0)
    assert len(everything) == 4
    assert everything["gpu_milli"][everything["gpus"] == 0].tolist() == [0]


def test_inflation_reaches_the_ratio_and_not_more(tmp_path: Path) -> None:
    trace = _read(tmp_path)
    for ratio in (0.2, 1.3, 5.0):
        grown = inflate(trace, ratio, 7)
        size = grown.requests["gpus_per_worker"] * grown.requests["gpu_milli"].astype(np.int64)
        assert size.sum() <= ratio * trace.gpus * 1000
        assert size.sum() > ratio * trace.gpus * 1000 - 2 * 2000
        assert (grown.requests["submit_ms"] == 0).all()
        assert inflate(trace, ratio, 7) == grown
    assert inflate(trace, 5.0, 8) != inflate(trace, 5.0, 7)
    without = Trace("x", trace.requests, nodes=trace.nodes[2:])
    with pytest.raises(ConfigurationError, match="have no GPUs"):
        inflate(without, 1.0, 0)


@pytest.mark.traces
def test_the_published_trace(traces_dir: Path) -> None:
    trace = load_workload("openb", path=traces_dir / "alibaba_openb_2023", gpu_nodes_only=True)
    assert (len(trace), len(trace.nodes), trace.gpus) == (8152, 1213, 6212)
    assert len(typical_pods(trace.requests)) == 35
