"""An orchestrator's process, as a deployment would write it, and what happens to it.

It is told what to do over a unix socket, in lines of JSON, and answers each when the orchestrator
has. Its configuration says at which entry or effect it kills itself, and how its clock is set.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator import (
    ClusterShape,
    HashShardManager,
    HeartbeatFaultDetector,
    InfrastructureOrchestrator,
    JobPriority,
    JobSpec,
    NodeSpec,
    PhiAccrualFaultDetector,
    QuartermasterError,
    StorageError,
    VirtualClock,
    WallClock,
    in_memory,
)
from orchestrator.foundations import FolderCheckpoints
from orchestrator.foundations.sqlite import SQLiteLog
from orchestrator.messages import Effect, Entry, WorkerExited
from orchestrator.ports import FaultDetector
from orchestrator.runtimes import ProcessRuntime
from orchestrator.runtimes.gangs import Gang

SHAPE = ClusterShape(envs=1, jobs=64, workers=8, nodes=4, devices=4)
GPUS = 4
_LOOK_S = 0.3
_QUICK_MS = 600

_KEEP = """
CREATE TABLE IF NOT EXISTS dropped (number INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TRIGGER IF NOT EXISTS keep AFTER DELETE ON entries
    BEGIN INSERT INTO dropped VALUES (old.number, old.body); END;
"""


def node(name: str) -> NodeSpec:
    """A node of four declared GPUs."""
    return NodeSpec(name, GPUS, 16.0, 8, 64.0, 10.0, "NVLink")


def job(name: str, command: Sequence[str], **fields: Any) -> JobSpec:
    """A job; what it takes is told by its command."""
    values = {
        "name": name,
        "priority": JobPriority.BATCH,
        "memory_per_worker_gb": 0.0,
        "max_duration_hours": 10_000.0,
        "checkpoint_interval_steps": 0,
        "preemptible": True,
        "command": tuple(command),
    }
    if "priority" in fields:
        fields["priority"] = JobPriority(fields["priority"])
    return JobSpec(job_id=name, **(values | fields))


class Fate:
    """Ends this process at the k-th time that it comes by a place."""

    def __init__(self, place: str, count: int) -> None:
        self._place, self._left = place, count

    def pass_by(self, place: str) -> None:
        """Come by a place."""
        if place == self._place:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


class _Clock(WallClock):
    """A machine whose date is wrong by some milliseconds."""

    def __init__(self, offset_ms: int) -> None:
        super().__init__()
        self._origin_ms += offset_ms


class _Log(SQLiteLog):
    """The process may end before an entry is written, and before its answer comes.

    What is cut off is kept for the checker, in a table beside.
    """

    def __init__(self, path: Path, cut_every: int, fate: Fate) -> None:
        super().__init__(path, cut_every=cut_every)
        self._database._writer.executescript(_KEEP)
        self._fate = fate

    async def append(self, entry: Entry) -> int:
        self._fate.pass_by("before entry")
        index = await super().append(entry)
        self._fate.pass_by("after entry")
        return index

    async def cut(self, index: int, snapshot: object) -> None:
        self._fate.pass_by("before cut")
        await super().cut(index, snapshot)
        self._fate.pass_by("after cut")


class _Runtime(ProcessRuntime):
    """The process may end before and after each effect."""

    fate: Fate

    def carry_out(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            self.fate.pass_by("before effect")
            super().carry_out([effect])
            self.fate.pass_by("after effect")


# --- broken on purpose: the checker has to see it ------------------------------------------------


def _begin_early() -> None:
    """A further run begins though workers of the one before may be left."""

    def begin(runtime: ProcessRuntime, gang: Gang) -> None:
        if not gang.begun and not gang.leaving:
            gang.begun = True
            runtime._launch(gang, list(gang.members.values()))

    ProcessRuntime._begin = begin


def _forget_ends() -> None:
    """An end is acknowledged and not logged."""
    report = ProcessRuntime.bind

    def bind(runtime: ProcessRuntime, deliver: Any) -> None:
        async def lossy(event: Any) -> object:
            return True if isinstance(event, WorkerExited) else await deliver(event)

        report(runtime, lossy)

    ProcessRuntime.bind = bind


def _start_some() -> None:
    """Of a gang all workers are started but for the last."""
    launch = ProcessRuntime._launch

    def fewer(runtime: ProcessRuntime, gang: Gang, members: Sequence[Any]) -> None:
        if len(gang.members) > 1:
            gang.members.pop(max(gang.members))
        launch(runtime, gang, list(gang.members.values()))

    ProcessRuntime._launch = fewer


def _promise_only() -> None:
    """A submission is acknowledged before it is logged, and never is."""

    async def submit(cluster: InfrastructureOrchestrator, spec: JobSpec) -> str:
        return spec.job_id

    InfrastructureOrchestrator.submit_job = submit


MUTATIONS = {
    "early": _begin_early,
    "forget": _forget_ends,
    "some": _start_some,
    "promise": _promise_only,
}


# --- the process ---------------------------------------------------------------------------------


class Leader:
    """An orchestrator, and the line on which it is told what to do."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = config
        folder, lease_s = Path(config["folder"]), config["lease_s"]
        fate = Fate(config["ends"], config["ends_at"])
        clock = _Clock(config["offset_ms"])
        least_ms = round(1000 * lease_s)
        detector: FaultDetector
        if config["detector"] == "phi":
            detector = PhiAccrualFaultDetector(clock, 2 * least_ms, lease_ms=least_ms)
        else:  # one that is quick knows of a node long before its workers' lease is over
            patient = config["detector"] == "patient"
            detector = HeartbeatFaultDetector(clock, least_ms if patient else _QUICK_MS)
        self._log = _Log(folder / "log", config["cut_every"], fate)
        self._runtime = _Runtime(
            clock,
            detector,
            address=f"unix:{config['address']}",
            token=config["token"],
            lease_s=lease_s,
            grace_s=config["grace_s"],
            checkpoints=folder / "saved",
        )
        self._runtime.fate = fate
        self._cluster = InfrastructureOrchestrator(
            self._log,
            HashShardManager(),
            detector,
            FolderCheckpoints(folder / "saved"),
            clock=clock,
            runtime=self._runtime,
            shape=SHAPE,
            nodes=[node(name) for name in config["nodes"]],
            schedule_on_events=True,
            check=True,
            save_grace_ms=config["save_grace_ms"],
        )

    async def run(self) -> int:
        """Lead until the line ends."""
        await self._runtime.open()
        with contextlib.suppress(QuartermasterError):  # who is not there is lost
            await self._runtime.wait_for(self._config["nodes"], self._config["patience_s"])
        await self._take_over()
        path = f"{self._config['folder']}/commands.sock"
        reader, writer = await asyncio.open_unix_connection(path)
        deposed = asyncio.create_task(self._until_deposed())
        tasks = {deposed}
        while not deposed.done():
            reading = asyncio.create_task(reader.readline())
            await asyncio.wait((reading, deposed), return_when=asyncio.FIRST_COMPLETED)
            if not (reading.done() and (line := reading.result())):
                break
            task = asyncio.create_task(self._answer(json.loads(line), writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        return 0

    async def _until_deposed(self) -> None:
        """Whoever has been replaced is of no use: who supervises it starts another one."""
        own = f"-{os.getpid()}-"
        for wait_s in itertools.repeat(_LOOK_S):
            if own not in self._cluster.get_cluster_status()["leader"]:
                return
            await asyncio.sleep(wait_s)

    async def _take_over(self) -> None:
        while True:
            try:
                await self._cluster.start()
                return
            except StorageError:  # the disk is full; who starts us would try again, too
                await asyncio.sleep(0.2)

    async def _answer(self, asked: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        try:
            said = await self._do(**asked["do"])
        except QuartermasterError as error:
            said = {"error": type(error).__name__, "field": getattr(error, "field", "")}
        writer.write(json.dumps({"id": asked["id"], "said": said}).encode() + b"\n")

    async def _do(self, what: str, name: str = "", **more: Any) -> Any:
        cluster = self._cluster
        if what == "submit":
            return await cluster.submit_job(job(name, **more))
        if what == "preempt":
            return await cluster.preempt_job(name, "chaos")
        if what == "scale":
            return await cluster.scale_job(name, more["workers"])
        status = cluster.get_cluster_status()
        told = {name: cluster.get_job_status(name)["state"] for name in more["names"]}
        return {"jobs": told, "errors": status["errors"]}


def main(config: dict[str, Any]) -> int:
    """Lead, in a process of its own; its exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    if config["mutation"] in MUTATIONS:
        MUTATIONS[config["mutation"]]()
    return asyncio.run(Leader(config).run())


def warm_up() -> None:
    """Load what an orchestrator needs, its kernels included."""

    async def live() -> None:
        clock = VirtualClock()
        cluster = InfrastructureOrchestrator(
            *in_memory(clock),
            clock=clock,
            shape=SHAPE,
            nodes=[node("n0"), node("n1")],
            schedule_on_events=True,
            check=True,
        )
        fields = {"num_workers": 2, "gpus_per_worker": 1, "duration_hours": 1.0}
        await cluster.submit_job(job("a", ["true"], **fields))
        elastic = {"elastic": True, "max_workers": 4}
        await cluster.submit_job(job("b", ["true"], **fields, **elastic))
        await clock.advance_to(5000)
        await cluster.preempt_job("a", "warm-up")
        await cluster.scale_job("b", 3)
        await cluster.handle_node_failure("n0")
        cluster.get_cluster_status()
        await clock.advance_to(10_000_000)

    asyncio.run(live())
