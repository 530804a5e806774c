"""A schedule, carried out: processes that are started, hurt and started again, and clients."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import secrets
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.chaos.live.plan import Job, Plan, Step
from tests.chaos.live.processes import Watched
from tests.chaos.live.wires import Wire
from tests.chaos.live.worker import Life, command, read
from tests.chaos.live.zygote import Zygote

GRACE_S = 0.3
SAVE_GRACE_S = 0.4
_BEAT_S = 0.1
_LOOK_S = 0.05
_MOST_START_S = 60.0
_SLOW = 4
_NEVER_BACK = 0.4  # of leaders that were stopped and replaced: they stay as they are
_MOST_KILLS = 3  # of workers of one job: it is to survive


def now_us() -> int:
    """Time on the clock of the workers."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


class World:
    """What is there in a schedule, and what has happened.

    Parameters
    ----------
    plan : Plan
    folder : Path
        For all files.
    leaders, agents : Zygote
    mutation : str
        What is broken on purpose.
    """

    def __init__(
        self, plan: Plan, folder: Path, leaders: Zygote, agents: Zygote, mutation: str = ""
    ) -> None:
        self.plan, self.folder, self.mutation = plan, folder, mutation
        self.nodes = [f"n{k}" for k in range(plan.nodes)]
        self.acknowledged: dict[str, Job] = {}
        self.done: list[tuple[str, str]] = []  # other commands that were acknowledged
        self.happened: list[str] = []
        self.hindered: list[tuple[int, int]] = []  # when not all was well, microseconds
        self.corrupted: set[str] = set()
        self.seen_us: dict[str, int] = {}  # by workers' files
        self.calm_us = self.quiet_us = 0
        self.lag_us = self.slow_us = 0  # of this process itself: the most, and what leases felt
        self.lost_agents = 0
        self.problems: list[str] = []
        self._begin_us = now_us()
        self._rng = random.Random(plan.seed)
        self._leaders, self._agents_from = leaders, agents
        self._token = secrets.token_hex(8)
        self._leader: Watched | None = None
        self._throne, self._replaced = asyncio.Lock(), asyncio.Event()
        self._former: list[Watched] = []
        self._agents: dict[str, Watched] = {}
        self._started: list[Watched] = []
        self._spawning: set[asyncio.Task[Watched]] = set()
        self._away_s: dict[str, float] = {}
        self._workers: dict[str, Watched] = {}
        self._kills: dict[str, int] = {}
        self._reign = 0
        self._line: asyncio.StreamWriter | None = None
        self._lines: list[asyncio.StreamWriter] = []
        self._lined = asyncio.Event()
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._asked = 0
        self._ending = False
        self._tasks: set[asyncio.Task[None]] = set()

    # --- the whole -------------------------------------------------------------------------------

    async def live(self) -> None:
        """Carry the schedule out."""
        for name in ("agents", "saved", "said"):
            (self.folder / name).mkdir()
        self.wires = {
            node: Wire(self.folder / f"{node}.sock", self._rng, self.plan.chances)
            for node in self.nodes
        }
        server = await asyncio.start_unix_server(self._hear, str(self.folder / "commands.sock"))
        try:
            for wire in self.wires.values():
                await wire.open()
            self._have(self._sight())
            self._have(self._keep_leader())
            for node in self.nodes:
                self._have(self._keep_agent(node))
            async with asyncio.timeout(_MOST_START_S):
                await self._lined.wait()
            self._begin_us = now_us()
            await self._storm()
            await self._calm_down()
        finally:
            await self._end()
            server.close()

    def _have(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._note_end)
        return task

    def _note_end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.problems.append(f"the schedule itself failed: {error!r}")

    def _note(self, what: str) -> None:
        self.happened.append(f"{(now_us() - self._begin_us) / 1e6:.3f} {what}")

    async def _storm(self) -> None:
        plan = self.plan
        work = [(job.at_s, lambda job=job: self._submit(job)) for job in plan.jobs]
        work += [(step.at_s, lambda step=step: self._carry_out(step)) for step in plan.steps]
        tasks = [self._have(self._at(at_s, act)) for at_s, act in work]
        await asyncio.sleep(self._left_s(self.plan.storm_s))
        for task in tasks:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(task), 5.0)
        self._tasks_of_storm = [task for task in tasks if not task.done()]

    def _left_s(self, at_s: float) -> float:
        return max(at_s - (now_us() - self._begin_us) / 1e6, 0.0)

    async def _at(self, at_s: float, act: Callable[[], Awaitable[None]]) -> None:
        await asyncio.sleep(self._left_s(at_s))
        await act()

    async def _calm_down(self) -> None:
        """Mend everything, and wait until all is over."""
        for wire in self.wires.values():
            wire.calm()
        for process in [self._leader, *self._agents.values()]:
            if process is not None:
                process.signal(signal.SIGCONT)
                process.fill_disk(full=False)
        for process in self._workers.values():
            process.signal(signal.SIGCONT)
        if not self._lined.is_set():  # one that was stopped may hold the file of the log
            for process in self._former:
                process.signal(signal.SIGKILL)
        self._away_s.clear()
        self.calm_us = now_us()
        self._note("calm")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.plan.calm_s):
                await asyncio.gather(*self._tasks_of_storm)
                await self._until_over()
        self.quiet_us = now_us()
        self._note("over")
        await asyncio.sleep(0.2)
        await self._look()
        left = [name for name, process in self._workers.items() if process.alive]
        self.problems += [f"worker {name} is there when all is over" for name in left]

    async def _until_over(self) -> None:
        """Ask, again and again, until nothing is left to do."""
        names = [job.name for job in self.plan.jobs]
        for wait_s in itertools.repeat(0.1):
            await asyncio.sleep(wait_s)
            status = await self._ask("status", names=names)
            if not isinstance(status, dict) or "jobs" not in status:
                continue  # a job is not known
            states, errors = status["jobs"].values(), status["errors"]
            waiting = errors["effects_waiting"] or errors["reports_waiting"]
            if all(state in ("completed", "failed") for state in states) and not waiting:
                return

    async def _end(self) -> None:
        """End all processes; what is left of them then is a fault."""
        self._ending = True
        while self._tasks:  # what is cancelled just when it is answered may go on (wait_for)
            for task in list(self._tasks):
                task.cancel()
            await asyncio.wait(list(self._tasks), timeout=1.0)
        await asyncio.gather(*self._spawning, return_exceptions=True)
        processes = self._started
        for process in processes:
            process.signal(signal.SIGCONT)
            process.signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(10.0):
                for process in processes:
                    await process.ended()
        for process in processes:
            process.signal(signal.SIGKILL)
            process.close()
        for wire in self.wires.values():
            await wire.close()
        left = [name for name, process in self._workers.items() if process.alive]
        if left:
            await asyncio.sleep(1.0)  # for guards to have seen it
        left = [name for name, process in self._workers.items() if process.alive]
        self.problems += [f"worker {name} has outlived its agent" for name in left]
        for process in self._workers.values():
            process.signal(signal.SIGKILL)
            process.close()

    # --- processes -------------------------------------------------------------------------------

    async def _keep_leader(self) -> None:
        """A supervisor: there is an orchestrator, and if it ends, another one."""
        while not self._ending:
            async with self._throne:
                if self._leader is None or not self._leader.alive:
                    self._leader = await self._new_leader()
                leader = self._leader
            self._replaced.clear()
            waiting = [asyncio.ensure_future(x) for x in (leader.ended(), self._replaced.wait())]
            try:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waiting:
                    wait.cancel()
            if self._leader is not leader:
                continue  # there was a rival, who leads now
            self._note(f"leader {leader.pid} has ended")
            down_us = now_us()
            reign = self._next_reign()
            self._tear(reign.torn)
            await asyncio.sleep(reign.down_s if not self.calm_us else 0.0)
            self.hindered.append((down_us, now_us()))

    def _next_reign(self) -> Any:
        return self.plan.reigns[min(self._reign, len(self.plan.reigns) - 1)]

    async def _new_leader(self) -> Watched:
        reign = self._next_reign()
        self._reign += 1
        address = self.folder / f"leader-{self._reign}.sock"
        config = {
            **asdict(reign),
            "address": str(address),
            "folder": str(self.folder),
            "log": str(self.folder / "leader.log"),
            "token": self._token,
            "nodes": self.nodes,
            "lease_s": self.plan.lease_s,
            "detector": self.plan.detector,
            "cut_every": self.plan.cut_every,
            "grace_s": GRACE_S,
            "save_grace_ms": round(1000 * SAVE_GRACE_S),
            "mutation": self.mutation,
        }
        leader = await self._spawn(self._leaders, config)
        self._note(f"leader {leader.pid} begins: {reign}")
        for wire in self.wires.values():
            wire.leader = address
        return leader

    async def _spawn(self, parent: Zygote, config: dict[str, Any]) -> Watched:
        """Have a process, which is known here even if nobody waits for it any more."""

        async def spawn() -> Watched:
            process = Watched(await parent.spawn(config))
            self._started.append(process)
            return process

        task = asyncio.ensure_future(spawn())
        self._spawning.add(task)
        task.add_done_callback(self._spawning.discard)
        return await asyncio.shield(task)

    def _tear(self, what: str) -> None:
        """A crash has left half of what was being written."""
        if what == "snapshot":
            for path in sorted(self.folder.glob("log.*.snapshot"))[-1:]:
                data = path.read_bytes()
                path.write_bytes(data[: int(len(data) * self._rng.random())])
                self._note(f"{path.name} is torn")
        elif what == "wal":
            for path in self.folder.glob("log-wal"):
                with path.open("ab") as file:
                    file.write(self._rng.randbytes(self._rng.randint(1, 5000)))
                self._note("the write-ahead log is torn")

    async def _keep_agent(self, node: str) -> None:
        """A supervisor: a node has an agent, and if that ends, another one before long."""
        folder = self.folder / "agents" / node
        arguments = [f"--node={node}", f"--orchestrator=unix:{self.wires[node].path}"]
        arguments += [f"--folder={folder}", f"--beat={_BEAT_S}", f"--grace={GRACE_S}"]
        config = {
            "log": str(self.folder / f"{node}.log"),
            "token": self._token,
            "arguments": [*arguments, "--linger=30"],
            "mutation": self.mutation,
        }
        while not self._ending:
            agent = self._agents[node] = await self._spawn(self._agents_from, config)
            await agent.ended()
            self.lost_agents += 1
            self._note(f"the agent of {node} has ended")
            await asyncio.sleep(self._away_s.get(node, 0.0))

    # --- workers ---------------------------------------------------------------------------------

    async def _sight(self) -> None:
        """See who is there, those that are stopped included."""
        while True:
            before_us = now_us()
            await self._look()
            await asyncio.sleep(_LOOK_S)
            lag_us = now_us() - before_us - round(1e6 * _LOOK_S)
            self.lag_us = max(self.lag_us, lag_us)
            if lag_us > 1e6 * self.plan.lease_s / _SLOW:  # leases may end by that
                self.hindered.append((before_us, now_us()))
                self.slow_us += lag_us
            if not self._lined.is_set():  # nobody leads: one that is stopped may hold the log
                self.hindered.append((before_us, now_us()))

    async def _look(self) -> None:
        for path in (self.folder / "said").iterdir():
            if path.name not in self._workers and not path.name.startswith("."):
                self._workers[path.name] = Watched(int(path.name.rpartition("-")[2]))
        for name, process in self._workers.items():
            at_us = now_us()
            if process.alive:
                self.seen_us[name] = at_us

    def lives(self) -> list[Life]:
        """All workers, each until it was seen last."""
        found = read(self.folder / "said")
        for life in found:
            name = f"{life.job}-{life.run}-{life.rank}-{life.pid}"
            life.seen_us = max(life.seen_us, self.seen_us.get(name, 0))
        return found

    # --- what happens ----------------------------------------------------------------------------

    async def _carry_out(self, step: Step) -> None:
        """Something happens; everything lasts for a while and is over then."""
        self._note(f"{step.what} for {step.for_s:.2f} s")
        begin_us = now_us()
        what, _, whom = step.what.partition(" ")
        node = self.nodes[int(step.pick * len(self.nodes))]
        if step.what in ("preempt", "scale", "corrupt"):
            await self._meddle(step)
        elif step.what == "rival":
            await self._depose(step)
        elif step.what in ("cut", "snap"):
            await self._disconnect(node, step)
        elif whom == "worker":
            await self._hurt_worker(what, step)
        elif whom in ("leader", "disk"):
            await self._hurt(self._leader, what, step.for_s)
        else:
            self._away_s[node] = step.for_s
            await self._hurt(self._agents.get(node), what, step.for_s)
        self.hindered.append((begin_us, now_us()))
        self._note(f"{step.what} is over")

    async def _hurt(self, process: Watched | None, what: str, for_s: float) -> None:
        if process is None:
            return
        if what == "kill":
            process.signal(signal.SIGKILL)
        elif what == "stop":
            process.signal(signal.SIGSTOP)
            await self._pause(for_s)
            process.signal(signal.SIGCONT)
        else:
            process.fill_disk(full=True)
            await self._pause(for_s)
            process.fill_disk(full=False)

    async def _pause(self, for_s: float) -> None:
        await asyncio.sleep(min(for_s, self._left_s(self.plan.storm_s)))

    async def _hurt_worker(self, what: str, step: Step) -> None:
        alive = sorted(name for name, process in self._workers.items() if process.alive)
        alive = [n for n in alive if self._kills.get(n.split("-")[0], 0) < _MOST_KILLS]
        if alive:
            name = alive[int(step.pick * len(alive))]
            job = name.split("-")[0]
            self._kills[job] = self._kills.get(job, 0) + 1
            self._note(f"{what} {name}")
            await self._hurt(self._workers[name], what, step.for_s)

    async def _disconnect(self, node: str, step: Step) -> None:
        if step.what == "snap":
            self.wires[node].snap()
            return
        self.wires[node].cut()
        await self._pause(step.for_s)
        self.wires[node].mend()

    async def _depose(self, step: Step) -> None:
        """The leader is taken for dead, and is not: another one begins, and it comes back."""
        async with self._throne:
            old = self._leader
            if old is None or not old.alive:
                return
            old.signal(signal.SIGSTOP)
            self._former.append(old)
            self._lined.clear()  # that one does not answer, and keeps its line
            self._leader = await self._new_leader()
            self._replaced.set()
        await self._pause(step.for_s)
        if step.pick < _NEVER_BACK:
            return
        old.signal(signal.SIGCONT)
        await asyncio.sleep(0.5)
        old.signal(signal.SIGKILL)

    async def _meddle(self, step: Step) -> None:
        names = sorted(self.acknowledged)
        if not names:
            return
        name = names[int(step.pick * len(names))]
        if step.what == "corrupt":
            for path in sorted((self.folder / "saved" / name).rglob("*"))[-3:]:
                if path.is_file() and (data := path.read_bytes()):
                    self.corrupted.add(name)
                    at = int(step.pick * len(data))
                    path.write_bytes(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])
                    self._note(f"{path.relative_to(self.folder)} is corrupted")
            return
        workers = {"workers": 1 + int(step.for_s) % 4} if step.what == "scale" else {}
        said = await self._ask(step.what, name=name, **workers)
        if said is True:
            self.done.append((step.what, name))

    # --- clients ---------------------------------------------------------------------------------

    async def _submit(self, job: Job) -> None:
        """Submit a job until that is acknowledged."""
        fields = {"command": command(self.folder / "said", job.kind, job.seconds), **job.fields}
        said = None
        while said != job.name:
            said = await self._ask("submit", name=job.name, **fields)
            if isinstance(said, dict) and said.get("field") == "job_id":
                break  # the answer was lost, or did not come in time
            if said != job.name:
                await asyncio.sleep(0.1)
        self.acknowledged[job.name] = job

    async def _ask(self, what: str, **more: Any) -> Any:
        """Ask whoever leads, until somebody answers."""
        while True:
            await self._lined.wait()
            assert self._line is not None
            if self._line.is_closing():
                await asyncio.sleep(_LOOK_S)
                continue
            self._asked += 1
            number, answer = self._asked, asyncio.get_running_loop().create_future()
            self._answers[number] = answer
            text = json.dumps({"id": number, "do": {"what": what, **more}})
            self._line.write(text.encode() + b"\n")
            with contextlib.suppress(ConnectionError, TimeoutError):
                return await asyncio.wait_for(answer, 2.0)

    async def _hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """An orchestrator is ready; of those that are there the last one is asked."""
        self._lines.append(writer)
        self._line = writer
        self._lined.set()
        with contextlib.suppress(OSError, asyncio.CancelledError):
            while line := await reader.readline():
                said = json.loads(line)
                answer = self._answers.pop(said["id"], None)
                if answer is not None and not answer.done():
                    answer.set_result(said["said"])
        self._lines.remove(writer)
        if self._line is writer:
            self._line = self._lines[-1] if self._lines else None
            if self._line is None:
                self._lined.clear()
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_exception(ConnectionResetError())
            self._answers.clear()
        writer.close()
