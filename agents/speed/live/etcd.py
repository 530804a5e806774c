"""The log on etcd: commands a second, and for how long none is taken when its leader is killed."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import itertools
import os
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from agents.speed.live.log import job, spread
from orchestrator.errors import ConfigurationError, StorageError
from orchestrator.messages import Entry, NodeFailed, Submit

if TYPE_CHECKING:
    from orchestrator.foundations.etcd import EtcdLog

__all__ = ["LocalEtcd", "etcd_per_second", "leader_killed_s", "local_etcd", "why_no_etcd"]


_SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "etcd_local.sh"


_APPENDERS = 8


_BEFORE_S, _AFTER_S = 1.0, 2.0  # of writing, around the kill of a leader


_PATIENCE_S = 30.0


def why_no_etcd() -> str:
    """Why no cluster can be started here; nothing: one can."""
    program = os.environ.get("ETCD", "etcd")
    if shutil.which(program) is None:
        return f"there is no program {program}; install it (Debian: etcd-server)"
    if not _SCRIPT.exists():
        return f"there is no {_SCRIPT.name}: this is not a checkout"
    if importlib.util.find_spec("aetcd") is None:
        return "there is no aetcd; install the extra: pip install 'quartermaster[etcd]'"
    return ""


async def _open(endpoints: list[str], prefix: str) -> EtcdLog:
    from orchestrator.foundations.etcd import EtcdLog  # of an extra, which may be missing

    return await EtcdLog.open(endpoints, prefix=prefix)


class LocalEtcd:
    """A cluster on loopback, with fast elections.

    Parameters
    ----------
    folder : Path
        Where its data lies.
    members : int

    Attributes
    ----------
    endpoints : list of str
        Of all members.
    """

    def __init__(self, folder: Path, members: int = 3) -> None:
        if reason := why_no_etcd():
            raise ConfigurationError(reason)
        self._folder = folder
        self._script = subprocess.Popen(
            [str(_SCRIPT), str(folder), str(members)], stdout=subprocess.PIPE, text=True
        )
        assert self._script.stdout is not None
        self.endpoints = self._script.stdout.readline().strip().split(",")
        self._restarted: list[subprocess.Popen[bytes]] = []
        if not self.endpoints[0]:
            self.close()
            raise ConfigurationError(f"etcd does not start; look at the logs in {folder}")

    def close(self) -> None:
        """End all members; none is there then."""
        members = list(self._alive())
        self._script.terminate()
        self._script.wait()
        psutil.wait_procs(members, _PATIENCE_S)  # they were killed, which takes a moment
        for member in self._restarted:
            member.wait(_PATIENCE_S)
        if self._script.stdout is not None:
            self._script.stdout.close()

    def _alive(self) -> Iterator[psutil.Process]:
        for file in self._folder.glob("m*/pid"):
            with contextlib.suppress(OSError, ValueError, psutil.NoSuchProcess):
                yield psutil.Process(int(file.read_text()))

    def leader(self) -> int:
        """The number of the member that leads, from 1 on; waits until there is one."""
        for _ in _patiently(f"no leader of {self.endpoints}"):
            for number, endpoint in enumerate(self.endpoints, 1):
                if self._leads(endpoint):
                    return number
        raise AssertionError

    @staticmethod
    def _leads(endpoint: str) -> bool:
        try:
            with urllib.request.urlopen(f"http://{endpoint}/metrics", timeout=1.0) as answer:
                return b"\netcd_server_is_leader 1\n" in answer.read()
        except OSError:
            return False

    def _process(self, member: int) -> psutil.Process:
        return psutil.Process(int((self._folder / f"m{member}" / "pid").read_text() or 0))

    def kill(self, member: int) -> None:
        """Kill a member; it is gone then."""
        process = self._process(member)
        process.kill()
        for started in self._restarted:
            if started.pid == process.pid:
                started.wait(_PATIENCE_S)
        process.wait(_PATIENCE_S)

    def stop(self, member: int) -> None:
        """Have a member do nothing until it is resumed: all of its threads."""
        process = self._process(member)
        process.suspend()
        tasks = Path("/proc") / str(process.pid) / "task"
        for _ in _patiently(f"member {member} does not stop"):
            if all(_is_stopped(task) for task in tasks.iterdir()):
                return

    def resume(self, member: int) -> None:
        """Let a member that was stopped go on."""
        self._process(member).resume()

    def start(self, member: int) -> None:
        """Bring a member back that was killed."""
        home = self._folder / f"m{member}"
        started = subprocess.Popen([str(home / "start")])
        self._restarted.append(started)
        for _ in _patiently(f"member {member} does not start"):
            if (home / "pid").read_text() == f"{started.pid}\n":
                return


def _is_stopped(task: Path) -> bool:
    return (task / "stat").read_text().rpartition(") ")[2].startswith("T")


def _patiently(problem: str) -> Iterator[None]:
    """Times to look whether something has happened."""
    end = time.monotonic() + _PATIENCE_S
    while time.monotonic() < end:
        yield
        time.sleep(0.01)
    raise StorageError(f"etcd: {problem} after {_PATIENCE_S:g} s; look at its log")


@contextmanager
def local_etcd() -> Iterator[LocalEtcd]:
    """Three members, for a while."""
    with tempfile.TemporaryDirectory() as folder:
        etcd = LocalEtcd(Path(folder))
        try:
            yield etcd
        finally:
            etcd.close()


def etcd_per_second(etcd: LocalEtcd, commands: int, at_once: int, repeats: int) -> list[float]:
    """Commands a second that a cluster has made durable.

    Parameters
    ----------
    etcd : LocalEtcd
    commands : int
        In each repeat.
    at_once : int
        How many wait at once.
    repeats : int
    """
    entries = [Entry(number, Submit(job(number))) for number in range(commands)]

    async def measure(prefix: str) -> float:
        async with await _open(etcd.endpoints, prefix) as log:
            return commands / await spread(lambda k: log.append(entries[k]), commands, at_once)

    return [asyncio.run(measure(f"{at_once}-at-once-{number}")) for number in range(repeats)]


def leader_killed_s(etcd: LocalEtcd, times: int) -> list[float]:
    """How long no command is acknowledged when the leader of a cluster is killed, s.

    Each time it is made sure that no acknowledged one is lost, and none is there twice.
    """
    return [asyncio.run(_gap_s(etcd, f"kill-{number}")) for number in range(times)]


async def _gap_s(etcd: LocalEtcd, prefix: str) -> float:
    acknowledged: dict[int, int] = {}
    moments: list[float] = []
    enough = asyncio.Event()
    async with await _open(etcd.endpoints, prefix) as log:

        async def write(first: int) -> None:
            for number in itertools.count(first, _APPENDERS):
                if enough.is_set():
                    return
                acknowledged[number] = await log.append(Entry(number, NodeFailed("n")))
                moments.append(time.perf_counter())

        writing = [asyncio.create_task(write(first)) for first in range(_APPENDERS)]
        await asyncio.sleep(_BEFORE_S)
        killed = await asyncio.to_thread(etcd.leader)
        at = time.perf_counter()
        await asyncio.to_thread(etcd.kill, killed)
        await asyncio.sleep(_AFTER_S)
        enough.set()
        await asyncio.gather(*writing)
    await asyncio.to_thread(etcd.start, killed)
    async with await _open(etcd.endpoints, prefix) as log:
        entries = log.entries()
    assert [entries[index].time_ms for index in acknowledged.values()] == list(acknowledged)
    assert len({entry.time_ms for entry in entries}) == len(entries) == len(acknowledged)
    around = [max(m for m in moments if m <= at), *(m for m in moments if m > at)]
    return max(later - earlier for earlier, later in itertools.pairwise(around))
