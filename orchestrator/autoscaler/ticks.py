"""A tick: the moment at which the size of services and fleet is decided on, and by whom.

Where the policy in charge sizes them it is told how they do, by an entry of the log, and asked at
once. What it has not decided on, since it was late for example, the autoscaler decides at the same
tick: nobody waits for the next one.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from orchestrator.autoscaler.fleet import FleetController
from orchestrator.autoscaler.services import ServiceWatch
from orchestrator.engine.engine import Engine
from orchestrator.errors import UnknownEntityError
from orchestrator.live.cycle import SchedulingCycle
from orchestrator.messages import Command, Decommission, Event, Scale, ServiceSeen, Tick
from orchestrator.ports import Sized, SizingPolicy
from orchestrator.types import ScalingDecision

__all__ = ["Ticks"]


_NOTHING = Sized()


_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Decided:
    """What the policy in charge has decided on at a tick."""

    jobs: frozenset[str] = frozenset()  # of services
    nodes: bool = False


class Ticks:
    """Has services and fleet sized, tick by tick.

    Parameters
    ----------
    engine : Engine
        The cluster.
    cycle : SchedulingCycle
        Who asks the policy.
    watch : ServiceWatch
        Says how services do.
    fleet : FleetController
        Says what can be done about nodes, and does it.
    propose : coroutine function
        Logs and applies a command.
    """

    def __init__(
        self,
        engine: Engine,
        cycle: SchedulingCycle,
        watch: ServiceWatch,
        fleet: FleetController,
        propose: Callable[[Command | Event], Awaitable[object]],
    ) -> None:
        self._engine, self._cycle, self._watch = engine, cycle, watch
        self._fleet, self._propose = fleet, propose
        self._decided = _Decided()
        self._changed: ScalingDecision | None = None  # of nodes, at this tick

    @property
    def sized(self) -> frozenset[str]:
        """Jobs of the services that the policy in charge has sized at the last tick."""
        return self._decided.jobs

    async def offer(self) -> ScalingDecision | None:
        """Have the policy in charge decide; what it did about nodes, None: nothing was its to do.

        Services that it has decided on are in :attr:`sized` then.
        """
        self._decided, self._changed = _Decided(), None
        elapsed_ms, services = await self._watch.look()
        policy = self._cycle.policy
        sizes = policy.sizes if isinstance(policy, SizingPolicy) else _NOTHING
        if elapsed_ms == 0 or sizes == _NOTHING or self._engine.semantics.commitment:
            return None
        since = self._engine.logged + 1  # whoever sees the tick has seen so many entries
        try:
            await self._propose(Tick(elapsed_ms, services, self._fleet.seen()))
        except UnknownEntityError as error:  # a service has ended since it was looked at
            _log.info("the policy is not asked about sizes at this tick: %s", error)
            return None
        await self._cycle.run(review=False)
        return self._note(policy, services, since)

    def _note(
        self, policy: object, services: tuple[ServiceSeen, ...], since: int
    ) -> ScalingDecision | None:
        """What the policy has decided on, unless it was somebody else's turn."""
        sized = policy.sized(since) if isinstance(policy, SizingPolicy) else _NOTHING
        jobs = frozenset(seen.job_id for seen in services[: sized.services])
        self._decided = _Decided(jobs, sized.nodes)
        if self._changed is not None:
            return self._changed
        return self._fleet.leave() if sized.nodes else None

    async def change_fleet(self, nodes: int) -> None:
        """A plan that orders nodes, or gives some up, is in the log: carry that out."""
        if nodes != 0:
            self._changed = await self._fleet.change(
                nodes,
                lambda node_id: self._propose(Decommission(node_id)),
                lambda job_id, workers: self._propose(Scale(job_id, workers)),
            )
