"""The workers of an agent: processes in sessions of their own, until nothing of them is left."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import psutil

from orchestrator.node.control import WorkerLine
from orchestrator.node.guard import Guard, end_session, members
from orchestrator.node.output import Folders, RotatedLog
from orchestrator.node.protocol import (
    Body,
    Cause,
    Ended,
    Halt,
    Joined,
    Knows,
    Launch,
    Progress,
    Saved,
    Seen,
    Serving,
    World,
)

__all__ = ["NAMES", "Workers", "environment_of"]


Key: TypeAlias = tuple[str, int, int]
"""(job, run, worker)."""


NAMES = {
    "agent": "QUARTERMASTER_AGENT",
    "checkpoints": "QUARTERMASTER_CHECKPOINT_DIR",
    "control": "QUARTERMASTER_CONTROL",
    "generation": "QUARTERMASTER_GENERATION",
    "host": "QUARTERMASTER_HOST",
    "job": "QUARTERMASTER_JOB_ID",
    "run": "QUARTERMASTER_RUN",
    "token": "QUARTERMASTER_TOKEN",
    "warm": "QUARTERMASTER_WARM",
    "worker": "QUARTERMASTER_WORKER",
}
"""Variables of our own; the token is the agent's, and no worker gets it."""


_LOOK_S = 0.25  # between looks at the memory of workers
_SWEEP_S = 0.02  # until it is seen again whether the rest of a worker is gone
_READ = 65536
_READS = 16  # of one pipe in a row, so that who floods it holds up nobody
_MIB = 2**20
_NO_COMMAND, _CANNOT_RUN = 127, 126  # exit codes, as shells have them
_BY_SIGNAL = 128
_SLACK = 1e-6  # of shares of a GPU
_BAD_COMMAND = (FileNotFoundError, PermissionError, NotADirectoryError)
_ENOEXEC, _E2BIG = 8, 7


_log = logging.getLogger(__name__)


@dataclass
class _Worker:
    """One worker: waiting for its GPUs, running, or ending."""

    order: Launch
    owner: Workers
    rank: int
    size: int
    generation: int
    pid: int = 0
    log: RotatedLog | None = None
    pipe: int = -1
    line: WorkerLine | None = None
    port: int = 0  # where it answers requests
    halted: bool = False
    renews: bool = False  # another one is to take its place
    cause: str = ""
    reason: str = ""
    status: int | None = None  # of the process that leads, once it is gone
    save: int = 0  # that a halt waits for
    grace_s: float = 0.0
    timers: tuple[asyncio.TimerHandle, ...] = ()

    @property
    def key(self) -> Key:
        return self.order.job, self.order.run, self.order.worker

    def greet(self, line: WorkerLine) -> None:
        """It has said hello."""
        self.line = line
        self.owner.tell(Knows(*self.key))

    def hear(self, said: dict[str, Any]) -> None:
        """It has said something."""
        if "progress" in said:
            done = said["progress"]
            share = done.get("fraction")
            share = None if share is None else float(share)
            self.owner.tell(Progress(*self.key, int(done["step"]), share))
        elif "saved" in said:
            self._answer(Saved(*self.key, int(said["saved"]), int(said.get("step", 0))))
        elif "failed" in said:
            problem = str(said.get("reason") or "it did not say why")[:1000]
            self._answer(Saved(*self.key, int(said["failed"]), 0, problem))
        elif "joined" in said:
            self.owner.tell(Joined(*self.key, int(said["joined"])))
        elif "serving" in said:
            self.port = int(said["serving"]["port"])
            self.owner.tell(Serving(*self.key, self.port))

    def _answer(self, saved: Saved) -> None:
        self.owner.tell(saved)
        if self.save == saved.number:
            self.owner.wind_down(self)

    def cancel_timers(self) -> None:
        for timer in self.timers:
            timer.cancel()
        self.timers = ()


def environment_of(order: Launch, base: dict[str, str], own: dict[str, str]) -> dict[str, str]:
    """Variables of a worker: those of the agent, of its job, and of the runtime, which win.

    Parameters
    ----------
    order : Launch
    base : dict
        The agent's own.
    own : dict
        What the agent adds: its mark, the worker's, the control socket.
    """
    found = {name: value for name, value in base.items() if name != NAMES["token"]}
    found.update(order.environment)
    found.update(
        RANK=str(order.rank),
        WORLD_SIZE=str(order.size),
        LOCAL_RANK=str(order.local_rank),
        LOCAL_WORLD_SIZE=str(order.local_size),
        NODE_RANK=str(order.node_rank),
        GROUP_RANK=str(order.node_rank),
        MASTER_ADDR=order.master[0],
        MASTER_PORT=str(order.master[1]),
        CUDA_VISIBLE_DEVICES=",".join(_device(gpu, base) for gpu in order.gpus),
        CUDA_DEVICE_ORDER="PCI_BUS_ID",  # as NVML counts them; CUDA's own order is by speed
    )
    found[NAMES["job"]] = order.job
    found[NAMES["run"]] = str(order.run)
    found[NAMES["generation"]] = str(order.generation)
    found[NAMES["checkpoints"]] = order.checkpoints
    if order.warm:
        found[NAMES["warm"]] = "1"
    return found | own


def _device(gpu: int, base: dict[str, str]) -> str:
    """What CUDA calls a node's GPU: the agent may have been left some of the machine's only."""
    left = [name.strip() for name in base.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    return left[gpu] if left != [""] and gpu < len(left) else str(gpu)


class Workers:
    """Starts workers, hears them, and ends them.

    Parameters
    ----------
    folders : Folders
    guard : Guard
    mark : str
        Tells this agent's processes from all others.
    tell : callable
        Takes what is to be reported.
    """

    def __init__(
        self, folders: Folders, guard: Guard, mark: str, tell: Callable[[Body], None]
    ) -> None:
        self.tell = tell
        self.wake: Callable[[Key], None] = lambda key: None  # it has written something, or ended
        self.control = ""
        self.host = ""
        self._folders, self._guard, self._mark = folders, guard, mark
        self._workers: dict[Key, _Worker] = {}
        self._by_pid: dict[int, _Worker] = {}
        self._ended: set[Key] = set()  # until the orchestrator knows
        self.empty = asyncio.Event()
        self.empty.set()
        self._loop = asyncio.get_running_loop()
        self._watching: asyncio.TimerHandle | None = None
        self._sweeping: asyncio.TimerHandle | None = None

    def __contains__(self, key: object) -> bool:
        """Whether something of a worker is left, or it waits for its GPUs."""
        return key in self._workers

    def __len__(self) -> int:
        """Count those that are there, or wait for their GPUs."""
        return len(self._workers)

    def seen(self) -> tuple[Seen, ...]:
        """All of them."""
        return tuple(
            Seen(
                *worker.key,
                worker.order.rank,
                worker.rank,
                worker.size,
                worker.generation,
                worker.order.gpus,
                worker.line is not None,
                worker.halted,
                worker.port,
                worker.order.replica,
                worker.renews,
            )
            for worker in self._workers.values()
        )

    def find(self, session: int, named: tuple[str, int, int]) -> _Worker | None:
        """The worker of a session, or else the one that has a job, run and rank."""
        found = self._by_pid.get(session)
        if found is not None:
            return found
        job, run, rank = named
        for worker in self._workers.values():
            if (worker.order.job, worker.order.run, worker.order.rank) == (job, run, rank):
                return worker
        return None

    # --- orders ----------------------------------------------------------------------------------

    def launch(self, order: Launch) -> None:
        """Start a worker as soon as its GPUs are free, and no other run of its job is here."""
        key = order.job, order.run, order.worker
        if key not in self._workers and key not in self._ended:
            self.empty.clear()
            generation = order.generation - order.warm  # it is told of that one
            self._workers[key] = _Worker(order, self, order.rank, order.size, generation)
            self._start_ready()

    def forget(self, body: Body) -> None:
        """What was reported is safe."""
        if isinstance(body, Ended):
            self._ended.discard((body.job, body.run, body.worker))

    def halt(self, order: Halt) -> None:
        """Stop workers of a run; what they are asked again changes nothing."""
        for worker in self._of(order.job, order.run, order.workers):
            if worker.halted:
                continue
            worker.halted, worker.renews = True, order.renews
            worker.cause = worker.cause or Cause.HALTED
            worker.reason = worker.reason or order.reason
            if not worker.pid:
                self._finish(worker)
                continue
            worker.grace_s = order.grace_ms / 1000
            if order.save and worker.line is not None:
                worker.save = order.save
                worker.line.say({"save": order.save})
                late = self._loop.call_later(worker.grace_s, self.wind_down, worker)
                worker.timers = (late,)
            else:
                self.wind_down(worker)
        self._start_ready()

    def wind_down(self, worker: _Worker) -> None:
        """Ask a worker to end, if it can be asked; then tell it to; then end it."""
        worker.cancel_timers()
        worker.save = 0
        soon_s = 0.0
        if worker.line is not None:
            worker.line.say({"stop": worker.reason})
            soon_s = worker.grace_s / 2
        worker.timers = (
            self._loop.call_later(soon_s, self._terminate, worker),
            self._loop.call_later(worker.grace_s, self._kill, worker),
        )

    def _terminate(self, worker: _Worker) -> None:
        end_session(worker.pid, signal.SIGTERM)
        end_session(worker.pid, signal.SIGCONT)  # one that is stopped hears nothing

    def _kill(self, worker: _Worker) -> None:
        end_session(worker.pid)

    def save(self, job: str, run: int, number: int) -> None:
        """Have those workers of a run save that can be asked."""
        for worker in self._of(job, run):
            if worker.line is not None and not worker.halted:
                worker.line.say({"save": number})

    def regroup(self, order: World) -> None:
        """Tell workers that stay who the others are."""
        ranks = dict(order.members)
        for worker in self._of(order.job, order.run, tuple(ranks)):
            rank = ranks[worker.order.worker]
            if worker.generation >= order.generation:
                continue
            worker.rank, worker.size = rank, len(order.ranks)
            worker.generation = order.generation
            if worker.line is not None:
                world = {
                    "generation": order.generation,
                    "ranks": list(order.ranks),
                    "master": f"{order.master[0]}:{order.master[1]}",
                    "rank": None if rank < 0 else rank,
                    "size": worker.size,
                }
                worker.line.say({"world": world})

    def end_all(self, cause: str, reason: str) -> None:
        """Kill all of them now."""
        for worker in list(self._workers.values()):
            if not worker.cause or worker.cause == Cause.HALTED:
                worker.cause, worker.reason = cause, reason
            worker.halted = True
            if worker.pid:
                end_session(worker.pid)
            else:
                self._finish(worker)

    def _of(self, job: str, run: int, which: Iterable[int] | None = None) -> list[_Worker]:
        chosen = None if which is None else set(which)
        return [
            worker
            for (its_job, its_run, number), worker in self._workers.items()
            if its_job == job and its_run == run and (chosen is None or number in chosen)
        ]

    # --- starting --------------------------------------------------------------------------------

    def _start_ready(self) -> None:
        """Start those whose GPUs are free, in the order in which they were asked for."""
        present = {w.order.job: w.order.run for w in self._by_pid.values()}
        taken, ahead = dict[int, float](), dict[int, float]()
        for worker in self._by_pid.values():
            _add(taken, worker.order)
        for worker in [w for w in self._workers.values() if not w.pid]:
            order = worker.order
            fits = all(
                taken.get(gpu, 0.0) + ahead.get(gpu, 0.0) + order.share <= 1.0 + _SLACK
                for gpu in order.gpus
            )
            if fits and present.get(order.job, order.run) == order.run:
                self._start(worker)
                if worker.pid:
                    _add(taken, order)
                    present[order.job] = order.run
            else:
                _add(ahead, order)

    def _start(self, worker: _Worker) -> None:
        order = worker.order
        own = {
            NAMES["agent"]: self._mark,
            NAMES["worker"]: f"{order.run}.{order.worker} {order.job}",
            NAMES["control"]: self.control,
            NAMES["host"]: self.host,
        }
        reading = writing = -1
        try:
            worker.log = self._folders.log(order.job, order.run, order.worker)
            folder = str(self._folders.work(order.job) / order.working_dir)
            if order.checkpoints:
                Path(order.checkpoints).mkdir(parents=True, exist_ok=True)
            environment = environment_of(order, dict(os.environ), own)
            reading, writing = os.pipe()
            os.set_blocking(reading, False)
            process = _spawn(order, folder, environment, writing)
        except OSError as error:
            if reading >= 0:
                os.close(reading)
            self._fail(worker, error)
            return
        finally:
            if writing >= 0:
                os.close(writing)
        worker.pid, worker.pipe = process.pid, reading
        process.returncode = 0  # who reaps it is reap(), not this object
        self._by_pid[worker.pid] = worker
        self._guard.add(worker.pid)
        self._loop.add_reader(reading, self._read, worker)
        if order.memory_mb and self._watching is None:
            self._watching = self._loop.call_later(_LOOK_S, self._watch)

    def _fail(self, worker: _Worker, error: OSError) -> None:
        """It could not be started: because of its command, or of this node."""
        order = worker.order
        worker.cause, worker.reason = Cause.NODE, f"cannot be started here: {error}"
        bad = isinstance(error, _BAD_COMMAND) or error.errno in (_ENOEXEC, _E2BIG)
        mine = str(error.filename or "").startswith(str(self._folders.root))
        folder = order.working_dir
        if bad and folder and not (self._folders.job(order.job) / "work" / folder).is_dir():
            worker.cause = Cause.COMMAND
            worker.reason = f"there is no folder '{folder}'; give another 'working_dir'"
            worker.status = _CANNOT_RUN
        elif bad and not mine:
            worker.cause = Cause.COMMAND
            problem = error.strerror or str(error)
            worker.reason = f"'{order.command[0]}' cannot be run ({problem}); correct 'command'"
            missing = isinstance(error, FileNotFoundError)
            worker.status = _NO_COMMAND if missing else _CANNOT_RUN
        self._finish(worker)

    # --- output ----------------------------------------------------------------------------------

    def _read(self, worker: _Worker) -> None:
        for _ in range(_READS):
            try:
                data = os.read(worker.pipe, _READ)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._close_pipe(worker)
                return
            if worker.log is not None:
                worker.log.write(data)
                self.wake(worker.key)

    def _close_pipe(self, worker: _Worker) -> None:
        if worker.pipe >= 0:
            self._loop.remove_reader(worker.pipe)
            os.close(worker.pipe)
            worker.pipe = -1

    # --- ending ----------------------------------------------------------------------------------

    def reap(self) -> None:
        """Take leave of processes that have ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid == self._guard.pid:
                _log.warning("the guard of this agent has ended; there is another one")
                self._guard.respawn()
            elif (worker := self._by_pid.get(pid)) is not None:
                worker.status = os.waitstatus_to_exitcode(status)
                worker.cancel_timers()
        self._sweep()

    def _sweep(self) -> None:
        """Finish workers of which nothing is left; look again, shortly, at those that remain."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        ending = [worker for worker in self._by_pid.values() if worker.status is not None]
        # Whatever a worker that is gone has left behind is, or stands below, a child of ours now.
        others = [p for p in _children() if p != self._guard.pid and p not in self._by_pid]
        strays = self._strays(others) if ending or not self._by_pid else []
        for pid in strays:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        left = False
        for worker in ending:
            if others and (strays or members(worker.pid)):
                end_session(worker.pid)
                left = True
            else:
                self._finish(worker)
        if left:
            self._sweeping = self._loop.call_later(_SWEEP_S, self._sweep)
        elif ending:
            self._start_ready()

    def _strays(self, others: Iterable[int]) -> list[int]:
        """Of children of ours, those that are nobody's: they left their worker's session."""
        alive = {w.pid: w for w in self._by_pid.values() if w.status is None}
        names = {f"{w.order.run}.{w.order.worker} {w.order.job}" for w in alive.values()}
        found = []
        for pid in others:
            with contextlib.suppress(OSError):
                if os.getsid(pid) in self._by_pid:
                    continue
                name = _worker_name(pid)
                if name not in names and (name or not alive):
                    found.append(pid)
        return found

    def _finish(self, worker: _Worker) -> None:
        """Nothing is left of a worker: report it."""
        worker.cancel_timers()
        if worker.pipe >= 0:
            self._read(worker)
            self._close_pipe(worker)
        if worker.line is not None:
            worker.line.close()
        if worker.pid:
            self._by_pid.pop(worker.pid, None)
            self._guard.remove(worker.pid)
        self._workers.pop(worker.key, None)
        self._ended.add(worker.key)
        self.wake(worker.key)
        if not self._workers:
            self.empty.set()
        tail = ""
        if worker.log is not None:
            tail = worker.log.tail
            worker.log.close()
            self._folders.ended(worker.order.job, worker.order.run)
        code, cause, reason = _verdict(worker)
        if worker.log is not None and worker.log.problem:
            reason = f"{reason}; {worker.log.problem}" if reason else worker.log.problem
        told = worker.order.replica, worker.renews
        self.tell(Ended(*worker.key, worker.rank, worker.size, code, cause, reason, tail, *told))

    # --- memory ----------------------------------------------------------------------------------

    def _watch(self) -> None:
        """End workers that use more memory than they may."""
        self._watching = None
        limited = {w.pid: w for w in self._by_pid.values() if w.order.memory_mb}
        if not limited:
            return
        used = dict.fromkeys(limited, 0)
        for pid in psutil.pids():
            with contextlib.suppress(OSError, psutil.Error):
                session = os.getsid(pid)
                if session in used:
                    memory = psutil.Process(pid).memory_info()
                    used[session] += memory.rss - (memory.shared if pid != session else 0)
        for pid, worker in limited.items():
            most, has = worker.order.memory_mb, used[pid] // _MIB
            if has > most and worker.status is None and not worker.cause:
                worker.cause, worker.halted = Cause.MEMORY, True
                worker.reason = (
                    f"used {has:,} MiB of memory, and may use {most:,}; raise "
                    "'memory_per_worker_gb'"
                )
                end_session(pid)
        self._watching = self._loop.call_later(_LOOK_S, self._watch)


def _add(load: dict[int, float], order: Launch) -> None:
    """A worker takes its shares of GPUs."""
    for gpu in order.gpus:
        load[gpu] = load.get(gpu, 0.0) + order.share


def _spawn(
    order: Launch, folder: str, environment: dict[str, str], output: int
) -> subprocess.Popen[bytes]:
    """Start a worker's process, as the leader of a session.

    Nothing is done between fork and exec, so that it costs a tenth: see decision 0018.
    """
    return subprocess.Popen(
        order.command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )


def _children() -> list[int]:
    """Processes whose parent is this one."""
    own = Path(f"/proc/self/task/{os.getpid()}/children")
    try:
        return [int(pid) for pid in own.read_text().split()]
    except OSError:
        return [child.pid for child in psutil.Process().children()]


def _worker_name(pid: int) -> str:
    """Which worker a process belongs to, by its environment; empty if that does not say."""
    mark = f"{NAMES['worker']}=".encode()
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            if line.startswith(mark):
                return line.removeprefix(mark).decode(errors="replace")
    return ""


def _verdict(worker: _Worker) -> tuple[int, str, str]:
    """Exit code, cause and reason of a worker that has ended."""
    status = worker.status
    if worker.cause:
        code = 1 if status is None else status
        return (_BY_SIGNAL - code if code < 0 else code), worker.cause, worker.reason
    if status is None:
        return 1, Cause.NODE, "nobody knows how it ended"
    if status < 0:
        name = signal.Signals(-status).name if -status in list(signal.Signals) else str(-status)
        return _BY_SIGNAL - status, Cause.SIGNAL, f"was killed by {name}"
    return status, Cause.EXIT, f"exited with code {status}"
