"""Three nodes, their agents, an orchestrator, and jobs that write down what they see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from orchestrator import (
    Foundations,
    HeartbeatFaultDetector,
    InfrastructureOrchestrator,
    JobPriority,
    JobSpec,
    NodeSpec,
    WallClock,
    in_memory,
)
from orchestrator.kernels.state.codes import NodeCode
from orchestrator.runtimes import LocalAgents, ProcessRuntime
from tests.runtimes.stage import PYTHON

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
    """Three nodes of four declared GPUs, unless ``nodes`` and ``options`` say otherwise."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock = folder, WallClock()
        (folder / "said").mkdir()
        made = in_memory(self.clock)
        self.detector = HeartbeatFaultDetector(self.clock, timeout_ms=2000)
        self.parts = Foundations(made[0], made[1], self.detector, made[3])
        self.said_folder, self.checkpoints = folder / "said", folder / "checkpoints"
        self.nodes: dict[str, dict[str, Any]] = {name: {} for name in _NODES}
        self.options: dict[str, Any] = {}
        self.runtime = self._new_runtime()
        self.agents: LocalAgents | None = None
        self.time_limit_grace_s = 300.0
        self.orchestrator: Any = None

    def _new_runtime(self, **options: Any) -> ProcessRuntime:
        options |= {"grace_s": 0.5, "checkpoints": self.checkpoints}
        return ProcessRuntime(self.clock, self.detector, **options)

    async def open(self) -> None:
        await self.runtime.open()
        self.agents = LocalAgents(
            self.runtime, list(self.nodes), self.folder / "agents", beat_s=0.1
        )
        await self.agents.start()
        self.orchestrator = self.new_orchestrator()
        await self.orchestrator.start()

    def new_orchestrator(self) -> InfrastructureOrchestrator:
        nodes = [
            NodeSpec(name, 4, 16.0, 8, 64.0, 10.0, "NVLink", **fields)
            for name, fields in self.nodes.items()
        ]
        return InfrastructureOrchestrator(
            *self.parts,
            clock=self.clock,
            runtime=self.runtime,
            nodes=nodes,
            schedule_on_events=True,
            check=True,
            time_limit_grace_s=self.time_limit_grace_s,
            **self.options,
        )

    async def replace(self) -> None:
        """The orchestrator is dropped, and there is another one on its log."""
        address, token = self.runtime.address, self.runtime.token
        await self.runtime.close()
        again = HeartbeatFaultDetector(self.clock, timeout_ms=2000)
        self.detector, self.parts = again, self.parts._replace(fault_detector=again)
        self.runtime = self._new_runtime(address=address, token=token)
        await self.runtime.open()
        assert self.agents is not None
        self.agents.hand_over(self.runtime)
        await self.runtime.wait_for(list(self.agents.pids))
        self.orchestrator = self.new_orchestrator()
        await self.orchestrator.start()

    async def close(self) -> None:
        if self.orchestrator is not None:
            await self.orchestrator._replicas.prober.stop()
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
            "checkpoint_interval_steps": 0,
        }
        spec = JobSpec(
            job_id=job,
            name=job,
            num_workers=workers,
            gpus_per_worker=gpus,
            memory_per_worker_gb=1.0,
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
