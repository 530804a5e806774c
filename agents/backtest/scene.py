"""The cluster of a replay as a live one that can be asked, and what really comes of it.

A replay is a row of the kernels; questions are asked about an engine, with its specifications and
its commands. What really comes is one more future, in which everything is known: a change that is
made is then played to the end by what plays the futures of an answer.
"""

from __future__ import annotations

from copy import copy
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.config import CLUSTER
from envs.workloads import Trace
from orchestrator.engine.engine import EngineImage
from orchestrator.engine.history import History
from orchestrator.engine.records import gpu_models
from orchestrator.engine.tables import TableImage
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.state.codes import EventKind, JobCode, Status, Topology
from orchestrator.kernels.state.row import ClusterShape, ClusterState, allocate
from orchestrator.messages import Establish
from orchestrator.semantics import Semantics
from orchestrator.twin.futures import Futures, TwinConfig
from orchestrator.twin.past import Past, past_of
from orchestrator.types import JobPriority, JobSpec

__all__ = ["WhatComes", "image_of", "job_of", "name_of", "row_at", "spec_of", "what_comes"]


_MS_PER_HOUR = 3_600_000
_MIB_PER_GIB = 1024
_NAME = "job-"
_STEP_S = 0.001  # steps are milliseconds: every interval is a whole number of them
_SPARE_JOBS, _SPARE_NODES = 4, 64  # room for what may be supposed
_GONE = (JobCode.COMPLETED, JobCode.FAILED, JobCode.ABSENT)


def name_of(job: int) -> str:
    """What a job of a replay is called."""
    return f"{_NAME}{job}"


def job_of(name: str) -> int:
    """Which job of a replay is called so."""
    return int(name.removeprefix(_NAME))


def row_at(state: ClusterState, time_ms: int, like: ClusterState | None = None) -> ClusterState:
    """A copy of a replay's row as it is at a time, before which nothing happens.

    Parameters
    ----------
    state : ClusterState
    time_ms : int
    like : ClusterState or None, optional
        A former copy, whose memory is used again.
    """
    found = allocate(state.shape) if like is None else like
    entry.copy_row(state.rows, 0, found.rows, 0)
    entry.apply_event(found.rows, 0, time_ms, int(EventKind.NONE), 0)
    return found


def image_of(state: ClusterState, trace: Trace) -> EngineImage:
    """What a live cluster would be that has come to where a replay's row is.

    It knows who has come, what they asked for and what has become of them, and nobody who is still
    to come.

    Parameters
    ----------
    state : ClusterState
        One row.
    trace : Trace
        What it replays.
    """
    arrived, nodes = int(state.rows[0]["next_arrival"]), len(trace.nodes)
    shape = replace(
        state.shape,
        jobs=arrived + _SPARE_JOBS,
        nodes=nodes + _SPARE_NODES,
        tenants=max(len(trace.tenants), 1),
        incidents=0,
    )
    known = state.rows.copy()  # the same tables, of which less is told
    known["num_jobs"], known["num_incidents"], known["next_incident"] = arrived, 0, 0
    made = allocate(shape)
    entry.copy_row(known, 0, made.rows, 0)
    settings = _settings(shape, trace)
    settings.semantics.write(made.rows)
    models = gpu_models(trace.nodes)
    here = np.flatnonzero(~np.isin(state.job[0, :arrived]["state"], _GONE)).tolist()
    specs = tuple((name_of(j), spec_of(state.request[0, j], name_of(j), trace)) for j in here)
    names = tuple(node.node_id for node in trace.nodes)
    return EngineImage(
        settings=settings,
        state=made,
        told=(made.effect[0, :0], made.effect_worker[0, :0, :0]),
        jobs=TableImage(tuple(map(name_of, range(arrived))), specs, trace.tenants),
        nodes=TableImage(names, tuple(zip(names, trace.nodes, strict=True)), models),
        history=History(),
        begun=True,
        happened=False,
        opened_ms=-1,
        status=Status.DONE,
    )


def _settings(shape: ClusterShape, trace: Trace) -> Establish:
    """Those of the replay, but that jobs may be moved, as operators may: its rules move nobody."""
    rules = {one.name: getattr(CLUSTER, one.name) for one in fields(Semantics)}
    return Establish(shape, trace.nodes, Semantics(**{**rules, "migrate": True}), (), 0)


def spec_of(ask: Any, name: str, trace: Trace) -> JobSpec:
    """What a user would submit to ask for what a record says, a REQUEST_DTYPE scalar.

    How long the job really works it does not say.
    """
    models, mask = gpu_models(trace.nodes), int(ask["model_mask"])
    gpus, least = int(ask["gpus_per_worker"]), max(int(ask["min_workers"]), 1)
    return JobSpec(
        job_id=name,
        name=name,
        priority=JobPriority(int(ask["priority"])),
        num_workers=int(ask["workers"]),
        gpus_per_worker=gpus,
        memory_per_worker_gb=int(ask["memory_mib"]) / _MIB_PER_GIB,
        max_duration_hours=int(ask["requested_ms"]) / _MS_PER_HOUR,
        checkpoint_interval_steps=int(ask["checkpoint_interval_ms"]),
        elastic=bool(ask["elastic"]),
        min_workers=least,
        max_workers=max(int(ask["max_workers"]), least),
        preemptible=bool(ask["preemptible"]),
        gang_schedule=bool(ask["gang"]),
        topology_aware=False,  # a replay's row knows of no such wish
        tenant=trace.tenants[int(ask["tenant"])],
        cpus_per_worker=int(ask["cpu_milli"]) / 1000,
        gpu_fraction=int(ask["gpu_milli"]) / 1000,
        step_seconds=_STEP_S,
        checkpoint_seconds=int(ask["checkpoint_ms"]) / 1000,
        restart_seconds=int(ask["restart_ms"]) / 1000,
        regroup_seconds=int(ask["regroup_ms"]) / 1000,
        checkpoint_gb=int(ask["storage_mib"]) / _MIB_PER_GIB,
        gpu_memory_gb=int(ask["gpu_memory_mib"]) / _MIB_PER_GIB,
        gpu_models=tuple(model for m, model in enumerate(models) if mask >> m & 1),
        network_gbps=int(ask["bandwidth_mbps"]) / 1000,
        topology=Topology(int(ask["topology"])),
    )


class WhatComes(Futures):
    """The one future that really comes: everybody who does, and how long each works.

    Parameters
    ----------
    past : Past
    work_ms : int64 [jobs]
        How long the job in each row of the table works in all.
    coming : REQUEST_DTYPE [n]
        Who comes, by submit time.
    ahead_ms : int
        Who comes in so much time is counted among the others.
    new_ms : int
        How long a job works that is only supposed.
    """

    def __init__(
        self,
        past: Past,
        work_ms: NDArray[np.int64],
        coming: NDArray[np.void],
        ahead_ms: int,
        new_ms: int = 1,
    ) -> None:
        super().__init__(past, TwinConfig(futures=2, arrivals=False))
        self.ahead_ms = ahead_ms
        self._work_ms, self._coming, self._new_ms = (
            dict(enumerate(work_ms.tolist())),
            coming,
            new_ms,
        )

    def whole(self, rows: NDArray[np.int32]) -> NDArray[np.int64]:
        """How long the jobs in some rows work in all, the same in every future."""
        works = np.array([self._work_ms[j] for j in rows.tolist()], np.int64)
        return np.tile(works, (self.config.futures, 1))

    def with_job(self, row: int, ask: NDArray[np.void], like: int | None = None) -> WhatComes:
        """The same with a job that is there in truth under another number, or is only supposed."""
        made = copy(self)
        works = self._new_ms if like is None else self._work_ms[like]
        made._work_ms = {**self._work_ms, row: works}
        return made

    def arrivals(self, future: int, ahead_ms: int) -> NDArray[np.void]:
        """Everybody who comes, however late."""
        return self._coming


def what_comes(
    state: ClusterState, image: EngineImage, ahead_ms: int = 0, new_ms: int = 1
) -> WhatComes:
    """What really comes of a replay from where its row is: see :class:`WhatComes`."""
    arrived, count = int(state.rows[0]["next_arrival"]), int(state.rows[0]["num_jobs"])
    works = state.request[0, :arrived]["duration_ms"]
    coming = state.request[0, arrived:count].copy()
    return WhatComes(past_of(image.state), works, coming, ahead_ms, new_ms)
