"""Two processes lead one cluster; one is stopped, comes back, and the other one is killed."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sqlite3
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from agents.speed.live.etcd import LocalEtcd
from orchestrator.foundations import HashShardManager
from orchestrator.messages import Entry, Lead, Submit, WorkerExited
from tests.sharded.backends import BACKENDS
from tests.sharded.member import SHARDS, TTL_MS

_ROOT = Path(__file__).resolve().parents[2]
_KEYS = HashShardManager(SHARDS)
_WAIT_S = 90.0  # for anything; a machine may be busy
_LOOK_S = 0.05


class _Member:
    """A process, and what it answers."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name, self.process = name, process
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.ready = self._expect(0)
        self._hearing = asyncio.ensure_future(self._hear())

    def _expect(self, number: int) -> asyncio.Future[dict[str, Any]]:
        self._answers[number] = asyncio.get_running_loop().create_future()
        return self._answers[number]

    async def _hear(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            answer = json.loads(line)
            self._answers.pop(answer["number"]).set_result(answer)
        for lost in self._answers.values():  # the process has ended
            lost.set_result({"error": "gone", "gone": True})
        self._answers.clear()

    def ask(self, do: str, key: str = "") -> asyncio.Future[dict[str, Any]]:
        """What it will answer; ``gone`` if it ends before."""
        number = next(self._numbers)
        answer = self._expect(number)
        assert self.process.stdin is not None
        if self._hearing.done():
            answer.set_result({"error": "gone", "gone": True})
            return answer
        line = json.dumps({"number": number, "do": do, "key": key})
        self.process.stdin.write(line.encode() + b"\n")
        return answer

    async def led(self) -> set[str]:
        return set((await self.ask("status"))["result"]["led"])

    def send(self, what: signal.Signals) -> None:
        self.process.send_signal(what)

    async def end(self) -> int:
        """Let it leave."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return await asyncio.wait_for(self.process.wait(), _WAIT_S)


@asynccontextmanager
async def _member(backend: str, place: str, name: str) -> AsyncIterator[_Member]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.sharded.member", backend, place, name),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
    )
    try:
        yield _Member(name, process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


class _Client:
    """Asks members until the one that owns a key has answered; remembers what was acknowledged."""

    def __init__(self, *members: _Member) -> None:
        self.members = {member.name: member for member in members}
        self.acknowledged: set[str] = set()
        self.asked: set[str] = set()

    async def ask(self, do: str, key: str, first: str) -> dict[str, Any]:
        name, tries = first, 0
        async with asyncio.timeout(_WAIT_S):
            while True:
                answer = await self.members[name].ask(do, key)
                tries += 1
                if "owner" not in answer and "gone" not in answer:
                    return answer
                others = [other for other in self.members if other != name]
                owner = answer.get("owner", "")
                name = owner if owner in self.members else others[0] if others else name
                await asyncio.sleep(_LOOK_S)

    async def submit(self, job_id: str, first: str) -> None:
        self.asked.add(job_id)
        answer = await self.ask("submit", job_id, first)
        # Whoever was killed may have logged it: then it is taken, by this very job.
        assert "error" not in answer or "is taken" in answer["error"], answer
        self.acknowledged.add(job_id)


async def _stop(member: _Member, folder: str) -> None:
    """Stop a member; not while it writes to a file, whose lock nobody else would ever get."""
    async with asyncio.timeout(_WAIT_S):
        while True:
            member.send(signal.SIGSTOP)
            if not folder or not any(_is_locked(path) for path in _files(folder)):
                return
            member.send(signal.SIGCONT)
            await asyncio.sleep(_LOOK_S)


def _files(folder: str) -> list[Path]:
    return [Path(folder) / name for name in ("leases", *SHARDS) if (Path(folder) / name).exists()]


def _is_locked(path: Path) -> bool:
    with closing(sqlite3.connect(path, timeout=1.0)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
        connection.rollback()
        return False


async def _until_led(*members: _Member) -> None:
    """Wait until these lead all shards, evenly."""
    even = sorted(len(SHARDS[k :: len(members)]) for k in range(len(members)))
    async with asyncio.timeout(_WAIT_S):
        while True:
            led = [await member.led() for member in members]
            if sorted(map(len, led)) == even and set().union(*led) == set(SHARDS):
                return
            await asyncio.sleep(_LOOK_S)


async def _some_led(member: _Member) -> set[str]:
    """What a member leads, once it leads something: it may just have lost all of it."""
    async with asyncio.timeout(_WAIT_S):
        while True:
            if led := await member.led():
                return led
            await asyncio.sleep(_LOOK_S)


async def _until_completed(client: _Client, job_id: str) -> None:
    async with asyncio.timeout(_WAIT_S):
        while True:
            if (await client.ask("job", job_id, "one"))["result"] == "completed":
                return
            await asyncio.sleep(_LOOK_S)


def _effective(entries: list[Entry]) -> tuple[list[Entry], list[Entry]]:
    """Entries that count, and those of who had been replaced: by nothing but the log."""
    token, term = 0, -1
    counts, late = list[Entry](), list[Entry]()
    for at, entry in enumerate(entries):
        if isinstance(entry.body, Lead):
            if entry.body.token < token:
                late.append(entry)
                continue
            assert entry.body.token > token, "two leaders by one lease"
            token, term = entry.body.token, at
            counts.append(entry)
        elif entry.term == term:
            counts.append(entry)
        else:
            late.append(entry)
    return counts, late


async def _judge(backend: str, place: str, client: _Client) -> dict[str, int]:
    """Read all logs: no job lost, none doubled, and each where it belongs."""
    submitted, ended = Counter[str](), Counter[str]()
    leads = late_entries = 0
    for shard in SHARDS:
        async with BACKENDS[backend](place).log(shard) as log:
            counts, late = _effective(list(log.entries()))
        late_entries += len(late)
        for entry in counts:
            if isinstance(entry.body, Lead):
                leads += 1
            elif isinstance(entry.body, Submit):
                assert _KEYS.owner(entry.body.spec.job_id) == shard
                submitted[entry.body.spec.job_id] += 1
            elif isinstance(entry.body, WorkerExited):
                assert entry.body.exit_code == 0, entry
                ended[entry.body.job_id] += 1
    lost = client.acknowledged - submitted.keys()
    assert not lost
    assert submitted.keys() <= client.asked
    assert set(submitted.values()) == {1}
    assert ended == submitted  # each once
    return {"jobs": len(submitted), "leads": leads, "late entries": late_entries}


def _names(prefix: str, each: int) -> list[str]:
    """Ids, so many of each shard."""
    found: dict[str, list[str]] = {shard: [] for shard in SHARDS}
    for number in itertools.count():
        name = f"{prefix}-{number}"
        own = found[_KEYS.owner(name)]
        if len(own) < each:
            own.append(name)
        if all(len(own) == each for own in found.values()):
            return [name for own in found.values() for name in own]
    raise AssertionError


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def place(backend: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where the members' leases and logs are."""
    if backend == "sqlite":
        return str(tmp_path)
    cluster: LocalEtcd = request.getfixturevalue("etcd_trio")
    return f"{tmp_path.name}@{','.join(cluster.endpoints)}"


@pytest.mark.slow
async def test_shards_move_between_processes_and_no_job_is_lost_or_doubled(
    backend: str, place: str
) -> None:
    async with AsyncExitStack() as stack:
        one, two = [
            await stack.enter_async_context(_member(backend, place, name))
            for name in ("one", "two")
        ]
        client = _Client(one, two)
        await asyncio.gather(one.ready, two.ready)
        await _until_led(one, two)
        for k, name in enumerate(_names("node", 2)):
            assert (await client.ask("register", name, ("one", "two")[k % 2]))["result"] is True
        for k, name in enumerate(_names("early", 2)):
            await client.submit(name, ("one", "two")[k % 2])

        # Stopped for longer than its lease: the other one takes over.
        own = await _some_led(one)
        await _stop(one, place if backend == "sqlite" else "")
        late = [name for name in _names("late", 1) if _KEYS.owner(name) in own]
        unheard = {name: one.ask("submit", name) for name in late}  # it will find them when back
        await _until_led(two)
        for name in _names("meanwhile", 2):
            await client.submit(name, "two")
        one.send(signal.SIGCONT)
        assert unheard
        for name, answer in unheard.items():
            assert "is not led here" in (await answer)["error"], "it acts for what it has lost"
            await client.submit(name, "one")
        await _until_led(one, two)  # it is a member again

        # Killed while it is asked: nothing that it has acknowledged is lost.
        asked = [client.submit(name, "two") for name in _names("last", 3)]
        two.send(signal.SIGKILL)
        await asyncio.gather(*asked)
        await _until_led(one)
        for name in sorted(client.asked):
            await _until_completed(client, name)
        assert await one.end() == 0
        print(await _judge(backend, place, client), f"leases of {TTL_MS} ms", flush=True)
