"""The agent of a node: carries orders out, reports what happens, and keeps a lease.

An agent that hears nothing of its orchestrator keeps its workers, and its reports, until its lease
is over; then it ends them, because they may be started elsewhere. A lease runs from when the agent
had *sent* the beat that was answered, on its own clock: whoever answered it can count from the
answer and be sure that it ends no later. Nothing is carried out after its end, not even what lies
unread on the connection, until a new lease is granted.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

from orchestrator.errors import ConfigurationError
from orchestrator.node.control import ControlDoor
from orchestrator.node.gpus import Gpu, GpuReader
from orchestrator.node.guard import Guard, adopt_orphans, end_marked, now_ms
from orchestrator.node.output import Folders
from orchestrator.node.protocol import (
    VERSION,
    Ack,
    Address,
    Answer,
    Beat,
    Body,
    Cause,
    Fence,
    Halt,
    Hello,
    Launch,
    Line,
    Look,
    Order,
    Progress,
    ProtocolError,
    Read,
    Refused,
    Release,
    Renewed,
    Report,
    Save,
    Stale,
    Welcome,
    World,
)
from orchestrator.node.reading import Reading
from orchestrator.node.workers import NAMES, Workers

__all__ = ["Agent", "AgentSettings", "Exit", "lock_folder", "pid_in"]


_FIRST_WAIT_S, _MOST_WAIT_S = 0.05, 0.5  # between attempts to reach the orchestrator
_GPUS_S = 2.0  # between looks at GPUs
_GREETING_S = 5.0  # for the orchestrator's answer to a hello
_LOCK = "agent.lock"
_FENCE = "fence"
_BOOT = "boot"


_log = logging.getLogger(__name__)


class Exit:
    """Exit codes of an agent."""

    FINE = 0
    FAULT = 1
    """Something that must not happen has."""
    REFUSED = 3
    """The orchestrator does not take it: another version, or another token."""
    TAKEN = 4
    """Another agent uses its folder."""


@dataclass(frozen=True)
class AgentSettings:
    """What an agent is started with.

    Parameters
    ----------
    node : str
        Which node it is.
    address : Address
        Where the orchestrator listens.
    token : str
        What both know.
    folder : Path
        Where its files are; no other agent may use it.
    host : str
        Where other nodes reach its workers.
    beat_s : float
        Between two signs of life.
    log_bytes : int
        Of one log file of a worker; two are kept.
    grace_s : float
        For workers to end, when the agent is told to end.
    linger_s : float or None
        For how long it looks for an orchestrator that it has lost; None: for ever.
    """

    node: str
    address: Address
    token: str
    folder: Path
    host: str = "127.0.0.1"
    beat_s: float = 0.25
    log_bytes: int = 8 * 2**20
    grace_s: float = 5.0
    linger_s: float | None = None

    def __post_init__(self) -> None:
        """Check what cannot be."""
        for name in ("beat_s", "log_bytes"):
            if not getattr(self, name) > 0:
                problem = f"'{name}' is {getattr(self, name)}"
                raise ConfigurationError(f"agent: {problem}; give more than 0")
        if not self.node:
            raise ConfigurationError("agent: 'node' is empty; say which node this is")


def lock_folder(folder: Path) -> int | None:
    """Lock an agent's folder for this process; None if another one has it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    os.ftruncate(lock, 0)
    os.write(lock, str(os.getpid()).encode())
    return lock


def pid_in(folder: Path) -> int | None:
    """The agent that uses a folder; None: nobody does."""
    try:
        lock = os.open(folder / _LOCK, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        text = os.read(lock, 32).decode()
        return int(text) if text.isdigit() else None
    else:
        return None
    finally:
        os.close(lock)


class _Reports:
    """What happened, until it is known to be safe."""

    def __init__(self) -> None:
        self._number = 0
        self._kept: dict[int, Report] = {}

    def add(self, body: Body) -> Report:
        """Something has happened."""
        self._number += 1
        report = Report(self._number, body)
        self._kept[self._number] = report
        return report

    def acknowledge(self, numbers: tuple[int, ...]) -> list[Body]:
        """They are safe; those that were kept."""
        found = [self._kept.pop(number, None) for number in numbers]
        return [report.body for report in found if report is not None]

    def kept(self) -> list[Report]:
        """Those that are not, in order."""
        return list(self._kept.values())


class Agent:
    """One node's agent; :meth:`run` it in a process of its own.

    Parameters
    ----------
    settings : AgentSettings
    """

    def __init__(self, settings: AgentSettings) -> None:
        self._settings = settings
        self._boot = uuid.uuid4().hex
        self._end_predecessors()
        # First of all, while this process is small and has one thread.
        self._guard = Guard(f"{NAMES['agent']}={self._boot}")
        adopt_orphans()
        self._reports = _Reports()
        self._fence: Fence = self._read_fence()
        self._kept_term = self._fence[0]
        self._lease_ms = 0  # its end; 0: there was none yet
        self._length_ms = 0
        self._line: Line | None = None
        self._exit: int | None = None
        self._ending = asyncio.Event()
        self._gpus: tuple[Gpu, ...] | None = None
        self._told_gpus: tuple[Gpu, ...] | None = None
        self._lost_ms = now_ms()  # since when there is no orchestrator

    async def run(self) -> int:
        """Work until told to end; an exit code of :class:`Exit`."""
        reader = GpuReader()  # here, not in a thread: most nodes need none
        self._gpus = reader.read()
        folders = Folders(self._settings.folder, self._settings.log_bytes)
        self._workers = Workers(folders, self._guard, self._boot, self._report)
        self._reading = Reading(folders, self._workers.__contains__, self._answer)
        self._workers.wake = self._reading.wake
        door = ControlDoor(self._workers.find, self._settings.folder)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, self._workers.reap)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end, Exit.FINE)
        await door.open()
        self._workers.control, self._workers.host = door.path, self._settings.host
        tasks = [
            asyncio.create_task(self._keep_connected()),
            asyncio.create_task(self._beat()),
            asyncio.create_task(self._look_at_gpus(reader)),
        ]
        for task in tasks:
            task.add_done_callback(self._note_bug)
        try:
            await self._ending.wait()
            await self._wind_down()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._line is not None:
                self._line.close()
            door.close()
            self._reading.close()
            loop.remove_signal_handler(signal.SIGCHLD)
            self._guard.close()
        return Exit.FINE if self._exit is None else self._exit

    def _end(self, code: int) -> None:
        if self._exit is None:
            self._exit = code
        self._ending.set()

    def _note_bug(self, task: asyncio.Task[None]) -> None:
        """A task has ended that never does: an agent that does half of its work is none."""
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("this agent ends because of a fault of its own", exc_info=error)
            self._end(Exit.FAULT)

    async def _wind_down(self) -> None:
        """End what is left of workers, and have it reported if somebody listens."""
        for seen in self._workers.seen():
            grace_ms = round(1000 * self._settings.grace_s)
            fence, which = self._fence, (seen.worker,)
            reason = "the agent of its node ends"
            self._workers.halt(Halt(fence, seen.job, seen.run, which, reason, grace_ms))
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._workers.empty.wait(), self._settings.grace_s + 1.0)
        self._workers.end_all(Cause.HALTED, "the agent of its node ends")

    # --- the orchestrator ------------------------------------------------------------------------

    async def _keep_connected(self) -> None:
        """Talk to the orchestrator, and look for it when it is gone."""
        wait_s = _FIRST_WAIT_S
        while self._exit is None:
            with contextlib.suppress(OSError, ProtocolError, asyncio.TimeoutError):
                line = Line(*await self._settings.address.connect())
                try:
                    if await self._greet(line):
                        wait_s = _FIRST_WAIT_S
                        await self._obey(line)
                finally:
                    self._lost_ms = now_ms() if self._line is line else self._lost_ms
                    self._line = None
                    line.close()
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _MOST_WAIT_S)

    async def _greet(self, line: Line) -> bool:
        """Introduce oneself; whether one is taken."""
        settings = self._settings
        line.send(
            Hello(
                VERSION,
                settings.token,
                settings.node,
                self._boot,
                settings.host,
                os.getpid(),
                now_ms(),
                self._fence,
                self._workers.seen(),
                self._gpus,
            )
        )
        self._told_gpus = self._gpus
        answer = await asyncio.wait_for(line.for_agent(), _GREETING_S)
        if isinstance(answer, Refused):
            _log.error("the orchestrator at %s refuses: %s", settings.address, answer.reason)
            self._end(Exit.REFUSED)
        if not isinstance(answer, Welcome) or answer.fence < self._fence:
            return False  # that one has been replaced; whoever has will listen there before long
        self._length_ms = answer.lease_ms
        self._renew(answer.echo_ms)
        self._line = line
        for report in self._reports.kept():
            line.send(report)
        return True

    async def _obey(self, line: Line) -> None:
        """Carry out what comes, until the line ends or the lease is over."""
        while (message := await line.for_agent()) is not None:
            if isinstance(message, Renewed):
                self._renew(message.echo_ms)
            elif isinstance(message, Ack):
                for body in self._reports.acknowledge(message.numbers):
                    self._workers.forget(body)
            elif isinstance(message, Refused):
                _log.error("the orchestrator refuses: %s", message.reason)
                self._end(Exit.REFUSED)
                return
            elif isinstance(message, Look):
                self._reading.look(message)
            elif isinstance(message, Read):
                self._reading.read(message)
            elif now_ms() >= self._lease_ms:
                _log.warning("the lease was over when an order was read: it is not carried out")
                return
            elif not isinstance(message, Welcome):
                self._carry_out(message)

    def _carry_out(self, order: Order) -> None:
        if order.fence < self._fence:
            _log.warning("an order of %s is refused: %s leads", order.fence, self._fence)
            self._report(Stale(self._fence))
            return
        self._fence = order.fence
        self._keep_fence()
        match order:
            case Launch():
                self._workers.launch(order)
            case Halt():
                self._workers.halt(order)
            case Save(_, job, run, number):
                self._workers.save(job, run, number)
            case World():
                self._workers.regroup(order)
            case Release():
                self._workers.end_all(Cause.HALTED, "its node has left the cluster")
            case _:
                assert_never(order)

    def _answer(self, answer: Answer) -> None:
        if self._line is not None:  # otherwise whoever has asked is not there any more
            self._line.send(answer)

    def _report(self, body: Body) -> None:
        if isinstance(body, Progress):  # the next one says more; none of them is waited for
            if self._line is not None:
                self._line.send(Report(0, body))
            return
        report = self._reports.add(body)
        if self._line is not None:
            self._line.send(report)

    # --- the lease -------------------------------------------------------------------------------

    def _renew(self, sent_ms: int) -> None:
        until_ms = sent_ms + self._length_ms
        if until_ms > self._lease_ms:
            self._lease_ms = until_ms
            self._guard.lease(until_ms)

    async def _beat(self) -> None:
        """Show that one is alive; end workers whose lease is over."""
        settings = self._settings
        while True:
            over = now_ms() >= self._lease_ms
            if self._line is not None and over:
                # It may be gone without a word, and another one listen there by now.
                _log.warning("the lease was over and not renewed: the line is given up")
                self._line.close()
            elif self._line is not None:
                news = self._gpus if self._gpus != self._told_gpus else None
                self._told_gpus = self._gpus
                self._line.send(Beat(now_ms(), news))
            elif self._is_left_alone():
                _log.warning("nobody has answered at %s; this agent ends", settings.address)
                self._end(Exit.FINE)
            if len(self._workers) and over:
                reason = "the orchestrator was not heard of, and may have it run elsewhere"
                self._workers.end_all(Cause.LEASE, reason)
            await asyncio.sleep(settings.beat_s)

    async def _look_at_gpus(self, reader: GpuReader) -> None:
        """See how GPUs are used; the driver may take its time, so a thread asks it."""
        while reader.available:
            await asyncio.sleep(_GPUS_S)
            self._gpus = await asyncio.to_thread(reader.read)

    def _is_left_alone(self) -> bool:
        linger_s = self._settings.linger_s
        if linger_s is None or len(self._workers):
            return False
        return now_ms() - self._lost_ms > 1000 * linger_s

    # --- what outlives this process --------------------------------------------------------------

    def _end_predecessors(self) -> None:
        """End what the agent before has left, if it was killed together with its guard."""
        path = self._settings.folder / _BOOT
        with contextlib.suppress(OSError):
            end_marked(f"{NAMES['agent']}={path.read_text()}".encode())
        path.write_text(self._boot)

    def _read_fence(self) -> Fence:
        with contextlib.suppress(OSError, ValueError):
            return int((self._settings.folder / _FENCE).read_text()), -1
        return -1, -1

    def _keep_fence(self) -> None:
        """Have the next agent know who leads; a full disk is tried again with the next order."""
        if self._kept_term == self._fence[0]:
            return
        path = self._settings.folder / _FENCE
        beside = path.with_suffix(".new")
        try:
            beside.write_text(str(self._fence[0]))
            beside.replace(path)
        except OSError as error:
            _log.error("who leads is not kept beyond this process: %s; see to the disk", error)
        else:
            self._kept_term = self._fence[0]
