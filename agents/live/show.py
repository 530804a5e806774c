"""A live run as it goes, and how it ended."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from agents.deploy import BundlePolicy
from agents.live.script import LiveRun
from orchestrator.clock import WallClock
from orchestrator.engine.history import JobNote
from orchestrator.errors import ConfigurationError
from orchestrator.foundations import HeartbeatFaultDetector, in_memory
from orchestrator.foundations.sqlite import SQLiteLog
from orchestrator.kernels.state.codes import NodeCode
from orchestrator.live.cycle import load_kernels
from orchestrator.orchestrator import InfrastructureOrchestrator
from orchestrator.ports import Policy
from orchestrator.runtimes import LocalAgents, ProcessRuntime
from orchestrator.scheduling.rules import Rule, policy_of, rule_named
from orchestrator.semantics import Semantics
from orchestrator.types import NodeSpec

__all__ = ["run_live"]


_LOOK_S = 0.05
_STYLES = {"completed": "green", "failed": "red", "interrupted": "red", "preempted": "yellow"}


class _Show:
    """The run, as it goes."""

    def __init__(self, run: LiveRun, folder: Path, console: Console) -> None:
        self.run, self.console = run, console
        self.clock = WallClock()
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.begun_ms = self.clock.now_ms()
        self._told: dict[str, int] = {}

    async def play(self, policy: Policy | Rule | None, semantics: Semantics | None) -> bool:
        """Run everything; whether all jobs ended as they should."""
        if policy is not None:  # the default rule is loaded when the orchestrator starts
            load_kernels(policy_of(policy), semantics)
        with SQLiteLog(self.folder / "log.sqlite") as log:
            fine = await self._play(log, policy, semantics)
            self._close()
            return fine

    async def _play(
        self, log: SQLiteLog, policy: Policy | Rule | None, semantics: Semantics | None
    ) -> bool:
        parts = in_memory(self.clock)._replace(consensus_engine=log)
        detector = HeartbeatFaultDetector(self.clock, timeout_ms=2000)
        runtime = ProcessRuntime(
            self.clock,
            detector,
            lease_s=self.run.lease_s,
            grace_s=self.run.grace_s,
            checkpoints=self.folder / "checkpoints",
        )
        nodes = [NodeSpec(**node) for node in self.run.nodes]
        self.orchestrator = InfrastructureOrchestrator(
            *parts._replace(fault_detector=detector),
            clock=self.clock,
            runtime=runtime,
            policy=policy,
            nodes=nodes,
            semantics=semantics,
            schedule_on_events=True,
        )
        if policy is not None:
            self.orchestrator.policy = (
                policy  # set, a rule is in the log, and whoever reads it knows
            )
        names = [node.node_id for node in nodes]
        await runtime.open()
        agents = LocalAgents(runtime, names, self.folder / "agents", beat_s=0.1)
        try:
            await agents.start()
            await self.orchestrator.start()
            self.say(f"{len(names)} agents are there", "bold")
            return await self._go(agents)
        finally:
            await agents.stop()
            await runtime.close()

    async def _go(self, agents: LocalAgents) -> bool:
        begun_s = time.monotonic()
        waiting = self.run.specs()
        todo = self._misfortunes(agents)
        expected = {spec.job_id: expect for _, spec, expect in waiting}
        while True:
            now_s = time.monotonic() - begun_s
            while waiting and waiting[0][0] <= now_s:
                await self.orchestrator.submit_job(waiting.pop(0)[1])
            while todo and todo[0][0] <= now_s:
                await todo.pop(0)[1]()
            self._tell()
            if not waiting and not self.orchestrator.engine.unended():
                states = {job: self._status(job)["state"] for job in expected}
                return states == expected
            if now_s > self.run.timeout_s:
                self.say(f"it was not done in {self.run.timeout_s} s", "bold red")
                return False
            await asyncio.sleep(_LOOK_S)

    def _misfortunes(
        self, agents: LocalAgents
    ) -> list[tuple[float, Callable[[], Awaitable[None]]]]:
        """What is done to the run besides jobs, and when, the first first."""

        async def kill(node: str) -> None:
            self.say(f"the agent of {node} is killed", "bold red")
            with suppress(ProcessLookupError):
                os.kill(agents.pids[node], signal.SIGKILL)

        async def bring(node: str) -> None:
            self.say(f"{node} gets another agent", "bold")
            await agents.add(node)

        async def scale(job: str, workers: int) -> None:
            done = await self.orchestrator.scale_job(job, workers)
            self.say(f"{job} is told to have {workers} workers{'' if done else ': refused'}")

        found = [
            (float(step["at_s"]), partial(scale, step["job"], int(step["workers"])))
            for step in self.run.scale
        ]
        if self.run.lose is not None:
            node, back_s = self.run.lose["node"], self.run.lose.get("back_s")
            found.append((float(self.run.lose["at_s"]), partial(kill, node)))
            if back_s is not None:
                found.append((float(back_s), partial(bring, node)))
        return sorted(found, key=lambda step: step[0])

    def _status(self, job: str) -> dict[str, Any]:
        return self.orchestrator.get_job_status(job)

    def say(self, text: str, style: str = "", at_ms: int | None = None) -> None:
        """Tell something, with the time."""
        at_s = ((self.clock.now_ms() if at_ms is None else at_ms) - self.begun_ms) / 1000
        self.console.print(
            f"{at_s:6.2f} s  {escape(text)}", style=style, highlight=False, soft_wrap=True
        )

    def _tell(self) -> None:
        """Tell what is new of jobs, in the order in which it happened."""
        notes: list[JobNote] = []
        for job in self.orchestrator.jobs:
            # Not its status: that also finds out why it waits, and takes time from what goes on.
            history = self.orchestrator.engine.history.of(job)
            notes += history[self._told.get(job, 0) :]
            self._told[job] = len(history)
        for note in sorted(notes, key=lambda note: note.time_ms):
            why = note.reason or note.cause
            text = f"{note.job_id:<12} {note.what:<12} {why.splitlines()[0] if why else ''}"
            self.say(text.rstrip(), _STYLES.get(note.what, ""), note.time_ms)

    def table(self) -> Table:
        """What became of every job."""
        table = Table(box=SIMPLE_HEAD, header_style="dim", padding=(0, 1, 0, 0))
        for column in ("job", "priority", "workers", "runs", "waited s", "took s", "end"):
            table.add_column(column, justify="left" if column in ("job", "end") else "right")
        for job, spec in self.orchestrator.jobs.items():
            status = self._status(job)
            times = {note["what"]: note["time_ms"] for note in reversed(status["history"])}
            last_ms = status["history"][-1]["time_ms"]
            waited_ms = times.get("started", last_ms) - times["submitted"]
            table.add_row(
                escape(job),
                spec.priority.name.lower(),
                str(spec.num_workers),
                str(self.orchestrator.engine.runs_of(job)),
                f"{waited_ms / 1000:.2f}",
                f"{(last_ms - times['submitted']) / 1000:.2f}",
                status["state"],
            )
        return table

    def _close(self) -> None:
        """Tell how it ended, while the log can be read."""
        engine = self.orchestrator.engine
        down = [name for name in engine.nodes.specs if engine.nodes.code(name) == NodeCode.DOWN]
        self.console.print(self.table())
        if down:
            self.console.print(f"down: {', '.join(down)}")
        self.console.print(
            f"logs of all workers are in {self.folder / 'agents'}, that of the cluster is "
            f"{self.folder / 'log.sqlite'}",
            highlight=False,
            soft_wrap=True,
        )


def run_live(
    run: LiveRun,
    folder: Path,
    console: Console,
    *,
    rule: str | None = None,
    bundle: str | None = None,
) -> bool:
    """Run jobs on agents of this machine, and tell what happens.

    Parameters
    ----------
    run : LiveRun
    folder : Path
        For logs and checkpoints.
    console : Console
    rule : str or None
        Who decides: a rule by its name; None: the one by default.
    bundle : str or None
        A learned policy that decides instead.

    Returns
    -------
    bool
        Whether all jobs ended as they should; no process is left in any case.
    """
    policy: Policy | Rule | None = None if rule is None else rule_named(rule)
    semantics = None
    if bundle is not None:
        if rule is not None:
            raise ConfigurationError("live: both 'rule' and 'bundle' are given; give one of them")
        learned = BundlePolicy.load(bundle)
        policy, semantics = learned, learned.config
    show = _Show(run, folder, console)
    return asyncio.run(show.play(policy, semantics))
