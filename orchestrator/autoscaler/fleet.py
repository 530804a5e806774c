"""The fleet: turns what a scaler decides into orders of nodes and drained nodes."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from orchestrator.autoscaler.policies import (
    HorizontalScaler,
    PredictiveScaler,
    ScalingPlan,
    Supply,
)
from orchestrator.autoscaler.rehearsal import Order, Rehearsal
from orchestrator.engine.checks import check_message
from orchestrator.engine.engine import Engine
from orchestrator.engine.records import check_racks
from orchestrator.errors import (
    ConfigurationError,
    ValidationError,
)
from orchestrator.kernels.state.codes import NO_CHANGE_MS, NodeCode
from orchestrator.live.retry import SENSELESS, Inbox, Persistent
from orchestrator.messages import FleetSeen, Register, Submit
from orchestrator.metrics.views import ScalingEfficiency
from orchestrator.ports import Catalogue, Clock, Provisioner
from orchestrator.scheduling.rules import RULES, Rule
from orchestrator.status import demand_of
from orchestrator.types import JobSpec, NodeSpec, ScalingDecision, ScalingDirection

__all__ = ["BY_POLICY", "ORDER_AGE_S", "FleetController", "FleetScaler"]


BY_POLICY = "as the policy in charge has decided"
"""Why the fleet has its size."""


_MILLI = 1000.0  # capacity units of a GPU, or of a core


ORDER_AGE_S = 900.0
"""How long a node may be on order until nobody waits for it (the cluster autoscaler of Kubernetes:
``max-node-provision-time``)."""


FleetScaler: TypeAlias = HorizontalScaler | PredictiveScaler
"""Who may decide on the number of nodes."""


_log = logging.getLogger(__name__)


class FleetController:
    """Keeps the number of nodes where a scaler wants it.

    A node counts while it is up or on order. What is ordered, and which node goes, is rehearsed on
    a copy of the cluster (:class:`orchestrator.autoscaler.rehearsal.Rehearsal`): nodes are ordered
    for jobs that they let in, and none is given up whose work fits nowhere else. Only nodes that
    were ordered are ever given up; the log knows them. Without a provisioner decisions are advice.
    The scaler's cooldown and past are not in the log: after a restart they begin anew.

    An order that is too old is not waited for: it may be lost, though the provisioner still counts
    it. It is told in :meth:`status`; the node is taken if it comes after all. Orders of which
    nobody knows how old they are, as after a restart, are as old as this controller's knowledge.

    Parameters
    ----------
    engine : Engine
        The cluster.
    clock : Clock
        Time.
    scaler : FleetScaler or None
        Who decides. With a predictive one every decision is a tick. None: a horizontal one with
        the defaults of :class:`ScalingPlan`, made for nodes as they can be ordered.
    provisioner : Provisioner or None
        Where nodes come from and go.
    account : ScalingEfficiency
        Is told of everything.
    rule : callable or None, optional
        Tells by which rule jobs are placed now; None: by the default one.

    order_age_s : float, optional
        Greatest age of an order, seconds; raise it where nodes take longer to come.

    Raises
    ------
    ConfigurationError, ValidationError
        If the scaler wants more nodes, or the provisioner delivers larger ones, than there may be,
        or the greatest age is none.
    """

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        scaler: FleetScaler | None,
        provisioner: Provisioner | None,
        account: ScalingEfficiency,
        rule: Callable[[], Rule] | None = None,
        *,
        order_age_s: float = ORDER_AGE_S,
    ) -> None:
        counts = isinstance(order_age_s, int | float) and not isinstance(order_age_s, bool)
        if not (counts and 0.0 < order_age_s < math.inf):
            raise ConfigurationError(
                f"FleetController: 'order_age_s' is {order_age_s!r}; give seconds above 0"
            )
        self.scaler = scaler
        self.provisioner = provisioner
        self.last: ScalingDecision | None = None
        self._engine = engine
        self._clock = clock
        self._account = account
        self._rule = rule or (lambda: RULES["priority"])
        self._default: tuple[str, HorizontalScaler] | None = None  # and the unit that it counts in
        self._scaled_by = 0  # nodes that were ordered last, or given up if negative
        self._lock = asyncio.Lock()
        self._order_age_s = float(order_age_s)
        self._ordered: deque[tuple[int, NodeSpec]] = deque()  # when and what, the oldest first
        self._given_up = 0  # of these, those of which it was said that nobody waits for them
        self._arrivals: Inbox[NodeSpec] | None = None
        self._gone: list[str] = []  # nodes that are to be given back
        self._releasing = Persistent("giving nodes back", self._release, clock)
        most = engine.shape.nodes
        if scaler is not None and (least := _plan_of(scaler).min_size) > most:
            raise ConfigurationError(
                f"autoscaler: 'min_size' is {least}, and the cluster has room for {most} nodes; "
                "lower it, or raise ClusterShape.nodes"
            )
        for kind in self._orderable:
            if kind.gpus > engine.shape.devices:
                me = f"provisioner: NodeSpec '{kind.node_id}'"
                problem = f"is {kind.gpus}, and a node has at most {engine.shape.devices}"
                raise ValidationError(me, "gpus", problem, "raise ClusterShape.devices")

    @property
    def _orderable(self) -> tuple[NodeSpec, ...]:
        """Kinds of nodes that can be ordered, the usual one first."""
        if isinstance(self.provisioner, Catalogue):
            return self.provisioner.templates
        return () if self.provisioner is None else (self.provisioner.template,)

    # --- nodes come and go -----------------------------------------------------------------------

    def bind(self, join: Callable[[NodeSpec], Awaitable[object]]) -> None:
        """Say how nodes that arrive are registered; one that is refused is given back."""
        if self.provisioner is not None:
            self._arrivals = Inbox[NodeSpec](lambda spec: self._arrive(spec, join), self._clock)
            self.provisioner.bind(self._arrivals.deliver)

    async def _arrive(self, spec: NodeSpec, join: Callable[[NodeSpec], Awaitable[object]]) -> None:
        nodes = self._engine.nodes
        check_message(Register(spec))
        if spec.node_id in nodes.specs and nodes.code(spec.node_id) != NodeCode.DOWN:
            _log.warning("node '%s' was delivered again; it is in service", spec.node_id)
            return
        try:
            await join(spec)
        except SENSELESS as error:  # its room was taken meanwhile, for example
            _log.warning("node '%s' is given back: %s", spec.node_id, error)
            self._ordered_at(spec)
            self.left([spec.node_id])
        else:
            self._account.note_arrival(self._clock.now_ms() - self._ordered_at(spec))

    def _ordered_at(self, spec: NodeSpec) -> int:
        """When a node that has come was ordered: the first open order of its kind; else now.

        One that is too old comes last: it may be lost, and another one have been ordered instead.
        """
        if not self._ordered:
            return self._clock.now_ms()
        old = self._overdue()
        orders = [*itertools.islice(self._ordered, len(old), None), *old]
        alike = (kind for kind in orders if replace(spec, node_id=kind[1].node_id) == kind[1])
        order = next(alike, orders[0])
        self._ordered.remove(order)
        self._given_up = min(self._given_up, len(self._overdue()))
        return order[0]

    @property
    def _on_order(self) -> int:
        """Nodes that the provisioner counts, or that have come and are not registered yet."""
        if self.provisioner is None:
            return 0
        arrived = len(self._arrivals) if self._arrivals is not None else 0
        return self.provisioner.pending + arrived

    def _overdue(self) -> list[tuple[int, NodeSpec]]:
        """Orders that are too old to be waited for."""
        then_ms = self._clock.now_ms() - round(1000 * self._order_age_s)
        return list(itertools.takewhile(lambda order: order[0] < then_ms, self._ordered))

    @property
    def pending(self) -> int:
        """Nodes that are ordered and not registered yet, but for orders that are too old."""
        lost = max(len(self._ordered) - self._on_order, 0)  # the provisioner knows by itself
        return self._on_order - min(max(len(self._overdue()) - lost, 0), self._on_order)

    def _coming(self) -> list[NodeSpec]:
        """The kinds of the nodes on order; of those that were ordered by others: the usual one."""
        known = [kind for _, kind in itertools.islice(self._ordered, len(self._overdue()), None)]
        return (known + [*self._orderable[:1]] * self.pending)[: self.pending]

    def _look_after_orders(self, now_ms: int) -> str:
        """Forget orders that are no longer counted, note unknown ones; what to say of old ones."""
        while len(self._ordered) > self._on_order:
            self._ordered.popleft()  # an order that was lost
            self._given_up = max(self._given_up - 1, 0)
        while len(self._ordered) < self._on_order and self._orderable:
            self._ordered.append((now_ms, self._orderable[0]))  # somebody else's
        old = self._overdue()
        for ordered_ms, kind in old[self._given_up :]:
            _log.warning(
                "a node of kind '%s' was ordered %d s ago and has not come: it is not waited for",
                kind.node_id,
                (now_ms - ordered_ms) // 1000,
            )
        self._given_up = len(old)
        if not old:
            return ""
        return f"; {len(old)} nodes on order for more than {self._order_age_s:g} s do not count"

    @property
    def size(self) -> int:
        """Nodes that are up or on order."""
        return self._engine.nodes.count(NodeCode.UP) + self.pending

    def _up(self) -> list[str]:
        up = NodeCode.UP.value
        return [node_id for node_id, code in self._engine.nodes.codes.items() if code == up]

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

    # --- jobs that come --------------------------------------------------------------------------

    def needs_order(self, spec: JobSpec) -> bool:
        """Whether a job that is to be submitted has to wait for nodes that can be ordered.

        Raises
        ------
        ValidationError
            If there are such, and neither they nor the nodes that there are hold it.
        """
        nodes, jobs = self._engine.nodes, self._engine.jobs
        check_message(Submit(spec))
        if self.provisioner is None:
            return False  # the engine refuses what the nodes that there are will never hold
        try:
            return jobs.needs_order(spec, ())
        except ValidationError:
            pass  # unless others can be ordered
        own = [one for one in nodes.specs.values() if one.node_id not in nodes.rented]
        clusters = []
        for kind in self._orderable:
            cluster = own + [kind] * (self._most_nodes - len(own))
            try:
                check_racks(cluster)
            except ValidationError as error:
                _log.warning("nodes of kind '%s' cannot join: %s", kind.node_id, error)
            else:
                clusters.append(cluster)
        return jobs.needs_order(spec, clusters)

    @property
    def _most_nodes(self) -> int:
        most = self._engine.shape.nodes
        return most if self.scaler is None else min(most, _plan_of(self.scaler).max_size)

    # --- scaling ---------------------------------------------------------------------------------

    async def scale(
        self,
        decommission: Callable[[str], Awaitable[object]],
        resize: Callable[[str, int], Awaitable[object]] | None = None,
    ) -> ScalingDecision:
        """Decide, and carry it out.

        Parameters
        ----------
        decommission : coroutine function
            Drains a node.
        resize : coroutine function or None, optional
            Gives a job another number of workers: a service, those that it had on a node that goes.

        Returns
        -------
        ScalingDecision
            Its reason says where less was done than was decided.
        """
        async with self._lock:
            overdue = self._look_after_orders(self._clock.now_ms())
            order = await self._rehearse()
            now_ms, size = self._clock.now_ms(), self.size
            scaler = self._scaler_for(order)
            cooldown = _horizontal(scaler).cooldown
            changed_ms = cooldown.last_change_ms
            capacity = self._supply(replace(order, nodes=()), scaler).capacity
            supply = self._supply(order, scaler)
            decision = await self._decide(scaler, size, order.demand, supply)
            more = decision.target_nodes - size
            done = 0
            try:
                if more > 0:
                    done = self._order(order, more, now_ms)
                elif more < 0:
                    done = await self._give_up(-more, now_ms, decommission, resize)
            finally:
                if done == 0:  # nothing happened that has to show its effect first
                    cooldown.take_back(changed_ms)
            self._scaled_by = (done if more > 0 else -done) or self._scaled_by
            decision = self._explain(decision, done, abs(more), order)
            decision = self.last = replace(decision, reason=decision.reason + overdue)
            wanted = order.demand + order.beyond
            self._account.note(now_ms, decision, wanted, capacity, done)
            return decision

    # --- a policy that decides instead -----------------------------------------------------------

    def seen(self) -> FleetSeen:
        """What can be done about the number of nodes now, and how they are counted."""
        self._look_after_orders(self._clock.now_ms())
        plan, coming, size = self._usual_plan(), self.pending, self.size
        kind = next((one for one in self._orderable if self._capacity_of(one) > 0.0), None)
        spare = min(self._room, plan.max_size - size) if kind is not None else 0
        surplus = min(len(self._may_go()), size - plan.min_size)
        scaler = self.scaler if self._default is None else self._default[1]
        changed_ms = NO_CHANGE_MS if scaler is None else _horizontal(scaler).cooldown.last_change_ms
        return FleetSeen(
            kind=kind,
            coming=coming if kind is not None else 0,
            spare=max(spare, 0),
            surplus=max(surplus, 0),
            sizing=plan.sizing(_MILLI),
            scaled_ms=changed_ms,
            scaled_by=self._scaled_by,
        )

    async def change(
        self,
        nodes: int,
        decommission: Callable[[str], Awaitable[object]],
        resize: Callable[[str, int], Awaitable[object]],
    ) -> ScalingDecision:
        """Order so many nodes as a policy has decided, or give them up if negative.

        Which kinds, and which nodes, is rehearsed as for :meth:`scale`: where less work fits
        elsewhere fewer are given up, and the decision's reason says so.
        """
        async with self._lock:
            now_ms, size = self._clock.now_ms(), self.size
            order = await self._rehearse()
            scaler = self._scaler_for(order)
            capacity = self._supply(replace(order, nodes=()), scaler).capacity
            if nodes > 0:
                done = self._order(order, nodes, now_ms)
            else:
                done = await self._give_up(-nodes, now_ms, decommission, resize)
            if done > 0:
                _horizontal(scaler).cooldown.record(now_ms)
                self._scaled_by = done if nodes > 0 else -done
            direction = ScalingDirection.UP if nodes > 0 else ScalingDirection.DOWN
            decision = ScalingDecision(direction, size + nodes, BY_POLICY, order.demand, 0.0)
            self.last = self._explain(decision, done, abs(nodes), order)
            self._account.note(now_ms, self.last, order.demand + order.beyond, capacity, done)
            return self.last

    def leave(self) -> ScalingDecision:
        """A policy has decided to leave the number of nodes as it is."""
        demand = demand_of(self._engine).total
        self.last = ScalingDecision(ScalingDirection.NONE, self.size, BY_POLICY, demand, 0.0)
        return self.last

    def _usual_plan(self) -> ScalingPlan:
        """The plan of the scaler, or of the one that there would be, for the usual kind of node."""
        if self.scaler is not None:
            return _plan_of(self.scaler)
        if self._default is not None:
            return self._default[1].plan
        kinds = self._orderable[:1] or tuple(self._engine.nodes.specs[name] for name in self._up())
        capacity = sum(map(self._capacity_of, kinds)) / max(len(kinds), 1)
        return ScalingPlan(capacity or 1.0, max_size=self._engine.shape.nodes)

    def _capacity_of(self, spec: NodeSpec) -> float:
        """Capacity of a node as the cluster counts it: GPUs, or cores where there are none."""
        by_gpu = self._engine.row["unit"] != 0 or not self._engine.nodes.specs
        return float(spec.gpus or spec.cpu_cores) if by_gpu else float(spec.cpu_cores)

    async def _rehearse(self) -> Order:
        """What it takes to let in who waits."""
        rehearsal = Rehearsal(self._engine, self._clock.now_ms(), self._rule())
        rehearsal.place_all()
        rehearsal.add(self._coming())
        kinds: Sequence[NodeSpec] = self._orderable
        if self.provisioner is None:  # advice: more of those that there are
            nodes = self._engine.nodes.specs.values()
            alike = {replace(node, node_id="any", available=True): node for node in nodes}
            kinds = list(alike)
        room = min(self._room, self._most_nodes - self.size)
        return await asyncio.to_thread(rehearsal.order, kinds, room)  # it may take a second

    @property
    def _room(self) -> int:
        """Nodes for which the tables have room."""
        return self._engine.shape.nodes - len(self._engine.nodes.specs) - self.pending

    def _supply(self, order: Order, scaler: FleetScaler) -> Supply:
        """What the nodes serve that are up, on order, or to be ordered, as the plan counts.

        A plan may count less than all that a node has; other kinds count in proportion.
        """
        up = [self._engine.nodes.specs[node_id] for node_id in self._up()]
        nodes = [*up, *self._coming(), *order.nodes]
        usual = self._usual_capacity(order)
        units = sum(order.of_node(spec) for spec in nodes) / usual if usual > 0.0 else len(nodes)
        return Supply(len(nodes), _plan_of(scaler).unit_capacity * units)

    def _usual_capacity(self, order: Order) -> float:
        """Capacity of the node that a plan has in mind: of the usual kind, or of those up."""
        if (usual := self._usual(order)) is not None:
            return order.of_node(usual)
        specs = [self._engine.nodes.specs[name] for name in self._up()]
        return sum(order.of_node(spec) for spec in specs) / max(len(specs), 1)

    def _usual(self, order: Order) -> NodeSpec | None:
        """The kind to order for what is to come: the first one that adds to what demand is of."""
        return next((kind for kind in self._orderable if order.of_node(kind) > 0.0), None)

    async def _decide(
        self, scaler: FleetScaler, size: int, demand: float, supply: Supply
    ) -> ScalingDecision:
        now_ms = self._clock.now_ms()
        if isinstance(scaler, HorizontalScaler):
            return scaler.decide(now_ms, size, demand, supply=supply)
        scaler.observe(demand)
        if scaler.refit_due():
            await asyncio.to_thread(scaler.refit)  # a fit may take seconds
        return scaler.decide(now_ms, size, supply)

    def _scaler_for(self, order: Order) -> FleetScaler:
        if self.scaler is not None:
            return self.scaler
        if self._default is None or self._default[0] != order.unit:
            capacity = self._usual_capacity(order)
            plan = ScalingPlan(capacity or 1.0, max_size=self._engine.shape.nodes)
            scaler = HorizontalScaler(plan)
            if self._default is not None:
                scaler.cooldown.take_back(self._default[1].cooldown.last_change_ms)
            self._default = order.unit, scaler
        return self._default[1]

    def _order(self, order: Order, count: int, now_ms: int) -> int:
        """Order what lets somebody in, and more of it beyond, while there is room; how many."""
        if self.provisioner is None:
            return 0
        count, usual = min(count, max(self._room, 0)), self._usual(order)
        spare = [] if usual is None else [usual] * (count - len(order.nodes))
        kinds = Counter([*order.nodes, *spare][:count])
        for kind, number in kinds.items():
            if isinstance(self.provisioner, Catalogue) and kind != self.provisioner.template:
                self.provisioner.order(number, kind)
            else:
                self.provisioner.order(number)
            self._ordered.extend([(now_ms, kind)] * number)
        return kinds.total()

    async def _give_up(
        self,
        count: int,
        now_ms: int,
        decommission: Callable[[str], Awaitable[object]],
        resize: Callable[[str, int], Awaitable[object]] | None,
    ) -> int:
        """Drain nodes that were ordered, and whose work fits elsewhere; how many."""
        if self.provisioner is None:
            return 0
        rehearsal = Rehearsal(self._engine, now_ms, self._rule())
        leaving = rehearsal.give_up(count, self._may_go(), self._coming())
        for node_id in leaving:
            replicas = self._engine.jobs.services_on(node_id)
            await decommission(node_id)
            for job_id, workers in replicas.items():
                if resize is not None and len(self._engine.workers_of(job_id)) > 0:
                    await resize(job_id, workers)
        return len(leaving)

    def _may_go(self) -> list[str]:
        """Nodes that were ordered; while others are on order, those of them that have no work."""
        if self.provisioner is None:
            return []
        nodes = self._engine.nodes
        rented = [node_id for node_id in self._up() if node_id in nodes.rented]
        if self._coming():  # a fleet that grows moves no work to be smaller
            workers = self._engine.state.node[0]["workers"]
            rented = [name for name in rented if workers[nodes.index.find(name)] == 0]
        return rented

    def status(self) -> dict[str, Any]:
        """What was decided last, as plain data, and what is on its way, or should be."""
        last = self.last
        return {
            "size": self.size,
            "pending": self.pending,
            "overdue": [
                {"kind": kind.node_id, "ordered_ms": ordered_ms}
                for ordered_ms, kind in self._overdue()[: self._on_order]
            ],
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

    def _explain(
        self, decision: ScalingDecision, done: int, wanted: int, order: Order
    ) -> ScalingDecision:
        """Say where less was done than was decided, and whom no decision can help."""
        reason = decision.reason
        if done < wanted:
            why = "there is no room for more nodes"
            if self.provisioner is None:
                why = "there is no provisioner"
            elif decision.direction == ScalingDirection.DOWN:
                why = "the others were not ordered, or hold work that fits nowhere else"
            reason += f"; {done} of {wanted} nodes: {why}"
        if order.left > 0:
            reason += f"; nodes as may be ordered do not let in {order.left} of those that wait"
        return replace(decision, reason=reason)


def _horizontal(scaler: FleetScaler) -> HorizontalScaler:
    return scaler if isinstance(scaler, HorizontalScaler) else scaler.horizontal


def _plan_of(scaler: FleetScaler) -> ScalingPlan:
    return _horizontal(scaler).plan
