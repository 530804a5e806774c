"""Features of services, fleet, tenants and racks, and how they are scaled, in plain Python.

The tables are read and everything is worked out anew: what is in use from who runs where, rates
from the scenario's series. Rates are requests per second.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from envs import Scenario
from orchestrator.kernels.requests.breaker import BreakerMode
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
from tests.naive.cluster import plain
from tests.naive.features import NaiveView, Played, Rows, _slots

__all__ = ["FullView", "ScalingView"]


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


_DAY_S = 86_400


_PAID = (NodeCode.UP, NodeCode.DRAINING, NodeCode.PROVISIONING)


def _log_s(ms: float) -> float:
    return 0.1 * math.log(1 + max(ms, 0) / 1000)


class FullView(ScalingView):
    """A row at its decision point, with all that surrounds its jobs."""

    # --- the sets -------------------------------------------------------------------------------

    def service_features(self) -> Rows:
        return [self._service(s) for s in range(len(self.services))]

    def _service(self, s: int) -> list[float]:
        own, now = self.services[s], self.size(s)
        ask, rate = self.asks[own.job], float(own.rate_rps)
        shut = (
            0.0
            if own.sick == 0
            else {BreakerMode.CLOSED: 0.0, BreakerMode.OPEN: 1.0}.get(own.breaker_mode, 0.5)
        )
        return [
            0.1 * math.log(1 + rate),
            self.use(s, rate, own.ready),
            self.use(s, self.ahead(s), now),
            self.use(s, self.highest_rate(s), now - 1),
            self.use(s, self.highest_rate(s), now + 1),
            max(now - own.ready, 0) / max(now, 1),
            0.2 * math.log(1 + now),
            (now - ask.min_workers) / ask.max_workers,
            (ask.max_workers - now) / ask.max_workers,
            0.5 * math.log(1 + own.latency_ms / own.objective_ms),
            0.1 * math.log(1 + own.backlog),
            own.missed_share,
            shut,
            _log_s(self.now - max(own.scaled_ms, self.begun_ms())),
            self.jobs[own.job].units / self.row.nominal_units,
        ]

    def deltas(self) -> list[int]:
        steps = range(1, self.config.capacity_steps + 1)
        return [-k for k in steps] + list(steps)

    def capacity_features(self) -> Rows:
        held, waiting = self.held_by_jobs(), self.waiting_units()
        fleet, unit = self.fleet(), self.plans[0].unit_capacity
        prices = [node.price_milli for node in self.nodes]
        rows = []
        for delta in self.deltas():
            capacity = max((fleet + delta) * unit, 1)
            cost = self.cost() + delta * sum(prices) / len(prices)
            rows.append(
                [
                    delta / max(fleet, 1),
                    min(held / capacity, 4),
                    min((held + waiting) / capacity, 4),
                    self.busiest(),
                    self.on_order() / max(fleet, 1),
                    cost / max(sum(prices), 1),
                    _log_s(self.now - max(self.row.scaled_ms, self.begun_ms())),
                ]
            )
        return rows

    def cost(self) -> int:
        return sum(self.nodes[n].price_milli for n in self.in_state(*_PAID))

    def shares(self, t: int) -> tuple[float, float]:
        """(dominant share, share that it is entitled to)."""
        held = {"gpu": 0, "cpu": 0, "memory": 0}
        for j in self.running:
            if self.asks[j].tenant == t:
                ask, workers = self.asks[j], self.jobs[j].workers_now
                held["gpu"] += workers * ask.gpus_per_worker * ask.gpu_milli
                held["cpu"] += workers * ask.cpu_milli
                held["memory"] += workers * ask.memory_mib
        there = {
            "gpu": sum(1000 * node.gpus for node in self.nodes),
            "cpu": sum(node.cpu_cap_milli for node in self.nodes),
            "memory": sum(node.memory_cap_mib for node in self.nodes),
        }
        share = max(held[kind] / there[kind] for kind in held if there[kind] > 0)
        own = self.tenants[t]
        if own.quota_units > 0:
            return share, own.quota_units / self.row.nominal_units
        weights = [tenant.weight or 1.0 for tenant in self.tenants]
        return share, weights[t] / sum(weights)

    def tenant_features(self) -> Rows:
        rows = []
        for t in range(min(len(self.tenants), self.config.tenants)):
            share, entitled = self.shares(t)
            waiting = sum(self.jobs[j].units for j in self.queue if self.asks[j].tenant == t)
            elapsed = max(self.row.capacity_unit_ms, 1)
            rows.append(
                [
                    share,
                    entitled,
                    share - entitled,
                    min(waiting / self.row.nominal_units, 4),
                    self.tenants[t].attained_unit_ms / elapsed,
                ]
            )
        return rows

    def rack_features(self) -> Rows:
        return [self._rack(r) for r in range(self.config.racks)]

    def _rack(self, r: int) -> list[float]:
        here = [x for x in self.nodes if x.rack == r and x.state != NodeCode.ABSENT]
        up = [x for x in here if x.state == NodeCode.UP]
        if not here:
            return [0.0] * 6
        gpus = max(sum(x.gpus for x in here), 1)
        capacity = sum(1000 * x.gpus if self.row.unit else x.cpu_cap_milli for x in up)
        free = sum(x.gpu_free_milli if self.row.unit else x.cpu_free_milli for x in up)
        return [
            len(up) / len(here),
            free / max(capacity, 1),
            sum(x.whole_free for x in up) / gpus,
            max((x.whole_free for x in up), default=0) / max([1] + [x.gpus for x in here]),
            0.5 * math.log(1 + max(x.failures for x in here)),
            sum(x.fragmentation for x in up) / (1000 * gpus),
        ]

    def fleet_features(self) -> list[float]:
        seconds = self.now / 1000
        if self.services:  # the time of day of their series, which begins at midnight
            tick_s = self.row.tick_ms / 1000
            since = (self.now - self.row.next_tick_ms) / 1000 + tick_s
            seconds += self.tick_ahead() * tick_s + since - self.now / 1000
        day, week = (2 * math.pi * seconds / (d * _DAY_S) for d in (1, 7))
        prices = sum(node.price_milli for node in self.nodes)
        wasted = sum(self.nodes[n].fragmentation for n in self.in_state(NodeCode.UP))
        excess = [share - due for share, due in map(self.shares, range(len(self.tenants)))]
        missed = [own.missed_share for own in self.services]
        return [
            math.sin(day),
            math.cos(day),
            math.sin(week),
            math.cos(week),
            self.capacity_now() / self.row.nominal_units,
            self.on_order() / len(self.nodes),
            len(self.in_state(NodeCode.DOWN)) / len(self.nodes),
            self.cost() / max(prices, 1),
            min(wasted / max(self.free_now(), 1), 4),
            self.busiest(),
            sum(missed) / max(len(missed), 1),
            max([0.0, *excess]),
        ]

    # --- masks ----------------------------------------------------------------------------------

    def scaling_mask(self) -> list[bool]:
        """scale_in, scale_out, fewer_replicas, more_replicas."""
        if self.row.done:
            return [False] * (2 * self.config.capacity_steps + 2 * self.config.services)
        shown = range(self.config.services)
        fewer = [self.may_resize(s, self.size(s) - 1) for s in shown]
        more = [
            self.may_resize(s, self.size(s) + 1) and self.room(self.services[s].job, 1) == 1
            for s in shown
        ]
        orders = [self.may_order(delta) for delta in self.deltas()]
        return orders + fewer + more

    def surroundings(self) -> dict[str, NDArray[Any]]:
        """The sets and the end of the global vector, padded with zeros."""
        config, seen = self.config, {}
        for name, size, rows in (
            ("services", config.services, self.service_features),
            ("capacity", 2 * config.capacity_steps, self.capacity_features),
            ("tenants", config.tenants, self.tenant_features),
            ("racks", config.racks, self.rack_features),
        ):
            if size > 0:
                found = rows()
                seen[name] = np.zeros((size, len(found[0])))
                seen[name][: len(found)] = found
        if config.fleet:
            seen["fleet"] = np.array(self.fleet_features())
        return seen
