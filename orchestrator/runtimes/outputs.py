"""What workers have written, asked of the agents of their nodes, on the line that they hold."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence

from orchestrator.errors import UnknownEntityError, UnreachableError, ValidationError
from orchestrator.node.protocol import SINCE_READING, Answer, Found, Look, Part, Question, Read
from orchestrator.node.reading import MOST_READ
from orchestrator.ports import Output, WorkerOutput
from orchestrator.runtimes.gangs import Gang
from orchestrator.runtimes.hub import AgentHub

__all__ = ["Outputs"]


_ANSWER_S = 10.0  # for an agent to answer, beyond what it was asked to wait
_LONGEST_WAIT_S = 60.0
_AT_ONCE = 16  # questions to one agent that it answers at once
_MOST_WAIT = 256  # and those for which it may wait
_MOST_JOBS = 4096  # whose places are remembered, the last ones
_SOON_S = 0.2  # for a worker that is to be started


class Outputs:
    """The part of :class:`orchestrator.runtimes.ProcessRuntime` that is read.

    Where the workers of runs were that have ended is remembered for the last jobs; of others, all
    agents are asked.

    Parameters
    ----------
    hub : AgentHub
    """

    def __init__(self, hub: AgentHub) -> None:
        self._hub = hub
        self._gangs: dict[str, Gang] = {}
        self._leaving: dict[str, list[Gang]] = {}  # by job: something of them may be left
        self._homes: OrderedDict[str, dict[int, dict[int, str]]] = OrderedDict()
        self._asked: dict[int, tuple[str, asyncio.Future[Answer]]] = {}
        self._turns: dict[tuple[str, int], asyncio.Semaphore] = {}
        self._question = 0

    # --- where it is -----------------------------------------------------------------------------

    def _remember(self, gang: Gang) -> None:
        """A run is over, or parts of it: know where its workers were."""
        runs = self._homes.setdefault(gang.job, {})
        homes = runs.setdefault(gang.run, {})
        homes |= {member.worker: member.node for member in gang.members.values()}
        self._homes.move_to_end(gang.job)
        if len(self._homes) > _MOST_JOBS:
            self._homes.popitem(last=False)

    def _places(self, job_id: str, run: int | None) -> tuple[int | None, dict[int, str]]:
        """A run of a job, and the nodes of its workers, as far as that is known here."""
        found = {number: dict(homes) for number, homes in self._homes.get(job_id, {}).items()}
        present = self._gangs.get(job_id)
        for gang in [*self._leaving.get(job_id, ()), *([] if present is None else [present])]:
            homes = found.setdefault(gang.run, {})
            homes |= {member.worker: member.node for member in gang.members.values()}
        chosen = max(found, default=None) if run is None else run
        return chosen, found.get(chosen, {}) if chosen is not None else {}

    def _awaited(self, job_id: str, run: int, worker: int) -> bool:
        """Whether a worker may still write something, or begin to."""
        gang = self._gangs.get(job_id)
        member = gang.members.get(worker) if gang is not None and gang.run == run else None
        return member is not None and member.ended is None and not member.gone

    # --- asking ----------------------------------------------------------------------------------

    def answered(self, node: str, answer: Answer) -> None:
        """An agent answers; what nobody waits for any more is dropped."""
        asked = self._asked.get(answer.number)
        if asked is not None and asked[0] == node and not asked[1].done():
            asked[1].set_result(answer)

    def _hang_up(self, node: str | None = None) -> None:
        """The connection of an agent is gone, or of all: what it was asked it does not answer."""
        for where, future in self._asked.values():
            if node in (None, where) and not future.done():
                future.set_exception(_unreachable(where, "has just been lost"))

    def _number_of_question(self) -> int:
        """Of a question: no former runtime had the same, whose answer may still come."""
        self._question = max(self._question + 1, self._hub.now_ms() * 1000)
        return self._question

    async def _ask(self, node: str, question: Question, wait_s: float = 0.0) -> Answer:
        """What an agent answers; raises an :class:`UnreachableError` if it does not."""
        version = self._hub.version(node)
        if version is None or not self._hub.reaches(node):
            raise _unreachable(node, "is not connected")
        if version < SINCE_READING:
            raise UnreachableError(
                f"the agent of node '{node}' speaks version {version} of the protocol and cannot "
                f"be asked for output, which takes {SINCE_READING}; start it anew from this release"
            )
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        most = _MOST_WAIT if wait_s > 0.0 else _AT_ONCE  # who waits takes nobody else's turn
        async with self._turns.setdefault((node, most), asyncio.Semaphore(most)):
            self._asked[question.number] = node, future
            try:
                self._hub.send(node, question)
                return await asyncio.wait_for(future, wait_s + _ANSWER_S)
            except TimeoutError:
                raise _unreachable(node, "does not answer") from None
            finally:
                del self._asked[question.number]

    async def _look(self, node: str, job_id: str, run: int | None) -> list[WorkerOutput]:
        """What a node has of a run of a job."""
        answer = await self._ask(node, Look(self._number_of_question(), job_id, run))
        assert isinstance(answer, Found)
        return [
            WorkerOutput(
                job_id,
                kept.run,
                kept.worker,
                node,
                kept.begin,
                kept.end,
                kept.ended and not self._awaited(job_id, kept.run, kept.worker),
            )
            for kept in answer.workers
        ]

    # --- answers ---------------------------------------------------------------------------------

    async def outputs(self, job_id: str, run: int | None = None) -> Sequence[WorkerOutput]:
        """What there is of a run of a job, by worker: see :class:`orchestrator.ports.Readable`."""
        chosen, homes = self._places(job_id, run)
        nodes = list(dict.fromkeys(homes.values())) or self._hub.nodes()
        told = await asyncio.gather(
            *(self._look(node, job_id, chosen) for node in nodes), return_exceptions=True
        )
        found, silent = list[WorkerOutput](), list[Exception]()
        for answer in told:
            if isinstance(answer, UnreachableError):
                silent.append(answer)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                found += answer
        if silent and not found:
            raise silent[0]
        last = max((one.run for one in found), default=0)
        return sorted((one for one in found if one.run == last), key=lambda one: one.worker)

    async def output(
        self,
        job_id: str,
        worker: int,
        *,
        run: int | None = None,
        offset: int = 0,
        limit: int = 65_536,
        wait_s: float = 0.0,
    ) -> Output:
        """A part of what a worker has written: see :class:`orchestrator.ports.Readable`."""
        _check(job_id, worker, limit, wait_s)
        number, homes = self._places(job_id, run)
        node = homes.get(worker)
        if number is None or node is None:
            there = [one for one in await self.outputs(job_id, run) if one.worker == worker]
            if not there:
                which = "" if run is None else f" of run {run}"
                raise UnknownEntityError(
                    f"nothing is kept of worker {worker}{which} of job '{job_id}'; see what there "
                    "is with 'outputs'"
                )
            number, node = there[0].run, there[0].node_id
        wait_s = min(max(wait_s, 0.0), _LONGEST_WAIT_S)
        told = job_id, number, worker, offset, limit, round(1000 * wait_s)
        answer = await self._ask(node, Read(self._number_of_question(), *told), wait_s)
        assert isinstance(answer, Part)
        if not answer.there and self._awaited(job_id, number, worker):
            await asyncio.sleep(min(wait_s, _SOON_S))
            return Output(b"", max(offset, 0), max(offset, 0), number, ended=False)
        ended = answer.ended and not self._awaited(job_id, number, worker)
        return Output(answer.data, answer.offset, answer.next_offset, number, ended)


def _unreachable(node: str, problem: str) -> UnreachableError:
    return UnreachableError(
        f"the agent of node '{node}' {problem}, and what workers have written is there; ask again "
        "when it is back"
    )


def _check(job_id: str, worker: int, limit: int, wait_s: float) -> None:
    if worker < 0:
        raise ValidationError("output", "worker", f"is {worker}", "give a number from 0 on")
    if not 0 < limit <= MOST_READ:
        problem, remedy = f"is {limit}", f"give 1 to {MOST_READ:,} bytes"
        raise ValidationError(f"output of '{job_id}'", "limit", problem, remedy)
    if not wait_s >= 0:
        raise ValidationError("output", "wait_s", f"is {wait_s}", "give seconds from 0 on")
