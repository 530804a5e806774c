"""Advice on specifications: right-sizing, and how often to save a checkpoint.

Usage comes from whoever can measure it, such as an agent on the node that reads control groups: the
orchestrator itself knows what jobs hold, not what they use.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from orchestrator.autoscaler.policies import ResourceBounds, ResourceRequest, VerticalScaler
from orchestrator.errors import ConfigurationError, ValidationError
from orchestrator.types import JobSpec

__all__ = [
    "BOUNDS",
    "Rightsizer",
    "checkpoint_interval_ms",
    "expected_overhead",
    "gang_mtbf_ms",
    "like_jobs",
]


def gang_mtbf_ms(node_mtbf_ms: float, nodes: int) -> float:
    """Mean time between failures of a gang that any one of its nodes stops, ms.

    Parameters
    ----------
    node_mtbf_ms : float
        Of one node.
    nodes : int
        Nodes that the gang touches, at least 1.
    """
    if nodes < 1:
        raise ValidationError("gang", "nodes", f"is {nodes}", "give at least 1")
    return node_mtbf_ms / nodes


def checkpoint_interval_ms(cost_ms: float, mtbf_ms: float) -> int:
    """The time between checkpoints that loses least: sqrt(2 C MTBF).

    Young, "A first order approximation to the optimum checkpoint interval", CACM 1974; Daly, "A
    higher order estimate of the optimum checkpoint interval", FGCS 2006. It is the leading term of
    both, good where a checkpoint costs much less than the time between failures.

    Parameters
    ----------
    cost_ms : float
        C: time that a checkpoint takes, ms.
    mtbf_ms : float
        Mean time between failures of the job, ms (see :func:`gang_mtbf_ms`).

    Returns
    -------
    int
        Work between two checkpoints, ms, at least 1; never longer than the MTBF itself, which is
        where the approximation ends.

    Raises
    ------
    ValidationError
        For a negative cost or a time between failures that is not positive.
    """
    _require(cost_ms >= 0, "cost_ms", cost_ms, "give 0 or more")
    _require(mtbf_ms > 0, "mtbf_ms", mtbf_ms, "give a positive time")
    return max(1, round(min(math.sqrt(2.0 * cost_ms * mtbf_ms), mtbf_ms)))


def expected_overhead(
    interval_ms: float, cost_ms: float, restart_ms: float, mtbf_ms: float
) -> float:
    """Share of time beyond the work itself that checkpoints and failures cost (Daly 2006, eq. 20).

    Failures are exponential with mean ``mtbf_ms`` and may come while saving and restarting too:
    T/W - 1 with T = M exp(R/M) (exp((tau + C)/M) - 1) W / tau.

    Parameters
    ----------
    interval_ms : float
        tau: work between two checkpoints.
    cost_ms, restart_ms : float
        C and R: time of a checkpoint, and of starting again.
    mtbf_ms : float
        M.
    """
    _require(interval_ms > 0, "interval_ms", interval_ms, "give a positive time")
    _require(mtbf_ms > 0, "mtbf_ms", mtbf_ms, "give a positive time")
    grown = math.expm1((interval_ms + cost_ms) / mtbf_ms)
    return mtbf_ms * math.exp(restart_ms / mtbf_ms) * grown / interval_ms - 1.0


def _require(ok: bool, field: str, value: float, remedy: str) -> None:
    if not ok:
        raise ValidationError("checkpointing", field, f"is {value}", remedy)


BOUNDS: Mapping[str, ResourceBounds] = {
    "cpus_per_worker": ResourceBounds(0.1, 1024.0),
    "memory_per_worker_gb": ResourceBounds(0.125, 16_384.0),
}
"""What may be recommended of each field: cores, and GiB of host memory."""


_PERCENTILES = {"cpus_per_worker": 95.0, "memory_per_worker_gb": 100.0}


def like_jobs(spec: JobSpec) -> str:
    """Group of a job: runs of one name, by one tenant, on as many GPUs a worker; empty: none."""
    return f"{spec.tenant}/{spec.name}/{spec.gpus_per_worker}" if spec.name else ""


_AT_LIMIT = 0.95  # of what was asked for: use is sampled, and the last sample comes before the end
_KILLED_FACTOR = 1.2


def _at_limit(spec: JobSpec, peaks: Mapping[str, float]) -> bool:
    """Whether a worker used all the memory that it might."""
    limit = spec.memory_per_worker_gb
    return limit > 0 and peaks["memory_per_worker_gb"] >= _AT_LIMIT * limit


class Rightsizer:
    """Watches what jobs use, and recommends what the next one of their group should ask for.

    A job counts once, when it has completed, with the peak of the worker that used most: all
    workers of a job ask for the same. Jobs that failed may have done so before their peak, and are
    left out, unless a worker was at its limit of memory: it was killed for wanting more, and the
    next job of its group is advised at least a fifth more than that. The 95th percentile of the
    peaks is asked for in cores, which can be throttled, and the highest peak in memory, of which
    too little kills; see :class:`VerticalScaler`.

    Parameters
    ----------
    bounds : mapping of str to ResourceBounds, optional
        Least and most that is recommended, by field of :class:`JobSpec`.
    group : callable, optional
        The group of a job; the empty one is not watched.
    least_jobs : int
        Completed jobs of a group before anything is recommended.
    most_groups : int
        Groups remembered; the one that was not heard of for longest is forgotten.
    margin, tolerance : float
        See :class:`VerticalScaler`.

    Raises
    ------
    ConfigurationError
        Naming what does not make sense.
    """

    def __init__(
        self,
        bounds: Mapping[str, ResourceBounds] = BOUNDS,
        *,
        group: Callable[[JobSpec], str] = like_jobs,
        least_jobs: int = 3,
        most_groups: int = 1024,
        margin: float = 0.15,
        tolerance: float = 0.1,
    ) -> None:
        if set(bounds) != set(BOUNDS):
            raise ConfigurationError(f"Rightsizer: 'bounds' are of {sorted(BOUNDS)}, of each")
        if most_groups < 1:
            raise ConfigurationError(f"Rightsizer: 'most_groups' is {most_groups}; at least 1")
        self._group = group
        self._most_groups = most_groups
        self._make: Callable[[], VerticalScaler] = lambda: VerticalScaler(
            bounds,
            percentiles=_PERCENTILES,
            margin=margin,
            tolerance=tolerance,
            least_samples=least_jobs,
        )
        self._make()  # what makes no sense is refused here
        self._groups: OrderedDict[str, VerticalScaler] = OrderedDict()
        self._completed: dict[str, int] = {}
        self._killed: dict[str, float] = {}  # by group, GiB that a killed worker may have needed
        self._most_memory_gb = bounds["memory_per_worker_gb"].most
        self._peaks: dict[str, dict[str, float]] = {}

    def note(self, job_id: str, *, cpus: float, memory_gb: float) -> None:
        """One of a running job's workers uses so much now: cores, and GiB of host memory."""
        used = {"cpus_per_worker": float(cpus), "memory_per_worker_gb": float(memory_gb)}
        for name, value in used.items():
            if not 0.0 <= value < float("inf"):
                me = f"usage of job '{job_id}'"
                raise ValidationError(me, name, f"is {value}", "give a number of at least 0")
        peaks = self._peaks.setdefault(job_id, used)
        for name, value in used.items():
            peaks[name] = max(peaks[name], value)

    @property
    def watched(self) -> list[str]:
        """Jobs of which usage is known, and that have not ended."""
        return list(self._peaks)

    def peak(self, job_id: str) -> dict[str, float] | None:
        """Most that any worker of a job was seen to use, by field; None: nothing was seen."""
        peaks = self._peaks.get(job_id)
        return None if peaks is None else dict(peaks)

    def ended(self, job_id: str, spec: JobSpec | None, *, completed: bool) -> None:
        """A job has ended; ``spec`` None: nobody knows any more what it was."""
        peaks = self._peaks.pop(job_id, None)
        group = "" if spec is None else self._group(spec)
        if spec is None or peaks is None or not group:
            return
        if completed:
            self._groups.setdefault(group, self._make()).observe(peaks)
        elif _at_limit(spec, peaks):
            need = _KILLED_FACTOR * max(spec.memory_per_worker_gb, peaks["memory_per_worker_gb"])
            self._groups.setdefault(group, self._make())
            self._killed[group] = max(self._killed.get(group, 0.0), need)
        else:
            return
        self._groups.move_to_end(group)
        self._completed[group] = self._completed.get(group, 0) + int(completed)
        while len(self._groups) > self._most_groups:
            forgotten, _ = self._groups.popitem(last=False)
            del self._completed[forgotten]
            self._killed.pop(forgotten, None)

    def recommend(self, spec: JobSpec) -> ResourceRequest:
        """What each worker of a job should ask for, by field.

        What a job does not ask for at all it goes on not asking for.
        """
        asked = {name: float(getattr(spec, name)) for name in BOUNDS if getattr(spec, name)}
        scaler = self._groups.get(self._group(spec))
        if scaler is None:
            return ResourceRequest(asked, False, "no job of its group has completed")
        advice = scaler.recommend(asked)
        name = "memory_per_worker_gb"
        least = min(self._killed.get(self._group(spec), 0.0), self._most_memory_gb)
        if name not in asked or advice.amounts[name] >= least:
            return advice
        amounts = {**advice.amounts, name: least}
        reason = (
            f"{name} {asked[name]:.6g} to {least:.6g} (a job of its group was killed at its limit)"
        )
        return ResourceRequest(amounts, amounts != asked, reason)

    def rightsized(self, spec: JobSpec) -> JobSpec:
        """A job that asks for what is recommended."""
        amounts: dict[str, Any] = dict(self.recommend(spec).amounts)
        return replace(spec, **amounts)

    def status(self) -> dict[str, Any]:
        """``watched`` jobs, and completed jobs by group, as plain data."""
        return {"watched": len(self._peaks), "groups": dict(self._completed)}
