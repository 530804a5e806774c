"""An orchestrator, its agents and real jobs: the whole path."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator import (
    Foundations,
    HeartbeatFaultDetector,
    InfrastructureOrchestrator,
    JobPriority,
    JobSpec,
    NodeSpec,
    ValidationError,
    WallClock,
    in_memory,
)
from orchestrator.kernels.state.codes import NodeCode
from orchestrator.runtimes import LocalAgents, ProcessRuntime
from tests.runtimes.stage import PYTHON, SPEAKER, alive, until

_NODES = ("n0", "n1", "n2")
_ENDED = ("completed", "failed")


# Each worker writes down who it is, what it was given, and from when to when it ran.
_RECORDER = """
import json, os, sys, time
folder, seconds, code = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
e = os.environ
name = "-".join((e["QUARTERMASTER_JOB_ID"], e["QUARTERMASTER_RUN"], e["RANK"]))
me = {"job": e["QUARTERMASTER_JOB_ID"], "run": int(e["QUARTERMASTER_RUN"]), "pid": os.getpid(),
      "rank": int(e["RANK"]), "size": int(e["WORLD_SIZE"]), "gpus": e["CUDA_VISIBLE_DEVICES"],
      "node": os.getcwd().split("/agents/")[1].split("/")[0], "master": e["MASTER_PORT"],
      "begin": time.time()}
with open(f"{folder}/{name}.begin", "w") as file: json.dump(me, file)
while time.time() < me["begin"] + seconds:
    with open(f"{folder}/{name}.tick", "w") as file: file.write(repr(time.time()))
    time.sleep(0.01)
with open(f"{folder}/{name}.tick", "w") as file: file.write(repr(time.time()))
sys.exit(code)
"""


class Cluster:
    """Three nodes of four declared GPUs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock = folder, WallClock()
        (folder / "said").mkdir()
        made = in_memory(self.clock)
        self.detector = HeartbeatFaultDetector(self.clock, timeout_ms=2000)
        self.parts = Foundations(made[0], made[1], self.detector, made[3])
        self.runtime = ProcessRuntime(self.clock, self.detector, grace_s=0.5)
        self.agents: LocalAgents | None = None
        self.time_limit_grace_s = 300.0

    async def open(self) -> None:
        await self.runtime.open()
        self.agents = LocalAgents(self.runtime, _NODES, self.folder / "agents", beat_s=0.1)
        await self.agents.start()
        self.orchestrator = self.new_orchestrator()
        await self.orchestrator.start()

    def new_orchestrator(self) -> InfrastructureOrchestrator:
        nodes = [NodeSpec(name, 4, 16.0, 8, 64.0, 10.0, "NVLink") for name in _NODES]
        return InfrastructureOrchestrator(
            *self.parts,
            clock=self.clock,
            runtime=self.runtime,
            nodes=nodes,
            schedule_on_events=True,
            check=True,
            time_limit_grace_s=self.time_limit_grace_s,
        )

    async def replace(self) -> None:
        """The orchestrator is dropped, and there is another one on its log."""
        address, token = self.runtime.address, self.runtime.token
        await self.runtime.close()
        again = HeartbeatFaultDetector(self.clock, timeout_ms=2000)
        self.detector, self.parts = again, self.parts._replace(fault_detector=again)
        self.runtime = ProcessRuntime(self.clock, again, grace_s=0.5, address=address, token=token)
        await self.runtime.open()
        assert self.agents is not None
        self.agents.hand_over(self.runtime)
        await self.runtime.wait_for(list(self.agents.pids))
        self.orchestrator = self.new_orchestrator()
        await self.orchestrator.start()

    async def close(self) -> None:
        if self.agents is not None:
            await self.agents.stop()
        await self.runtime.close()

    async def submit(
        self, job: str, workers: int = 1, gpus: int = 1, seconds: float = 0.2, **fields: Any
    ) -> None:
        code = str(fields.pop("code", 0))
        said = str(self.folder / "said")
        values: dict[str, Any] = {
            "command": (*PYTHON, _RECORDER, said, str(seconds), code),
            "priority": JobPriority.BATCH,
            "preemptible": True,
        }
        spec = JobSpec(
            job_id=job,
            name=job,
            num_workers=workers,
            gpus_per_worker=gpus,
            memory_per_worker_gb=1.0,
            checkpoint_interval_steps=0,
            **({"max_duration_hours": 1.0} | values | fields),
        )
        await self.orchestrator.submit_job(spec)

    def status(self, job: str) -> dict[str, Any]:
        return self.orchestrator.get_job_status(job)

    def runs(self, job: str) -> int:
        return self.orchestrator.engine.runs_of(job)

    def is_down(self, node: str) -> bool:
        return self.orchestrator.engine.nodes.code(node) == NodeCode.DOWN

    def ended(self, *jobs: str) -> bool:
        return all(self.status(job)["state"] in _ENDED for job in jobs)

    def said(self, job: str = "", run: int = 0) -> list[dict[str, Any]]:
        """What workers have written, each with when it was there last."""
        found = []
        for path in sorted((self.folder / "said").glob("*.begin")):
            text = path.read_text()
            tick = path.with_suffix(".tick")
            if text and (last := tick.read_text() if tick.exists() else ""):
                found.append(json.loads(text) | {"end": float(last)})
        return [x for x in found if job in ("", x["job"]) and run in (0, x["run"])]

    def assert_nothing_is_shared(self) -> None:
        """No two workers had a GPU at one time, and no job ran twice at once."""
        said = self.said()
        assert said
        for one in said:
            for other in said:
                if one is other or one["end"] <= other["begin"] or other["end"] <= one["begin"]:
                    continue
                if one["node"] == other["node"]:
                    mine, others = (set(x["gpus"].split(",")) for x in (one, other))
                    assert not mine & others, (one, other)
                assert one["job"] != other["job"] or one["run"] == other["run"], (one, other)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    made = Cluster(tmp_path)
    try:
        yield made
    finally:
        await made.close()


async def test_a_dozen_jobs_run_and_share_nothing(cluster: Cluster) -> None:
    await cluster.open()
    jobs = [f"j{k}" for k in range(12)]
    for k, job in enumerate(jobs):
        await cluster.submit(job, workers=1 + k % 3, gpus=1 + k % 2, code=3 if k == 5 else 0)
    await until(lambda: cluster.ended(*jobs))
    states = {job: cluster.status(job)["state"] for job in jobs}
    assert states == dict.fromkeys(jobs, "completed") | {"j5": "failed"}
    assert cluster.status("j5")["exit_code"] == 3
    for k, job in enumerate(jobs):
        said = cluster.said(job)
        if k != 5:
            assert [one["rank"] for one in said] == list(range(1 + k % 3))
            assert {one["size"] for one in said} == {1 + k % 3}
            assert len({one["master"] for one in said}) == 1
            assert {len(one["gpus"].split(",")) for one in said} == {1 + k % 2}
    cluster.assert_nothing_is_shared()


async def test_a_job_without_a_command_is_refused(cluster: Cluster) -> None:
    await cluster.open()
    with pytest.raises(ValidationError, match="'command' is empty"):
        await cluster.submit("a", command=())


async def test_a_preempted_job_gives_way_and_is_resumed(cluster: Cluster) -> None:
    """One that can save is asked to; one that cannot begins anew."""
    await cluster.open()
    speaker = (*PYTHON, SPEAKER)
    await cluster.submit("saves", gpus=4, command=speaker)
    await cluster.submit("knows nothing", 2, 4, 3.0)
    await until(lambda: cluster.runtime.knows("saves") and len(cluster.said()) == 2)
    assert await cluster.orchestrator.preempt_job("saves", "a test")
    assert await cluster.orchestrator.preempt_job("knows nothing", "a test")
    await until(lambda: cluster.runtime.knows("saves") and cluster.runs("saves") == 2)
    await until(lambda: cluster.said("knows nothing", run=2))
    logs = "".join(path.read_text() for path in cluster.folder.rglob("saves/run-1/*.log"))
    assert '"save"' in logs
    history = cluster.status("saves")["history"]
    assert [note["what"] for note in history] == [
        *("submitted", "started", "preempted", "saved", "started")
    ]
    cluster.assert_nothing_is_shared()


async def test_more_important_work_displaces_less_important(cluster: Cluster) -> None:
    await cluster.open()
    await cluster.submit("low", 3, 4, 30.0)
    await until(lambda: len(cluster.said("low")) == 3)
    await cluster.submit("high", 3, 4, 0.2, priority=JobPriority.CRITICAL)
    await until(lambda: cluster.ended("high"))
    await until(lambda: cluster.said("low", run=2))
    cluster.assert_nothing_is_shared()


async def test_a_killed_agents_jobs_run_again_elsewhere(cluster: Cluster) -> None:
    await cluster.open()
    assert cluster.agents is not None
    await cluster.submit("gang", 3, 2, 1.0)
    await cluster.submit("other", 1, 2, 1.0)
    await until(lambda: len(cluster.said("gang")) == 3 and cluster.said("other"))
    before = cluster.said("gang")
    lost = before[0]["node"]
    os.kill(cluster.agents.pids[lost], signal.SIGKILL)
    await until(lambda: cluster.is_down(lost))
    await until(lambda: cluster.ended("gang", "other"))
    assert cluster.status("gang")["state"] == cluster.status("other")["state"] == "completed"
    again = cluster.said("gang", run=2)
    assert len(again) == 3
    assert lost not in {one["node"] for one in again}
    assert not any(alive(one["pid"]) for one in before)
    cluster.assert_nothing_is_shared()


async def test_another_orchestrator_on_the_log_finds_what_runs_and_starts_nothing_twice(
    cluster: Cluster,
) -> None:
    await cluster.open()
    await cluster.submit("long", 3, 1, 3.0)
    await cluster.submit("short", 1, 1, 0.3)
    await until(lambda: len(cluster.said("long")) == 3 and cluster.said("short"))
    pids = {one["pid"] for one in cluster.said()}
    await cluster.replace()
    assert cluster.status("long")["state"] == "running"
    await until(lambda: cluster.ended("long", "short"))
    assert [cluster.runs(job) for job in ("long", "short")] == [1, 1]
    assert {one["pid"] for one in cluster.said()} == pids
    assert cluster.status("long")["state"] == cluster.status("short")["state"] == "completed"


async def test_an_agent_that_dies_while_nobody_leads_loses_its_jobs(cluster: Cluster) -> None:
    await cluster.open()
    assert cluster.agents is not None
    await cluster.submit("a", 1, 4, 1.0)
    await until(lambda: len(cluster.said("a")) == 1)
    pid = cluster.agents.pids[cluster.said("a")[0]["node"]]
    os.kill(pid, signal.SIGKILL)
    await until(lambda: cluster.agents is not None and pid not in cluster.agents.pids.values())
    await cluster.replace()
    await until(lambda: cluster.runs("a") >= 2 and cluster.ended("a"), 60.0)
    assert cluster.status("a")["state"] == "completed"
    cluster.assert_nothing_is_shared()


async def test_a_job_that_has_had_its_time_ends_for_real(cluster: Cluster) -> None:
    cluster.time_limit_grace_s = 0.2
    await cluster.open()
    await cluster.submit("endless", 2, 1, 60.0, max_duration_hours=1 / 3600)
    await until(lambda: len(cluster.said("endless")) == 2)
    await until(lambda: cluster.ended("endless"))
    assert cluster.status("endless")["exit_code"] == 124
    await until(lambda: not any(alive(one["pid"]) for one in cluster.said("endless")))


async def test_a_worker_that_is_killed_at_once_again_and_again_does_not_spin(
    cluster: Cluster,
) -> None:
    await cluster.open()
    command = ("sh", "-c", "echo in; kill -KILL $$")
    await cluster.submit("a", command=command)
    await until(lambda: cluster.runs("a") == 2)
    await until(lambda: cluster.orchestrator.get_cluster_status()["errors"]["reports"] == 0)
    logs = list(cluster.folder.rglob("a/run-*/*.log"))
    assert len(logs) <= 3  # the second loss is held back, longer each time
