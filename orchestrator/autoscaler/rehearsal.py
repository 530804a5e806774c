"""Decisions about capacity are rehearsed: tried on a copy of the cluster.

Sums of GPUs say neither that five jobs of 5 GPUs take five nodes of 8, nor that a job waits for its
tenant's quota and not for nodes. On a copy everything counts that counts in the cluster: quotas,
GPU models, memory, cores, bandwidth, domains, gangs. Jobs are placed in the order and by the
generator of the rule that is in charge, and nobody is preempted; what a job would like beyond the
workers that it asked for does not count.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from orchestrator.engine.engine import Engine
from orchestrator.engine.records import SHAPE_FIELDS, node_records
from orchestrator.kernels.change import events as live
from orchestrator.kernels.change.nodes import give_up_nodes
from orchestrator.kernels.run import rows as kernels
from orchestrator.kernels.state.codes import (
    NO_JOB,
    ActionKind,
    EventKind,
    JobCode,
    JobKind,
    NodeCode,
    Reason,
)
from orchestrator.kernels.state.records import NODE_DTYPE
from orchestrator.kernels.state.row import allocate
from orchestrator.scheduling.rules import Rule
from orchestrator.types import NodeSpec

__all__ = ["Order", "Rehearsal", "most_workers"]


_WAIT_FOR_NODES = (Reason.NO_CAPACITY, Reason.FRAGMENTED, Reason.TOPOLOGY, Reason.BANDWIDTH)


_MOST_TRIES = 64  # nodes whose work turns out not to fit elsewhere, at one decision


_Cost: TypeAlias = tuple[int, float, float, float, int]


@dataclass(frozen=True)
class Order:
    """Nodes that let in what waits.

    Parameters
    ----------
    nodes : tuple of NodeSpec
        Templates, one for each node, those first that are needed by whom is served first.
    demand : float
        What jobs hold, and what those hold in the end that wait now and can be let in; of an
        elastic job no more workers than it asked for.
    beyond : float
        What those ask for besides who wait on: not even as many nodes as there may be let them in.
    unit : str
        Of the demand: ``"gpu"``, or ``"cpu"`` where no node has GPUs, nor any that can be ordered.
    left : int
        How many wait on.
    """

    nodes: tuple[NodeSpec, ...]
    demand: float
    beyond: float
    unit: str
    left: int

    def of_node(self, spec: NodeSpec) -> float:
        """Capacity of a node, in the same unit."""
        return float(spec.gpus if self.unit == "gpu" else spec.cpu_cores)


def most_workers(engine: Engine, time_ms: int, job_id: str, wanted: int) -> int:
    """The largest size, up to the one that is wanted, to which a running job can grow now."""
    j = engine.jobs.index.find(job_id)
    state = engine.state_at(max(time_ms, engine.now_ms))
    nodes, kind = np.empty(engine.shape.workers, np.int32), int(ActionKind.RESIZE)
    now = int(state.job[0, j]["workers_now"])
    for workers in range(wanted, now, -1):
        if kernels.commit(state.rows, 0, kind, j, workers, nodes) == Reason.OK:
            return workers
    return now


class Rehearsal:
    """A copy of a cluster, in which time stands still.

    Jobs that are being saved have left their places and wait, and nodes that drain have gone.

    Parameters
    ----------
    engine : Engine
        The cluster; it is not touched.
    time_ms : int
        Now.
    rule : Rule
        Who is served first, how gangs are placed, and whether elastic jobs give back what they have
        beyond what they asked for.
    """

    def __init__(self, engine: Engine, time_ms: int, rule: Rule) -> None:
        self._engine = engine
        self._rule = rule
        self._models = list(engine.nodes.models)
        self._records: dict[NodeSpec, NDArray[np.void]] = {}  # of kinds that have joined
        self._withdrawn: list[int] = []  # rows of nodes that have joined, and left again
        self._scratch = np.empty(engine.shape.workers, np.int32)
        self.state = engine.state_at(max(time_ms, engine.now_ms))
        # Nobody is waited for here, and what ran too short a time may change its size all the same.
        rules = replace(engine.semantics, min_run_seconds=0.0, resize_lock_seconds=0.0)
        replace(rules, commitment=False).write(self.state.rows)
        self.state.rows["committed"] = NO_JOB
        self._finish_saves()
        if rule.elastic:
            self._take_back()

    def fork(self) -> Rehearsal:
        """Another copy, as it is now."""
        other = object.__new__(Rehearsal)
        other._engine, other._rule = self._engine, self._rule
        other._scratch, other._records = self._scratch, self._records
        other.state = allocate(self.state.shape)
        other.become(self)
        return other

    def become(self, other: Rehearsal) -> None:
        """Go on from where another one is."""
        self._models, self._withdrawn = list(other._models), list(other._withdrawn)
        kernels.copy_row(other.state.rows, 0, self.state.rows, 0)

    # --- jobs ------------------------------------------------------------------------------------

    def waiting(self) -> list[int]:
        """Rows of the jobs that wait, in the order in which the rule serves them."""
        rows: Any = self.state.rows
        jobs = [int(j) for j in self.state.queue[0, : rows[0]["queue_len"]]["job"]]
        scores = [kernels.job_score(rows, 0, j, int(self._rule.key)) for j in jobs]
        return [jobs[q] for q in np.argsort(scores, kind="stable")]

    def place(self, j: int) -> Reason:
        """Start a waiting job where the rule would, or say why not."""
        place, generator = int(ActionKind.PLACE), int(self._rule.placement)
        return self._commit(place, j, generator)

    def place_all(self, kinds: Sequence[NodeSpec] = ()) -> list[int]:
        """Start who fits, in order; who waits on for nodes, and not for a quota for example.

        Where no node has GPUs quotas are counted in cores; nodes with GPUs of ``kinds``, which can
        be ordered, would change that for who asks for some.
        """
        return [j for j in self.waiting() if self._lacks_nodes(j, kinds)]

    def _lacks_nodes(self, j: int, kinds: Sequence[NodeSpec]) -> bool:
        """Start a job if it fits; otherwise, whether it is nodes that it waits for."""
        reason = self.place(j)
        if reason == Reason.QUOTA and self.state.rows[0]["unit"] == 0:
            asks_gpus = self.state.request[0, j]["gpus_per_worker"] > 0
            return bool(asks_gpus) and any(kind.gpus > 0 for kind in kinds)
        return reason in _WAIT_FOR_NODES

    def resize(self, j: int, workers: int) -> Reason:
        """Give a running job another number of workers, or say why not."""
        return self._commit(int(ActionKind.RESIZE), j, workers)

    def _workers(self, j: int) -> int:
        return int(self.state.job[0, j]["workers_now"])

    def _needs(self, j: int) -> int:
        """Workers that a running job has, but for those that it only would like to have."""
        ask: Any = self.state.request[0, j]
        if ask["elastic"] and not self._is_service(j):
            return min(self._workers(j), int(ask["workers"]))
        return self._workers(j)

    def _is_service(self, j: int) -> bool:
        return bool(self.state.request[0, j]["kind"] == JobKind.SERVICE)

    def _commit(self, kind: int, j: int, value: int) -> Reason:
        return Reason(kernels.commit(self.state.rows, 0, kind, j, value, self._scratch))

    def _running(self) -> list[int]:
        count = int(self.state.rows[0]["running_len"])
        return [int(j) for j in self.state.running[0, :count]["job"]]

    def _finish_saves(self) -> None:
        rows, now_ms = self.state.rows, int(self.state.rows[0]["now_ms"])
        for j in self._running():
            if self.state.job[0, j]["state"] == JobCode.CHECKPOINTING:
                kernels.apply_event(rows, 0, now_ms, int(EventKind.CHECKPOINTED), j)
        kernels.open_point(rows, 0)  # those that were preempted at the last one may start here

    def _take_back(self) -> None:
        """Elastic jobs have no more workers than they asked for."""
        for j in self._running():
            if self._needs(j) < self._workers(j):
                self.resize(j, self._needs(j))

    # --- nodes -----------------------------------------------------------------------------------

    def add(self, specs: Iterable[NodeSpec]) -> list[int]:
        """Let nodes join, empty, as many as there is room for; their rows."""
        joined: list[int] = []
        for spec in specs:
            n = self._free_node()
            if n is None:
                break
            if spec not in self._records:
                self._records[spec] = node_records([replace(spec, available=True)])
            if spec.gpu_model not in self._models:
                self._models.append(spec.gpu_model)
            record = self._records[spec]
            record["model"] = self._models.index(spec.gpu_model)
            live.put_node(self.state.rows, 0, n, record)
            joined.append(n)
        return joined

    def _free_node(self) -> int | None:
        """A row for a node, as the cluster would give it: an unused one, then of one that left."""
        used = int(self.state.rows[0]["num_nodes"])
        if self._withdrawn:
            return self._withdrawn.pop()
        if used < self.state.shape.nodes:
            return used
        gone = np.flatnonzero(self.state.node[0]["state"] == NodeCode.ABSENT)
        return int(gone[0]) if len(gone) else None

    def _withdraw(self, rows: Sequence[int]) -> None:
        """Nodes that have joined, and hold nobody, were never there."""
        for n in reversed(rows):
            live.put_node(self.state.rows, 0, n, np.zeros(1, NODE_DTYPE))
            self._withdrawn.append(n)

    def order(self, templates: Sequence[NodeSpec], room: int) -> Order:
        """The nodes that let in who waits, as many of them as nodes can help.

        Several ways are tried: each kind alone, the smallest that helps for each job, and the
        fewest. The best is that which leaves the fewest jobs waiting; then the smaller one, in
        GPUs, cores, memory and nodes. None of its nodes can be left out, or be a smaller one.

        Parameters
        ----------
        templates : sequence of NodeSpec
            What can be ordered.
        room : int
            How many nodes at most.

        Returns
        -------
        Order
            Its nodes have joined the copy, and whom they let in runs.
        """
        left = self.place_all(templates)
        ways: list[tuple[Sequence[NodeSpec], bool]] = [((kind,), False) for kind in templates]
        if len(templates) > 1:
            ways += [(templates, False), (templates, True)]
        best: list[NodeSpec] = []
        if left and room > 0:
            trial, scratch = self.fork(), self.fork()
            least: _Cost | None = None
            for kinds, fewest in ways:
                trial.become(self)
                nodes = trial._extend(left, kinds, room, fewest)
                nodes = _trimmed(self, nodes, templates, scratch)
                cost = (len(_left_by(self, nodes, scratch)), *_size(nodes))
                if least is None or cost < least:
                    best, least = nodes, cost
        self.add(best)
        return self._order(best, templates, self.place_all(templates))

    def _extend(
        self, left: list[int], kinds: Sequence[NodeSpec], room: int, fewest: bool
    ) -> list[NodeSpec]:
        """Add nodes for one job after the other; which. Of kinds that help, the smallest."""
        nodes: list[NodeSpec] = []
        hopeless: set[tuple[tuple[int, ...], int]] = set()
        for j in left:
            if not self._lacks_nodes(j, kinds):
                continue
            ask: Any = self.state.request[0, j]
            alike = tuple(int(ask[name]) for name in (*SHAPE_FIELDS, "model_mask", "tenant"))
            found: list[tuple[tuple[float, ...], int, list[NodeSpec]]] = []
            for index, kind in enumerate(kinds):
                if (alike, index) in hopeless:
                    continue
                count = self._nodes_for(j, kind, room - len(nodes))
                if count == 0:
                    hopeless.add((alike, index))
                    continue
                size = _size([kind] * count)
                found.append(((count, *size) if fewest else size, index, [kind] * count))
            if found:
                _, _, more = min(found, key=lambda one: one[:2])
                joined = self.add(more)
                if self.place(j) == Reason.OK:
                    nodes += more
                else:  # a quota, now that it is counted in GPUs
                    self._withdraw(joined)
        return nodes

    def _nodes_for(self, j: int, kind: NodeSpec, room: int) -> int:
        """How many nodes of a kind make room for a job; 0 if not as many as there may be do."""
        joined: list[int] = []
        fits = False
        while not fits and len(joined) < room:
            more = self.add([kind])
            if not more:
                break
            joined += more
            fits = kernels.fits(self.state.rows, 0, j)
        self._withdraw(joined)
        return len(joined) if fits else 0

    def _order(
        self, nodes: list[NodeSpec], templates: Sequence[NodeSpec], left: list[int]
    ) -> Order:
        """What was ordered, the demand that it is for, and what is left of it."""
        by_gpu = any(kind.gpus > 0 for kind in templates) or self.state.rows[0]["unit"] > 0
        asks: Any = self.state.request[0]
        if not templates and self.state.rows[0]["num_nodes"] == 0:
            by_gpu = any(asks[j]["gpus_per_worker"] > 0 for j in left)
        each = asks["gpus_per_worker"].astype(np.int64) * asks["gpu_milli"]
        if not by_gpu:
            each = asks["cpu_milli"].astype(np.int64)
        held = sum(int(each[j]) * self._needs(j) for j in self._running())
        beyond = sum(int(each[j]) * int(asks["workers"][j]) for j in left)
        unit = "gpu" if by_gpu else "cpu"
        return Order(tuple(nodes), held / 1000, beyond / 1000, unit, len(left))

    # --- fewer nodes -----------------------------------------------------------------------------

    def give_up(
        self, count: int, among: Iterable[str], coming: Sequence[NodeSpec] = ()
    ) -> list[str]:
        """Give up nodes, at most ``count``, whose work all fits elsewhere; which, in order.

        Those go first that a simulated fleet would give up first: what empties them costs least
        (work since the last checkpoint, saving and restarting, times what the gang holds; each gang
        once). All of a node's jobs get as many workers on the others as they have, without taking
        the place of anybody, nor of those whom nodes on order will let in.

        Parameters
        ----------
        count : int
            How many are wanted.
        among : iterable of str
            Nodes that may go.
        coming : sequence of NodeSpec, optional
            Nodes on order.
        """
        index = self._engine.nodes.index
        left = {index.find(node_id) for node_id in among}
        gone: list[str] = []
        self.place_all()
        costs, trial = self.fork(), self.fork()
        later = self.fork()
        later.add(coming)
        later.place_all()
        then = later.fork()
        tries = _MOST_TRIES
        while len(gone) < count and tries > 0:
            n = costs._cheapest(left & self._maybe_movable(), trial)
            if n is None:
                break
            left.discard(n)
            trial.become(self)
            then.become(later)
            if trial._moves_all(n) and (not coming or then._moves_all(n)):
                self.become(trial)
                later.become(then)
                costs._drain(n)  # whoever is saved for its sake costs nothing on the next one
                gone.append(index.ids[n])
            else:
                tries -= 1
        return gone

    def _maybe_movable(self) -> set[int]:
        """Nodes whose work is not more than what is free on all others together."""
        used = int(self.state.rows[0]["num_nodes"])
        nodes, asks = self.state.node[0, :used], self.state.request[0]
        up = nodes["state"] == NodeCode.UP
        movable = up.copy()
        surplus = {j: self._workers(j) - self._needs(j) for j in self._running()}
        for capacity, free, each in (
            (nodes["gpus"] * 1000, nodes["gpu_free_milli"], "gpus_per_worker"),
            (nodes["cpu_cap_milli"], nodes["cpu_free_milli"], "cpu_milli"),
            (nodes["memory_cap_mib"], nodes["memory_free_mib"], "memory_mib"),
        ):
            lent = sum(int(asks[each][j]) * more for j, more in surplus.items() if more > 0)
            lent *= 1000 if each == "gpus_per_worker" else 1
            movable &= capacity - free <= int(free[up].sum()) - free + lent
        return {int(n) for n in np.flatnonzero(movable)}

    def _drain(self, n: int) -> None:
        now_ms = int(self.state.rows[0]["now_ms"])
        kernels.apply_event(self.state.rows, 0, now_ms, int(EventKind.NODE_DRAIN), n)

    def _cheapest(self, among: set[int], scratch: Rehearsal) -> int | None:
        """The one of some nodes that costs least to empty, if it can be emptied."""
        scratch.become(self)
        nodes = scratch.state.node[0]
        used = int(scratch.state.rows[0]["num_nodes"])
        others = [n for n in range(used) if n not in among]
        nodes["state"][others] = NodeCode.DOWN  # nobody asks a node that is down
        found = np.empty(1, np.int32)
        if give_up_nodes(scratch.state.rows, 0, False, found) == 0:
            return None
        return int(found[0])

    def _moves_all(self, n: int) -> bool:
        """Drain a node; whether everybody who was on it finds a place as large as before."""
        before = {j: self._needs(j) for j in self._running()}
        self._drain(n)
        self._finish_saves()
        # Whoever was there fits if nobody comes first; then, if those do who are served first.
        moving = {j for j in before if self._workers(j) == 0}
        alone = self.fork()
        if any(alone.place(j) != Reason.OK for j in alone.waiting() if j in moving):
            return False
        self.place_all()
        for j, workers in before.items():
            if self._workers(j) < workers and self._is_service(j):
                self.resize(j, workers)
        return all(self._workers(j) >= workers for j, workers in before.items())


def _size(nodes: Sequence[NodeSpec]) -> tuple[float, float, float, int]:
    """How much is ordered: what costs most comes first."""
    return (
        sum(node.gpus for node in nodes),
        sum(node.cpu_cores for node in nodes),
        sum(node.memory_gb for node in nodes),
        len(nodes),
    )


def _left_by(before: Rehearsal, nodes: Sequence[NodeSpec], scratch: Rehearsal) -> set[int]:
    """Who waits and would wait on if some nodes had joined."""
    scratch.become(before)
    scratch.add(nodes)
    scratch.place_all()
    return set(scratch.waiting())


def _trimmed(
    before: Rehearsal, nodes: list[NodeSpec], kinds: Sequence[NodeSpec], scratch: Rehearsal
) -> list[NodeSpec]:
    """Leave nodes out, or take smaller ones instead, while the same jobs are let in."""
    waiting = _left_by(before, nodes, scratch)
    by_size = sorted(kinds, key=lambda one: _size([one]))
    for kind in sorted(set(nodes), key=lambda one: _size([one]), reverse=True):
        for instead in ([], *([smaller] for smaller in by_size[: by_size.index(kind)])):
            while kind in nodes:
                last = len(nodes) - 1 - nodes[::-1].index(kind)
                fewer = nodes[:last] + instead + nodes[last + 1 :]
                if not _left_by(before, fewer, scratch) <= waiting:
                    break
                nodes = fewer
    return nodes
