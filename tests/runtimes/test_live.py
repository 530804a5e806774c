"""An orchestrator, its agents and real jobs: the whole path."""

from __future__ import annotations

import os
import signal

import pytest

from orchestrator import (
    JobPriority,
    ValidationError,
)
from tests.runtimes.cluster import Cluster
from tests.runtimes.stage import PYTHON, SPEAKER, alive, until

_NODES = ("n0", "n1", "n2")
_ENDED = ("completed", "failed")


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
    await cluster.submit("endless", 2, 1, 60.0, max_duration_hours=3 / 3600)
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
