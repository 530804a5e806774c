"""Agents and orchestrators that are killed, stopped, cut off or replaced, and come back late."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.messages import StopJob, StopReason, WorkerExited, WorkersLost
from orchestrator.node.agent import Exit, pid_in
from orchestrator.node.protocol import VERSION, Hello, Line, Refused, Welcome
from orchestrator.node.protocol import Address as Where
from orchestrator.runtimes import LocalAgents
from tests.runtimes.stage import PYTHON, SPEAKER, Stage, alive, until


def _shell(line: str) -> tuple[str, ...]:
    return ("sh", "-c", line)


_WAITS = _shell("echo $$; while [ ! -e ../../go ]; do sleep 0.02; done")


def _go(stage: Stage, node: str = "n0") -> None:
    (stage.folder / "agents" / node / "jobs" / "go").touch()


def _agent(stage: Stage) -> int:
    assert stage.agents is not None
    return stage.agents.pids["n0"]


async def _running(
    stage: Stage, job: str = "a", command: tuple[str, ...] = _WAITS, gpu: int = 0
) -> int:
    """Start a job on node n0; the process of its worker."""
    stage.runtime.carry_out((stage.start(job, command, (("n0", (gpu,)),)),))
    await until(lambda: stage.log(job))
    return int(stage.log(job).split()[0])


# --- the agent ------------------------------------------------------------------------------------


async def test_a_killed_agent_leaves_nobody_and_its_node_is_dead_at_once(stage: Stage) -> None:
    await stage.open("n0", "n1")
    line = "echo $$; sleep 60 & echo $!; setsid sleep 61 & echo $!; wait"
    stage.runtime.carry_out((stage.start("a", _shell(line), (("n0", (0,)), ("n1", (0,)))),))
    await until(lambda: len(stage.log("a").split()) == 3 and stage.log("a", 1, "n1"))
    os.kill(_agent(stage), signal.SIGKILL)
    await until(lambda: stage.events and stage.health)
    (lost,) = stage.events
    assert isinstance(lost, WorkersLost)
    assert lost.reason == "lost with node 'n0'"
    assert 0 <= stage.clock.now_ms() - lost.seen_ms < 2000
    assert [(h.node_id, h.alive) for h in stage.health] == [("n0", False)]
    pids = [int(text) for text in (stage.log("a") + stage.log("a", 1, "n1")).split()]
    await until(lambda: not any(alive(pid) for pid in pids))


async def test_an_agent_that_is_ended_ends_its_workers_and_says_so(stage: Stage) -> None:
    await stage.open("n0")
    pid = await _running(stage)
    os.kill(_agent(stage), signal.SIGTERM)
    await until(lambda: stage.events)
    (lost,) = stage.events
    assert isinstance(lost, WorkersLost)
    assert "the agent of its node ends" in lost.reason
    assert not alive(pid)


async def test_a_node_may_have_another_agent_after_the_first_one(stage: Stage) -> None:
    await stage.open("n0")
    assert stage.agents is not None
    await _running(stage)
    os.kill(_agent(stage), signal.SIGKILL)
    await until(lambda: stage.events)
    await stage.agents.add("n0")
    await stage.runtime.wait_for(["n0"])
    await until(lambda: [h.alive for h in stage.health] == [False, True])
    stage.runtime.carry_out((stage.start("b", _shell("true")),))
    await until(lambda: len(stage.events) == 2)
    assert stage.events[1] == WorkerExited("b", 1)


async def test_a_guard_that_is_killed_is_replaced(stage: Stage) -> None:
    await stage.open("n0")
    pid = await _running(stage)
    (guard,) = [p for p in _children(_agent(stage)) if p != pid]
    os.kill(guard, signal.SIGKILL)
    await until(lambda: [p for p in _children(_agent(stage)) if p not in (pid, guard)])
    os.kill(_agent(stage), signal.SIGKILL)
    await until(lambda: not alive(pid))


async def test_what_is_left_of_an_agent_that_was_killed_with_its_guard_ends_with_the_next(
    stage: Stage,
) -> None:
    await stage.open("n0")
    assert stage.agents is not None
    pid, agent = await _running(stage), _agent(stage)
    (guard,) = [p for p in _children(agent) if p != pid]
    os.kill(agent, signal.SIGSTOP)  # so that it does not replace its guard
    os.kill(guard, signal.SIGKILL)
    os.kill(agent, signal.SIGKILL)
    await until(lambda: stage.events)
    assert alive(pid)
    await stage.agents.add("n0")
    await until(lambda: not alive(pid))


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


@pytest.mark.parametrize("stage", [{"lease_s": 0.7}], indirect=True)
async def test_a_stopped_agents_workers_end_with_its_lease_and_it_comes_back_empty(
    stage: Stage,
) -> None:
    await stage.open("n0")
    pid = await _running(stage)
    os.kill(_agent(stage), signal.SIGSTOP)
    stage.runtime.carry_out((stage.start("late", _shell("echo $$; sleep 60"), run=1),))
    await until(lambda: not alive(pid))  # the guard's work: the agent cannot
    await until(lambda: stage.events)
    (lost, *_) = stage.events
    assert isinstance(lost, WorkersLost)
    assert lost.job_id == "a"
    os.kill(_agent(stage), signal.SIGCONT)
    await stage.runtime.wait_for(["n0"])
    stage.runtime.carry_out((stage.start("b", _shell("true")),))
    await until(lambda: WorkerExited("b", 1) in stage.events)
    assert not stage.log("late")  # it lay unread in the connection, and was overtaken
    assert "the lease was over" in (stage.folder / "agents/n0/agent.log").read_text()


async def test_an_agent_stopped_for_less_than_its_lease_goes_on_with_its_workers(
    stage: Stage,
) -> None:
    await stage.open("n0")
    pid = await _running(stage)
    os.kill(_agent(stage), signal.SIGSTOP)
    await until(lambda: [h.alive for h in stage.health] == [False])  # by its silence
    os.kill(_agent(stage), signal.SIGCONT)
    await until(lambda: [h.alive for h in stage.health] == [False, True])
    assert alive(pid)
    _go(stage)
    await until(lambda: stage.events)
    assert stage.events == [WorkerExited("a", 1)]


# --- the orchestrator -----------------------------------------------------------------------------


async def test_an_orchestrator_that_comes_back_finds_what_runs_and_hears_what_ended(
    stage: Stage,
) -> None:
    await stage.open("n0")
    pid = await _running(stage)
    await _running(stage, "b", _shell("echo $$; sleep 0.2; exit 4"), 1)  # while nobody listens
    await stage.leave()
    await until(lambda: "b" not in _jobs(stage))
    await stage.come_back()
    await stage.runtime.wait_for(["n0"])
    await until(lambda: stage.events)
    (ended,) = stage.events
    assert isinstance(ended, WorkerExited)
    assert (ended.job_id, ended.exit_code) == ("b", 4)
    assert stage.runtime.observe() == {"a": 1}
    stage.runtime.carry_out((stage.start("a", _WAITS),))  # told again
    _go(stage)
    await until(lambda: len(stage.events) == 2)
    assert stage.events[1] == WorkerExited("a", 1)
    assert stage.log("a") == f"{pid}\n"  # it was never started twice


def _jobs(stage: Stage) -> set[str]:
    """Jobs with a process below the agent."""
    found = set()
    for child in _children(_agent(stage)):
        text = Path(f"/proc/{child}/environ").read_bytes() if alive(child) else b""
        for line in text.split(b"\0"):
            if line.startswith(b"QUARTERMASTER_JOB_ID="):
                found.add(line.rpartition(b"=")[2].decode())
    return found


async def test_a_report_that_nobody_took_comes_again_after_a_restart(stage: Stage) -> None:
    await stage.open("n0")

    async def refuse(event: object) -> bool:
        refused.append(event)
        return False

    refused: list[object] = []
    stage.runtime.bind(refuse)
    stage.runtime.carry_out((stage.start("a", _shell("exit 6")),))
    await until(lambda: refused)
    assert stage.runtime.observe() == {"a": 1}
    await stage.leave()
    await stage.come_back()
    await until(lambda: stage.events)
    (ended,) = stage.events
    assert isinstance(ended, WorkerExited)
    assert ended.exit_code == 6


@pytest.mark.parametrize("stage", [{"lease_s": 0.7}], indirect=True)
async def test_workers_end_when_the_orchestrator_is_gone_for_longer_than_a_lease(
    stage: Stage,
) -> None:
    await stage.open("n0")
    pid = await _running(stage)
    await stage.leave()
    await until(lambda: not alive(pid))
    await stage.come_back()
    await until(lambda: stage.events)
    (lost,) = stage.events
    assert isinstance(lost, WorkersLost)
    assert "the orchestrator was not heard of" in lost.reason


@pytest.mark.parametrize("stage", [{"lease_s": 1.5}], indirect=True)
async def test_after_a_restart_a_further_run_waits_for_the_lease_of_the_one_before(
    stage: Stage,
) -> None:
    """Whoever had run it may be cut off, and nobody has said that it is gone."""
    await stage.open("n0")
    await stage.leave()
    await stage.come_back()
    begun_ms = stage.clock.now_ms()
    await stage.runtime.wait_for(["n0"])
    command = _shell("date +%s%N")
    stage.runtime.carry_out((stage.start("a", command, run=2), stage.start("b", command)))
    await until(lambda: len(stage.events) == 2)
    assert stage.events == [WorkerExited("b", 1), WorkerExited("a", 2)]
    assert int(stage.log("a", run=2)) // 1_000_000 >= begun_ms + 1500


async def test_a_found_gang_can_be_saved_and_changed(stage: Stage) -> None:
    await stage.open("n0")
    stage.runtime.carry_out((stage.start("a", (*PYTHON, SPEAKER)),))
    await until(lambda: stage.runtime.knows("a"))
    await stage.leave()
    await stage.come_back()
    await stage.runtime.wait_for(["n0"])
    assert stage.runtime.observe() == {"a": 1}
    assert stage.runtime.knows("a")
    stage.runtime.carry_out((StopJob("a", 1, StopReason.UNEXPECTED, 0),))
    await until(lambda: '"stop": "unexpected"' in stage.log("a"))


@pytest.mark.skipif(os.geteuid() != 0, reason="another process's limits are root's to change")
async def test_an_agent_whose_disk_is_full_goes_on_and_keeps_who_leads_later(stage: Stage) -> None:
    await stage.open("n0")
    _, most = resource.prlimit(_agent(stage), resource.RLIMIT_FSIZE)
    resource.prlimit(_agent(stage), resource.RLIMIT_FSIZE, (0, most))
    stage.runtime.fence(7, 100)
    stage.runtime.carry_out((stage.start("a", _shell("true")),))
    await until(lambda: stage.events)
    assert stage.events == [WorkerExited("a", 1)]
    kept = stage.folder / "agents" / "n0" / "fence"
    assert not kept.exists()
    resource.prlimit(_agent(stage), resource.RLIMIT_FSIZE, (most, most))
    stage.runtime.carry_out((stage.start("b", _shell("true")),))
    await until(lambda: len(stage.events) == 2)
    assert kept.read_text() == "7"


async def test_a_replaced_orchestrator_gets_no_agents(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    await stage.open("n0")
    stage.runtime.fence(7, 100)
    pid = await _running(stage)
    await stage.leave()
    await stage.come_back(6)
    await until(lambda: "this one was replaced" in caplog.text)
    assert stage.runtime.observe() == {}
    await stage.leave()
    await stage.come_back(8)
    await stage.runtime.wait_for(["n0"])
    assert alive(pid)
    stage.runtime.carry_out((StopJob("a", 1, StopReason.UNEXPECTED, 0),))
    await until(lambda: not alive(pid))


async def test_a_late_order_is_refused_and_the_agent_says_who_leads(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    await stage.open("n0")
    stage.runtime.fence(7, 100)
    await _running(stage)
    stage.runtime._hub.fence = (6, 900)
    stage.runtime.carry_out((stage.start("b", _shell("true")),))
    await until(lambda: "obeys another orchestrator, of term 7" in caplog.text)
    assert not stage.log("b")
    assert not (stage.folder / "agents/n0/jobs/b").exists()


# --- who may come ---------------------------------------------------------------------------------


async def _ask(stage: Stage, **fields: object) -> object:
    """Introduce oneself as an agent; the answer."""
    values: dict[str, object] = {
        "version": VERSION,
        "token": stage.runtime.token,
        "node": "n9",
        "boot": "b",
        "host": "127.0.0.1",
        "pid": 1,
        "sent_ms": 5,
        "fence": (-1, -1),
    }
    line = Line(*await Where.parse(stage.runtime.address).connect())
    try:
        line.send(Hello(**(values | fields)))
        return await line.for_agent()
    finally:
        line.close()


async def test_who_speaks_another_version_or_has_another_token_is_told_why(stage: Stage) -> None:
    await stage.open("n0")
    assert isinstance(await _ask(stage), Welcome)
    old = await _ask(stage, version=VERSION + 1)
    assert isinstance(old, Refused)
    told = f"speaks version {VERSION + 1} of the protocol, and the orchestrator {VERSION}"
    assert told in old.reason
    wrong = await _ask(stage, token="guessed")
    assert isinstance(wrong, Refused)
    assert "the token of node 'n9' is wrong" in wrong.reason
    twin = await _ask(stage, node="n0")
    assert isinstance(twin, Refused)
    assert "node 'n0' has an agent" in twin.reason


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\2{}", b"\xff" * 64, b""])
async def test_noise_on_the_line_harms_nobody(stage: Stage, data: bytes) -> None:
    await stage.open("n0")
    where = Where.parse(stage.runtime.address)
    reader, writer = await where.connect()
    writer.write(data)
    if writer.can_write_eof():
        writer.write_eof()
    assert await reader.read() == b""
    writer.close()
    stage.runtime.carry_out((stage.start("a", _shell("true")),))
    await until(lambda: stage.events)
    assert stage.events == [WorkerExited("a", 1)]


def _run_agent(stage: Stage, folder: Path, token: str) -> subprocess.Popen[str]:
    options = ["--node=n5", f"--orchestrator={stage.runtime.address}", f"--folder={folder}"]
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator.node", *options],
        env=os.environ | {"QUARTERMASTER_TOKEN": token},
        stderr=subprocess.PIPE,
        text=True,
    )


async def test_an_agent_that_is_refused_ends_and_says_why(stage: Stage) -> None:
    await stage.open("n0")
    process = _run_agent(stage, stage.folder / "n5", "wrong")
    _, said = await asyncio.to_thread(process.communicate)
    assert process.returncode == Exit.REFUSED
    assert "the token of node 'n5' is wrong" in said


async def test_two_agents_do_not_share_a_folder(stage: Stage) -> None:
    await stage.open("n0")
    folder = stage.folder / "agents" / "n0"
    assert pid_in(folder) == _agent(stage)
    process = _run_agent(stage, folder, stage.runtime.token)
    _, said = await asyncio.to_thread(process.communicate)
    assert process.returncode == Exit.TAKEN
    assert "another agent uses" in said


async def test_agents_that_are_there_are_found_and_not_started_again(stage: Stage) -> None:
    await stage.open("n0")
    pid = await _running(stage)
    again = LocalAgents(stage.runtime, ["n0"], stage.folder / "agents")
    await again.start()
    assert again.pids == {"n0": _agent(stage)}
    await again.stop()
    await until(lambda: not alive(pid))


@pytest.mark.parametrize("stage", [{"lease_s": 0.3}], indirect=True)
async def test_an_agent_without_work_ends_when_nobody_answers(stage: Stage) -> None:
    stage.agents_options["linger_s"] = 0.3
    await stage.open("n0")
    pid = _agent(stage)
    await stage.leave()
    await until(lambda: not alive(pid))
