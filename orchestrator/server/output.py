"""What a job's workers write, as text: all at once, over all runs, until the job has ended."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from orchestrator.errors import QuartermasterError
from orchestrator.kernels.state.codes import JobCode
from orchestrator.orchestrator import InfrastructureOrchestrator
from orchestrator.ports import WorkerOutput

__all__ = ["OutputReader", "Wanted"]


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
    """

    job_id: str
    worker: int | None = None
    run: int | None = None
    tail: int | None = None
    follow: bool = False


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
                yield f"(the output cannot be read on: {error})\n".encode()
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

    async def _read_worker(self, one: WorkerOutput, several: bool, tail: int | None) -> None:
        prefix = f"[{one.worker}] ".encode() if several else b""
        rest = b""
        try:
            async for data in self._parts(one, tail):
                if not prefix:
                    await self._read.put(data)
                    continue
                *lines, rest = (rest + data).split(b"\n")
                if lines:
                    await self._read.put(b"".join(prefix + line + b"\n" for line in lines))
                if len(rest) > _PART:  # no line is that long
                    await self._read.put(prefix + rest + b"\n")
                    rest = b""
        except QuartermasterError as error:
            rest += f"(worker {one.worker}: {error})".encode()
        if rest:
            await self._read.put(prefix + rest + b"\n")

    async def _parts(self, one: WorkerOutput, tail: int | None) -> AsyncIterator[bytes]:
        """What a worker has written, and writes if that is wanted."""
        job_id, offset = one.job_id, one.begin
        if tail is not None:
            data, offset = await self._last_lines(one, tail)
            if data:
                yield data
        if self._wanted.follow:
            follow = self._orchestrator.follow_output
            async for part in follow(job_id, one.worker, run=one.run, offset=offset):
                yield part.data
            return
        while offset < one.end:
            part = await self._orchestrator.output(
                job_id, one.worker, run=one.run, offset=offset, limit=_PART
            )
            if not part.data:
                return
            yield part.data
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
        return b"".join(lines[-count:]) if count else b"", max(offset, one.end)
