"""What agents are told about the workers of gangs, and told again when they come back.

Whatever is told may be lost with the line that it was told on. Nobody waits for its answer for
ever: an agent that comes back says which workers it has, and is then told what it has missed, and
one that does not come back is gone, with all of its workers, when its lease is over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from orchestrator.kernels.state.codes import JobKind
from orchestrator.node.output import folder_name
from orchestrator.node.protocol import Halt, Launch, Save, Seen, World
from orchestrator.runtimes.gangs import Gang, Member
from orchestrator.runtimes.hub import AgentHub
from orchestrator.types import JobSpec

__all__ = ["Orders"]


_MIB = 1024  # of a GiB


class Orders:
    """Tells agents what to do with workers, as far as they are there.

    Parameters
    ----------
    hub : AgentHub
        Where they are.
    grace_ms : callable
        How long workers get to end by themselves.
    checkpoints : Path or None
        Where jobs keep their checkpoints; None: nobody is told of any.
    """

    def __init__(
        self, hub: AgentHub, grace_ms: Callable[[], int], checkpoints: Path | None
    ) -> None:
        self._hub, self._grace_ms, self._checkpoints = hub, grace_ms, checkpoints

    def launch(self, gang: Gang, member: Member, spec: JobSpec) -> None:
        """Have a worker started; one that is there, or has ended, is not started again."""
        present = gang.present
        beside = [other for other in present if other.node == member.node]
        saved = "" if self._checkpoints is None else self._checkpoints / folder_name(gang.job)
        order = Launch(
            fence=self._hub.fence,
            job=gang.job,
            run=gang.run,
            worker=member.worker,
            command=spec.command,
            rank=member.rank,
            size=len(present),
            local_rank=beside.index(member),
            local_size=len(beside),
            node_rank=gang.nodes(present).index(member.node),
            master=gang.master,
            generation=gang.generation,
            warm=member.fresh,
            working_dir=spec.working_dir,
            environment=spec.environment,
            gpus=member.gpus,
            share=spec.gpu_fraction,
            memory_mb=round(_MIB * spec.memory_per_worker_gb),
            checkpoints=str(saved),
            replica=spec.kind == JobKind.SERVICE,
        )
        if self._hub.send(member.node, order):
            member.told = member.ours = True

    def halt(self, gang: Gang, members: Sequence[Member], reason: str, save: int = 0) -> None:
        """Have workers end; ``save``: those that can are to save first, under this number."""
        for member in members:
            member.halted = member.halted or reason
        for node in gang.nodes(members):
            there = [member for member in members if member.node == node]
            told = gang.job, gang.run, tuple(member.worker for member in there), reason
            renews = all(member.renews for member in there)
            self._hub.send(node, Halt(self._hub.fence, *told, self._grace_ms(), save, renews))

    def save(self, gang: Gang, nodes: Sequence[str]) -> None:
        """Have workers on some nodes save, under the gang's number."""
        for node in nodes:
            self._hub.send(node, Save(self._hub.fence, gang.job, gang.run, gang.saving))

    def regroup(self, gang: Gang, present: Sequence[Member], go: Sequence[Member]) -> None:
        """Tell workers who they all are from now on, and those that go that they are not."""
        ranks, gang.worlds = tuple(member.rank for member in present), {}
        for node in gang.nodes([*present, *go]):
            members = [(m.worker, m.order) for m in present if m.node == node]
            members += [(m.worker, -1) for m in go if m.node == node]
            told = gang.job, gang.run, gang.generation, ranks, gang.master, tuple(members)
            gang.worlds[node] = World(self._hub.fence, *told)
            self._hub.send(node, gang.worlds[node])

    def repeat(self, gang: Gang, member: Member, seen: Seen) -> None:
        """Tell an agent that has a worker what it may have missed about it."""
        if gang.leaving or member.leaves or member.halted or gang.over:
            self.halt(gang, [member], member.halted or "its run is over")
            return
        world = gang.missed(member.node, seen)
        if world is not None:
            self._hub.send(member.node, msgspec.structs.replace(world, fence=self._hub.fence))
        if gang.saving and member.worker in gang.unsaved:
            self.save(gang, [member.node])
