"""Which job, node or tenant is in which row of a table, and what was asked of it.

Parts of the engine: nobody else calls what changes the cluster here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.engine.binding import account_binding, binding_field
from orchestrator.engine.history import Outages
from orchestrator.engine.plans import Preference
from orchestrator.engine.records import (
    SHAPE_FIELDS,
    RecordMaker,
    check_racks,
    could_hold,
    node_records,
    requested_ms,
    seen_records,
    sizing_record,
)
from orchestrator.errors import (
    CapacityError,
    IllegalActionError,
    UnknownEntityError,
    ValidationError,
)
from orchestrator.kernels.change import events as live
from orchestrator.kernels.change.events import end_commitment
from orchestrator.kernels.change.jobs import fail_waiting_job
from orchestrator.kernels.change.nodes import set_node_state
from orchestrator.kernels.lang.jit import on_row
from orchestrator.kernels.run import rows as kernels
from orchestrator.kernels.state.codes import EventKind, JobCode, JobKind, NodeCode
from orchestrator.kernels.state.row import ClusterState
from orchestrator.messages import Decommission, NodeFailed, NodeRecovered, Tick, Undrain
from orchestrator.types import JobSpec, NodeSpec

__all__ = ["JobTable", "Names", "NodeTable", "RowIndex", "TableImage"]


# What live clusters alone do, and episodes never: kernels as they are, each for one row.
_fail_waiting: Callable[[NDArray[np.void], int, int], object] = on_row(fail_waiting_job)
_end_commitment: Callable[[NDArray[np.void], int], object] = on_row(end_commitment)
_set_node_state: Callable[[NDArray[np.void], int, int, int], object] = on_row(set_node_state)


@dataclass(frozen=True)
class TableImage:
    """Who is in a table: ids by row, specifications by id, numbered names, and who is rented.

    Of jobs also after which run those of each row begin to count, and the last of all that are
    forgotten. Of nodes also their last outages: who, from when to when; below 0: it lasts.
    """

    ids: tuple[str, ...]
    specs: tuple[tuple[str, Any], ...]
    names: tuple[str, ...]
    rented: frozenset[str] = frozenset()
    runs_before: tuple[int, ...] = ()
    last_run: int = 0
    outages: tuple[tuple[str, int, int], ...] = ()


class RowIndex:
    """Which row of a table belongs to whom.

    Parameters
    ----------
    kind : str
        What is in the table, for messages.
    size : int
        Rows.
    """

    def __init__(self, kind: str, size: int) -> None:
        self.kind = kind
        self.size = size
        self.ids: list[str] = []
        self._index: dict[str, int] = {}

    def __contains__(self, name: str) -> bool:
        """Whether somebody has a row."""
        return name in self._index

    @property
    def full(self) -> bool:
        """Whether every row has been used."""
        return len(self.ids) == self.size

    def find(self, name: str) -> int:
        """The row of somebody who has one.

        Raises
        ------
        UnknownEntityError
            If they have none.
        ValidationError
            If this is no name.
        """
        try:
            return self._index[name]
        except (KeyError, TypeError):
            if not isinstance(name, str):
                problem, remedy = (
                    f"is {name!r:.80}",
                    f"give the text that the {self.kind} is known by",
                )
                raise ValidationError(self.kind, f"{self.kind}_id", problem, remedy) from None
            raise UnknownEntityError(
                f"no {self.kind} '{name}'; {len(self._index)} are known"
            ) from None

    def fill(self, ids: Iterable[str]) -> None:
        """Give rows to whom they belonged in another table."""
        self.ids = list(ids)
        self._index = {name: row for row, name in enumerate(self.ids)}

    def assign(self, row: int, name: str) -> str:
        """Give somebody a row, the next unused one or one that is used; who had it, or ``""``."""
        if row == len(self.ids):
            before = ""
            self.ids.append(name)
        else:
            before = self.ids[row]
            del self._index[before]
            self.ids[row] = name
        self._index[name] = row
        return before if before != name else ""


class Names:
    """Numbers for names, from 0, in the order in which they come up.

    Parameters
    ----------
    kind : str
        What is named, for messages.
    limit : int
        Most names.
    """

    def __init__(self, kind: str, limit: int) -> None:
        self._kind = kind
        self._limit = limit
        self._numbers: dict[str, int] = {}

    def require_room(self, *names: str) -> None:
        """Raise :class:`CapacityError` if there are no numbers for names."""
        room = self._limit - len(self._numbers)
        for name in names:
            if name not in self._numbers:
                room -= 1
                if room < 0:
                    raise CapacityError(
                        f"{self._kind} '{name}' would be one more than the {self._limit} that "
                        "there may be"
                    )

    @property
    def names(self) -> tuple[str, ...]:
        """All names, in the order of their numbers."""
        return tuple(self._numbers)

    def number(self, name: str) -> int:
        """The number of a name, a new one if need be."""
        self.require_room(name)
        return self._numbers.setdefault(name, len(self._numbers))


_ENDED = (JobCode.COMPLETED, JobCode.FAILED)


_ASKS = (*SHAPE_FIELDS, "model_mask")  # fields of a request that say where it may go


class JobTable:
    """Jobs that wait, run, or are remembered after their end.

    The last row is never given to a job: one that is only asked about is put there.

    A report about a run may come again when its job is forgotten and another one has its id. So no
    two runs of one id have one number, though nothing is kept of jobs that are forgotten: the runs
    of a new job are counted on from the highest number that any of those had.

    Parameters
    ----------
    state : ClusterState
        State of one cluster.
    nodes : NodeTable
        Its nodes.
    """

    def __init__(self, state: ClusterState, nodes: NodeTable) -> None:
        self._state = state
        self._nodes = nodes
        self._spare = state.shape.jobs - 1
        self.tenants = Names("tenant", state.shape.tenants)
        self.index = RowIndex("job", self._spare)
        self.specs: dict[str, JobSpec] = {}
        self.loose: set[str] = set()  # those whose workers need not start together
        self.asked = np.zeros(state.shape.jobs, np.int64)  # by row: equal ones ask for the same
        self._asks: dict[tuple[int, ...], int] = {}
        self.submits_ms = np.zeros(state.shape.jobs, np.int64)  # when they were submitted, by row
        self.name_hashes = np.zeros(state.shape.jobs, np.int64)  # of the names of jobs, by row
        self.limit_ms = np.zeros(state.shape.jobs, np.int64)  # of their time at work, by row
        self._aware = np.zeros(state.shape.jobs, np.bool_)  # topology-aware, by row
        self._runs_before = np.zeros(state.shape.jobs, np.int64)  # after which runs count, by row
        self._last_run = 0  # the highest number of a run of a job that is forgotten
        self._records = RecordMaker()

    def image(self) -> TableImage:
        """Who is in it."""
        ids = tuple(self.index.ids)
        return TableImage(
            ids,
            tuple(self.specs.items()),
            self.tenants.names,
            runs_before=tuple(self._runs_before[: len(ids)].tolist()),
            last_run=self._last_run,
        )

    def load(self, image: TableImage) -> None:
        """Have those in it who were in another table."""
        self.index.fill(image.ids)
        self.specs = dict(image.specs)
        for name in image.names:
            self.tenants.number(name)
        for job_id, spec in image.specs:
            j = self.index.find(job_id)
            self._note(j, spec, self._state.request[0, j : j + 1])
        self._runs_before[: len(image.runs_before)] = image.runs_before
        self._last_run = image.last_run

    def runs_before(self, j: int) -> int:
        """The number after which the runs of the job in a row are counted."""
        return int(self._runs_before[j])

    def run_of(self, j: int) -> int:
        """The number of the last run of the job in a row, or that before its first one."""
        return self.runs_before(j) + int(self._state.job[0, j]["runs"])

    def code(self, job_id: str) -> JobCode:
        """State of a job."""
        return JobCode(self._state.job[0, self.index.find(job_id)]["state"])

    @property
    def preference(self) -> Preference:
        """Where jobs go if nobody else minds: as things are, and as they will be."""
        return Preference(self._aware, self._nodes.links)

    def count(self, name: str) -> int:
        """A counter of the row, over all jobs there have been, forgotten ones included."""
        row = self._state.rows[0]
        return int(row[name]) + int(row[f"forgotten_{name}"])

    def check(self, spec: JobSpec, *, awaits_order: bool = False) -> None:
        """Raise unless a job can be submitted.

        With ``awaits_order`` it may be one that only nodes would hold that are yet to be ordered.
        """
        me = f"JobSpec '{spec.job_id}'"
        most = self._state.shape.workers
        if spec.job_id in self.index:
            raise ValidationError(me, "job_id", "is taken", "give every job its own id")
        if spec.num_workers > most:
            problem = f"is {spec.num_workers}, and a job has at most {most}"
            raise ValidationError(me, "num_workers", problem, "raise ClusterShape.workers")
        self.tenants.require_room(spec.tenant)
        if awaits_order:
            ask = self._records.record(spec, 0, 0, self._nodes.models_with(spec.gpu_models))
        else:
            self.needs_order(spec, ())
            ask = self._records.record(spec, 0, 0, self._nodes.models)
        # With the first GPUs that come quotas are counted in GPUs, no longer in cores.
        recounted = spec.gpus_per_worker > 0 and not self._state.rows[0]["unit"]
        if len(self._nodes.specs) > 0 and not recounted:
            self._check_account(spec, ask)
        if self._free_row() is None:
            raise CapacityError(
                f"{me}: all {self.index.size} rows of the job table hold jobs that wait or run;"
                " let some finish, or raise ClusterShape.jobs"
            )

    def needs_order(self, spec: JobSpec, orderable: Sequence[Sequence[NodeSpec]]) -> bool:
        """Whether a job has to wait for nodes that can be ordered, or names models of theirs only.

        Nodes that are down or leaving count: others come in their place, or they come back.

        Parameters
        ----------
        spec : JobSpec
        orderable : sequence of sequences of NodeSpec
            Clusters that orders could make of this one.

        Raises
        ------
        ValidationError
            If none of all of them holds it, naming the field that is too large.
        """
        models = self._nodes.models_with(node.gpu_model for nodes in orderable for node in nodes)
        ask = self._records.record(spec, 0, 0, models)
        new_model = not set(spec.gpu_models) <= set(self._nodes.models)
        # A cluster without nodes is one that is being built; it may yet hold anything.
        if not self._nodes.specs or live.could_ever_fit(self._state.rows, 0, self._spare, ask):
            return new_model
        here = list(self._nodes.specs.values())
        clusters = [here, *orderable]

        def held(smaller: NDArray[np.void]) -> bool:
            return any(could_hold(smaller, nodes, models) for nodes in clusters)

        if could_hold(ask, here, models):
            return new_model
        if held(ask):
            return True
        field = binding_field(ask, held)
        problem = f"is {getattr(spec, field)}: more than the cluster can ever hold"
        remedy = f"ask for less, or register more than the {len(here)} nodes that there are"
        raise ValidationError(f"JobSpec '{spec.job_id}'", field, problem, remedy)

    def _check_account(self, spec: JobSpec, ask: NDArray[np.void]) -> None:
        """Raise if a job's tenant may never start it, whatever it gives back."""
        names = self.tenants.names
        owner = names.index(spec.tenant) if spec.tenant in names else None
        binding = account_binding(self._state, ask[0], spec, owner, ever=True)
        if binding is None:
            return
        problem = f"is {getattr(spec, binding.field)}, with {spec.num_workers} workers "
        problem += f"{binding.asked:g} in all: {binding.text}"
        remedy = "ask for less, or raise it in the TenantSpec"
        raise ValidationError(f"JobSpec '{spec.job_id}'", binding.field, problem, remedy)

    def submit(self, time_ms: int, spec: JobSpec) -> str:
        """Queue a job; the job that had to be forgotten for it, or ``""``."""
        j = self._free_row()
        if j is None:
            raise CapacityError(f"JobSpec '{spec.job_id}': the job table is full")
        forgotten = self.index.assign(j, spec.job_id)
        if forgotten:
            del self.specs[forgotten]
            self.loose.discard(forgotten)
            self._last_run = max(self._last_run, self.run_of(j))
        self._runs_before[j] = self._last_run
        self.specs[spec.job_id] = spec
        tenant = self.tenants.number(spec.tenant)
        self._nodes.know_models(spec.gpu_models)
        ask = self._records.record(spec, time_ms, tenant, self._nodes.models)
        self._records.drop(spec)
        self._note(j, spec, ask)
        live.admit_live_job(self._state.rows, 0, time_ms, j, ask)
        return forgotten

    def cancel(self, time_ms: int, job_id: str) -> bool:
        """End a job as failed, whatever it does; False if it had ended."""
        j, rows = self.index.find(job_id), self._state.rows
        if self.code(job_id) in _ENDED:
            return False
        if self._state.job[0, j]["workers_now"] > 0:
            live.fail_live_job(rows, 0, time_ms, j)
            return True
        if rows[0]["committed"] == j:
            _end_commitment(rows, 0)
        queue = self._state.queue[0, : int(rows[0]["queue_len"])]["job"]
        _fail_waiting(rows, 0, int(np.flatnonzero(queue == j)[0]))
        return True

    def lose_unseen(self, time_ms: int, seen_ms: int, lost: Iterable[int]) -> None:
        """Jobs, by their rows, fall back to what was saved when their workers were seen last.

        What happened to them then is dated back; everything else goes on from now.
        """
        rows = self._state.rows
        for j in lost:
            run: Any = self._state.job[0, j]
            then_ms = min(time_ms, max(seen_ms, int(run["start_ms"]), int(run["resized_ms"])))
            live.date_back(rows, 0, then_ms)
            live.lose_workers(rows, 0, then_ms, j)
        live.date_back(rows, 0, time_ms)

    def gangs_on(self, node_id: str) -> list[int]:
        """Jobs that lose all their workers with a node: any but services, which kernels look at."""
        state, found = self._state, list[int]()
        n = self._nodes.index.find(node_id)
        for j in state.running[0, : int(state.rows[0]["running_len"])]["job"]:
            workers = state.worker[0, j, : state.job[0, j]["workers_now"]]
            service = state.request[0, j]["kind"] == JobKind.SERVICE
            if not service and (workers["node"] == n).any():
                found.append(int(j))
        return found if self._nodes.code(node_id) in (NodeCode.UP, NodeCode.DRAINING) else []

    def work_done(self, job_id: str, time_ms: int) -> int:
        """Work that a job will have done at a time, from now on, saved or not, ms."""
        j = self.index.find(job_id)
        run: Any = self._state.job[0, j]
        done = int(run["progress_ms"]) + int(run["unsaved_ms"])
        if run["state"] != JobCode.RUNNING:
            return done
        done += max(time_ms - int(run["work_start_ms"]), 0) * int(run["speed_milli"]) // 1000
        return min(done, int(self._state.request[0, j]["duration_ms"]))

    def services_on(self, node_id: str) -> dict[str, int]:
        """Services with replicas on a node, and how many each has in all."""
        n, found = self._nodes.index.find(node_id), dict[str, int]()
        for job_id, spec in self.specs.items():
            if spec.kind == JobKind.SERVICE:
                j = self.index.find(job_id)
                workers = self._state.worker[0, j, : self._state.job[0, j]["workers_now"]]
                if (workers["node"] == n).any():
                    found[job_id] = len(workers)
        return found

    def tell_services(self, tick: Tick) -> None:
        """Services are seen at a tick."""
        jobs = [self.index.find(seen.job_id) for seen in tick.services]
        known: Any = self._state.service[0, : int(self._state.rows[0]["num_services"])]
        before = {
            self.index.ids[one["job"]]: (int(one["scaled_ms"]), int(one["scaled_by"]))
            for one in known
        }
        sizings = [tick.fleet.sizing, *(seen.sizing for seen in tick.services)]
        plans = np.concatenate([sizing_record(sizing) for sizing in sizings])
        seen = seen_records(tick.services, jobs, before)
        live.tell_services(self._state.rows, 0, seen, plans)

    def note_scaled(self, job_id: str, more: int) -> None:
        """Somebody has given a job so many more workers: of a service, its next change waits."""
        j, count = self.index.find(job_id), int(self._state.rows[0]["num_services"])
        for s in np.flatnonzero(self._state.service[0, :count]["job"] == j).tolist():
            live.note_scaling(self._state.rows, 0, s, more)

    def _note(self, j: int, spec: JobSpec, ask: NDArray[np.void]) -> None:
        """Remember of a job what its row does not say."""
        wanted = tuple(ask[name].item() for name in _ASKS)
        self.asked[j] = self._asks.setdefault(wanted, len(self._asks))
        if not spec.gang_schedule:
            self.loose.add(spec.job_id)
        self._aware[j] = spec.topology_aware
        self.name_hashes[j] = hash(spec.name)
        self.submits_ms[j] = ask["submit_ms"][0]
        # Not what may be known of run times, which may be more or less: what was asked for.
        self.limit_ms[j] = requested_ms(spec)

    def _free_row(self) -> int | None:
        """The next unused row; if there is none, that of the job which ended first."""
        if not self.index.full:
            return len(self.index.ids)
        jobs = self._state.job[0, : self.index.size]
        ended = np.flatnonzero(np.isin(jobs["state"], _ENDED))
        return int(ended[np.argmin(jobs["end_ms"][ended])]) if len(ended) else None


_HARDWARE = (
    "gpus",
    "gpu_memory_gb",
    "cpu_cores",
    "memory_gb",
    "network_bandwidth_gbps",
    "island",
    "gpu_model",
)
"""What a node's record says of it, but for its place and its state."""


_MOST_RACKS = 1 << 40  # beyond, a number may be too large to be stored


class NodeTable:
    """Nodes that are up, down or leaving, and the rows of those that have left.

    Parameters
    ----------
    state : ClusterState
        State of one cluster.

    Attributes
    ----------
    specs : dict of str to NodeSpec
        The nodes by their ids.
    rented : set of str
        Those that were ordered: they may be given back.
    changes : int
        It tells whether a node has joined, left, or changed its state.
    outages : Outages
        When nodes had failed, and came back.
    """

    def __init__(self, state: ClusterState) -> None:
        self._state = state
        self._models = Names("GPU model", 32)  # constraints on models are 32-bit masks
        self.index = RowIndex("node", state.shape.nodes)
        self.specs: dict[str, NodeSpec] = {}
        self.rented: set[str] = set()
        self.changes = 0
        self._records: dict[tuple[Any, ...], NDArray[np.void]] = {}  # of each kind of hardware
        self.links = np.zeros(state.shape.nodes, np.uint8)  # NodeSpec.link_rank, by row
        self._racks: dict[int, dict[str, None]] = {}  # who is, or was, in which
        self._codes: dict[str, int] = {}
        self._counts: list[int] = []
        self._coded_at = self._counted_at = -1  # changes that these two take account of
        self.outages = Outages()

    def image(self) -> TableImage:
        """Who is in it."""
        specs, rented = tuple(self.specs.items()), frozenset(self.rented)
        ids, outages = tuple(self.index.ids), self.outages.image()
        return TableImage(ids, specs, self.models, rented, outages=outages)

    def load(self, image: TableImage) -> None:
        """Have those in it who were in another table."""
        self.index.fill(image.ids)
        self.specs = dict(image.specs)
        for name in image.names:
            self._models.number(name)
        self.rented, self.outages = set(image.rented), Outages(image.outages)
        for node_id, spec in image.specs:
            self.links[self.index.find(node_id)] = spec.link_rank
            self._racks.setdefault(spec.rack, {})[node_id] = None

    @property
    def models(self) -> tuple[str, ...]:
        """GPU models that have been named, in the order of their numbers."""
        return self._models.names

    def models_with(self, more: Iterable[str]) -> tuple[str, ...]:
        """The models, and others, with the numbers that these would get.

        Raises
        ------
        CapacityError
            If there are no numbers for so many.
        """
        names = tuple(dict.fromkeys((*self.models, *more)))
        self._models.require_room(*names)
        return names

    def know_models(self, names: Iterable[str]) -> None:
        """Number models that have not been named before."""
        for name in names:
            self._models.number(name)

    def code(self, node_id: str) -> NodeCode:
        """State of a node."""
        return NodeCode(self._state.node[0, self.index.find(node_id)]["state"])

    @property
    def codes(self) -> Mapping[str, int]:
        """States of all nodes that are part of the cluster, by their ids, as ``NodeCode``."""
        if self._coded_at != self.changes:
            codes, find = self._state.node[0]["state"].tolist(), self.index.find
            self._codes = {node_id: codes[find(node_id)] for node_id in self.specs}
            self._coded_at = self.changes
        return self._codes

    def count(self, code: NodeCode) -> int:
        """How many rows of the table are in a state."""
        if self._counted_at != self.changes:
            states = self._state.node[0]["state"]
            self._counts = np.bincount(states, minlength=len(NodeCode)).tolist()
            self._counted_at = self.changes
        return self._counts[code]

    def check(self, spec: NodeSpec) -> None:
        """Raise unless a node can be registered."""
        me = f"NodeSpec '{spec.node_id}'"
        most = self._state.shape.devices
        if spec.node_id in self.specs and self.code(spec.node_id) != NodeCode.DOWN:
            problem = f"is taken by a node that is {self.code(spec.node_id).name.lower()}"
            raise ValidationError(me, "node_id", problem, "give every node its own id")
        if spec.gpus > most:
            problem = f"is {spec.gpus}, and a node has at most {most}"
            raise ValidationError(me, "gpus", problem, "raise ClusterShape.devices")
        self._models.require_room(spec.gpu_model)
        self._record(spec, NodeCode.ABSENT)
        mate = self._rack_mate(spec)
        if mate is not None:
            check_racks([mate, spec])
        if spec.node_id not in self.index and self._free_row() is None:
            raise CapacityError(
                f"{me}: all {self.index.size} rows of the node table are in use;"
                " decommission a node, or raise ClusterShape.nodes"
            )

    def _rack_mate(self, spec: NodeSpec) -> NodeSpec | None:
        """Another node that is in the same rack now; they all agree in what is above it."""
        rack, gone = self._racks.get(spec.rack, {}), list[str]()
        mate = None
        for name in rack:
            other = self.specs.get(name)
            if other is None or other.rack != spec.rack:
                gone.append(name)  # it has left, or has moved
            elif name != spec.node_id and self.code(name) != NodeCode.ABSENT:
                mate = other
                break
        for name in gone:
            del rack[name]
        return mate

    def found(self, spec: NodeSpec) -> None:
        """A node has been there since before the cluster's log begins."""
        self._put(spec, NodeCode.UP if spec.available else NodeCode.DOWN)

    def register(self, time_ms: int, spec: NodeSpec, *, rented: bool) -> None:
        """A node joins, or comes back under a new description."""
        (self.rented.add if rented else self.rented.discard)(spec.node_id)
        returns = spec.node_id in self.specs
        # A node that joins while it is down becomes part of the log when it comes up.
        joins = spec.available and not returns
        n = self._put(spec, NodeCode.ABSENT if joins else NodeCode.DOWN)
        if joins:
            live.join_node(self._state.rows, 0, time_ms, n)
        elif spec.available:
            self.outages.end(spec.node_id, time_ms)
            kernels.apply_event(self._state.rows, 0, time_ms, int(EventKind.NODE_RECOVERY), n)

    def forget(self, node_id: str) -> None:
        """A node has left."""
        self.changes += 1
        del self.specs[node_id]
        self.rented.discard(node_id)
        self.outages.forget(node_id)

    def check_stays(self, node_id: str) -> None:
        """Raise unless a node is part of the cluster, and can be kept in it."""
        if self.code(node_id) == NodeCode.ABSENT:
            raise IllegalActionError(
                f"node '{node_id}' has left the cluster; register it anew, with its NodeSpec"
            )

    def change(
        self, time_ms: int, body: Decommission | Undrain | NodeFailed | NodeRecovered
    ) -> None:
        """Something happens to a node; to one that has left, nothing can."""
        self.changes += 1
        n = self.index.find(body.node_id)
        if isinstance(body, Undrain):
            if self.code(body.node_id) == NodeCode.DRAINING:
                _set_node_state(self._state.rows, 0, n, int(NodeCode.UP))
            return
        if isinstance(body, Decommission) and not body.drain:
            live.remove_node(self._state.rows, 0, time_ms, n)
            return
        kind = EventKind.NODE_DRAIN
        if isinstance(body, NodeFailed):
            kind = EventKind.NODE_FAILURE
            self.outages.begin(body.node_id, time_ms)
        elif isinstance(body, NodeRecovered):
            kind = EventKind.NODE_RECOVERY
            self.outages.end(body.node_id, time_ms)
        kernels.apply_event(self._state.rows, 0, time_ms, int(kind), n)

    def _put(self, spec: NodeSpec, code: NodeCode) -> int:
        self.changes += 1
        record = self._record(spec, code)
        record["model"] = self._models.number(spec.gpu_model)
        if spec.node_id in self.index:
            n = self.index.find(spec.node_id)
            record["failures"] = self._state.node[0, n]["failures"]
        else:
            row = self._free_row()
            if row is None:
                raise CapacityError(f"NodeSpec '{spec.node_id}': the node table is full")
            n = row
            self.index.assign(n, spec.node_id)
        self.specs[spec.node_id] = spec
        self.links[n] = spec.link_rank
        self._racks.setdefault(spec.rack, {})[spec.node_id] = None
        live.put_node(self._state.rows, 0, n, record)
        return n

    def _free_row(self) -> int | None:
        """The next unused row; if there is none, the first one whose node has left."""
        if not self.index.full:
            return len(self.index.ids)
        left = np.flatnonzero(self._state.node[0]["state"] == NodeCode.ABSENT)
        return int(left[0]) if len(left) else None

    def _record(self, spec: NodeSpec, code: NodeCode) -> NDArray[np.void]:
        """A node as a record; most nodes differ from one before in their place only."""
        kind = tuple(getattr(spec, name) for name in _HARDWARE)
        if kind not in self._records or max(spec.rack, spec.spine) > _MOST_RACKS:
            self._records[kind] = node_records([spec])
        record = self._records[kind].copy()
        record["rack"], record["spine"], record["state"] = spec.rack, spec.spine, code
        return record
