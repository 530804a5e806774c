"""Helios and Acme, on small files in the form that their publishers document."""

from __future__ import annotations

from pathlib import Path

import pytest

from envs.workloads import load_workload
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


@pytest.mark.parametrize("blank", ["nan", "NaN", "NULL", "null", "None", "NA", "<NA>", ""])
def test_what_stands_for_nothing_is_an_empty_cell(tmp_path: Path, blank: str) -> None:
    row = HELIOS_JOBS[1]
    cpu = row.replace(",16,16,2,", f",{blank},16,2,")
    untold = row.replace(",16,16,2,", f",16.0,16,{blank},")
    waits = row.replace("2020-06-09 18:42:00", blank)
    trace = read_helios(helios(tmp_path, (HELIOS, cpu, untold, waits)))
    assert trace.requests["source_id"].tolist() == [0]
    assert trace.requests["gpus_per_worker"].tolist() == [8]


@pytest.mark.parametrize("blank", ["nan", "NULL", ""])
def test_a_job_without_an_end_lasts_until_the_end_of_the_record(
    tmp_path: Path, blank: str, caplog: pytest.LogCaptureFixture
) -> None:
    running = HELIOS_JOBS[1].replace("2020-06-09 18:45:36", blank).replace("FAILED", "RUNNING")
    last = HELIOS_JOBS[1].replace("18:41:27", "20:00:00").replace("18:42:00", "20:30:00")
    last = last.replace("18:45:36", "21:42:00")
    trace = read_helios(helios(tmp_path, (HELIOS, HELIOS_JOBS[3], running, last)))
    assert trace.requests["duration_ms"].tolist() == [1000, 3 * 3_600_000, 72 * 60_000]
    assert "1 of 3 jobs have no end" in caplog.text
    late = last.replace("21:42:00", "20:30:00").replace("2020-06-09 20:30:00,216", f"{blank},216")
    trace = read_helios(helios(tmp_path, (HELIOS, running, late)))  # it has only just begun
    assert trace.requests["duration_ms"].tolist() == [108 * 60_000, 1000]
    assert "2 of 2 jobs have no end" in caplog.text


def test_acmes_jobs_without_an_end_last_until_the_end_of_the_record(tmp_path: Path) -> None:
    running = SEREN[1].replace("2023-03-01 00:20:51+08:00", "").replace("FAILED", "RUNNING")
    trace = read_acme(write(tmp_path / "trace_seren.csv", (SEREN[0], running, SEREN[2])))
    assert trace.requests["duration_ms"].tolist() == [3_010_000, 2_693_000]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (",16,16,2,", ",inf,16,2,", "line 4: column 'gpu_num' is inf"),
        (",16,16,2,", ",16,16,-inf,", "line 4: column 'node_num' is -inf"),
        (",16,16,2,", ",1e300,16,2,", "line 4: column 'gpu_num' is 1e"),
        (",16,16,2,", ",2.5,16,2,", "line 4: column 'gpu_num' is 2.5"),
        ("2020-06-09 18:41:27", "nan", "line 4: column 'submit_time' is 'nan'"),
    ],
)
def test_cells_that_are_no_numbers_are_named(
    tmp_path: Path, old: str, new: str, words: str
) -> None:
    rows = (HELIOS, HELIOS_JOBS[0], "", HELIOS_JOBS[1].replace(old, new))
    with pytest.raises(TraceError, match=words):
        read_helios(helios(tmp_path, rows))


@pytest.mark.parametrize("total", ["inf", "1e300", "-8"])
def test_totals_that_cannot_be_meant_are_named(tmp_path: Path, total: str) -> None:
    helios(tmp_path)
    write(tmp_path / "cluster_gpu_number.csv", ("date,total", "a,16", f"b,{total}"))
    with pytest.raises(TraceError, match="line 3: column 'total'"):
        read_helios(tmp_path)
    write(tmp_path / "cluster_gpu_number.csv", ("date,total", "a,16", "b,nan"))
    assert len(read_helios(tmp_path).nodes) == 2


@pytest.mark.parametrize("nodes", [0, -1, 2.5, float("nan")])
def test_so_many_machines_cannot_be(tmp_path: Path, nodes: float) -> None:
    with pytest.raises(TraceError, match="'nodes' was given as"):
        read_helios(helios(tmp_path), nodes=nodes)  # type: ignore[arg-type]
