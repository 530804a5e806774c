from __future__ import annotations

import gzip
import time
from pathlib import Path

import numpy as np
import pytest

from envs.workloads import read_philly, read_tiresias
from envs.workloads.readers.gpu_jobs import split_gpus
from orchestrator.errors import TraceError

HEAD = "job_id,submit_time,duration_s,num_gpus,vc,source,duration_with_gaps_s"
JOBS = (
    "0,2017-10-01 00:00:00,100,1,b,muri,",
    "1,2017-10-01 00:00:30,0,12,a,both,5",
    "2,2017-10-01 00:01:00,50,16,b,pollux,",
    "3,2017-10-02 00:00:00,50,8,c,pollux,",
)
MACHINES = ("machineId, number of GPUs, single GPU mem", "m0,2, 12GB", "m1,8, 24GB", "m2,8, 24GB")


def philly(
    folder: Path, jobs: tuple[str, ...] = (HEAD, *JOBS), machines: object = MACHINES
) -> Path:
    def put(name: str, lines: object) -> None:
        text = "\n".join(lines) + "\n" if lines else ""  # type: ignore[arg-type]
        (folder / name).write_bytes(gzip.compress(text.encode()))

    put("philly_jobs.csv.gz", jobs)
    put("philly_machines_original.csv.gz", machines)
    return folder


def test_jobs_machines_and_tenants(tmp_path: Path) -> None:
    trace = read_philly(philly(tmp_path))
    r = trace.requests
    assert trace.tenants == ("a", "b", "c")
    assert r["tenant"].tolist() == [1, 0, 1, 2]
    assert r["submit_ms"].tolist() == [0, 30_000, 60_000, 86_400_000]
    assert r["duration_ms"].tolist() == [100_000, 1000, 50_000, 50_000]
    assert r["requested_ms"].tolist() == r["duration_ms"].tolist()
    assert r["workers"].tolist() == [1, 3, 2, 1]
    assert r["gpus_per_worker"].tolist() == [1, 4, 8, 8]
    assert r["preemptible"].tolist() == [1] * 4
    assert [(n.node_id, n.gpus, n.gpu_memory_gb) for n in trace.nodes] == [
        ("m0", 2, 12.0),
        ("m1", 8, 24.0),
        ("m2", 8, 24.0),
    ]


def test_since_leaves_out_the_sparse_beginning(tmp_path: Path) -> None:
    trace = read_philly(philly(tmp_path), since="2017-10-01 00:01:00")
    assert trace.requests["source_id"].tolist() == [2, 3]
    assert trace.requests["submit_ms"][0] == 0
    with pytest.raises(TraceError, match="no job submitted since"):
        read_philly(tmp_path, since="2018-01-01")
    with pytest.raises(TraceError, match="'since' was given as 'soon'"):
        read_philly(tmp_path, since="soon")


def test_split_gpus() -> None:
    gpus = np.array([1, 3, 5, 7, 8, 9, 10, 12, 16, 20, 24, 128])
    assert split_gpus(gpus).tolist() == [1, 3, 5, 7, 8, 1, 2, 4, 8, 4, 8, 8]
    assert split_gpus(gpus, 4).tolist() == [1, 3, 1, 1, 4, 1, 2, 4, 4, 4, 4, 4]


@pytest.mark.parametrize(
    ("jobs", "line", "words"),
    [
        ((), 1, ["'job_id' is missing"]),
        ((HEAD,), None, ["holds no jobs"]),
        ((HEAD.replace("vc", "tenant"), *JOBS), 1, ["'vc' is missing"]),
        ((HEAD + ",vc", JOBS[0] + ",x"), 1, ["'vc' appears twice"]),
        ((HEAD, JOBS[0], "1,yesterday,1,1,a,,"), 3, ["submit_time", "'yesterday'", "a time"]),
        ((HEAD, JOBS[0], "1,2017-10-02 00:00:00,1.5,1,a,,"), 3, ["duration_s", "'1.5'"]),
        ((HEAD, JOBS[0], "1,2017-10-02 00:00:00,1,1"), 3, ["4 cells instead of 7"]),
        ((HEAD, JOBS[0], "1,2017-10-02 00:00:00,,1,a,,"), 3, ["'duration_s' is empty"]),
        ((HEAD, JOBS[0], "", "1,2017-10-02 00:00:00,-1,1,a,,"), 4, ["duration_s", "range"]),
        ((HEAD, "1,2017-10-02 00:00:00,1,0,a,,"), 2, ["num_gpus", "range"]),
        ((HEAD, JOBS[1], JOBS[0]), 3, ["submit_time", "earlier", "sort"]),
        ((HEAD, "1,2017-10-02 00:00:00,1,24,a,,"), None, ["needs 24 GPUs", "never fit"]),
        ((HEAD, "1,2017-10-02 00:00:00,1,1,,,"), 2, ["'vc' is empty"]),
        ((HEAD, "1,2017-10-02 00:00:00,1,1,a\tb,,"), None, ["tenants", "printable name"]),
    ],
)
def test_bad_jobs_name_line_and_column(
    tmp_path: Path, jobs: tuple[str, ...], line: int | None, words: list[str]
) -> None:
    with pytest.raises(TraceError) as caught:
        read_philly(philly(tmp_path, jobs))
    assert "philly_jobs.csv.gz" in str(caught.value)
    assert caught.value.line == line
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("machines", "line", "word"),
    [
        ((), 1, "machineId"),
        ((MACHINES[0],), None, "no machines"),
        ((MACHINES[0], "m0,2"), 2, "2 cells instead of 3"),
        ((MACHINES[0], "m0,two,12GB"), 2, "'two'"),
        ((MACHINES[0], "m0,2,much"), 2, "'much'"),
        ((MACHINES[0], "m0,65,12GB"), 2, "'65'"),
        ((MACHINES[0], "m0,8,12GB", "m0,8,12GB", "m1,8,12GB"), None, "twice"),
    ],
)
def test_bad_machines_name_the_line(
    tmp_path: Path, machines: tuple[str, ...], line: int | None, word: str
) -> None:
    with pytest.raises(TraceError, match=word) as caught:
        read_philly(philly(tmp_path, machines=machines))
    assert caught.value.line == line


def test_absent_folder(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no such file"):
        read_philly(tmp_path / "absent")


def test_tiresias_format(tmp_path: Path) -> None:
    path = tmp_path / "jobs.csv"
    path.write_text(
        "job_id,num_gpu,submit_time,iterations,model_name,duration,interval\n"
        "7,4,0,100,vgg,60,5\n8,16,30,100,alexnet,90,5\n"
    )
    trace = read_tiresias(path)
    r = trace.requests
    assert (trace.name, trace.gpus, len(trace.nodes)) == ("jobs", 16, 1)
    assert r["gpus_per_worker"].tolist() == [4, 16]
    assert r["workers"].tolist() == [1, 1]
    assert r["source_id"].tolist() == [7, 8]
    assert r["application"].tolist() == [1, 0]
    assert r["submit_ms"].tolist() == [0, 30_000]
    with pytest.raises(TraceError, match="job 8 needs 16 GPUs"):
        read_tiresias(path, gpus=8)


@pytest.mark.traces
def test_published_trace(traces_dir: Path) -> None:
    trace = read_philly(traces_dir / "philly")
    assert (len(trace), len(trace.nodes), trace.gpus) == (89_045, 552, 2490)
    dense = read_philly(traces_dir / "philly", since="2017-09-24")
    assert len(dense) == 88_867
    assert len(dense.tenants) == 15
    assert dense.offered_load() == pytest.approx(0.323, abs=1e-3)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        read_philly(traces_dir / "philly")
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.4


@pytest.mark.traces
def test_published_tiresias_trace(traces_dir: Path) -> None:
    trace = read_tiresias(traces_dir / "tiresias_fixture" / "60_job.csv.gz")
    assert (len(trace), trace.gpus, trace.name) == (60, 16, "60_job")
    assert trace.requests["duration_ms"][0] == 164_000
