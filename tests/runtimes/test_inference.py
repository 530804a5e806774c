"""Services whose replicas are processes: they are found, asked, scaled, killed and replaced."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from orchestrator import IllegalActionError, JobKind, JobPriority, RequestRejectedError, ServiceSpec
from orchestrator.worker import check_output
from orchestrator.workloads.serving import InferenceJobManager
from tests.examples.load import ROOT
from tests.runtimes.cluster import Cluster
from tests.runtimes.programs import service
from tests.runtimes.stage import alive, until


def _well(cluster: Cluster) -> dict[str, str]:
    """Replicas that answer, and where."""
    urls = cluster.orchestrator.get_cluster_status()["services"]["echo"]["urls"]
    return dict(urls)


async def _ask(cluster: Cluster, x: int, ms: int = 0) -> int:
    """Who has answered."""
    answer = await cluster.orchestrator.route_request("echo", {"x": x, "ms": ms})
    assert answer["doubled"] == 2 * x
    return int(answer["pid"])


class Load:
    """Clients that ask all the time, until told to stop; whoever gets an error says so."""

    def __init__(self, cluster: Cluster, clients: int, ms: int = 5) -> None:
        self._cluster, self._ms, self._stopping = cluster, ms, False
        self.answers: Counter[int] = Counter()
        self._tasks = [asyncio.create_task(self._insist(k)) for k in range(clients)]

    async def _insist(self, number: int) -> None:
        while not self._stopping:
            self.answers[await _ask(self._cluster, number, self._ms)] += 1

    async def stop(self) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)


async def test_replicas_are_found_asked_and_replaced(cluster: Cluster) -> None:
    await cluster.open()
    await cluster.submit("echo", 2, 2, **service())
    await until(lambda: len(_well(cluster)) == 2)
    assert len(await cluster.orchestrator.discover_service("echo")) == 2
    with pytest.raises(RequestRejectedError, match="it is junk"):
        await cluster.orchestrator.route_request("echo", "junk")
    load = Load(cluster, 4)
    await until(lambda: len(load.answers) == 2)
    victim = next(iter(load.answers))
    os.kill(victim, signal.SIGKILL)
    await until(lambda: len(load.answers) == 3, 30.0)  # another one, in its place
    await load.stop()  # nobody got an error
    assert not alive(victim)
    assert cluster.runs("echo") == 1  # the other one went on
    assert cluster.status("echo")["state"] == "running"
    url = next(iter(_well(cluster).values()))
    assert url.startswith("http://127.0.0.1:")


async def test_the_autoscaler_adds_and_removes_replicas_and_nobody_gets_an_error(
    cluster: Cluster,
) -> None:
    await cluster.open()
    manager = InferenceJobManager(cluster.orchestrator, down_window_s=0.5)
    cluster.orchestrator.manage(manager)
    rules = ServiceSpec("echo", 50.0, min_replicas=1, max_replicas=3)
    await cluster.submit("echo", 1, 1, **service(max_workers=3))
    cluster.orchestrator.mesh.add_service(rules)
    await until(lambda: len(_well(cluster)) == 1)

    async def scaled_to(replicas: int) -> None:
        for _ in range(200):
            await cluster.orchestrator.auto_scale_cluster()
            if len(_well(cluster)) == replicas == manager.replicas("echo"):
                return
            await asyncio.sleep(0.1)
        raise AssertionError(f"{_well(cluster)}, {manager.replicas('echo')} replicas")

    load = Load(cluster, 4, ms=20)  # more than 14 requests/s for each replica
    await scaled_to(3)
    await until(lambda: len(load.answers) == 3)
    await load.stop()
    quiet = Load(cluster, 1, ms=200)
    await scaled_to(1)
    await quiet.stop()
    assert cluster.runs("echo") == 1
    assert cluster.orchestrator.mesh.counts("echo").shed == 0


async def test_open_requests_are_answered_before_a_replica_leaves(cluster: Cluster) -> None:
    cluster.runtime.grace_s = 5.0
    await cluster.open()
    await cluster.submit("echo", 2, 1, **service())
    await until(lambda: len(_well(cluster)) == 2)
    open_ones = [asyncio.create_task(_ask(cluster, k, 600)) for k in range(6)]
    await asyncio.sleep(0.2)  # they are under way
    assert await cluster.orchestrator.scale_job("echo", 1)
    pids = {await one for one in open_ones}
    assert len(pids) == 2
    (left,) = {await _ask(cluster, k) for k in range(5)}
    (gone,) = pids - {left}
    await until(lambda: not alive(gone))
    log = "".join(p.read_text() for p in cluster.folder.rglob("jobs/echo/run-1/*.log"))
    assert "Traceback" not in log


async def test_all_replicas_are_replaced_under_load_and_nobody_gets_an_error(
    cluster: Cluster,
) -> None:
    cluster.runtime.grace_s = 5.0
    await cluster.open()
    manager = InferenceJobManager(cluster.orchestrator)
    await cluster.submit("echo", 2, 1, **service())
    await until(lambda: len(_well(cluster)) == 2)
    load = Load(cluster, 4, ms=20)
    await until(lambda: len(load.answers) == 2)
    before = set(load.answers)
    rolling = asyncio.create_task(manager.replace_replicas("echo"))
    await until(lambda: manager._rolling)
    with pytest.raises(IllegalActionError, match="are being replaced"):
        await manager.replace_replicas("echo")
    assert await rolling == 2
    load.answers.clear()
    await until(lambda: len(load.answers) == 2)
    await load.stop()  # nobody got an error
    assert manager.replicas("echo") == 2
    assert not load.answers.keys() & before
    await until(lambda: not any(alive(pid) for pid in before))
    counts = cluster.orchestrator.mesh.counts("echo")
    assert (counts.failed, counts.retried) == (0, 0)
    assert cluster.runs("echo") == 1
    assert cluster.status("echo")["state"] == "running"


async def test_a_service_that_is_scaled_while_it_is_replaced_keeps_its_size(
    cluster: Cluster,
) -> None:
    await cluster.open()
    manager = InferenceJobManager(cluster.orchestrator)
    await cluster.submit("echo", 1, 1, **service(max_workers=4))
    await until(lambda: len(_well(cluster)) == 1)
    rolling = asyncio.create_task(manager.replace_replicas("echo"))
    await until(lambda: manager.replicas("echo") == 2)
    assert await manager.scale("echo", 3)
    assert await rolling == 1
    assert manager.replicas("echo") == 3


async def test_an_only_replica_is_replaced_if_there_is_room_for_a_second(cluster: Cluster) -> None:
    await cluster.open()
    manager = InferenceJobManager(cluster.orchestrator)
    await cluster.submit("echo", 1, 1, **service(max_workers=1))
    await until(lambda: len(_well(cluster)) == 1)
    pid = await _ask(cluster, 1)
    with pytest.raises(IllegalActionError, match="without a gap; give it room"):
        await manager.replace_replicas("echo")
    assert await _ask(cluster, 1) == pid


async def test_a_service_that_cannot_run_ends_and_says_why(cluster: Cluster) -> None:
    """A replica that crashes is replaced, one that always does is not."""
    await cluster.open()
    begun = cluster.folder / "begun"
    line = f"echo in >> '{begun}'; echo no model; exit 3"
    await cluster.submit("echo", 1, 1, **service(command=("sh", "-c", line)))
    await until(lambda: cluster.ended("echo"))
    status = cluster.status("echo")
    assert (status["state"], status["exit_code"]) == ("failed", 3)
    assert "no model" in status["reason"]
    assert begun.read_text().count("in") == 6


async def test_another_orchestrator_finds_replicas_that_serve(cluster: Cluster) -> None:
    await cluster.open()
    await cluster.submit("echo", 2, 1, **service())
    await until(lambda: len(_well(cluster)) == 2)
    before = {await _ask(cluster, k) for k in range(8)}
    place = sorted(cluster.runtime.endpoints("echo"))[0]
    assert cluster.runtime.renew("echo", place)  # one is to be another when the first one ends
    await cluster.replace()
    await until(lambda: len(_well(cluster)) == 2 and not all(alive(pid) for pid in before), 30.0)
    pids = {await _ask(cluster, k) for k in range(8)}
    assert len(pids & before) == 1
    assert len(pids) == 2
    assert cluster.runs("echo") == 1
    victim = min(pids)
    os.kill(victim, signal.SIGKILL)  # and it is replaced, though another one had begun it
    await until(lambda: not alive(victim) and len(_well(cluster)) == 2, 30.0)
    load = Load(cluster, 4)
    await until(lambda: len(load.answers) == 2)
    await load.stop()
    (other,) = load.answers.keys() - pids
    assert alive(other)
    assert cluster.runs("echo") == 1


_ITEMS = """
import sys, time
from pathlib import Path
from orchestrator.worker import BatchInference
with BatchInference(200, sys.argv[1], shard=50, batch=5) as work:
    for batch in work:
        time.sleep(0.02)
        work.write(batch, [3 * item for item in batch.items])
"""


async def test_a_preempted_batch_job_goes_on_elsewhere_and_loses_and_repeats_nothing(
    cluster: Cluster, tmp_path: Path
) -> None:

    await cluster.open()
    output = tmp_path / "output"
    for name in ("n1", "n2"):  # others have these for a while
        await cluster.submit(f"other {name}", 1, 4, 1.5, preemptible=False)
    await until(lambda: len(cluster.said()) == 2)
    await cluster.submit(
        "batch",
        2,
        2,
        kind=JobKind.BATCH,
        priority=JobPriority.BEST_EFFORT,
        command=(sys.executable, "-c", _ITEMS, str(output)),
        environment={"PYTHONPATH": str(ROOT)},
    )

    def done() -> int:
        return sum(path.read_bytes().count(b"\n") for path in output.glob("shard-*.jsonl"))

    await until(lambda: done() >= 20)
    await cluster.submit("urgent", 1, 4, 4.0, priority=JobPriority.CRITICAL)
    await until(lambda: cluster.ended("batch"))
    status = cluster.status("batch")
    assert (status["state"], status["preemptions"], status["starts"]) == ("completed", 1, 2)
    notes = [note["what"] for note in status["history"]]
    assert "saved" in notes
    nodes = [{p.parents[2].name for p in cluster.folder.rglob(f"batch/run-{k}")} for k in (1, 2)]
    assert all(nodes)
    assert not nodes[0] & nodes[1]
    checked = check_output(output, lambda item, result: result == 3 * item)
    assert checked.complete, str(checked)


@pytest.mark.slow
def test_the_example_is_scaled_and_shot_at_without_an_error(tmp_path: Path) -> None:

    command = [sys.executable, "examples/inference_service/run.py", f"--folder={tmp_path}"]
    done = subprocess.run(
        [*command, "--seconds=1", "--replicas=2"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 wrong answers, 0 errors" in done.stdout
