"""The sets that surround the jobs as a policy sees them, in plain Python: twins of the encoders."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.requests.breaker import BreakerMode
from orchestrator.kernels.state.codes import NodeCode
from tests.envs.naive_features import Rows
from tests.envs.naive_scaling import ScalingView

__all__ = ["FullView"]

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
