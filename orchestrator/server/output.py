"""What a job's workers write, as text: all at once, over all runs, until the job has ended.

As records each part says where it stands in its worker's whole output, so that whoever loses the
line goes on from there: files that are begun anew, and what was dropped meanwhile, change nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

from orchestrator.errors import QuartermasterError
from orchestrator.kernels.state.codes import JobCode
from orchestrator.orchestrator import InfrastructureOrchestrator
from orchestrator.ports import WorkerOutput

__all__ = ["RECORDS", "OutputReader", "Wanted", "positions_of"]


RECORDS = "application/x-ndjson"
"""What output is as records: a JSON object on each line.

``text`` is whole lines, each after its worker's number if there are several workers: the part from
byte ``offset`` to before ``next`` of what worker ``worker`` of run ``run`` has written. It may be
empty, and say only where what follows begins. A record without a worker says what is not read.
"""


_PART = 65_536
_TAIL = 1 << 20  # bytes in which the last lines are looked for
_LOOK_S = 0.25  # for workers that are being started
_ENDED = (JobCode.COMPLETED, JobCode.FAILED)


@dataclass(frozen=True)
class Wanted:
    """Which part of the output is wanted.

    Parameters
    ----------
    job_id : str
    worker : int or None
        Of one worker only; None: of all, each line with the worker's number if there are several.
    run : int or None
        Of one run of the job only; None: the last one, and those that follow it.
    tail : int or None
        So many of each worker's last lines, at first; None: all that is kept.
    follow : bool
        Go on with what is written from now on, until the job has ended.
    records : bool
        As records (``RECORDS``); otherwise as plain text.
    since : Mapping of (int, int) to int
        By run and worker: the byte of its output from which on it is wanted. ``tail`` holds for the
        others.
    """

    job_id: str
    worker: int | None = None
    run: int | None = None
    tail: int | None = None
    follow: bool = False
    records: bool = False
    since: Mapping[tuple[int, int], int] = field(default_factory=dict)


def positions_of(text: str) -> dict[tuple[int, int], int]:
    """Read ``run.worker:offset,...``: what of each worker's output was read."""
    found = {}
    for one in filter(None, text.split(",")):
        whose, _, offset = one.partition(":")
        run, _, worker = whose.partition(".")
        found[int(run), int(worker)] = int(offset)
    return found


class OutputReader:
    """Reads the output of one job for one client.

    Parameters
    ----------
    orchestrator : InfrastructureOrchestrator
    wanted : Wanted
    """

    def __init__(self, orchestrator: InfrastructureOrchestrator, wanted: Wanted) -> None:
        self._orchestrator, self._wanted = orchestrator, wanted
        # What was read and not sent yet; whoever reads faster than the client takes it waits.
        self._read: asyncio.Queue[bytes] = asyncio.Queue(maxsize=16)
        self._tasks: dict[tuple[int, int], asyncio.Task[None]] = {}  # by run and worker

    async def kept(self) -> list[WorkerOutput]:
        """What there is now; raises what the orchestrator does."""
        wanted = self._wanted
        found = await self._orchestrator.outputs(wanted.job_id, wanted.run)
        return [one for one in found if wanted.worker in (None, one.worker)]

    def _ended(self) -> bool:
        """Whether nothing more can come: the job has ended, or the run that is wanted has."""
        engine, job_id = self._orchestrator.engine, self._wanted.job_id
        if job_id not in engine.jobs.index or engine.jobs.code(job_id) in _ENDED:
            return True
        run = self._wanted.run
        return run is not None and engine.runs_of(job_id) > run

    async def text(self, first: list[WorkerOutput]) -> AsyncIterator[bytes]:
        """The output, as it comes; ``first`` is what :meth:`kept` has said."""
        several = self._is_several(first)
        reading = asyncio.ensure_future(self._read_all(first, several))
        try:
            while not (reading.done() and self._read.empty()):
                coming = asyncio.ensure_future(self._read.get())
                try:
                    await asyncio.wait([coming, reading], return_when=asyncio.FIRST_COMPLETED)
                    if coming.done():
                        yield coming.result()
                    elif reading.done() and not self._read.empty():
                        continue
                finally:
                    coming.cancel()
            if (error := reading.exception()) is not None:
                yield self._said(f"(the output cannot be read on: {error})\n")
        finally:
            tasks = [reading, *self._tasks.values()]
            for task in tasks:
                task.cancel()
            for task in tasks:
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task

    def _is_several(self, first: list[WorkerOutput]) -> bool:
        spec = self._orchestrator.jobs[self._wanted.job_id]
        alone = spec.num_workers == 1 and not spec.elastic and len(first) <= 1
        return self._wanted.worker is None and not alone

    async def _read_all(self, first: list[WorkerOutput], several: bool) -> None:
        """Have each worker's output read, and that of those that come."""
        found, tail = first, self._wanted.tail
        while True:
            over = self._ended()
            if over and self._tasks:  # what came to its end meanwhile is to be read, too
                with contextlib.suppress(QuartermasterError):
                    found = await self.kept()
            for one in found:
                key = one.run, one.worker
                if key not in self._tasks:
                    work = self._read_worker(one, several, tail)
                    self._tasks[key] = asyncio.ensure_future(work)
            open_now = [task for task in self._tasks.values() if not task.done()]
            if not self._wanted.follow or over:
                await asyncio.gather(*open_now)
                return
            if open_now:
                await asyncio.wait(open_now, timeout=_LOOK_S, return_when=asyncio.FIRST_COMPLETED)
            else:
                await asyncio.sleep(_LOOK_S)
            tail = None  # who comes later has no lines from before
            with contextlib.suppress(QuartermasterError):  # its node may come back
                found = await self.kept()

    def _said(self, text: str) -> bytes:
        """Something that no worker has written."""
        return (json.dumps({"text": text}) + "\n" if self._wanted.records else text).encode()

    def _told(self, one: WorkerOutput, offset: int, data: bytes, text: bytes) -> bytes:
        """A part of a worker's output, at an offset, and the text that is to be told of it."""
        if not self._wanted.records:
            return text
        record = {
            "run": one.run,
            "worker": one.worker,
            "offset": offset,
            "next": offset + len(data),
            "text": text.decode("utf-8", "replace"),
        }
        return json.dumps(record, ensure_ascii=False).encode() + b"\n"

    async def _read_worker(self, one: WorkerOutput, several: bool, tail: int | None) -> None:
        prefix = f"[{one.worker}] ".encode() if several else b""
        begin, rest, problem = 0, b"", ""  # of a line that is not whole yet: where it begins
        try:
            async for offset, data in self._parts(one, tail):
                if not data or not (prefix or self._wanted.records):
                    if data or self._wanted.records:
                        await self._read.put(self._told(one, offset, data, data))
                    continue
                if rest and offset != begin + len(rest):  # its end is not kept any more
                    await self._read.put(self._told(one, begin, rest, prefix + rest + b"\n"))
                    rest = b""
                begin, rest = offset - len(rest), rest + data
                whole = rest[: rest.rfind(b"\n") + 1]
                if not whole and len(rest) > _PART:  # no line is that long
                    await self._read.put(self._told(one, begin, rest, prefix + rest + b"\n"))
                    begin, rest = begin + len(rest), b""
                elif whole:
                    lines = prefix + whole[:-1].replace(b"\n", b"\n" + prefix) + b"\n"
                    await self._read.put(self._told(one, begin, whole, lines))
                    begin, rest = begin + len(whole), rest[len(whole) :]
        except QuartermasterError as error:
            problem = f"{prefix.decode()}(worker {one.worker}: {error})\n"
        if rest:
            end = b"\n" if prefix or problem else b""
            await self._read.put(self._told(one, begin, rest, prefix + rest + end))
        if problem:
            await self._read.put(self._said(problem))

    async def _parts(self, one: WorkerOutput, tail: int | None) -> AsyncIterator[tuple[int, bytes]]:
        """What a worker has written, and writes if that is wanted; where each part begins."""
        job_id, known = one.job_id, self._wanted.since.get((one.run, one.worker))
        offset = one.begin if known is None else known
        if tail is not None and known is None:
            data, offset = await self._last_lines(one, tail)
            yield offset - len(data), data
        if self._wanted.follow:
            follow = self._orchestrator.follow_output
            async for part in follow(job_id, one.worker, run=one.run, offset=offset):
                yield part.offset, part.data
            return
        while offset < one.end:
            part = await self._orchestrator.output(
                job_id, one.worker, run=one.run, offset=offset, limit=_PART
            )
            if not part.data:
                return
            yield part.offset, part.data
            offset = part.next_offset

    async def _last_lines(self, one: WorkerOutput, count: int) -> tuple[bytes, int]:
        """The last lines of what is there now, and the offset behind them."""
        offset, data = max(one.begin, one.end - _TAIL), b""
        while offset < one.end:
            part = await self._orchestrator.output(
                one.job_id, one.worker, run=one.run, offset=offset, limit=_PART
            )
            if not part.data:
                break
            data, offset = data + part.data, part.next_offset
        lines = data.splitlines(keepends=True)
        return b"".join(lines[-count:]) if count else b"", offset if data else one.end
