"""Real workers: how they start, end, save and change in number."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.errors import ConfigurationError, ValidationError
from orchestrator.kernels.state.codes import JobKind
from orchestrator.messages import (
    CheckpointCommitted,
    RegroupJob,
    SaveCheckpoint,
    StartJob,
    StopJob,
    StopReason,
    WorkerExited,
    WorkerPlacement,
    WorkersLost,
)
from tests.runtimes.stage import PYTHON, SPEAKER, Stage, alive, until

_THREE = (("n0", (0, 1)), ("n0", (2, 3)), ("n1", (0, 1)))


def _shell(line: str) -> tuple[str, ...]:
    return ("sh", "-c", line)


def _regroup(start: StartJob, *places: tuple[str, tuple[int, ...]], **fields: Any) -> RegroupJob:
    workers = tuple(WorkerPlacement(node, gpus) for node, gpus in places)
    values: dict[str, Any] = {"resume_ms": 0, "progress_ms": 0, "speed_milli": 1000}
    return RegroupJob(start.job_id, start.run, start.spec, workers, **(values | fields))


def _heard(stage: Stage, worker: int = 0, node: str = "n0", key: str = "") -> list[tuple[int, Any]]:
    """Of a worker that speaks: its process, and what it heard."""
    lines = stage.log("a", worker, node).splitlines()
    found = [(int(pid), json.loads(said)) for pid, _, said in (x.split(" ", 2) for x in lines)]
    return [(pid, said[key]) for pid, said in found if key in said] if key else found


# --- how workers begin ----------------------------------------------------------------------------


async def test_a_gang_gets_the_variables_of_torchrun_and_its_devices(stage: Stage) -> None:
    stage.options["checkpoints"] = stage.folder / "saved"
    stage.runtime = stage.new_runtime()
    await stage.open("n0", "n1")
    names = "RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE NODE_RANK MASTER_ADDR MASTER_PORT MINE "
    names += "CUDA_VISIBLE_DEVICES QUARTERMASTER_JOB_ID QUARTERMASTER_RUN QUARTERMASTER_TOKEN "
    names += "QUARTERMASTER_CHECKPOINT_DIR PWD"
    code = f"import os, json; print(json.dumps({{n: os.environ.get(n) for n in {names.split()}}}))"
    command = (*PYTHON, code)
    environment = (("MINE", "a b"), ("RANK", "7"))
    start = stage.start("a", command, _THREE, environment=environment)
    stage.runtime.carry_out((start,))
    await until(lambda: stage.events)
    assert stage.events == [WorkerExited("a", 1)]
    saw = [json.loads(stage.log("a", w, n)) for w, n in ((0, "n0"), (1, "n0"), (2, "n1"))]
    assert [one["RANK"] for one in saw] == ["0", "1", "2"]  # the runtime's, not the job's
    assert [one["LOCAL_RANK"] for one in saw] == ["0", "1", "0"]
    assert [one["LOCAL_WORLD_SIZE"] for one in saw] == ["2", "2", "1"]
    assert [one["NODE_RANK"] for one in saw] == ["0", "0", "1"]
    assert [one["CUDA_VISIBLE_DEVICES"] for one in saw] == ["0,1", "2,3", "0,1"]
    assert {one["WORLD_SIZE"] for one in saw} == {"3"}
    assert {one["MASTER_ADDR"] for one in saw} == {"127.0.0.1"}
    assert len({one["MASTER_PORT"] for one in saw}) == 1
    assert {one["QUARTERMASTER_JOB_ID"] for one in saw} == {"a"}
    assert {one["QUARTERMASTER_RUN"] for one in saw} == {"1"}
    assert {one["QUARTERMASTER_CHECKPOINT_DIR"] for one in saw} == {str(stage.folder / "saved/a")}
    assert {one["QUARTERMASTER_TOKEN"] for one in saw} == {None}
    assert {one["MINE"] for one in saw} == {"a b"}


@pytest.mark.parametrize("job", ["../../up", "a/b", ".", "..", "ü" * 150, "with space"])
async def test_a_job_has_a_folder_of_its_own_whatever_it_is_called(stage: Stage, job: str) -> None:
    await stage.open("n0")
    stage.runtime.carry_out((stage.start(job, _shell("pwd")),))
    await until(lambda: stage.events)
    assert stage.events == [WorkerExited(job, 1)]
    (log,) = stage.folder.rglob("rank-0.log")
    jobs = stage.folder / "agents" / "n0" / "jobs"
    assert log.parent.parent.parent == jobs
    assert log.read_text().strip() == str(log.parent.parent / "work")


async def test_a_worker_runs_where_its_job_says_with_the_paths_of_its_user(stage: Stage) -> None:
    await stage.open("n0")
    line = _shell("pwd; echo ${PYTHONPATH-none}")
    below = stage.folder / "agents" / "n0" / "jobs" / "b" / "work" / "sub"
    below.mkdir(parents=True)
    first = stage.start("a", line, working_dir=str(stage.folder))
    stage.runtime.carry_out((first, stage.start("b", line, (("n0", (1,)),), working_dir="sub")))
    await until(lambda: len(stage.events) == 2)
    mine = os.environ.get("PYTHONPATH", "none")
    assert stage.log("a").split() == [str(stage.folder), mine]
    assert stage.log("b").split() == [str(below), mine]


async def test_devices_are_handed_out_when_whoever_had_them_is_gone(stage: Stage) -> None:
    await stage.open("n0")
    stubborn = _shell("trap '' TERM; echo a-in; sleep 30 & wait; sleep 30")
    stage.runtime.carry_out((stage.start("a", stubborn),))
    await until(lambda: stage.log("a"))
    second = stage.start("b", _shell("date +%s%N"))
    other = stage.start("c", _shell("true"), (("n0", (1,)),))
    stopped_ms = stage.clock.now_ms()
    stage.runtime.carry_out((StopJob("a", 1, StopReason.PREEMPTED, 0), second, other))
    await until(lambda: len(stage.events) == 2)
    assert stage.events == [WorkerExited("c", 1), WorkerExited("b", 1)]
    assert int(stage.log("b")) // 1_000_000 >= stopped_ms + 500  # the grace of who ignores SIGTERM


async def test_workers_share_a_device_as_far_as_it_goes(stage: Stage) -> None:
    await stage.open("n0")
    wait = _shell("echo in; while [ ! -e ../../go ]; do sleep 0.02; done")
    jobs = [stage.start(job, wait, gpu_fraction=0.4) for job in "abc"]
    stage.runtime.carry_out(jobs)
    await until(lambda: stage.log("a") and stage.log("b"))
    assert not stage.log("c")
    (stage.folder / "agents/n0/jobs/go").touch()
    await until(lambda: len(stage.events) == 3)
    assert stage.log("c")


async def test_the_next_run_begins_when_nothing_is_left_of_the_one_before(stage: Stage) -> None:
    await stage.open("n0", "n1")
    stubborn = _shell("trap '' TERM; while true; do date +%s%N; sleep 0.02; done")
    stage.runtime.carry_out((stage.start("a", stubborn),))
    await until(lambda: stage.log("a"))
    again = stage.start("a", _shell("date +%s%N"), (("n1", (0,)),), run=2)
    stage.runtime.carry_out((StopJob("a", 1, StopReason.INTERRUPTED, 0), again))
    assert stage.runtime.observe() == {"a": 2}
    await until(lambda: stage.events)
    assert stage.events == [WorkerExited("a", 2)]
    last = int(stage.log("a").split()[-1])
    assert last < int(stage.log("a", 0, "n1", run=2))


async def test_a_gang_that_cannot_start_whole_does_not_start(stage: Stage) -> None:
    stage.options["lease_s"] = 0.3
    stage.runtime = stage.new_runtime()
    await stage.open("n0")
    start = stage.start("a", _shell("echo in; sleep 30"), (("n0", (0,)), ("nowhere", (0,))))
    stage.runtime.carry_out((start,))
    await until(lambda: stage.events)
    (lost,) = stage.events
    assert isinstance(lost, WorkersLost)
    assert "no agent of node 'nowhere'" in lost.reason
    assert stage.runtime.observe() == {}
    await until(lambda: stage.detector.suspects() == ("nowhere",))  # it is missed from now on


# --- how workers end ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "fields", "code", "reason"),
    [
        (("no-such-program",), {}, 127, "'no-such-program' cannot be run (No such file"),
        (("/etc/passwd",), {}, 126, "'/etc/passwd' cannot be run (Permission denied)"),
        (_shell("true"), {"working_dir": "/no/folder"}, 126, "there is no folder '/no/folder'"),
        (_shell("echo why; exit 3"), {}, 3, "exited with code 3; the end of its output:\nwhy"),
    ],
)
async def test_a_command_that_fails_says_why_and_is_not_tried_again(
    stage: Stage, command: tuple[str, ...], fields: dict[str, Any], code: int, reason: str
) -> None:
    await stage.open("n0")
    stage.runtime.carry_out((stage.start("a", command, **fields),))
    await until(lambda: stage.events)
    (exited,) = stage.events
    assert isinstance(exited, WorkerExited)
    assert exited.exit_code == code
    assert reason in exited.reason
    assert exited.reason.startswith("rank 0 on node 'n0'")
    assert stage.runtime.observe() == {}


async def test_the_first_worker_that_fails_ends_its_gang(stage: Stage) -> None:
    await stage.open("n0", "n1")
    line = "echo $$; if [ $RANK = 1 ]; then sleep 0.2; exit 5; fi; sleep 30"
    stage.runtime.carry_out((stage.start("a", _shell(line), _THREE),))
    await until(lambda: stage.events)
    (exited,) = stage.events
    assert isinstance(exited, WorkerExited)
    assert exited.exit_code == 5
    assert "rank 1" in exited.reason
    pids = [int(stage.log("a", w, n)) for w, n in ((0, "n0"), (2, "n1"))]
    await until(lambda: not any(alive(pid) for pid in pids))


async def test_a_worker_that_is_killed_is_lost_not_failed(stage: Stage) -> None:
    await stage.open("n0")
    stage.runtime.carry_out((stage.start("a", _shell("kill -SEGV $$")),))
    await until(lambda: stage.events)
    (lost,) = stage.events
    assert isinstance(lost, WorkersLost)
    assert "was killed by SIGSEGV" in lost.reason


@pytest.mark.parametrize("ends", ["exit 0", "sleep 30"])
async def test_all_that_a_worker_has_started_ends_with_it(stage: Stage, ends: str) -> None:
    await stage.open("n0")
    daemon = "import os; os.setsid(); print(os.getpid(), flush=True); import time; time.sleep(60)"
    line = f"sleep 60 & echo $!; (setsid sleep 61 & echo $!); {' '.join(PYTHON)} '{daemon}' & "
    stage.runtime.carry_out((stage.start("a", _shell(f"{line} echo $$; sleep 0.3; {ends}")),))
    await until(lambda: len(stage.log("a").split()) == 4)
    pids = [int(text) for text in stage.log("a").split()]
    if ends == "exit 0":
        await until(lambda: stage.events)
        assert stage.events == [WorkerExited("a", 1)]
    else:
        stage.runtime.carry_out((StopJob("a", 1, StopReason.PREEMPTED, 0),))
    await until(lambda: not any(alive(pid) for pid in pids), 5.0)


async def test_memory_has_a_limit_and_the_reason_says_so(stage: Stage) -> None:
    await stage.open("n0")
    hog = "import time; x = bytearray(300 * 2**20); print('full', flush=True); time.sleep(30)"
    start = stage.start("a", (*PYTHON, hog), memory_per_worker_gb=0.125)
    stage.runtime.carry_out((start,))
    await until(lambda: stage.events)
    (exited,) = stage.events
    assert isinstance(exited, WorkerExited)
    assert exited.exit_code == 137
    assert "and may use 128; raise 'memory_per_worker_gb'" in exited.reason


async def test_who_floods_the_log_fills_two_files_and_no_more(stage: Stage) -> None:
    stage.agents_options["log_bytes"] = 200_000
    await stage.open("n0")
    flood = _shell("yes | head -c 20000000; echo the end")
    stage.runtime.carry_out((stage.start("a", flood),))
    await until(lambda: stage.events)
    assert stage.events == [WorkerExited("a", 1)]
    run = stage.folder / "agents/n0/jobs/a/run-1"
    assert {path.name for path in run.iterdir()} == {
        "rank-0.log",
        "rank-0.log.1",
        "rank-0.log.begin",
    }
    assert sum(path.stat().st_size for path in run.iterdir()) <= 400_000
    assert stage.log("a").endswith("the end\n")


# --- saving ---------------------------------------------------------------------------------------


async def test_workers_that_can_save_are_asked_and_waited_for(stage: Stage) -> None:
    await stage.open("n0", "n1")
    stage.runtime.carry_out((stage.start("a", (*PYTHON, SPEAKER), _THREE),))
    await until(lambda: stage.runtime.knows("a"))
    save = SaveCheckpoint("a", 1, 1, 0)
    stage.runtime.carry_out((save, save))
    await until(lambda: stage.events)
    assert stage.events == [CheckpointCommitted("a", 1)]
    assert stage.runtime.observe() == {"a": 1}
    stage.runtime.carry_out((save, StopJob("a", 1, StopReason.PREEMPTED, 0)))
    assert stage.runtime.observe() == {}
    pid = _heard(stage)[0][0]
    await until(lambda: not alive(pid))
    assert len(_heard(stage, key="save")) == 1
    assert _heard(stage, key="stop") == [(pid, "preempted")]


async def test_a_save_that_fails_is_no_checkpoint(stage: Stage) -> None:
    await stage.open("n0")
    environment = (("CANNOT_SAVE", "1"),)
    stage.runtime.carry_out((stage.start("a", (*PYTHON, SPEAKER), environment=environment),))
    await until(lambda: stage.runtime.knows("a"))
    stage.runtime.carry_out((SaveCheckpoint("a", 1, 1, 0),))
    await until(lambda: stage.events)
    assert stage.events == [WorkersLost("a", 1, "worker 0 could not save: the disk is full")]


async def test_who_cannot_be_asked_to_save_is_told_to_end(stage: Stage) -> None:
    await stage.open("n0")
    line = "trap 'echo goodbye; exit 0' TERM; echo in; while true; do sleep 0.02; done"
    stage.runtime.carry_out((stage.start("a", _shell(line)),))
    await until(lambda: stage.log("a"))
    stage.runtime.carry_out((SaveCheckpoint("a", 1, 1, 0),))
    await until(lambda: stage.events)
    (lost,) = stage.events
    assert isinstance(lost, WorkersLost)
    assert "it cannot be asked to save" in lost.reason
    assert stage.log("a").split()[-1] == "goodbye"  # its child got the signal, too


async def test_a_job_has_something_to_run_and_a_save_is_waited_for(stage: Stage) -> None:
    spec = stage.start("a", ("true",)).spec
    assert stage.runtime.admit(spec).checkpoint_seconds > 0
    slow = replace(spec, checkpoint_seconds=3.0)
    assert stage.runtime.admit(slow) == slow
    with pytest.raises(ValidationError, match="'command' is empty"):
        stage.runtime.admit(replace(spec, command=()))


# --- other numbers of workers ---------------------------------------------------------------------


async def test_workers_that_stay_live_on_and_hear_of_newcomers_once_these_are_there(
    stage: Stage,
) -> None:
    await stage.open("n0", "n1")
    start = stage.start("a", (*PYTHON, SPEAKER), (("n0", (0,)), ("n1", (0,))))
    stage.runtime.carry_out((start,))
    await until(lambda: stage.log("a") and stage.log("a", 1, "n1"))
    grown = _regroup(start, ("n1", (0,)), ("n0", (1,)), ("n0", (0,)))
    await until(lambda: stage.runtime.knows("a"))
    stage.runtime.carry_out((grown,))
    await until(lambda: len(_heard(stage, 2, key="world")) == 1)
    world = _heard(stage, key="world")[0][1]
    assert world["ranks"] == [0, 1, 2]
    assert (world["generation"], world["rank"], world["size"]) == (1, 0, 3)
    assert _heard(stage, 2, key="world")[0][1] == world | {"rank": 2}
    await until(lambda: stage.runtime.progress("a") == (1, 0.5))
    shrunk = _regroup(start, ("n1", (0,)), ("n0", (1,)))
    stage.runtime.carry_out((shrunk, shrunk))
    await until(lambda: len(_heard(stage, 2, key="world")) == 2)
    assert _heard(stage, 2, key="world")[1][1]["ranks"] == [1, 2]
    assert _heard(stage, 1, "n1", key="world")[1][1]["rank"] == 0
    await until(lambda: len(_heard(stage, key="world")) == 2)
    assert _heard(stage, key="world")[1][1]["rank"] is None
    gone = _heard(stage)[0][0]
    await until(lambda: not alive(gone))
    assert len({pid for pid, _ in _heard(stage, 1, "n1")}) == 1  # it was never restarted
    assert stage.events == []
    assert stage.runtime.observe() == {"a": 1}


async def test_an_elastic_gang_survives_a_worker_and_gets_another_one(stage: Stage) -> None:
    await stage.open("n0", "n1")
    places = (("n0", (0,)), ("n1", (0,)))
    start = stage.start("a", (*PYTHON, SPEAKER), places, elastic=True)
    stage.runtime.carry_out((start,))
    await until(lambda: stage.log("a") and stage.log("a", 1, "n1"))
    await until(lambda: stage.runtime.knows("a"))
    os.kill(_heard(stage)[0][0], signal.SIGKILL)
    await until(lambda: len(_heard(stage, 1, "n1", key="world")) == 2)
    alone, both = (world for _, world in _heard(stage, 1, "n1", key="world"))
    assert (alone["ranks"], alone["rank"]) == ([1], 0)
    assert (both["ranks"], both["rank"]) == ([1, 2], 0)
    assert len(_heard(stage, 2)) >= 2
    assert stage.events == []
    await stage.leave()  # what has ended was acknowledged, and does not come again
    await stage.come_back()
    await stage.runtime.wait_for(["n0", "n1"])
    stage.runtime.carry_out((SaveCheckpoint("a", 1, 1, 0),))
    await until(lambda: stage.events)
    assert stage.events == [CheckpointCommitted("a", 1)]


async def test_a_newcomer_that_comes_too_late_does_not_fail_a_job_that_is_done(
    stage: Stage,
) -> None:
    await stage.open("n0")
    late = "if int(os.environ['RANK']): print('late', os.getpid(), flush=True); time.sleep(600)"
    ends = "while not os.path.exists('../../go'): time.sleep(0.02)"
    program = f"import os, time\n{late}\n{SPEAKER.partition('for text')[0]}\n{ends}\n"
    start = stage.start("a", (*PYTHON, program), (("n0", (0,)),), elastic=True)
    stage.runtime.carry_out((start,))
    await until(lambda: stage.runtime.knows("a"))
    stage.runtime.carry_out((_regroup(start, ("n0", (0,)), ("n0", (1,))),))
    await until(lambda: "late" in stage.log("a", 1))
    newcomer = int(stage.log("a", 1).split()[1])
    (stage.folder / "agents/n0/jobs/go").touch()
    await until(lambda: stage.events)
    assert stage.events == [WorkerExited("a", 1)]
    await until(lambda: not alive(newcomer))


async def test_who_knows_nothing_is_started_anew_with_the_new_number(stage: Stage) -> None:
    await stage.open("n0")
    line = "echo $RANK $WORLD_SIZE; while [ ! -e ../../go ]; do sleep 0.02; done"
    start = stage.start("a", _shell(line), (("n0", (0,)),))
    stage.runtime.carry_out((start,))
    await until(lambda: stage.log("a"))
    both = (("n0", (0,)), ("n0", (1,)))
    stage.runtime.carry_out((_regroup(start, ("n0", (2,))), _regroup(start, *both)))
    await until(lambda: "0 2" in stage.log("a", 2) + stage.log("a", 1) + stage.log("a", 3))
    assert stage.runtime.observe() == {"a": 1}
    (stage.folder / "agents/n0/jobs/go").touch()
    await until(lambda: stage.events)
    assert stage.events == [WorkerExited("a", 1)]


async def test_replicas_of_a_service_come_and_go_alone(stage: Stage) -> None:
    await stage.open("n0")
    line = "echo $$; sleep 30"
    start = stage.start("a", _shell(line), (("n0", (0,)), ("n0", (1,))), kind=JobKind.SERVICE)
    stage.runtime.carry_out((start,))
    await until(lambda: stage.log("a") and stage.log("a", 1))
    stage.runtime.carry_out((_regroup(start, ("n0", (1,)), ("n0", (2,))),))
    await until(lambda: stage.log("a", 2))
    first, second, third = (int(stage.log("a", worker)) for worker in range(3))
    await until(lambda: not alive(first))
    assert alive(second)
    assert alive(third)
    assert stage.events == []


async def test_a_service_lives_on_without_a_node_and_with_fewer_replicas(stage: Stage) -> None:
    await stage.open("n0", "n1")
    assert stage.agents is not None
    places = (("n0", (0,)), ("n1", (0,)))
    start = stage.start("a", _shell("echo $$; sleep 30"), places, kind=JobKind.SERVICE)
    stage.runtime.carry_out((start,))
    await until(lambda: stage.log("a") and stage.log("a", 1, "n1"))
    os.kill(stage.agents.pids["n0"], signal.SIGKILL)
    await until(lambda: stage.health)
    stage.runtime.carry_out((_regroup(start, ("n1", (0,)), ("n1", (1,))),))
    await until(lambda: stage.log("a", 2, "n1"))
    assert alive(int(stage.log("a", 1, "n1")))
    assert stage.events == []


# --- who may come ---------------------------------------------------------------------------------


async def test_agents_that_do_not_come_are_named(stage: Stage) -> None:
    await stage.open("n0")
    with pytest.raises(ConfigurationError, match="no agent of 'n1', 'n2' has come"):
        await stage.runtime.wait_for(("n0", "n1", "n2"), 0.1)


async def test_a_stopped_worker_is_ended_too(stage: Stage) -> None:
    await stage.open("n0")
    stage.runtime.carry_out((stage.start("a", _shell("echo $$; sleep 30")),))
    await until(lambda: stage.log("a"))
    pid = int(stage.log("a"))
    os.kill(pid, signal.SIGSTOP)
    stage.runtime.carry_out((StopJob("a", 1, StopReason.PREEMPTED, 0),))
    await until(lambda: not alive(pid))
