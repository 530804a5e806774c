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


_TIMED = _PODS.splitlines()[0] + "\n{first}\np1,1000,1024,1,1000,,LS,Succeeded,86400,90000,86400\n"


@pytest.mark.parametrize(
    ("times", "duration_s"),
    [
        ("0,,10", 89_990),
        ("0,nan,10", 89_990),
        ("0,NULL,", 90_000),
        ("0.0,25.0,15.5", 9.5),
        ("90000,,90000", 1),
        ("0,,100000", 1),  # scheduled last of all
    ],
)
def test_pods_without_an_end_last_until_the_end_of_the_record(
    tmp_path: Path, times: str, duration_s: float
) -> None:
    pods = _TIMED.format(first=f"p0,500,1024,1,1000,,LS,Running,{times}")
    asks = _read(tmp_path, pods=pods).requests
    assert asks["duration_ms"][asks["cpu_milli"] == 500].tolist() == [1000 * duration_s]
    assert asks["duration_ms"][asks["cpu_milli"] == 1000].tolist() == [3_600_000]


@pytest.mark.parametrize(
    ("times", "words"),
    [
        (",20,10", "line 2: column 'creation_time' is empty"),
        ("30,20,", "line 2: column 'deletion_time' is earlier"),
        ("-5,20,", "line 2: column 'creation_time' is out of range"),
        ("0,inf,", "line 2: column 'deletion_time' is inf"),
        ("0,1e300,", "line 2: column 'deletion_time' is out of range"),
        ("0,soon,", "line 2: column 'deletion_time' is 'soon'"),
    ],
)
def test_times_that_cannot_be_meant_are_named(tmp_path: Path, times: str, words: str) -> None:
    with pytest.raises(TraceError, match=words):
        _read(tmp_path, pods=_TIMED.format(first=f"p0,500,1024,1,1000,,LS,Running,{times}"))


def test_lists_without_optional_columns_are_read(tmp_path: Path) -> None:
    bare = "name,cpu_milli,memory_mib,num_gpu,gpu_milli\np0,1000,2048,1,460\np1,1000,2048,0.0,0\n"
    asks = _read(tmp_path, pods=bare).requests
    assert asks["model_mask"].tolist() == [0, 0]
    assert asks["duration_ms"].tolist() == [1000, 1000]
    assert asks["gpus_per_worker"].tolist() == [1, 0]
    timed = bare.replace("gpu_milli\n", "gpu_milli,creation_time,deletion_time\n")
    timed = timed.replace(",460\n", ",460,5,25\n").replace(",0.0,0\n", ",0,0,7,8\n")
    assert _read(tmp_path, pods=timed).requests["duration_ms"].tolist() == [20_000, 1000]
    created = bare.replace("gpu_milli\n", "gpu_milli,creation_time\n")
    created = created.replace(",460\n", ",460,5\n").replace(",0.0,0\n", ",0,0,7\n")
    assert _read(tmp_path, pods=created).requests["duration_ms"].tolist() == [2000, 1000]
    blank = _PODS.replace(",LS,", ",nan,").replace("G2|T4", "nan")
    assert _read(tmp_path, pods=blank).requests["model_mask"].tolist() == [0, 0, 0, 0b01]
    nodes = _NODES.replace("a,64000", ",64000")
    with pytest.raises(TraceError, match="line 3: column 'sn' is empty"):
        _read(tmp_path, nodes=nodes)


@pytest.mark.traces
@pytest.mark.parametrize("name", ["default", "gpushare40", "gpuspec33", "multigpu20"])
def test_every_published_list_is_read(traces_dir: Path, name: str) -> None:
    folder = traces_dir / "alibaba_openb_2023"
    nodes = folder / "openb_node_list_all_node.csv.gz"
    assert len(read_openb(folder / f"openb_pod_list_{name}.csv.gz", nodes=nodes)) > 1000
