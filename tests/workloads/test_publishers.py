"""Readers of publishers' own formats, on small files in the form that they document."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from envs.workloads import load_workload
from envs.workloads.readers.pai import read_pai
from envs.workloads.readers.philly import read_philly_json
from envs.workloads.readers.slurm import read_acme, read_helios
from orchestrator.errors import TraceError

HELIOS = (
    "job_id,user,vc,gpu_num,cpu_num,node_num,state,submit_time,start_time,end_time,duration,queue"
)
HELIOS_JOBS = (
    (
        "1425511,uXBbc,vcJkd,1,1,1,COMPLETED,2020-06-09 18:41:01,2020-06-09 18:41:01,"
        "2020-06-10 04:55:09,36848,0"
    ),
    (
        "1425512,uVMrF,vchbv,16,16,2,FAILED,2020-06-09 18:41:27,2020-06-09 18:42:00,"
        "2020-06-09 18:45:36,216,33"
    ),
    (
        "1425513,uzqls,vcpDC,0,1,1,CANCELLED,2020-06-09 18:41:28,2020-06-09 18:41:28,"
        "2020-06-17 14:15:21,675233,0"
    ),
    (
        "1425514,uVMrF,vchbv,12,16,0,CANCELLED,2020-06-09 18:41:20,2020-06-09 18:41:30,"
        "2020-06-09 18:41:30,0,10"
    ),
    "1425515,uVMrF,vchbv,1,16,1,CANCELLED,2020-06-09 18:50:00,,,,",
)
HELIOS_GPUS = ("date,vchbv,vcJkd,total", "2020-06-09,16,8,24", "2020-06-10,16,20,36")


def write(path: Path, lines: tuple[str, ...]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def helios(folder: Path, jobs: tuple[str, ...] = (HELIOS, *HELIOS_JOBS)) -> Path:
    write(folder / "cluster_log.csv", jobs)
    write(folder / "cluster_gpu_number.csv", HELIOS_GPUS)
    return folder


def test_helios(tmp_path: Path) -> None:
    trace = read_helios(helios(tmp_path))
    r = trace.requests
    # The CPU job and the one that never started are left out; the order is by submission.
    assert r["source_id"].tolist() == [0, 2, 1]
    assert r["submit_ms"].tolist() == [0, 19_000, 26_000]
    assert r["duration_ms"].tolist() == [36_848_000, 1000, 216_000]
    assert r["gpus_per_worker"].tolist() == [1, 4, 8]
    assert r["workers"].tolist() == [1, 3, 2]
    assert [trace.tenants[t] for t in r["tenant"]] == ["vcJkd", "vchbv", "vchbv"]
    assert r["user"][1] == r["user"][2] != r["user"][0]
    assert len(trace.nodes) == 5  # 36 GPUs
    assert trace == load_workload("helios", path=tmp_path)
    assert len(read_helios(tmp_path, nodes=2).nodes) == 2


@pytest.mark.parametrize(
    ("jobs", "words"),
    [
        ((HELIOS.replace("vc,", ""), HELIOS_JOBS[0]), ["'vc' is missing", "line 1"]),
        ((HELIOS, HELIOS_JOBS[0].replace("18:41:01", "noon", 1)), ["submit_time", "line 2"]),
        ((HELIOS, HELIOS_JOBS[0].replace(",1,1,1,", ",1.5,1,1,")), ["gpu_num", "1.5", "line 2"]),
        ((HELIOS, HELIOS_JOBS[0].replace("2020-06-10", "2020-06-01")), ["end_time", "line 2"]),
        ((HELIOS, HELIOS_JOBS[1].replace(",16,16,2", ",160,16,20")), ["160 GPUs", "never fit"]),
        ((HELIOS, HELIOS_JOBS[2]), ["no GPU job"]),
    ],
)
def test_faults_of_helios_are_named(
    tmp_path: Path, jobs: tuple[str, ...], words: list[str]
) -> None:
    with pytest.raises(TraceError) as error:
        read_helios(helios(tmp_path, jobs))
    for word in ["cluster_log.csv", *words]:
        assert word in str(error.value)


SEREN = (
    (
        "job_id,user,node_num,gpu_num,cpu_num,type,state,submit_time,start_time,end_time,duration,"
        "queue,gpu_time"
    ),
    (
        "5778432,u5907,1,8,128,Other,FAILED,2023-03-01 00:18:22+08:00,2023-03-01 00:18:54+08:00,"
        "2023-03-01 00:20:51+08:00,117,32,936.0"
    ),
    (
        "5778469,u5907,1,8,128,Pretrain,COMPLETED,2023-03-01 00:23:58+08:00,"
        "2023-03-01 00:24:11+08:00,2023-03-01 01:09:04+08:00,2693,13,21544.0"
    ),
)
KALOS = (
    (
        "job_id,user,node_num,gpu_num,cpu_num,mem_per_pod_GB,shared_mem_per_pod,type,state,"
        "submit_time,start_time,end_time,fail_time,stop_time,duration,queue,gpu_time"
    ),
    (
        "dlctk696s0jbvitv,uf794,8,64,960,1000,100.0,Other,FAILED,2023-05-17 11:00:58+00:00,"
        "2023-05-17 11:01:08+00:00,2023-05-17 11:01:16+00:00,2023-05-17 11:01:16+00:00,,18,10.0,"
        "1152.0"
    ),
)


def test_acme(tmp_path: Path) -> None:
    seren = read_acme(write(tmp_path / "trace_seren.csv", SEREN))
    assert seren.requests["submit_ms"].tolist() == [0, 336_000]
    assert seren.requests["duration_ms"].tolist() == [117_000, 2_693_000]
    assert seren.requests["application"].tolist() == [0, 1]
    assert seren.gpus == 2288
    kalos = read_acme(write(tmp_path / "trace_kalos.csv", KALOS))
    assert kalos.requests["duration_ms"].tolist() == [8000]  # not 18 s: that holds the queue
    assert kalos.requests["workers"].tolist() == [8]
    assert kalos.gpus == 2416
    other = write(tmp_path / "mine.csv", SEREN)
    with pytest.raises(TraceError, match="give 'nodes'"):
        read_acme(other)
    assert read_acme(other, nodes=3).gpus == 24
    assert load_workload("acme", path=other, nodes=3) == read_acme(other, nodes=3)


def attempt(start: str, end: str | None, gpus: int, hosts: int = 1) -> dict[str, Any]:
    detail = [{"ip": f"m{h}", "gpus": [f"gpu{g}" for g in range(gpus)]} for h in range(hosts)]
    return {"start_time": start, "end_time": end, "detail": detail}


def philly(folder: Path, jobs: object) -> Path:
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
    trace = read_philly_json(philly(tmp_path, [first, never, early, lost]))
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
        read_philly_json(philly(tmp_path, jobs))
    for word in ["cluster_job_log", *words]:
        assert word in str(error.value)
    (tmp_path / "cluster_job_log").write_text("[\n{")
    with pytest.raises(TraceError, match="line 2: is not JSON"):
        read_philly_json(tmp_path)


PAI_JOBS = (
    "a,i1,u1,Terminated,1000.0,5000.0",
    "b,i2,u2,Failed,900.0,950.0",
    "c,i3,u1,Running,2000.0,",
    "d,i4,u1,Waiting,,",
)
PAI_TASKS = (
    "a,ps,1.0,Terminated,1010.0,5000.0,600.0,29.296875,,",
    "a,worker,4.0,Terminated,1020.0,4020.5,400.0,10.0,50.0,MISC",
    "a,evaluator,1.0,Terminated,1020.0,4020.5,400.0,10.0,50.0,MISC",
    "b,tensorflow,2.0,Failed,900.0,950.0,600.0,29.0,200.0,V100",
    "c,tensorflow,1.0,Running,2000.0,,600.0,29.0,100.0,T4",
)
PAI_MACHINES = ("m0,MISC,96,512,8", "m1,V100,96,512,8", "m2,CPU,96,512,0")


def pai(folder: Path, tasks: tuple[str, ...] = PAI_TASKS) -> Path:
    write(folder / "pai_job_table.csv", PAI_JOBS)
    write(folder / "pai_task_table.csv", tasks)
    write(folder / "pai_machine_spec.csv", PAI_MACHINES)
    return folder


def test_pai(tmp_path: Path) -> None:
    trace = read_pai(pai(tmp_path))
    r = trace.requests
    assert r["submit_ms"].tolist() == [0, 100_000]  # b, then a; c has not ended
    assert r["duration_ms"].tolist() == [50_000, 3_000_500]
    assert r["workers"].tolist() == [2, 4]
    assert r["gpus_per_worker"].tolist() == [2, 1]
    assert r["gpu_milli"].tolist() == [1000, 500]
    assert r["cpu_milli"].tolist() == [6000, 4000]
    assert r["memory_mib"].tolist() == [29_696, 10_240]
    assert [(n.gpus, n.gpu_model, n.cpu_cores) for n in trace.nodes][:2] == [
        (8, "MISC", 96),
        (8, "V100", 96),
    ]
    assert trace == load_workload("pai", path=tmp_path)
    # The same with a header line, compressed.
    header = "job_name,inst_id,user,status,start_time,end_time"
    (tmp_path / "pai_job_table.csv").unlink()
    data = "\n".join([header, *PAI_JOBS]).encode()
    (tmp_path / "pai_job_table.csv.gz").write_bytes(gzip.compress(data))
    assert read_pai(tmp_path) == trace


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("a,worker,4.0,Terminated,1020.0,4020.5,x,10.0,50.0,MISC", ["plan_cpu", "'x'", "line 1"]),
        ("a,worker,0.0,Terminated,1020.0,4020.5,1.0,10.0,50.0,MISC", ["inst_num", "line 1"]),
        ("a,worker,1.0,Terminated,1020.0,20.5,1.0,10.0,50.0,MISC", ["end_time", "line 1"]),
        ("a,worker,1.0,Terminated,1020.0,4020.5", ["6 cells instead of 10", "line 1"]),
        ("a,worker,64.0,Terminated,1020.0,4020.5,1.0,1.0,100.0,T4", ["'a' can never fit"]),
        ("a,ps,1.0,Terminated,1020.0,4020.5,1.0,1.0,,", ["no GPU task"]),
    ],
)
def test_faults_of_pai_are_named(tmp_path: Path, line: str, words: list[str]) -> None:
    with pytest.raises(TraceError) as error:
        read_pai(pai(tmp_path, (line,)))
    for word in ["pai_task_table.csv", *words]:
        assert word in str(error.value)


def test_pai_jobs_that_never_fit_may_be_dropped(tmp_path: Path) -> None:
    tasks = (PAI_TASKS[1], PAI_TASKS[3].replace("2.0,", "64.0,", 1))
    assert len(read_pai(pai(tmp_path, tasks), drop_unplaceable=True)) == 1
