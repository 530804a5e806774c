"""Changes of nodes and replicas in plain Python: what may be changed, and what a rule changes.

The tables are read and everything is worked out anew: what is in use from who runs where, rates
from the scenario's series. Rates are requests per second.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Protocol

from envs import Scenario
from orchestrator.kernels.state.codes import (
    NO_CHANGE_MS,
    NO_JOB,
    ActionKind,
    JobCode,
    JobKind,
    NodeCode,
    QuotaMode,
    Scaling,
)
from tests.envs.naive_features import NaiveView, Played, _slots
from tests.twins.naive_state import plain

__all__ = ["ScalingView"]


class PlayedScenario(Played, Protocol):
    """The same in a scenario."""

    @property
    def scenario(self) -> Scenario: ...


class Rates:
    """The forecast of a scenario, by service and tick."""

    def __init__(self, session: PlayedScenario) -> None:
        mix = session.scenario.services
        self.forecast = None if mix is None else mix.forecast

    def ahead(self, s: int, tick: int) -> float | None:
        """Rate to prepare for in a tick; None if nobody knows."""
        if self.forecast is None or not 0 <= tick < self.forecast.shape[1]:
            return None
        return float(self.forecast[s, tick])


class ScalingView(NaiveView):
    """A row at its decision point, with its services and its fleet."""

    def __init__(self, session: PlayedScenario, e: int) -> None:
        super().__init__(session, e)
        state, row = session.state, self.row
        self.services = [plain(record) for record in state.service[e, : row.num_services]]
        self.tenants = [plain(record) for record in state.tenant[e, : row.num_tenants]]
        self.plans = [plain(record) for record in state.plan[e, : row.num_services + 1]]
        self.rates = Rates(session)

    # --- who is where ---------------------------------------------------------------------------

    def size(self, s: int) -> int:
        return int(self.jobs[self.services[s].job].workers_now)

    def units(self, j: int, workers: int) -> int:
        ask = self.asks[j]
        each = ask.gpus_per_worker * ask.gpu_milli if self.row.unit else ask.cpu_milli
        return int(workers * each)

    def node_units(self, n: int) -> int:
        node = self.nodes[n]
        return int(1000 * node.gpus if self.row.unit else node.cpu_cap_milli)

    def in_state(self, *states: NodeCode) -> list[int]:
        return [n for n, node in enumerate(self.nodes) if node.state in states]

    def held_on(self, n: int) -> list[int]:
        """Jobs with workers on a node, each as often as it has some there."""
        spots = self.session.state.worker[self.e]
        return [
            j for j in self.running for w in spots[j, : self.jobs[j].workers_now] if w["node"] == n
        ]

    def capacity_now(self) -> int:
        return sum(self.node_units(n) for n in self.in_state(NodeCode.UP))

    def free_now(self) -> int:
        used = sum(self.units(j, 1) for n in self.in_state(NodeCode.UP) for j in self.held_on(n))
        return self.capacity_now() - used

    def fleet(self) -> int:
        return len(self.in_state(NodeCode.UP, NodeCode.PROVISIONING))

    def on_order(self) -> int:
        return len(self.in_state(NodeCode.PROVISIONING))

    def held_units(self, t: int) -> int:
        return sum(self.jobs[j].units for j in self.running if self.asks[j].tenant == t)

    # --- time -----------------------------------------------------------------------------------

    def tick_ahead(self) -> int:
        """The tick of the series that is about to begin, or under way."""
        return int(self.row.series_first + self.row.tick)

    def begun_ms(self) -> int:
        return int(self.asks[0].submit_ms)

    def pending(self) -> bool:
        """Whether anything is left to happen that is waited for."""
        row = self.row
        others = [j for j in self.running if self.asks[j].kind != JobKind.SERVICE]
        waiting = [j for j in self.queue if self.asks[j].kind != JobKind.SERVICE]
        to_come = row.next_arrival < row.num_jobs
        ticks_left = row.tick_ms > 0 and self.tick_ahead() < row.series_stop
        if row.tick_ms > 0 and not (to_come or others or waiting):
            return ticks_left and row.num_jobs == row.num_services
        due = row.next_incident < row.num_incidents or self.on_order() > 0
        saving = any(self.jobs[j].state == JobCode.CHECKPOINTING for j in self.running)
        return bool(to_come or others or saving or due or ticks_left)

    def stuck(self) -> bool:
        waits = [j for j in self.queue if self.asks[j].kind != JobKind.SERVICE]
        return bool(waits) and not self.pending()

    # --- what may be changed --------------------------------------------------------------------

    def in_window(self, k: int, more: int, last_ms: int, last_by: int) -> bool:
        """Whether a change in this direction may be made now, as far as time goes."""
        if not self.row.scaling_open:
            return False
        since = self.now - last_ms
        if since == 0:
            return (more > 0) == (last_by > 0)
        plan = self.plans[k]
        return bool(since >= (plan.up_window_ms if more > 0 else plan.down_window_ms))

    def may_resize(self, s: int, replicas: int) -> bool:
        """Whether a service may have so many replicas, room for more left out of account."""
        own, now = self.services[s], self.size(s)
        ask, job, more = self.asks[own.job], self.jobs[own.job], replicas - now
        if not self.in_window(s + 1, more, own.scaled_ms, own.scaled_by):
            return False
        if job.state != JobCode.RUNNING or more == 0:
            return False
        if not ask.min_workers <= replicas <= min(ask.max_workers, self.row.max_workers):
            return False
        if more > 0 and self.units(own.job, more) > self.free_now():
            return False
        return more <= self.quota_left(own.job, more)

    def quota_left(self, j: int, more: int) -> int:
        t = self.asks[j].tenant
        if self.row.quota_mode != QuotaMode.HARD or t >= len(self.tenants):
            return more
        left = self.tenants[t].quota_units - self.held_units(t)
        return max(k for k in range(more + 1) if k == 0 or self.units(j, k) <= left)

    def room(self, j: int, most: int) -> int:
        """Workers, at most so many, that a running job without ties finds a place for."""
        ask = SimpleNamespace(**{**vars(self.asks[j]), "workers": most})
        return min(most, sum(_slots(ask, host) for host in self._hosts()))

    def may_order(self, delta: int) -> bool:
        """Whether nodes may be ordered or given up."""
        row = self.row
        free_to_order = delta > 0 and self.stuck()
        if not free_to_order and not self.in_window(0, delta, row.scaled_ms, row.scaled_by):
            return False
        fleet = self.fleet() + delta
        if delta > 0:
            most = row.max_nodes or len(self.nodes)
            return fleet <= most and len(self.in_state(NodeCode.ABSENT)) >= delta
        spare = self.on_order() + sum(self.may_empty(n) for n in self.in_state(NodeCode.UP))
        return bool(delta < 0 and fleet >= row.min_nodes and spare >= -delta)

    def may_empty(self, n: int) -> bool:
        return all(
            self.asks[j].preemptible or self.jobs[j].state == JobCode.CHECKPOINTING
            for j in self.held_on(n)
        )

    def held_by_jobs(self) -> int:
        """Capacity that jobs hold, on nodes that are leaving, too."""
        return sum(self.units(j, self.jobs[j].workers_now) for j in self.running)

    def waiting_units(self) -> int:
        return sum(self.units(j, self.asks[j].workers) for j in self.queue)

    # --- demand ---------------------------------------------------------------------------------

    def use(self, s: int, rate: float, replicas: float) -> float:
        own = self.services[s]
        capacity = replicas * own.slots * 1000 / own.service_ms
        if capacity <= 0:
            return 4.0 if rate > 0 else 0.0
        return min(rate / capacity, 4.0)

    def ahead(self, s: int) -> float:
        known = self.rates.ahead(s, self.tick_ahead())
        return float(self.services[s].rate_rps) if known is None else known

    def highest_rate(self, s: int) -> float:
        return max(float(self.services[s].rate_rps), self.ahead(s))

    def busiest(self) -> float:
        uses = [self.use(s, self.highest_rate(s), self.size(s)) for s in range(len(self.services))]
        return max(uses, default=0.0)

    # --- what a rule does -----------------------------------------------------------------------

    def wanted(self, k: int, size: int, demand: float, scaled_ms: int) -> int:
        """Size by a plan: enough for the demand at the target, in no hurry."""
        plan = self.plans[k]
        if not plan.min_size <= size <= plan.max_size:
            return int(min(max(size, plan.min_size), plan.max_size))
        enough = [
            n
            for n in range(plan.min_size, plan.max_size)
            if demand * (1 - 1e-9) <= n * plan.unit_capacity * plan.target
        ]
        wanted = min(enough, default=plan.max_size)
        short = demand > size * plan.unit_capacity
        if not short and abs(wanted - size) <= plan.tolerance * size:
            return size
        window = plan.up_window_ms if wanted > size else plan.down_window_ms
        last = NO_CHANGE_MS if scaled_ms == self.now else scaled_ms
        return size if self.now - last < window else wanted

    def service_target(self, s: int, mode: Scaling) -> int:
        """Replicas that a rule gives a service now."""
        own, now = self.services[s], self.size(s)
        if self.jobs[own.job].state != JobCode.RUNNING:
            return now
        rate = self.highest_rate(s) if mode == Scaling.PREDICTIVE else float(own.rate_rps)
        target = self.wanted(s + 1, now, rate, own.scaled_ms)
        if target < now:
            return target if self.may_resize(s, target) else now
        room = self.room(own.job, target - now) if target > now else 0
        return max([now] + [now + k for k in range(1, room + 1) if self.may_resize(s, now + k)])

    def fleet_target(self) -> int:
        """Nodes that a rule orders now, or gives up."""
        size, demand = self.fleet(), float(self.held_by_jobs() + self.waiting_units())
        delta = self.wanted(0, size, demand, self.row.scaled_ms) - size
        if delta <= 0 and self.stuck():
            delta = 1
        between = range(1, abs(delta) + 1)
        sign = 1 if delta > 0 else -1
        return sign * max([0] + [k for k in between if self.may_order(sign * k)])

    def scaling_action(self, mode: Scaling) -> tuple[int, int, int]:
        """What a rule changes first: (kind, service, replicas or nodes)."""
        by_itself = self.row.autoscale != Scaling.NONE
        if self.row.scaling_open:
            for s in range(len(self.services) if by_itself else self.row.services):
                target = self.service_target(s, mode)
                if target != self.size(s):
                    return ActionKind.SERVICE, s, target
        sized = self.plans[0].unit_capacity > 0 and (by_itself or self.row.capacity_steps > 0)
        if sized and (self.row.scaling_open or self.stuck()):
            delta = self.fleet_target()
            if delta != 0:
                return ActionKind.CAPACITY, NO_JOB, delta
        return ActionKind.WAIT, NO_JOB, 0
