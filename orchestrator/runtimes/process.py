"""A runtime of real processes: gangs of workers on nodes, each with its agent."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import assert_never

from orchestrator.errors import ConfigurationError, ValidationError
from orchestrator.kernels.state.codes import JobKind
from orchestrator.messages import (
    CheckpointCommitted,
    Effect,
    Event,
    RegroupJob,
    ReleaseNode,
    SaveCheckpoint,
    StartJob,
    StopJob,
    WorkerPlacement,
    WorkersLost,
)
from orchestrator.node.gpus import Gpu
from orchestrator.node.protocol import (
    Address,
    Body,
    Ended,
    Hello,
    Joined,
    Knows,
    Progress,
    Release,
    Saved,
    Seen,
    Serving,
    Stale,
)
from orchestrator.ports import Clock, FaultDetector
from orchestrator.runtimes.gangs import (
    Gang,
    Member,
    endpoints_of,
    left_over,
    matched,
    members_of,
    verdict_of,
)
from orchestrator.runtimes.hub import MARGIN_MS, AgentHub, Vitals
from orchestrator.runtimes.orders import Orders
from orchestrator.runtimes.outputs import Outputs
from orchestrator.types import JobSpec

__all__ = ["ProcessRuntime"]


_AGAIN_MS = 1000  # until what nobody has taken is reported again
_REGROUP_MS = 120_000  # for newcomers to say hello
_GRACES = 2  # for who is told to end: one to save, one to end
_IN_PART = "a former orchestrator had begun a part of it"
_LEAST_SAVE_S = 0.001  # what a save takes at least: then one is waited for, and confirmed


_log = logging.getLogger(__name__)


class ProcessRuntime(Outputs):
    """Runs jobs' commands as processes, through the agents of their nodes.

    Agents connect to it: :meth:`open` it, have them started with its ``address`` and ``token``, and
    :meth:`wait_for` them before an orchestrator starts on it. An orchestrator that is restarted
    opens another one at the same address: the agents come back with the workers they have.

    Parameters
    ----------
    clock : Clock
        Real time.
    detector : FaultDetector or None
        Is told of signs of life, and of agents that are gone.
    address : str
        Where to listen: ``host:port`` (port 0: a free one), or ``unix:PATH``.
    token : str
        What agents have to know; empty: a new one.
    lease_s : float
        How long workers may live whose node hears nothing from here. After it, and no sooner, what
        ran on a node that fell silent is started elsewhere.
    grace_s : float
        From SIGTERM to SIGKILL.
    checkpoints : Path or None
        Where jobs keep their checkpoints, a folder for each, reached from all nodes; None: workers
        are not told of any.
    """

    def __init__(
        self,
        clock: Clock,
        detector: FaultDetector | None = None,
        *,
        address: str = "127.0.0.1:0",
        token: str = "",
        lease_s: float = 15.0,
        grace_s: float = 10.0,
        checkpoints: Path | None = None,
    ) -> None:
        self.token = token or secrets.token_urlsafe(24)
        self.grace_s = grace_s
        self._clock = clock
        lease_ms = round(1000 * lease_s)
        super().__init__(AgentHub(Address.parse(address), self.token, lease_ms, clock.now_ms))
        saved = None if checkpoints is None else checkpoints.resolve()
        self._orders = Orders(self._hub, self._grace_ms, saved)
        self._vitals = Vitals(clock, detector, self._hub)
        self._deliver: Callable[[Event], Awaitable[object]] | None = None
        self._specs: dict[str, JobSpec] = {}
        self._progress: dict[str, tuple[int, float | None]] = {}
        self._settled: dict[str, int] = {}  # by job, the last run that was seen to end
        self._certain_ms = clock.now_ms()  # from then on nobody runs whom nobody has seen
        self._observed = False
        self._released: set[str] = set()
        self._number = 0
        self._closed = True

    # --- life ------------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        """Where agents connect."""
        return str(self._hub.address)

    async def open(self) -> None:
        """Listen for agents."""
        self._closed = False
        self._vitals.open()
        self._certain_ms = self._clock.now_ms() + self._hub.lease_ms + MARGIN_MS
        await self._hub.open(self)
        self._clock.call_at(self._certain_ms, self._miss_found)

    async def wait_for(self, nodes: Sequence[str], timeout_s: float = 10.0) -> None:
        """Wait until the agents of nodes are there; see :meth:`AgentHub.wait_for`."""
        await self._hub.wait_for(nodes, timeout_s)

    async def close(self) -> None:
        """Leave: agents keep their workers, and wait for whoever listens next, for a lease."""
        self._closed = True
        self._deliver = None
        self._hang_up()
        for gang in self._all():
            gang.cancel_timers()
        await self._vitals.close()
        await self._hub.close()

    def fence(self, term: int, index: int) -> None:
        """Orders are those of the leader of this term from now on, by this entry of its log."""
        before = self._hub.fence[0]
        for node in self._hub.lead((term, index)):
            self._vitals.left(node)  # it comes back now, or its node is dead
        if before < term:
            for gang in self._all():  # agents refused that before
                go = [m for m in gang.alive if gang.leaving or m.leaves or m.halted]
                self._orders.halt(gang, go, "its run is over")
                self._see_whole(gang)

    def bury(self, node_id: str) -> None:
        """Somebody knows that a node's agent, and all that it had started, is gone."""
        self._hub.bury(node_id)
        self._vitals.report(node_id)

    def admit(self, spec: JobSpec) -> JobSpec:
        """A job as it can be run; raises a :class:`ValidationError` if there is nothing to run.

        Saving takes a moment at least: a checkpoint counts when the job has confirmed it.
        """
        if not spec.command:
            remedy = "say what its workers run, as a tuple of texts"
            raise ValidationError(f"JobSpec '{spec.job_id}'", "command", "is empty", remedy)
        if spec.checkpoint_seconds < _LEAST_SAVE_S and spec.kind != JobKind.SERVICE:
            return replace(spec, checkpoint_seconds=_LEAST_SAVE_S)
        return spec

    # --- what the orchestrator says --------------------------------------------------------------

    def bind(self, deliver: Callable[[Event], Awaitable[object]]) -> None:
        """Say where events go; the last call counts, and hears what nobody has taken."""
        self._deliver = deliver
        for gang in self._gangs.values():
            if gang.verdict is not None and not gang.heard:
                self._report_in(gang, 0)

    def observe(self) -> Mapping[str, int]:
        """Jobs whose workers exist, or whose end is not reported yet, and their runs."""
        self._observed = True
        return {job: gang.run for job, gang in self._gangs.items()}

    def progress(self, job_id: str) -> tuple[int, float | None] | None:
        """The last step that a running job has told, and the share that is done if it knows."""
        return self._progress.get(job_id)

    def knows(self, job_id: str) -> bool:
        """Whether all workers of a job can be asked to save, and told of others."""
        gang = self._gangs.get(job_id)
        return gang is not None and gang.knows

    def devices(self, node_id: str) -> tuple[Gpu, ...] | None:
        """GPUs that a node's agent has found; None: it cannot look, or has not come."""
        return self._hub.gpus(node_id)

    def endpoints(self, job_id: str) -> Mapping[tuple[str, int], tuple[str, int]]:
        """Where the replicas of a job answer that do: (node, index there) -> (host, port)."""
        gang = self._gangs.get(job_id)
        return endpoints_of(gang, self._hub.host) if gang is not None else {}

    def renew(self, job_id: str, place: tuple[str, int]) -> bool:
        """Have a replica end, and another one begin in its place; whether there is one."""
        gang = self._gangs.get(job_id)
        member = gang.renewing(place) if gang is not None and job_id in self._specs else None
        if gang is not None and member is not None:
            self._orders.halt(gang, [member], "another one takes its place")
        return member is not None

    def recall(self, specs: Mapping[str, JobSpec]) -> None:
        """Learn what the services are whose replicas were here before."""
        for job, gang in list(self._gangs.items()):
            if job in specs and specs[job].kind == JobKind.SERVICE:
                gang.service = True
                self._specs.setdefault(job, specs[job])
                self._look_at(gang)  # who has ended by now is replaced

    def carry_out(self, effects: Sequence[Effect]) -> None:
        """Begin to carry effects out, in this order."""
        self._observed = True
        for effect in effects:
            match effect:
                case StartJob():
                    self._start(effect)
                case RegroupJob():
                    self._regroup(effect)
                case SaveCheckpoint():
                    self._save(effect)
                case StopJob():
                    gang = self._current(effect.job_id, effect.run)
                    if gang is not None:
                        self._dismiss(gang, effect.reason.value, save=effect.save)
                case ReleaseNode(node_id):
                    self._released.add(node_id)
                    self._hub.send(node_id, Release(self._hub.fence))
                case _:
                    assert_never(effect)

    def _current(self, job: str, run: int) -> Gang | None:
        gang = self._gangs.get(job)
        return gang if gang is not None and gang.run == run else None

    def _grace_ms(self) -> int:
        return round(1000 * self.grace_s)

    def _all(self) -> list[Gang]:
        leaving = [gang for gangs in self._leaving.values() for gang in gangs]
        return [*self._gangs.values(), *leaving]

    # --- starting --------------------------------------------------------------------------------

    def _start(self, effect: StartJob) -> None:
        before = self._gangs.get(effect.job_id)
        if before is not None and before.run == effect.run:
            return
        if before is not None:
            self._dismiss(before, "another run of its job begins")
        gang = Gang(effect.job_id, effect.run, members_of(effect.workers), told_here=True)
        gang.started_here = True
        gang.service = effect.spec.kind == JobKind.SERVICE
        self._gangs[gang.job] = gang
        self._specs[gang.job] = effect.spec
        for node in gang.nodes():
            self._released.discard(node)
            if not self._hub.reaches(node):
                self._vitals.show(node)  # from now on it is watched, and missed
        self._begin(gang)

    def _begin(self, gang: Gang) -> None:
        """Start a gang's workers, unless workers of its job may be left."""
        if gang.leaving or gang.over or self._leaving.get(gang.job):
            return  # _vanish() comes back to it
        wait_ms = self._certain_ms - self._clock.now_ms()
        if wait_ms > 0 and (gang.half_begun if gang.begun else self._is_unseen(gang)):
            self._set_timer(gang, "begin", wait_ms, lambda: self._begin(gang))
        elif not gang.begun:
            gang.begun = True
            self._launch(gang, list(gang.members.values()))
        elif gang.half_begun:  # whoever had begun it has not begun those
            self._judge(gang, WorkersLost(gang.job, gang.run, _IN_PART))

    def _is_unseen(self, gang: Gang) -> bool:
        """Whether nobody has seen the run before to end; after a lease nobody runs it any more."""
        return gang.run > 1 and self._settled.get(gang.job) != gang.run - 1

    def _launch(self, gang: Gang, members: Sequence[Member]) -> None:
        """Have workers started; if their agents are not there, when they are."""
        gang.master = self._hub.meeting_point(gang.present[0].node)  # rank 0's
        for member in members:
            self._orders.launch(gang, member, self._specs[gang.job])
        if not all(member.told for member in members):
            self._set_timer(gang, "reach", self._hub.lease_ms, lambda: self._miss(gang))

    def _miss(self, gang: Gang) -> None:
        """Agents that have to start workers of a gang have not come."""
        missing = [member for member in gang.present if not member.told]
        if missing and gang.verdict is None and not gang.leaving and not gang.restarts:
            nodes = ", ".join(f"'{node}'" for node in gang.nodes(missing))
            self._judge(gang, WorkersLost(gang.job, gang.run, f"no agent of node {nodes} is there"))

    def _miss_found(self) -> None:
        """Workers that were here before this runtime, and whose agents have not come back."""
        for gang in list(self._gangs.values()):
            missing = not gang.told_here and len(gang.present) < gang.size
            if missing and gang.verdict is None and not self._closed:
                reason = "the agents of some of its workers did not come back"
                self._judge(gang, WorkersLost(gang.job, gang.run, reason))

    # --- saving and stopping ---------------------------------------------------------------------

    def _save(self, effect: SaveCheckpoint) -> None:
        """Have a job save; one that cannot is asked to end, and goes on from what it has."""
        gang = self._current(effect.job_id, effect.run)
        if gang is None or gang.saving or gang.verdict is not None:
            return
        gang.saving = self._next_number()
        asked = [member for member in gang.present if member.alive and member.knows]
        gang.unsaved = {member.worker for member in asked}
        if asked:
            self._orders.save(gang, gang.nodes(asked))
        reason = "its place is needed, and it cannot be asked to save"
        self._orders.halt(gang, [] if asked else gang.alive, reason)
        self._give_place(gang)

    def _give_place(self, gang: Gang) -> None:
        """A run that is to give up its place, and of which nothing is there, has done so."""
        if gang.yields and not gang.alive:
            self._judge(gang, WorkersLost(gang.job, gang.run, "it had not begun to run"))

    def _next_number(self) -> int:
        """Of a save: they grow, across restarts of the orchestrator, too."""
        self._number = max(self._number + 1, self._clock.now_ms())
        return self._number

    def _dismiss(self, gang: Gang, reason: str, *, save: bool = False) -> None:
        """A run is over: what is left of it ends, and it reports nothing more."""
        gang.leaving, gang.verdict = True, None
        self._remember(gang)
        gang.cancel_timers()
        if self._gangs.get(gang.job) is gang:
            del self._gangs[gang.job]
            self._progress.pop(gang.job, None)
        for node, numbers in gang.numbers().items():
            self._hub.acknowledge(node, numbers)
        self._part_with(gang)
        self._orders.halt(gang, gang.alive, reason, self._next_number() if save else 0)
        self._vanish(gang)

    def _part_with(self, gang: Gang) -> None:
        """Something may be left of a run that is over; what is not seen to end is looked for."""
        self._leaving.setdefault(gang.job, []).append(gang)
        wait_ms = _GRACES * self._grace_ms() + self._hub.lease_ms
        self._set_timer(gang, "end", wait_ms, lambda: self._look_for(gang, wait_ms))

    def _look_for(self, gang: Gang, wait_ms: int) -> None:
        """Have agents come anew whose workers were told to end and, for all one knows, did not."""
        for node in gang.nodes(gang.alive):
            _log.warning("node '%s' has not ended job '%s' in %d ms", node, gang.job, wait_ms)
            self._hub.hang_up(node)  # it comes back at once, and says which workers it has
        self._set_timer(gang, "end", wait_ms, lambda: self._look_for(gang, wait_ms))

    def _vanish(self, gang: Gang) -> None:
        """Nothing may be left of a run: the next one of its job begins."""
        if not gang.leaving or gang.alive:
            return
        gang.cancel_timers()
        gangs = self._leaving.get(gang.job, [])
        if gang in gangs:
            gangs.remove(gang)
        seen = len(gang.members) >= gang.size and (gang.begun or not self._is_unseen(gang))
        if seen and self._clock.now_ms() < self._certain_ms:
            self._settled[gang.job] = max(gang.run, self._settled.get(gang.job, 0))
        if not gangs:
            self._leaving.pop(gang.job, None)
            following = self._gangs.get(gang.job)
            if following is not None:
                self._begin(following)
            else:
                self._specs.pop(gang.job, None)

    # --- changing size ---------------------------------------------------------------------------

    def _regroup(self, effect: RegroupJob) -> None:
        """The workers of a job are these from now on; those that stay live on, if they know how."""
        gang = self._current(effect.job_id, effect.run)
        if gang is None or gang.verdict is not None:
            return
        self._specs[gang.job] = effect.spec
        if not gang.begun or gang.restarts:
            keep = {w: m for w, m in gang.members.items() if m.told}
            gang.members = {**keep, **members_of(effect.workers, gang.next_worker)}
            return
        stay, places = matched([m for m in gang.present if m.alive], effect.workers)
        go = [member for member in gang.present if member.alive and member not in stay]
        if not places and not go:
            return
        gang.service = effect.spec.kind == JobKind.SERVICE
        for member in [m for m in gang.present if m.gone]:
            member.leaves = True
        if stay and not effect.moved and (gang.knows or gang.service):
            self._reform(gang, stay, go, places)
            return
        save = self._next_number() if effect.moved and gang.knows else 0
        for member in gang.members.values():
            member.leaves = True
        gang.restarts = gang.told_here = True
        gang.size = 0
        gang.members.update(members_of(effect.workers, gang.next_worker))
        self._orders.halt(gang, gang.alive, "its workers are to be others", save)
        self._start_over(gang)

    def _start_over(self, gang: Gang) -> None:
        """Begin anew, once nothing is left of the workers before."""
        if gang.restarts and not gang.alive and not gang.leaving:
            gang.restarts = False
            gang.generation += 1
            gang.published = gang.generation
            self._launch(gang, gang.present)

    def _reform(
        self, gang: Gang, stay: list[Member], go: list[Member], places: list[WorkerPlacement]
    ) -> None:
        """Some stay, some go, some come. The world changes when those who come are warm."""
        gang.reform(stay, go, places)
        if gang.service:
            gang.published = gang.generation
            self._orders.halt(gang, go, "the service shrinks")
        self._launch(gang, [member for member in gang.present if not member.told])
        self._publish(gang)
        if gang.published < gang.generation:
            self._set_timer(gang, "regroup", _REGROUP_MS, lambda: self._give_up_regroup(gang))

    def _publish(self, gang: Gang) -> None:
        """Tell all workers who they are now, unless newcomers are still to say hello."""
        if gang.published < gang.generation and all(member.knows for member in gang.present):
            timer = gang.timers.pop("regroup", None)
            if timer is not None:
                timer.cancel()
            self._tell_world(gang, gang.present)

    def _tell_world(self, gang: Gang, present: Sequence[Member]) -> None:
        """Tell those that are part of a world, and those that leave, of it."""
        gang.published = gang.generation
        gang.master = self._hub.meeting_point(gang.present[0].node)  # rank 0's
        for order, member in enumerate(present):
            member.order, member.fresh = order, False
        go = [member for member in gang.alive if member.leaves]
        self._orders.regroup(gang, present, go)
        if go:
            self._set_timer(gang, "leave", self._grace_ms(), lambda: self._see_off(gang))

    def _see_off(self, gang: Gang) -> None:
        """Those that leave and have not left by themselves are told to."""
        go = [member for member in gang.alive if member.leaves]
        self._orders.halt(gang, go, "the job goes on with fewer workers")

    def _replaces(self, gang: Gang) -> bool:
        """Whether a service goes on while others are started for replicas that have ended."""
        if gang.job not in self._specs or not gang.try_replace(self._clock.now_ms()):
            return False
        _log.warning("service '%s': replicas that have ended are replaced", gang.job)
        fresh = gang.replace_ended()
        self._forget_leavers(gang)
        self._launch(gang, fresh)
        return True

    def _survives(self, gang: Gang, verdict: Event) -> bool:
        """Whether a gang goes on without a worker that was killed, until another is there."""
        spec = self._specs.get(gang.job)
        if not isinstance(verdict, WorkersLost) or spec is None or not spec.elastic:
            return False
        if gang.service or not gang.try_survive(self._clock.now_ms()):
            return False
        lost, stay = gang.part_with_ended(), gang.present
        _log.warning("job '%s' goes on without %d of its workers", gang.job, len(lost))
        places = [WorkerPlacement(member.node, member.gpus) for member in lost]
        self._forget_leavers(gang)
        gang.generation += 1
        self._tell_world(gang, stay)
        self._reform(gang, stay, [], places)
        return True

    def _give_up_regroup(self, gang: Gang) -> None:
        if gang.published < gang.generation and gang.verdict is None:
            reason = "its new workers did not say that they are there"
            self._judge(gang, WorkersLost(gang.job, gang.run, reason))

    # --- what agents say -------------------------------------------------------------------------

    def joined(self, node: str, hello: Hello) -> None:
        """An agent is there: see which workers it has, and tell it what it was not told."""
        there = {(seen.job, seen.run, seen.worker): seen for seen in hello.workers}
        for seen in hello.workers:
            gang = self._discover(seen.job, seen.run)
            if gang is None:
                gang = Gang(seen.job, seen.run, leaving=True)
                self._part_with(gang)
            gang.adopt(node, seen)
        for gang in self._all():
            for member in list(gang.members.values()):
                if member.node == node and member.ended is None and not member.gone:
                    self._remind(gang, member, there.get((gang.job, gang.run, member.worker)))
            self._see_whole(gang)

    def _discover(self, job: str, run: int) -> Gang | None:
        """The gang of a run that an agent tells of; before anybody has observed, perhaps new."""
        gang, before = self._find(job, run), self._gangs.get(job)
        if gang is not None or self._observed or (before is not None and before.run > run):
            return gang
        if before is not None:
            self._dismiss(before, "another run of its job is there")
        return self._gangs.setdefault(job, Gang(job, run))

    def _remind(self, gang: Gang, member: Member, seen: Seen | None) -> None:
        """Tell an agent that is back what it may have missed about a worker; None: it has none.

        What was told on another line is not carried out any more: of whom it does not have nothing
        is left, though it may still say how it has ended.
        """
        if seen is not None:
            self._orders.repeat(gang, member, seen)
        elif gang.leaving or member.leaves:
            member.gone = True
            self._look_at(gang)
        elif gang.wanted and gang.job in self._specs:
            self._orders.launch(gang, member, self._specs[gang.job])
        else:
            member.told = False
            if gang.yields:  # how it has ended, if it has, comes next
                self._set_timer(gang, "yield", _AGAIN_MS, lambda: self._give_place(gang))

    def _see_whole(self, gang: Gang) -> None:
        """A gang of which a former orchestrator has begun, or changed, only a part is made whole.

        One that was begun twice, each time in part, is to begin anew.
        """
        if gang.verdict is not None or gang.leaving or gang.restarts:
            return
        if gang.torn:
            self._judge(gang, WorkersLost(gang.job, gang.run, _IN_PART))
        elif gang.split and self._hub.fence[0] >= 0:
            self._reform(gang, gang.present, [], [])

    def beat(self, node: str) -> None:
        """An agent has shown itself."""
        if node not in self._released:
            self._vitals.show(node)

    def left(self, node: str) -> None:
        """The connection of an agent is gone."""
        self._hang_up(node)
        self._vitals.left(node)

    def gone(self, node: str, seen_ms: int) -> None:
        """Nothing is left of what a node had."""
        for gang in self._all():
            for member in gang.members.values():
                if member.node == node:
                    member.number = 0  # the next agent's reports have numbers of their own
            lost = [member for member in gang.alive if member.node == node]
            for member in lost:
                member.gone = True
            if lost:
                gang.seen_ms = seen_ms
                self._look_at(gang)

    def heard(self, node: str, number: int, body: Body) -> None:
        """An agent reports something."""
        if isinstance(body, Stale):
            _log.error("node '%s' obeys another orchestrator, of term %d", node, body.fence[0])
            self._hub.acknowledge(node, (number,))
            return
        gang = self._find(body.job, body.run)
        member = None if gang is None else gang.members.get(body.worker)
        if isinstance(body, Ended):
            self._note_end(node, number, body)
            return
        self._hub.acknowledge(node, (number,))
        if gang is None or member is None or gang.leaving:
            return
        match body:
            case Knows():
                member.knows = True
                self._publish(gang)
            case Saved():
                if (verdict := gang.note_saved(body)) is not None:
                    self._judge(gang, verdict)
            case Joined(_, _, _, generation):
                member.joined = max(generation, member.joined)  # reports may come twice
                if all(m.joined >= gang.published for m in gang.present if not m.fresh):
                    self._see_off(gang)
            case Serving(_, _, _, port):
                member.port = port
            case Progress(_, _, _, step, fraction):
                self._progress[gang.job] = step, fraction
            case _:
                assert_never(body)

    def _find(self, job: str, run: int) -> Gang | None:
        found = self._current(job, run)
        if found is None:
            found = next((g for g in self._leaving.get(job, ()) if g.run == run), None)
        return found

    def _note_end(self, node: str, number: int, ended: Ended) -> None:
        """A worker has ended; that is acknowledged when what it means is known to be safe."""
        gang = self._discover(ended.job, ended.run)
        strange = gang is not None and gang.told_here and ended.worker not in gang.members
        if gang is None or strange:
            self._hub.acknowledge(node, (number,))
            return
        member = gang.note_end(node, ended, number)
        self._see_whole(gang)
        if gang.leaving or member.leaves:
            member.number = 0
            self._hub.acknowledge(node, (number,))
        self._look_at(gang)

    def _look_at(self, gang: Gang) -> None:
        """See what the ends of workers mean."""
        if gang.leaving:
            self._vanish(gang)
            return
        if gang.service and gang.job not in self._specs and not self._observed:
            return  # recall() comes back to it
        self._forget_leavers(gang)
        for member in left_over(gang):
            member.leaves = True
        if gang.restarts:
            self._start_over(gang)
        elif gang.verdict is None or isinstance(gang.verdict, CheckpointCommitted):
            found = verdict_of(gang)
            if found is None:
                return
            if isinstance(gang.verdict, CheckpointCommitted) and not gang.heard:
                return  # it is saved, and that is to be said first
            if not gang.saving and (self._replaces(gang) or self._survives(gang, found)):
                return
            if gang.saving and not gang.unsaved and isinstance(found, WorkersLost):
                reason = "it cannot be asked to save, and was told to end"
                found = replace(found, reason=reason)
            self._judge(gang, found)

    def _forget_leavers(self, gang: Gang) -> None:
        """Workers that were to end, and have, are no part of a gang any more."""
        self._remember(gang)
        for member in [m for m in gang.members.values() if m.leaves and not m.alive]:
            self._hub.acknowledge(member.node, (member.number,))
            del gang.members[member.worker]

    # --- reports ---------------------------------------------------------------------------------

    def _judge(self, gang: Gang, verdict: Event) -> None:
        """Something has to be reported; if it is its end, the rest of a gang ends, too."""
        gang.verdict, gang.heard = verdict, False
        if gang.over:
            self._orders.halt(gang, gang.alive, "another worker of its job has ended")
        self._report_in(gang, 0)

    def _report_in(self, gang: Gang, wait_ms: int) -> None:
        self._set_timer(gang, "report", wait_ms, lambda: self._report(gang))

    async def _report(self, gang: Gang) -> None:
        if self._closed or gang.verdict is None or gang.leaving:
            return
        if self._deliver is None:
            raise ConfigurationError("ProcessRuntime: nobody to report to; call bind() first")
        verdict, taken = gang.verdict, False
        try:
            taken = await self._deliver(verdict) is not False
        finally:
            present = self._gangs.get(gang.job) is gang and gang.verdict is verdict
            if present and not taken:
                self._report_in(gang, _AGAIN_MS)
        if present and taken:
            gang.heard = True
            if not isinstance(verdict, CheckpointCommitted):
                self._dismiss(gang, "its job has ended")
            else:
                self._look_at(gang)

    def _set_timer(
        self, gang: Gang, name: str, wait_ms: int, callback: Callable[[], Awaitable[object] | None]
    ) -> None:
        before = gang.timers.pop(name, None)
        if before is not None:
            before.cancel()
        gang.timers[name] = self._clock.call_at(self._clock.now_ms() + wait_ms, callback)
