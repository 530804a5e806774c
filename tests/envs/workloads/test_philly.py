"""Philly, as tables and as its publisher's log."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from envs.workloads import load_workload, read_philly
from envs.workloads.readers.philly import read_philly_json
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


@pytest.mark.traces
def test_published_trace(traces_dir: Path) -> None:
    trace = read_philly(traces_dir / "philly")
    assert (len(trace), len(trace.nodes), trace.gpus) == (89_045, 552, 2490)
    dense = read_philly(traces_dir / "philly", since="2017-09-24")
    assert len(dense) == 88_867
    assert len(dense.tenants) == 15
    assert dense.offered_load() == pytest.approx(0.323, abs=1e-3)


def write(path: Path, lines: tuple[str, ...]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def attempt(start: str, end: str | None, gpus: int, hosts: int = 1) -> dict[str, Any]:
    detail = [{"ip": f"m{h}", "gpus": [f"gpu{g}" for g in range(gpus)]} for h in range(hosts)]
    return {"start_time": start, "end_time": end, "detail": detail}


def philly_log(folder: Path, jobs: object) -> Path:
    (folder / "cluster_job_log").write_text(json.dumps(jobs))
    machines = ("machineId, number of GPUs, single GPU mem", "m0,8, 24GB", "m1,8, 24GB")
    write(folder / "cluster_machine_list", machines)
    return folder


def philly_job(*attempts: dict[str, Any], submit: object = "2017-10-07 01:11:39") -> dict[str, Any]:
    return {
        "status": "Pass",
        "vc": "ee9e8c",
        "jobid": "application_1506638472019_14199",
        "attempts": list(attempts),
        "submitted_time": submit,
        "user": "ce2f4c",
    }


def test_philly_json(tmp_path: Path) -> None:
    first = philly_job(
        attempt("2017-10-07 01:12:09", "2017-10-07 01:13:23", 8),
        attempt("2017-10-07 01:13:30", "2017-10-07 02:13:30", 4, hosts=2),
        attempt("2017-10-07 03:00:00", None, 8),
    )
    never = philly_job()
    early = philly_job(
        attempt("2017-10-07 01:11:00", "2017-10-07 01:11:01", 1), submit="2017-10-07 01:10:39"
    )
    lost = philly_job(attempt("2017-10-07 01:11:00", "2017-10-07 01:11:01", 1), submit="None")
    trace = read_philly_json(philly_log(tmp_path, [first, never, early, lost]))
    assert trace.requests["submit_ms"].tolist() == [0, 60_000]
    assert trace.requests["duration_ms"].tolist() == [1000, 3_674_000]
    assert trace.requests["workers"].tolist() == [1, 2]
    assert trace.requests["gpus_per_worker"].tolist() == [1, 4]
    assert trace.tenants == ("ee9e8c",)
    assert trace.gpus == 16
    assert trace == load_workload("philly_json", path=tmp_path)


@pytest.mark.parametrize(
    ("jobs", "words"),
    [
        ({}, ["not a list"]),
        ([3], ["job 0 is not an object"]),
        ([{"vc": "a"}], ["job 0 lacks 'submitted_time'"]),
        ([philly_job(submit="soon")], ["'soon'"]),
        ([philly_job({"start_time": None})], ["job 0, attempt 0 lacks 'end_time'"]),
        (
            [philly_job(attempt("2017-10-07 02:00:00", "2017-10-07 01:00:00", 1))],
            ["job 0, attempt 0", "earlier"],
        ),
        ([philly_job()], ["no GPU job"]),
    ],
)
def test_faults_of_philly_json_are_named(tmp_path: Path, jobs: object, words: list[str]) -> None:
    with pytest.raises(TraceError) as error:
        read_philly_json(philly_log(tmp_path, jobs))
    for word in ["cluster_job_log", *words]:
        assert word in str(error.value)
    (tmp_path / "cluster_job_log").write_text("[\n{")
    with pytest.raises(TraceError, match="line 2: is not JSON"):
        read_philly_json(tmp_path)


@pytest.mark.parametrize(
    ("start", "end", "seconds"),
    [
        ("2017-11-05 00:30:00", "2017-11-05 03:30:00", 4 * 3600),
        ("2017-11-05 01:50:00", "2017-11-05 01:10:00", 20 * 60),
        ("2017-11-05 01:10:00", "2017-11-05 01:50:00", 40 * 60),
        ("2017-11-05 02:30:00", "2017-11-05 03:30:00", 3600),
        ("2017-11-04 12:00:00", "2017-11-05 12:00:00", 25 * 3600),
        ("2017-03-11 12:00:00", "2017-03-12 12:00:00", 23 * 3600),
        ("2017-11-05 00:30:00+00:00", "2017-11-05 03:30:00+00:00", 3 * 3600),
    ],
)
def test_times_are_pacific(tmp_path: Path, start: str, end: str, seconds: int) -> None:
    jobs = [philly_job(attempt(start, end, 1), submit=start)]
    requests = read_philly_json(philly_log(tmp_path, jobs)).requests
    assert requests["duration_ms"].tolist() == [1000 * seconds]


def test_an_hour_that_comes_twice_is_told_by_what_came_before(tmp_path: Path) -> None:
    night = "2017-11-05 01:{}:00".format
    twice = philly_job(
        attempt(night(40), night(50), 1), attempt(night(20), night(30), 1), submit=night(30)
    )
    waited = philly_job(attempt(night(10), "2017-11-05 02:10:00", 1), submit=night(30))
    requests = read_philly_json(philly_log(tmp_path, [twice, waited])).requests
    assert requests["duration_ms"].tolist() == [20 * 60_000, 60 * 60_000]
    backwards = philly_job(attempt("2017-11-05 03:50:00", "2017-11-05 03:10:00", 1))
    with pytest.raises(TraceError, match="earlier"):
        read_philly_json(philly_log(tmp_path, [backwards]))


def test_nulls_of_the_log_are_nothing(tmp_path: Path) -> None:
    fine = philly_job(attempt("2017-10-07 01:12:00", "2017-10-07 01:13:00", 1))
    missing = attempt("2017-10-07 01:12:00", "2017-10-07 01:13:00", 1)
    jobs = [
        fine | {"vc": None},
        fine | {"attempts": None},
        fine | {"attempts": [missing | {"detail": None}]},
        fine | {"attempts": [missing | {"detail": [{"ip": "m0", "gpus": None}]}]},
        fine | {"attempts": [missing | {"end_time": "NaT"}]},
    ]
    trace = read_philly_json(philly_log(tmp_path, jobs))
    assert (len(trace), trace.tenants) == (1, ("default",))
    for broken in ({"attempts": 3}, {"attempts": [missing | {"detail": "m0"}]}):
        with pytest.raises(TraceError, match=r"job 0.*give a list"):
            read_philly_json(philly_log(tmp_path, [fine | broken]))
    with pytest.raises(TraceError, match="nan"):
        read_philly_json(philly_log(tmp_path, [fine | {"submitted_time": float("nan")}]))


@pytest.mark.parametrize(
    ("cell", "ms"),
    [
        ("2017-10-01 00:00:30.75", 30_000),
        ("2017-10-01T00:00:30Z", 30_000),
        ("2017-10-01 08:00:20+08:00", 20_000),
    ],
)
def test_times_may_have_fractions_and_zones(tmp_path: Path, cell: str, ms: int) -> None:
    jobs = (HEAD, JOBS[0], JOBS[1].replace("2017-10-01 00:00:30", cell), *JOBS[2:])
    assert read_philly(philly(tmp_path, jobs)).requests["submit_ms"][:3].tolist() == [0, ms, 60_000]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("30,0,12", "30,1_000,12", "'duration_s' is '1_000', not a 64-bit integer"),
        ("2017-10-01 00:00:30", "30", "'submit_time' is '30', not a time"),
        ("2017-10-01 00:00:30", "0001-01-01 00:00:00+08:00", "'submit_time' is '0001.*not a time"),
    ],
)
def test_cells_that_only_python_reads_are_named(
    tmp_path: Path, old: str, new: str, words: str
) -> None:
    jobs = (HEAD, JOBS[0], JOBS[1].replace(old, new), *JOBS[2:])
    with pytest.raises(TraceError, match=f"line 3: column {words}"):
        read_philly(philly(tmp_path, jobs))


def test_machines_have_memory_that_can_be_meant(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"line 3: machine 'm1' has '8' GPUs of '9{20}' GB; give"):
        read_philly(philly(tmp_path, machines=(*MACHINES[:2], f"m1,8,{'9' * 20}GB")))
