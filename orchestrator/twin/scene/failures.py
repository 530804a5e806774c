"""Failures of nodes in futures: as often as each has failed, and as long as repairs have taken.

Nodes are not alike: a few have most of the failures. Each one's rate is that of the cluster, moved
towards what it has shown itself (Gamma's conjugate to Poisson's law), so that a node of which
little is known fails as all do. How long repairs take is estimated as run times are, outages that
last included. A cluster that has failed too little to tell does not fail in its futures.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.engine.engine import Engine
from orchestrator.engine.history import MOST_OUTAGES
from orchestrator.kernels.state.codes import EventKind, NodeCode
from orchestrator.kernels.state.records import INCIDENT_DTYPE
from orchestrator.twin.runtimes import Survival, survival_of
from orchestrator.twin.scene.lots import Purpose, draw_lots

__all__ = ["FailurePast", "Failures"]


_LEAST = 3  # failures that tell anything
_FRAILTY = 2.5  # failures that a node's own count as much as all others': how unlike nodes are
_MOST_EACH = 32  # failures of one node in one future


@dataclass(frozen=True)
class Failures:
    """How the nodes of a table fail; N rows.

    Parameters
    ----------
    rates : float64 [N]
        Failures in an hour in which it is up; 0: nobody is there.
    down_h : float64 [N]
        How long each has been down, h; below 0: it is not, or nobody knows since when.
    repairs : Survival
        How long repairs take, h.
    """

    rates: NDArray[np.float64]
    down_h: NDArray[np.float64]
    repairs: Survival

    def draw(self, seed: int, future: int, horizon_ms: int) -> NDArray[np.void]:
        """What happens to nodes in a future: INCIDENT_DTYPE by time, counted from now.

        What is drawn for a node depends on seed, future and row alone.
        """
        horizon_h, count = horizon_ms / 3.6e6, len(self.rates)
        expected = float(self.rates.max(initial=0.0)) * horizon_h
        each = min(int(np.ceil(expected + 4.0 * np.sqrt(expected))) + 1, _MOST_EACH)
        numbers = np.arange(count)[:, None] * (_MOST_EACH + 1) + np.arange(each + 1)
        gaps, luck = (
            draw_lots(seed, purpose, range(future, future + 1), numbers.ravel()).reshape(count, -1)
            for purpose in (Purpose.FAILURE, Purpose.REPAIR)
        )
        now_h, found = np.zeros(count), list[tuple[NDArray[np.float64], int, NDArray[np.int64]]]()
        for n in np.flatnonzero(self.down_h >= 0).tolist():
            done = float(self.down_h[n])
            now_h[n] = float(self.repairs.draw(done, luck[n, :1])[0]) - done
        back = np.flatnonzero(self.down_h >= 0)
        found.append((now_h[back], int(EventKind.NODE_RECOVERY), back))
        alive = np.flatnonzero(self.rates > 0)
        for k in range(1, each + 1):
            now_h[alive] -= np.log(gaps[alive, k]) / self.rates[alive]
            alive = alive[now_h[alive] < horizon_h]
            found.append((now_h[alive].copy(), int(EventKind.NODE_FAILURE), alive))
            now_h[alive] += self.repairs.draw(0.0, luck[alive, k])
            found.append((now_h[alive].copy(), int(EventKind.NODE_RECOVERY), alive))
        return _incidents(found)


def _incidents(
    found: list[tuple[NDArray[np.float64], int, NDArray[np.int64]]],
) -> NDArray[np.void]:
    made = np.zeros(sum(len(nodes) for _, _, nodes in found), INCIDENT_DTYPE)
    made["time_ms"] = np.rint(np.concatenate([times for times, _, _ in found]) * 3.6e6)
    made["kind"] = np.concatenate([np.full(len(nodes), kind) for _, kind, nodes in found])
    made["node"] = np.concatenate([nodes for _, _, nodes in found])
    in_order: NDArray[np.void] = made[np.argsort(made["time_ms"], kind="stable")]
    return in_order


class FailurePast:
    """Which nodes of a cluster have failed, and for how long.

    Parameters
    ----------
    engine : Engine
        The cluster.

    Attributes
    ----------
    failures, repaired : int
        That are known, and those that are over.
    """

    def __init__(self, engine: Engine) -> None:
        row, now_ms = engine.state.rows[0], engine.now_ms
        self._now_ms = now_ms
        known, since_ms = engine.nodes.outages.image(), int(row["begin_ms"])
        if len(known) >= MOST_OUTAGES:  # those of before are forgotten
            since_ms = min(since for _, since, _ in known)
        self._hours = max(now_ms - since_ms, 0) / 3.6e6
        here = engine.nodes.specs
        self._count = Counter(name for name, _, _ in known if name in here)
        ended = np.array([until >= 0 for _, _, until in known], np.bool_)
        lasted = [(until if until >= 0 else now_ms) - since for _, since, until in known]
        self.failures, self.repaired = len(known), int(ended.sum())
        self._repairs = survival_of(np.array(lasted, np.float64) / 3.6e6, ended)
        away = Counter[str]()
        for (name, _, _), ms in zip(known, lasted, strict=True):
            away[name] += ms
        self._up_h = {name: max(self._hours - away[name] / 3.6e6, 1e-3) for name in here}

    @property
    def tells(self) -> bool:
        """Whether it is enough to say how the cluster fails, and how long repairs take."""
        return self.failures >= _LEAST and self.repaired > 0 and self._hours > 0

    def on(self, engine: Engine) -> Failures:
        """How the nodes of a cluster fail that is this one, or has become of it."""
        nodes = engine.nodes
        count = int(engine.state.shape.nodes)
        rates, down_h = np.zeros(count), np.full(count, -1.0)
        mean = self.failures / max(sum(self._up_h.values()), 1e-3)
        since_ms = {name: since for name, since, until in nodes.outages.image() if until < 0}
        for name in nodes.specs:
            n, code = nodes.index.find(name), nodes.code(name)
            if code == NodeCode.DOWN and name in since_ms:
                down_h[n] = (self._now_ms - since_ms[name]) / 3.6e6
            if code == NodeCode.UP or down_h[n] >= 0:
                own = _FRAILTY + self._count[name]
                rates[n] = own / (_FRAILTY / mean + self._up_h.get(name, 0.0))
        return Failures(rates, down_h, self._repairs)
