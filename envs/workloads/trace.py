"""A trace: jobs with the time of their submission, and the cluster that they were meant for."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import astuple, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from envs.checks import check_finite
from envs.workloads.table import Table, first_violation, line_of, read_table, to_frame, write_table
from orchestrator.engine.records import never_fit
from orchestrator.errors import TraceError, ValidationError
from orchestrator.kernels.state.codes import Topology
from orchestrator.kernels.state.records import REQUEST_DTYPE
from orchestrator.types import NodeSpec

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Trace", "trace_from_file", "unplaceable"]

_MIB_PER_GIB = 1024
_UNLIMITED = 1 << 31
_ASKED = ("gpus_per_worker", "gpu_milli", "gpu_memory_mib", "cpu_milli", "memory_mib")
_IDENTIFYING = ("submit_ms", "duration_ms", "requested_ms", "workers", *_ASKED, "model_mask")


@dataclass(frozen=True, eq=False)
class Trace:
    """Jobs in the order of their submission, and the cluster that belongs to them.

    Parameters
    ----------
    name : str
        For people and file names.
    requests : ndarray of REQUEST_DTYPE, shape [jobs]
        What the jobs ask for. Sorted by ``submit_ms`` when the trace is made (jobs submitted at
        the same instant keep their order); a read-only copy is kept.
    tenants : tuple of str
        Names that ``requests['tenant']`` indexes.
    nodes : tuple of NodeSpec
        The cluster that the trace was recorded on or generated for; may be empty.

    Raises
    ------
    ValidationError
        Naming the first job and field that is out of bounds.
    """

    name: str
    requests: NDArray[np.void]
    tenants: tuple[str, ...] = ("default",)
    nodes: tuple[NodeSpec, ...] = ()

    def __post_init__(self) -> None:
        """Check every field, sort the jobs, and freeze the array."""
        me = f"Trace '{self.name}'"
        if self.requests.dtype != REQUEST_DTYPE or self.requests.ndim != 1:
            problem = f"has type {self.requests.dtype} and shape {self.requests.shape}"
            raise ValidationError(me, "requests", problem, "give a flat array of REQUEST_DTYPE")
        if len(self.requests) == 0:
            raise ValidationError(me, "requests", "hold no jobs", "give at least one job")
        _check_names(me, self.name, self.tenants)
        ids = [node.node_id for node in self.nodes]
        if len(set(ids)) != len(ids):
            raise ValidationError(me, "nodes", "name a node twice", "give every node its own id")
        fault = first_violation(self.requests, len(self.tenants))
        if fault is not None:
            subject = f"{me}, job {fault.row}"
            raise ValidationError(subject, fault.field, fault.problem, fault.remedy)
        submit = self.requests["submit_ms"]
        if np.any(submit[1:] < submit[:-1]):
            requests = self.requests[np.argsort(submit, kind="stable")]
        else:
            requests = self.requests.copy()
        requests.flags.writeable = False
        # The dataclass is frozen for its users; this is the one place that completes it.
        object.__setattr__(self, "requests", requests)

    def __len__(self) -> int:
        """Count the jobs."""
        return int(self.requests.shape[0])

    def __eq__(self, other: object) -> bool:
        """Compare names, jobs, tenants and nodes, value by value."""
        if not isinstance(other, Trace):
            return NotImplemented
        return (
            self.name == other.name
            and self.tenants == other.tenants
            and self.nodes == other.nodes
            and np.array_equal(self.requests, other.requests)
        )

    __hash__ = None  # type: ignore[assignment]

    @cached_property
    def digest(self) -> str:
        """Of the jobs' times and demands and of the nodes: sixteen hexadecimal digits.

        What others published for a trace is shown beside jobs of this digest only. Names do not
        count, nor how a file is compressed.
        """
        digest = hashlib.sha256()
        for field in _IDENTIFYING:
            digest.update(self.requests[field].astype("<i8").tobytes())
        for node in self.nodes:
            size = (node.gpus, node.gpu_model, node.cpu_cores, float(node.memory_gb))
            digest.update(repr(size).encode())
        return digest.hexdigest()[:16]

    @cached_property
    def content_digest(self) -> str:
        """Of all that a game depends on: every field of the jobs and the nodes, and the tenants.

        Sixteen hexadecimal digits. The trace's name does not count.
        """
        digest = hashlib.sha256(repr(self.tenants).encode())
        for field in REQUEST_DTYPE.names or ():  # one by one: what lies between them is undefined
            digest.update(self.requests[field].astype("<i8").tobytes())
        for node in self.nodes:
            said = [str(p) if isinstance(p, str) else float(p) for p in astuple(node)]
            digest.update(repr(said).encode())
        return digest.hexdigest()[:16]

    @property
    def span_ms(self) -> int:
        """Time between the first and the last submission, ms."""
        submit = self.requests["submit_ms"]
        return int(submit[-1] - submit[0])

    @property
    def gpus(self) -> int:
        """GPUs of the trace's own cluster."""
        return sum(node.gpus for node in self.nodes)

    @property
    def cpu_cores(self) -> int:
        """CPU cores of the trace's own cluster."""
        return sum(node.cpu_cores for node in self.nodes)

    @property
    def uses_gpus(self) -> bool:
        """Whether any job asks for GPUs."""
        return bool(np.any(self.requests["gpus_per_worker"] > 0))

    def demand_milli(self) -> NDArray[np.int64]:
        """Size of each job, milli-GPUs; milli-cores in a trace that asks for no GPUs.

        Returns
        -------
        ndarray of int64, shape [jobs]
        """
        requests = self.requests
        workers = requests["workers"].astype(np.int64)
        demand: NDArray[np.int64] = workers * requests["cpu_milli"]
        if self.uses_gpus:
            demand = workers * requests["gpus_per_worker"] * requests["gpu_milli"]
        return demand

    def offered_load(self, capacity: float | None = None) -> float:
        """Work that arrives, relative to what a cluster can do in the same time.

        Parameters
        ----------
        capacity : float or None, optional
            GPUs (or CPU cores, in a trace that asks for no GPUs) of the cluster; None takes the
            trace's own nodes.

        Returns
        -------
        float
            Sum of size times run time over capacity times span; 1 keeps the cluster just busy.
            NaN when the capacity or the span is zero.
        """
        if capacity is None:
            capacity = float(self.gpus if self.uses_gpus else self.cpu_cores)
        offered = capacity * 1000.0 * self.span_ms
        if offered <= 0:
            return float("nan")
        # float: size times run time of a long trace can exceed 64 bits of milli-units.
        work = np.dot(self.demand_milli().astype(float), self.requests["duration_ms"].astype(float))
        return float(work / offered)

    def at_load(self, load: float) -> Trace:
        """The same jobs, coming so much faster or slower that they offer a load.

        Gaps between submissions are stretched alike, and so is the day. Run times stay.

        Parameters
        ----------
        load : float
            Of the trace's own nodes, see :meth:`offered_load`; whole milliseconds come close to it.

        Returns
        -------
        Trace
        """
        check_finite("trace: 'load'", load, above=0)
        offered = self.offered_load()
        if not 0.0 < offered < float("inf"):
            me = f"trace '{self.name}'"
            problem = f"offers a load of {offered}, which cannot be stretched to {load}"
            raise ValidationError(me, "load", problem, "give a trace of jobs that come apart")
        requests = self.requests.copy()
        submit = requests["submit_ms"]
        requests["submit_ms"] = np.round((submit - submit[0]) * (offered / load)) + submit[0]
        return replace(self, requests=requests)

    def window(self, start: int, length: int, *, rebase: bool = False) -> Trace:
        """Cut out consecutive jobs.

        Parameters
        ----------
        start : int
            Index of the first job.
        length : int
            Number of jobs.
        rebase : bool, optional
            Shift the times so that the first job arrives at 0.

        Returns
        -------
        Trace
            With the same name, tenants and nodes.
        """
        if start < 0 or length < 1 or start + length > len(self):
            me = f"window [{start}, {start + length}) of trace '{self.name}'"
            problem = f"reaches outside the trace's {len(self)} jobs"
            raise ValidationError(me, "start", problem, "choose a window inside the trace")
        part = self.requests[start : start + length].copy()
        if rebase:
            part["submit_ms"] -= part["submit_ms"][0]
        return replace(self, requests=part)

    def to_table(self) -> pd.DataFrame:
        """Convert the jobs to the canonical trace table (see ``docs/trace-format.md``).

        Returns
        -------
        pandas.DataFrame
            One row per job; integer columns, and the tenant's name.
        """
        return to_frame(self.requests, self.tenants)

    def write_table(self, path: str | Path) -> None:
        """Write the canonical trace table as ``.csv``, ``.csv.gz`` or ``.parquet``.

        The file also holds the trace's name, tenants and nodes, so that :meth:`read_table`
        returns an equal trace. It appears whole or not at all.

        Parameters
        ----------
        path : str or Path
            The file; its ending chooses the format.
        """
        write_table(Table(self.name, self.requests, self.tenants, self.nodes), Path(path))

    @staticmethod
    def read_table(path: str | Path) -> Trace:
        """Read a canonical trace table from ``.csv``, ``.csv.gz`` or ``.parquet``.

        Parameters
        ----------
        path : str or Path
            The file; its ending chooses the format.

        Returns
        -------
        Trace

        Raises
        ------
        TraceError
            Naming file, line and column of what is wrong, and the remedy.
        """
        path = Path(path)
        table = read_table(path)
        lost = unplaceable(table.requests, table.nodes)
        if table.nodes and lost.any():
            row = int(np.argmax(lost))
            problem = f"job {table.requests['source_id'][row]} can never fit the trace's nodes"
            raise TraceError(str(path), problem, "remove the job or shrink it", line_of(path, row))
        return trace_from_file(path, table.name, table.requests, table.tenants, table.nodes)


def trace_from_file(
    path: Path,
    name: str,
    requests: NDArray[np.void],
    tenants: tuple[str, ...] = ("default",),
    nodes: tuple[NodeSpec, ...] = (),
) -> Trace:
    """Make the trace that a reader found in a file, so that what is wrong with it names the file.

    Parameters
    ----------
    path : Path
        The file.
    name, requests, tenants, nodes
        See :class:`Trace`.

    Returns
    -------
    Trace

    Raises
    ------
    TraceError
        Where :class:`Trace` raises a ValidationError.
    """
    try:
        return Trace(name, requests, tenants, nodes)
    except ValidationError as error:
        raise TraceError(str(path), f"'{error.field}' {error.problem}", error.remedy) from None


def _check_names(me: str, name: str, tenants: tuple[str, ...]) -> None:
    """Demand names that survive a trip through a text file: not empty, printable, distinct."""
    if not name or not name.isprintable():
        raise ValidationError(me, "name", "is empty or not printable", "give printable text")
    for tenant in tenants:
        if not tenant or not tenant.isprintable():
            raise ValidationError(
                me, "tenants", f"hold {tenant!r}", "give every tenant a printable name"
            )
    if len(set(tenants)) != len(tenants):
        raise ValidationError(me, "tenants", "name a tenant twice", "give distinct names")


def unplaceable(requests: NDArray[np.void], nodes: tuple[NodeSpec, ...]) -> NDArray[np.bool_]:
    """Tell which jobs could not run even if the cluster were empty.

    Parameters
    ----------
    requests : ndarray of REQUEST_DTYPE, shape [jobs]
        The jobs.
    nodes : tuple of NodeSpec
        The cluster.

    Returns
    -------
    ndarray of bool, shape [jobs]
        True where the nodes together hold fewer workers than the job needs to start, or no
        domain that it may use does (see :func:`orchestrator.kernels.place.fit.can_ever_fit`).
        GPU models are not looked at; racks' uplinks are not known here.
    """
    columns = {name: requests[name].astype(np.int64) for name in _ASKED}
    room = np.zeros(len(requests), np.int64)
    least = np.where(requests["elastic"] == 1, requests["min_workers"], requests["workers"])
    kinds: dict[tuple[int, float, int, float], int] = {}
    for node in nodes:
        kind = (node.gpus, node.gpu_memory_gb, node.cpu_cores, node.memory_gb)
        kinds[kind] = kinds.get(kind, 0) + 1
    for kind, count in kinds.items():
        room += count * _workers_on(kind, columns)
    missing: NDArray[np.bool_] = room < least
    bound = (requests["topology"] != Topology.ANY) | (requests["bandwidth_mbps"] > 0)
    asking = np.flatnonzero(bound & ~missing)
    if len(asking) > 0:
        missing[asking] = never_fit(requests[asking], nodes)
    return missing


def _workers_on(
    kind: tuple[int, float, int, float], columns: Mapping[str, NDArray[np.int64]]
) -> NDArray[np.int64]:
    """Count how many workers of each job fit on one empty node of a kind.

    Capacities are rounded down to whole MiB. A resource that a job does not ask for does not
    limit it.
    """
    gpus, gpu_memory_gb, cores, memory_gb = kind
    asked = columns["gpus_per_worker"]
    # A worker takes that many different devices; each device holds `shares` workers.
    shares = 1000 // columns["gpu_milli"]
    memory = columns["gpu_memory_mib"]
    held = int(gpu_memory_gb * _MIB_PER_GIB) // np.maximum(memory, 1)
    shares = np.where(memory > 0, np.minimum(shares, held), shares)
    by_gpu = np.where(asked <= gpus, gpus * shares // np.maximum(asked, 1), 0)
    by_gpu[columns["gpu_memory_mib"] > int(gpu_memory_gb * _MIB_PER_GIB)] = 0
    fits = np.where(asked > 0, by_gpu, _UNLIMITED)
    for name, capacity in (
        ("cpu_milli", cores * 1000),
        ("memory_mib", int(memory_gb * _MIB_PER_GIB)),
    ):
        need = columns[name]
        fits = np.minimum(fits, np.where(need > 0, capacity // np.maximum(need, 1), _UNLIMITED))
    return fits
