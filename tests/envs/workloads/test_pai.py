"""PAI's tables, on small files in the form that their publisher documents."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from envs.workloads import load_workload
from envs.workloads.readers.pai import read_pai
from orchestrator.errors import TraceError

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


def write(path: Path, lines: tuple[str, ...]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def pai(folder: Path, tasks: tuple[str, ...] = PAI_TASKS) -> Path:
    write(folder / "pai_job_table.csv", PAI_JOBS)
    write(folder / "pai_task_table.csv", tasks)
    write(folder / "pai_machine_spec.csv", PAI_MACHINES)
    return folder


def test_pai(tmp_path: Path) -> None:
    trace = read_pai(pai(tmp_path))
    r = trace.requests
    assert r["submit_ms"].tolist() == [0, 100_000, 1_100_000]  # b, a; and c, which has not ended
    assert r["duration_ms"].tolist() == [50_000, 3_000_500, 2_020_500]
    assert r["workers"].tolist() == [2, 4, 1]
    assert r["gpus_per_worker"].tolist() == [2, 1, 1]
    assert r["gpu_milli"].tolist() == [1000, 500, 1000]
    assert r["cpu_milli"].tolist() == [6000, 4000, 6000]
    assert r["memory_mib"].tolist() == [29_696, 10_240, 29_696]
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


TASK = "a,worker,4.0,Terminated,1020.0,4020.5,400.0,10.0,50.0,MISC"


@pytest.mark.parametrize("blank", ["nan", "NaN", "NULL", "NA", ""])
def test_what_stands_for_nothing_is_an_empty_cell(tmp_path: Path, blank: str) -> None:
    tasks = (
        TASK.replace("400.0", blank).replace("10.0", blank),
        PAI_TASKS[3].replace("900.0", blank),  # it has not started
    )
    r = read_pai(pai(tmp_path, tasks)).requests
    assert r["cpu_milli"].tolist() == r["memory_mib"].tolist() == [0]
    with pytest.raises(TraceError, match="line 1: column 'inst_num' is None"):
        read_pai(pai(tmp_path, (TASK.replace("4.0,T", f"{blank},T"),)))


@pytest.mark.parametrize(
    ("old", "new", "column"),
    [
        ("400.0", "inf", "plan_cpu"),
        ("400.0", "1e300", "plan_cpu"),
        ("10.0", "-1", "plan_mem"),
        ("50.0", "inf", "plan_gpu"),
        ("4020.5", "1e300", "end_time"),
        ("4.0,T", "2.5,T", "inst_num"),
    ],
)
def test_cells_that_cannot_be_meant_are_named(
    tmp_path: Path, old: str, new: str, column: str
) -> None:
    with pytest.raises(TraceError, match=f"line 2: column '{column}' is"):
        read_pai(pai(tmp_path, (PAI_TASKS[3], TASK.replace(old, new))))


@pytest.mark.parametrize(
    ("machine", "column"),
    [
        ("m0,MISC,nan,512,8", "cap_cpu"),
        ("m0,MISC,96,inf,8", "cap_mem"),
        ("m0,MISC,96,512,65", "cap_gpu"),
        (",MISC,96,512,8", "machine"),
    ],
)
def test_machines_that_cannot_be_meant_are_named(tmp_path: Path, machine: str, column: str) -> None:
    pai(tmp_path)
    write(tmp_path / "pai_machine_spec.csv", (PAI_MACHINES[1], machine))
    with pytest.raises(TraceError, match=f"line 2: column '{column}' is"):
        read_pai(tmp_path)


@pytest.mark.parametrize(("blank", "last_s"), [("", 4020.5), ("nan", 4020.5), ("NULL", 9000.0)])
def test_a_task_without_an_end_lasts_until_the_end_of_the_record(
    tmp_path: Path, blank: str, last_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    tasks = (TASK.replace("4020.5", f"{last_s}"), PAI_TASKS[3].replace("950.0", blank))
    r = read_pai(pai(tmp_path, tasks)).requests
    assert r["duration_ms"].tolist() == [1000 * (last_s - 900), 1000 * (last_s - 1020)]
    assert "1 of 2 jobs have no end" in caplog.text
