"""What keeps a job from starting: which resource, and which field of its specification asks for it.

Found by asking again, for less: the field without which the job would fit is the one that binds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.change import events as live
from orchestrator.kernels.run import rows as kernels
from orchestrator.kernels.state.codes import ActionKind, NodeCode, QuotaMode, Reason
from orchestrator.kernels.state.row import ClusterState
from orchestrator.types import JobSpec

__all__ = ["Binding", "account_binding", "binding_field", "kept_for", "room_binding"]


_Fits: TypeAlias = Callable[[NDArray[np.void]], bool]


# The least that a job can ask for, by the field of its specification; the plainer ones come last.
_LEAST = {
    "gpu_memory_gb": {"gpu_memory_mib": 0},
    "gpu_models": {"model_mask": 0},
    "memory_per_worker_gb": {"memory_mib": 0},
    "cpus_per_worker": {"cpu_milli": 0},
    "network_gbps": {"bandwidth_mbps": 0},
    "topology": {"topology": 0},
    "num_workers": {"workers": 1, "min_workers": 1},
    "gpus_per_worker": {"gpus_per_worker": 0, "gpu_memory_mib": 0, "model_mask": 0},
}
_GPU_FIELDS = ("gpu_memory_gb", "gpu_models", "gpus_per_worker")


_RESOURCES = {
    "gpu_memory_gb": "gpu_memory",
    "gpu_models": "gpu_model",
    "memory_per_worker_gb": "memory",
    "cpus_per_worker": "cpus",
    "network_gbps": "bandwidth",
    "topology": "topology",
    "num_workers": "workers",
    "gpus_per_worker": "gpus",
}


# Of resources that nodes count: asked for by a worker, free on a node, how many make one, the unit.
_COUNTED = {
    "gpus": ("", "gpu_free_milli", 1000, "GPUs"),
    "memory": ("memory_mib", "memory_free_mib", 1024, "GiB of memory"),
    "cpus": ("cpu_milli", "cpu_free_milli", 1000, "cores"),
    "bandwidth": ("bandwidth_mbps", "bandwidth_free_mbps", 1000, "Gbit/s"),
}


@dataclass(frozen=True)
class Binding:
    """What a job waits for.

    Parameters
    ----------
    reason : Reason
        As a refusal has it.
    resource, field : str
        Which resource is short, and the field of :class:`JobSpec` that asks for it; empty where
        none is.
    asked, free : float or None
        How much of it all workers ask for together, and how much is free on nodes that may take
        them; None where it is not counted.
    text : str
        All of it in words.
    kept_for : str
        The job for which the policy keeps what this one would take, or ``""``.
    """

    reason: Reason
    resource: str = ""
    field: str = ""
    asked: float | None = None
    free: float | None = None
    text: str = ""
    kept_for: str = ""


def _without(ask: NDArray[np.void], *fields: str) -> NDArray[np.void]:
    """A request that asks for the least of some fields."""
    smaller = ask.copy()
    for field in fields:
        for column, least in _LEAST[field].items():
            smaller[column] = least
    return smaller


def binding_field(ask: NDArray[np.void], fits: _Fits) -> str:
    """The field of a specification that keeps a request from fitting.

    That without which it would fit; if several do, the first one that would do so by itself.

    Parameters
    ----------
    ask : ndarray of REQUEST_DTYPE, shape [1]
        A request that does not fit.
    fits : callable
        Whether a request does.
    """
    fields = [
        field
        for field, columns in _LEAST.items()
        if any(ask[column][0] > least for column, least in columns.items())
    ]
    for field in fields:
        if fits(_without(ask, field)):
            return field
    for field in fields:
        alone = _without(ask, *_LEAST)
        for column in _LEAST[field]:
            alone[column] = ask[column]
        if field in _GPU_FIELDS and field != "gpus_per_worker":
            alone["gpus_per_worker"] = 1  # a wish about GPUs takes one
        if not fits(alone):
            return field
    return "num_workers"


def _least_workers(ask: Any) -> int:
    return max(int(ask["min_workers"]), 1) if ask["elastic"] else int(ask["workers"])


def room_binding(state: ClusterState, j: int, spec: JobSpec) -> Binding:
    """What a waiting job finds no room for, though it is allowed to start.

    Parameters
    ----------
    state : ClusterState
        A copy of a cluster's state; its spare row is used.
    j : int
        The job's row.
    spec : JobSpec
        What it asks for.
    """
    rows, spare = state.rows, state.shape.jobs - 1
    ask = state.request[0, j : j + 1].copy()

    def fits(smaller: NDArray[np.void]) -> bool:
        return live.could_ever_fit(rows, 0, spare, smaller) and kernels.fits(rows, 0, spare)

    if not fits(_without(ask, *_LEAST)):
        return Binding(Reason.NO_CAPACITY, text="no node takes jobs now")
    field = binding_field(ask, fits)
    resource = _RESOURCES[field]
    if field == "num_workers" and fits(_without(ask, "gpus_per_worker")):
        resource = "gpus"
    counted = "gpus" if field in _GPU_FIELDS else resource
    if counted not in _COUNTED:
        reason = Reason.TOPOLOGY if field == "topology" else Reason.FRAGMENTED
        text = f"no domain of topology {spec.topology.name} has room for all workers"
        if field != "topology":
            text = f"there is no room for so many workers ({spec.num_workers})"
        return Binding(reason, resource, field, text=text)
    return _counted(state, ask[0], spec, (resource, field), counted)


def _suit(ask: Any, nodes: NDArray[np.void]) -> NDArray[np.bool_]:
    """Nodes that a job's constraints admit, however full they are."""
    suits = nodes["state"] == NodeCode.UP
    if ask["gpus_per_worker"] > 0:
        suits &= nodes["gpu_memory_mib"] >= ask["gpu_memory_mib"]
    mask = int(ask["model_mask"])
    if mask:
        suits &= (mask >> nodes["model"].astype(np.int64)) & 1 == 1
    return np.asarray(suits)


def _counted(
    state: ClusterState, ask: Any, spec: JobSpec, short: tuple[str, str], counted: str
) -> Binding:
    """A resource that is counted is short, or scattered; ``short``: it, and the field."""
    resource, field = short
    nodes = state.node[0, : int(state.rows[0]["num_nodes"])]
    free_of = nodes[_suit(ask, nodes)]
    column, free_column, unit, word = _COUNTED[counted]
    each = int(ask["gpus_per_worker"]) * int(ask["gpu_milli"])
    if column:
        each = int(ask[column])
    workers = _least_workers(ask)
    free, most = int(free_of[free_column].sum()), int(free_of[free_column].max(initial=0))
    reason = Reason.NO_CAPACITY if free < workers * each else Reason.FRAGMENTED
    if counted == "bandwidth":
        reason = Reason.BANDWIDTH
    wish = ""
    if field == "gpu_models":
        wish = f" of {' or '.join(spec.gpu_models)}"
    elif field == "gpu_memory_gb":
        wish = f" with {spec.gpu_memory_gb:g} GiB each"
    count = f"{workers} worker{'s' * (workers != 1)} of {each / unit:g} {word}{wish}"
    text = f"{count}; free on the nodes that may take them: {free / unit:g}"
    if reason == Reason.FRAGMENTED:
        text += f", at most {most / unit:g} on one"
    return Binding(reason, resource, field, workers * each / unit, free / unit, text)


def account_binding(
    state: ClusterState, ask: Any, spec: JobSpec, owner: int | None, *, ever: bool
) -> Binding | None:
    """What a tenant may not have: its hard quota, or its storage; None if it may.

    Parameters
    ----------
    state : ClusterState
    ask : REQUEST_DTYPE record
    spec : JobSpec
        What the record was made of.
    owner : int or None
        The tenant's row; None: it has none yet, and no entitlements.
    ever : bool
        Whether it might if it held nothing now.
    """
    row = state.rows[0]
    own: Any = state.tenant[0, owner] if owner is not None else None
    workers = _least_workers(ask)
    by_gpu = row["unit"] != 0
    each = int(ask["gpus_per_worker"]) * int(ask["gpu_milli"]) if by_gpu else int(ask["cpu_milli"])
    quota = int(own["quota_units"]) if own is not None else 0
    used = 0 if ever or own is None else int(own["used_units"])
    if row["quota_mode"] == QuotaMode.HARD and each and used + workers * each > quota:
        field = "gpus_per_worker" if by_gpu else "cpus_per_worker"
        text = _account_text("quota", "GPUs" if by_gpu else "cores", spec.tenant, used, quota)
        amounts = workers * each / 1000, (quota - used) / 1000
        return Binding(Reason.QUOTA, "quota", field, *amounts, text)
    stores = int(ask["storage_mib"])
    limit = int(own["storage_quota_mib"]) if own is not None else 0
    used = 0 if ever or own is None else int(own["storage_mib"])
    if limit > 0 and used + stores > limit:
        text = _account_text("storage quota", "GiB", spec.tenant, used, limit, 1024)
        amounts = stores / 1024, (limit - used) / 1024
        return Binding(Reason.STORAGE, "storage", "checkpoint_gb", *amounts, text)
    return None


def _account_text(
    what: str, word: str, tenant: str, used: int, limit: int, unit: int = 1000
) -> str:
    said = f"the {what} of tenant '{tenant}' is {limit / unit:g} {word}"
    return f"{said}, of which {used / unit:g} are in use" if used else said


_HEADS = 8  # jobs that are tried as the one for which room is kept, those that are served first


def kept_for(
    copy: Callable[[], ClusterState], rule: NDArray[np.void], waiting: Sequence[int]
) -> dict[int, int]:
    """Who of the jobs that fit and wait does so since room, or an account, is kept for another.

    Found by asking the rule again without the other: whoever it starts then has waited for it.

    Parameters
    ----------
    copy : callable
        Makes a copy of the cluster's state, which may be spoilt.
    rule : ndarray of RULE_DTYPE, shape [1]
        By which the cluster places jobs.
    waiting : sequence of int
        Rows of the jobs that wait and would fit.

    Returns
    -------
    dict of int to int
        By row, the row of the other; jobs whose turn it is not for another reason are not in it.
    """
    if not (rule["reservation"][0] and len(waiting)):
        return {}
    state = copy()
    held = set(waiting) - _started(state, rule)
    rows, count = state.rows, int(state.rows[0]["queue_len"])
    others = [int(j) for j in state.queue[0, :count]["job"]]
    key = int(rule["key"][0])
    others.sort(key=lambda j: (kernels.fits(rows, 0, j), kernels.job_score(rows, 0, j, key)))
    found: dict[int, int] = {}
    for other in others[:_HEADS]:
        if not held:
            break
        freed = held & _started(copy(), rule, without=other)
        found |= dict.fromkeys(sorted(freed), other)
        held -= freed
    return found


def _started(state: ClusterState, rule: NDArray[np.void], without: int | None = None) -> set[int]:
    """Jobs that a rule would start now, if it did not see one of those that wait."""
    rows, shape = state.rows, state.shape
    scratch = np.empty(max(shape.jobs, shape.workers), np.int32)
    kernels.open_point(rows, 0)
    if without is not None:
        state.job[0, without]["blocked_point"] = rows[0]["point"]  # as of who was just preempted
    started: set[int] = set()
    for _ in range(shape.jobs):
        kind, j, value = kernels.rule_action(rows, 0, rule, scratch)
        if kind not in (ActionKind.PLACE, ActionKind.PREEMPT):
            break
        if kernels.commit(rows, 0, kind, j, value, scratch) != Reason.OK:
            break
        if kind == ActionKind.PLACE:
            started.add(int(j))
    return started
