"""A live run as it goes, and how it ended."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from agents.live.script import LiveRun
from agents.live.visitors import Caller, photograph
from agents.serve import ServeSettings, serving
from orchestrator.clock import WallClock
from orchestrator.engine.history import JobNote
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.state.codes import JobKind, NodeCode
from orchestrator.runtimes import LocalAgents
from orchestrator.types import NodeSpec

__all__ = ["run_live"]


_LOOK_S = 0.05
_STYLES = {"completed": "green", "failed": "red", "interrupted": "red", "preempted": "yellow"}


class _Show:
    """The run, as it goes."""

    def __init__(self, run: LiveRun, folder: Path, console: Console, pictures: Path) -> None:
        self.run, self.console, self.pictures = run, console, pictures
        self.clock = WallClock()
        self.folder = folder
        self.begun_ms = self.clock.now_ms()
        self._told: dict[str, int] = {}

    async def play(self, rule: str, bundle: str) -> bool:
        """Run everything; whether all jobs ended as they should."""
        settings = ServeSettings(
            dir=self.folder,
            local=[NodeSpec(**node) for node in self.run.nodes],
            beat_s=0.1,
            lease_s=self.run.lease_s,
            grace_s=self.run.grace_s,
            rule=rule,
            bundle=bundle,
            log_level="error",
        )
        async with serving(settings) as server:
            self.server, self.orchestrator = server, server.orchestrator
            self.say(f"{len(self.run.nodes)} agents are there", "bold")
            policy = server.parts.deployment.status()
            if policy["mode"] == "active":
                self.say(f"the trained policy {policy['candidate']['name']} is in charge", "bold")
            self.say(f"the page is at {self._page()}")
            fine = await self._go(server.agents)
            self._close()
            return fine

    def _page(self) -> str:
        """The address of the page, for somebody who may look and nothing else."""
        token = self.server.new_tokens.get("viewer", "")
        return f"{self.server.endpoint.url}/" + (f"#token={token}" if token else "")

    async def _go(self, agents: LocalAgents) -> bool:
        begun_s = time.monotonic()
        waiting = self.run.specs()
        todo = self._misfortunes(agents)
        expected = {spec.job_id: expect for _, spec, expect in waiting}
        services = {spec.job_id for _, spec, _ in waiting if spec.kind == JobKind.SERVICE}
        callers = [Caller(self.server, name) for name in sorted(services)]
        while True:
            now_s = time.monotonic() - begun_s
            while waiting and waiting[0][0] <= now_s:
                await self.orchestrator.submit_job(waiting.pop(0)[1])
            while todo and todo[0][0] <= now_s:
                await todo.pop(0)[1]()
            self._tell()
            if not waiting and not todo and set(self.orchestrator.engine.unended()) <= services:
                fine = await self._end(callers)
                states = {job: self._status(job)["state"] for job in expected}
                return fine and states == expected
            if now_s > self.run.timeout_s:
                self.say(f"it was not done in {self.run.timeout_s} s", "bold red")
                return False
            await asyncio.sleep(_LOOK_S)

    async def _end(self, callers: Sequence[Caller]) -> bool:
        """End the services; whether all requests to them were answered."""
        for caller in callers:
            await caller.stop()
            self.say(caller.story(), "green" if caller.failed == 0 else "bold red")
            await self.orchestrator.cancel_job(caller.service, "the run is over")
        self._tell()
        return all(caller.failed == 0 for caller in callers)

    def _misfortunes(
        self, agents: LocalAgents
    ) -> list[tuple[float, Callable[[], Awaitable[None]]]]:
        """What is done to the run besides jobs, and when, the first first."""

        async def kill(node: str) -> None:
            self.say(f"the agent of {node} is killed", "bold red")
            with suppress(ProcessLookupError, KeyError):  # it may be gone already
                os.kill(agents.pids[node], signal.SIGKILL)

        async def bring(node: str) -> None:
            self.say(f"{node} gets another agent", "bold")
            await agents.add(node)

        async def scale(job: str, workers: int) -> None:
            done = await self.orchestrator.scale_job(job, workers)
            self.say(f"{job} is told to have {workers} workers{'' if done else ': refused'}")

        async def picture() -> None:
            path = self.pictures / "page.png"
            problem = await photograph(self._page(), path)
            self.say(f"no picture of the page: {problem}" if problem else f"the page: {path}")

        found: list[tuple[float, Callable[[], Awaitable[None]]]] = [
            (float(step["at_s"]), partial(scale, step["job"], int(step["workers"])))
            for step in self.run.scale
        ]
        if self.run.lose is not None:
            node, back_s = self.run.lose["node"], self.run.lose.get("back_s")
            found.append((float(self.run.lose["at_s"]), partial(kill, node)))
            if back_s is not None:
                found.append((float(back_s), partial(bring, node)))
        if self.run.picture_at_s is not None:
            found.append((float(self.run.picture_at_s), picture))
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
                "cancelled" if status["reason"].startswith("cancelled") else status["state"],
            )
        return table

    def _close(self) -> None:
        """Tell how it ended, while the log can be read."""
        engine = self.orchestrator.engine
        down = [name for name in engine.nodes.specs if engine.nodes.code(name) == NodeCode.DOWN]
        self.console.print(self.table())
        if down:
            self.console.print(f"down: {', '.join(down)}")
        self._tell_policy()
        self.console.print(
            f"logs of all workers are in {self.folder / 'agents'}, that of the cluster is "
            f"{self.folder / 'log.sqlite'}; to look at its page again:\n"
            f"  quartermaster serve --dir {self.folder} --agents 0",
            highlight=False,
            soft_wrap=True,
        )

    def _tell_policy(self) -> None:
        """How whoever was in charge has decided, if it was no rule all along."""
        status = self.server.parts.deployment.status()
        for event in status["events"][1:]:
            self.console.print(f"policy: {event['mode']}, {event['reason']}", soft_wrap=True)
        candidate = status["candidate"]
        if candidate is not None and candidate["latency_ms"]["p50"] is not None:
            verdicts = ", ".join(f"{n} {name}" for name, n in candidate["verdicts"].items() if n)
            latency = candidate["latency_ms"]
            self.console.print(
                f"{candidate['name']}: decisions {verdicts}; {latency['p50']:.1f} ms at the "
                f"median, {latency['p99']:.1f} ms at the 99th percentile",
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
    pictures: Path | None = None,
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
    pictures : Path or None
        Folder of the picture of the page; None: ``folder``.

    Returns
    -------
    bool
        Whether all jobs ended as they should; no process is left in any case.
    """
    if bundle is not None and rule is not None:
        raise ConfigurationError("live: both 'rule' and 'bundle' are given; give one of them")
    show = _Show(run, folder, console, folder if pictures is None else pictures)
    return asyncio.run(show.play(rule or "", bundle or ""))
