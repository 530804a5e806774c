"""The fleet: turns what a scaler decides into orders of nodes and drained nodes."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from orchestrator.autoscaler.policies import HorizontalScaler, PredictiveScaler, ScalingPlan
from orchestrator.engine.engine import Engine
from orchestrator.errors import (
    ConfigurationError,
    NotLeaderError,
    QuartermasterError,
    ValidationError,
)
from orchestrator.kernels.change.nodes import give_up_nodes
from orchestrator.kernels.state.codes import NodeCode
from orchestrator.live.retry import Inbox, Persistent
from orchestrator.metrics.views import ScalingEfficiency
from orchestrator.ports import Clock, Provisioner
from orchestrator.status import Demand, demand_of
from orchestrator.types import NodeSpec, ScalingDecision, ScalingDirection

__all__ = ["FleetController", "FleetScaler", "leaving_nodes"]


FleetScaler: TypeAlias = HorizontalScaler | PredictiveScaler
"""Who may decide on the number of nodes."""


_log = logging.getLogger(__name__)


def leaving_nodes(
    engine: Engine, time_ms: int, count: int, *, empty_only: bool = False
) -> list[str]:
    """Nodes to give up, at most ``count``: those that a simulated fleet would give up.

    What empties them costs least (work since the last checkpoint, saving and restarting, times what
    the gang holds; each gang once), and none has a job that may not be preempted. It is tried on a
    copy of the cluster.

    Parameters
    ----------
    engine : Engine
        The cluster.
    time_ms : int
        Now.
    count : int
        How many are wanted.
    empty_only : bool, optional
        Only nodes without work.

    Returns
    -------
    list of str
        In the order in which they are to go.
    """
    nodes = np.empty(count, np.int32)
    state = engine.state_at(max(time_ms, engine.now_ms))
    found = give_up_nodes(state.rows, 0, empty_only, nodes)
    return [engine.nodes.index.ids[n] for n in nodes[:found]]


class FleetController:
    """Keeps the number of nodes where a scaler wants it.

    A node counts while it is up or on order. Without a provisioner nothing can be ordered, and
    only nodes that are empty are drained. The scaler's cooldown and past are not in the cluster's
    log: after a restart they begin anew.

    Parameters
    ----------
    engine : Engine
        The cluster.
    clock : Clock
        Time.
    scaler : FleetScaler or None
        Who decides. With a predictive one every decision is a tick. None: a horizontal one with
        the defaults of :class:`ScalingPlan`, made for the nodes that are there at the first
        decision.
    provisioner : Provisioner or None
        Where nodes come from and go.
    account : ScalingEfficiency
        Is told of everything.

    Raises
    ------
    ConfigurationError, ValidationError
        If the scaler wants more nodes, or the provisioner delivers larger ones, than there may be.
    """

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        scaler: FleetScaler | None,
        provisioner: Provisioner | None,
        account: ScalingEfficiency,
    ) -> None:
        self.scaler = scaler
        self.provisioner = provisioner
        self.last: ScalingDecision | None = None
        self._engine = engine
        self._clock = clock
        self._account = account
        self._lock = asyncio.Lock()
        self._ordered_ms: deque[int] = deque()
        self._gone: list[str] = []  # nodes that are to be given back
        self._releasing = Persistent("giving nodes back", self._release, clock)
        most = engine.shape.nodes
        if scaler is not None and (least := _plan_of(scaler).min_size) > most:
            raise ConfigurationError(
                f"autoscaler: 'min_size' is {least}, and the cluster has room for {most} nodes; "
                "lower it, or raise ClusterShape.nodes"
            )
        if provisioner is not None and provisioner.template.gpus > engine.shape.devices:
            me = f"provisioner: NodeSpec '{provisioner.template.node_id}'"
            problem = f"is {provisioner.template.gpus}, and a node has at most"
            limit = engine.shape.devices
            raise ValidationError(me, "gpus", f"{problem} {limit}", "raise ClusterShape.devices")

    def bind(self, join: Callable[[NodeSpec], Awaitable[object]]) -> None:
        """Say how nodes that arrive are registered; one that is refused is given back."""
        if self.provisioner is not None:
            arrivals = Inbox[NodeSpec](lambda spec: self._arrive(spec, join), self._clock)
            self.provisioner.bind(arrivals.deliver)

    async def _arrive(self, spec: NodeSpec, join: Callable[[NodeSpec], Awaitable[object]]) -> None:
        nodes = self._engine.nodes
        if spec.node_id in nodes.specs and nodes.code(spec.node_id) != NodeCode.DOWN:
            _log.warning("node '%s' was delivered again; it is in service", spec.node_id)
            return
        try:
            await join(spec)
        except NotLeaderError:
            raise  # whoever leads takes it
        except QuartermasterError as error:  # its room was taken meanwhile, for example
            _log.warning("node '%s' is given back: %s", spec.node_id, error)
            self._ordered_at()
            self.left([spec.node_id])
        else:
            self._account.note_arrival(self._clock.now_ms() - self._ordered_at())

    def _ordered_at(self) -> int:
        """When the node that has come was ordered: the first order that is open; else now."""
        return self._ordered_ms.popleft() if self._ordered_ms else self._clock.now_ms()

    @property
    def size(self) -> int:
        """Nodes that are up or on order."""
        codes = [self._engine.nodes.code(node_id) for node_id in self._engine.nodes.specs]
        pending = self.provisioner.pending if self.provisioner is not None else 0
        return codes.count(NodeCode.UP) + pending

    async def scale(self, decommission: Callable[[str], Awaitable[object]]) -> ScalingDecision:
        """Decide, and carry it out.

        Parameters
        ----------
        decommission : coroutine function
            Drains a node.

        Returns
        -------
        ScalingDecision
            Its reason says where less was done than was decided.
        """
        async with self._lock:
            now_ms, size = self._clock.now_ms(), self.size
            demand = demand_of(self._engine)
            cooldown = _horizontal(self._scaler_for(demand)).cooldown
            changed_ms = cooldown.last_change_ms
            decision = await self._decide(now_ms, size, demand)
            more = decision.target_nodes - size
            try:
                done = await self._change(more, now_ms, decommission)
            except Exception:
                cooldown.take_back(changed_ms)  # nothing happened that has to show its effect first
                raise
            if done < abs(more):
                decision = self._explain(decision, done, abs(more))
            self.last = decision
            capacity = size * _plan_of(self._scaler_for(demand)).unit_capacity
            self._account.note(now_ms, decision, demand.total, capacity, done)
            return decision

    async def _change(
        self, more: int, now_ms: int, decommission: Callable[[str], Awaitable[object]]
    ) -> int:
        """Order nodes, or drain some (``more`` below 0); how many."""
        if more >= 0:
            return self._order(more, now_ms) if more > 0 else 0
        only = self.provisioner is None
        leaving = leaving_nodes(self._engine, now_ms, -more, empty_only=only)
        for node_id in leaving:
            await decommission(node_id)
        return len(leaving)

    def left(self, node_ids: list[str]) -> None:
        """Nodes have left the cluster: they are given back, later if that fails."""
        self._gone += node_ids
        self._releasing.run_now()

    @property
    def all_returned(self) -> bool:
        """Whether every node that has left was given back."""
        return not self._gone

    def _release(self) -> None:
        if self.provisioner is not None and self._gone:
            self.provisioner.release(list(self._gone))
        self._gone.clear()

    def status(self) -> dict[str, Any]:
        """What was decided last, as plain data, and what is on its way."""
        last = self.last
        return {
            "size": self.size,
            "pending": self.provisioner.pending if self.provisioner is not None else 0,
            "demand": demand_of(self._engine).total,
            "last_decision": None
            if last is None
            else {
                "direction": last.direction.value,
                "target_nodes": last.target_nodes,
                "reason": last.reason,
                "predicted_demand": last.predicted_demand,
                "cooldown_remaining_s": last.cooldown_remaining_s,
            },
        }

    async def _decide(self, now_ms: int, size: int, demand: Demand) -> ScalingDecision:
        scaler = self._scaler_for(demand)
        if isinstance(scaler, HorizontalScaler):
            return scaler.decide(now_ms, size, demand.total)
        scaler.observe(demand.total)
        if scaler.refit_due():
            await asyncio.to_thread(scaler.refit)  # a fit may take seconds
        return scaler.decide(now_ms, size)

    def _scaler_for(self, demand: Demand) -> FleetScaler:
        if self.scaler is not None:
            return self.scaler
        specs = list(self._engine.nodes.specs.values())
        if self.provisioner is not None:
            specs = [self.provisioner.template]
        capacity = sum(demand.of_node(spec) for spec in specs) / max(len(specs), 1)
        plan = ScalingPlan(capacity or 1.0, max_size=self._engine.shape.nodes)
        scaler = HorizontalScaler(plan)
        if specs:
            self.scaler = scaler
        return scaler

    def _order(self, count: int, now_ms: int) -> int:
        """Order as many as there is room for; how many that were."""
        if self.provisioner is None:
            return 0
        while len(self._ordered_ms) > self.provisioner.pending:
            self._ordered_ms.popleft()  # an order that was lost
        room = self._engine.shape.nodes - len(self._engine.nodes.specs) - self.provisioner.pending
        count = min(count, max(room, 0))
        if count > 0:
            self.provisioner.order(count)
            self._ordered_ms.extend([now_ms] * count)
        return count

    def _explain(self, decision: ScalingDecision, done: int, wanted: int) -> ScalingDecision:
        why = "there is no room for more nodes"
        if decision.direction == ScalingDirection.DOWN:
            why = "the others hold work that stays"
        elif self.provisioner is None:
            why = "there is no provisioner"
        return replace(decision, reason=f"{decision.reason}; {done} of {wanted} nodes: {why}")


def _horizontal(scaler: FleetScaler) -> HorizontalScaler:
    return scaler if isinstance(scaler, HorizontalScaler) else scaler.horizontal


def _plan_of(scaler: FleetScaler) -> ScalingPlan:
    return _horizontal(scaler).plan
