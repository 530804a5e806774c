"""What a waiting job waits for: who holds it, and the smallest changes that would start it at once.

A change is offered only if it was made in a rehearsal and the job started there: right away, or as
soon as those that the rule preempts for it were saved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.engine.binding import Binding
from orchestrator.engine.engine import Engine, EngineImage
from orchestrator.errors import QuartermasterError
from orchestrator.kernels.state.codes import JobKind, NodeCode, QuotaMode, Reason, Topology
from orchestrator.messages import Register
from orchestrator.scheduling.rules import Rule
from orchestrator.twin.answers import Change, Holder
from orchestrator.twin.rehearsal import Rehearsal
from orchestrator.twin.supposed import nodes_like
from orchestrator.types import JobPriority, JobSpec

__all__ = ["holders_of", "smallest_changes"]


_TOLD = 10  # holders
_MOST_NODES = 16  # that are tried to be added
_MOST_MOVES = 6
_NEAREST_NODES = 4  # from which jobs are moved: those on which least is missing
_MOST_MOVABLE = 32  # jobs whose moves are tried, those that cost least
_RESOURCES = (  # of a node: what is free, what there is, and what a worker asks for
    ("whole_free", "gpus", "gpus_per_worker"),
    ("cpu_free_milli", "cpu_cap_milli", "cpu_milli"),
    ("memory_free_mib", "memory_cap_mib", "memory_mib"),
)


# --- who holds what it needs ---------------------------------------------------------------------


def holders_of(engine: Engine, row: int) -> tuple[Holder, ...]:
    """Who has workers on nodes that would suit a job, who is expected to end first before others.

    Parameters
    ----------
    engine : Engine
    row : int
        The job's.
    """
    state, ids = engine.state, engine.jobs.index.ids
    ask: Any = state.request[0, row]
    nodes = state.node[0, : int(state.rows[0]["num_nodes"])]
    mask = int(ask["model_mask"])
    suits = (nodes["state"] == NodeCode.UP) & (nodes["gpu_memory_mib"] >= ask["gpu_memory_mib"])
    if mask:
        suits &= (mask >> nodes["model"].astype(np.int64)) & 1 == 1
    found = list[Holder]()
    for entry in state.running[0, : int(state.rows[0]["running_len"])]:
        j = int(entry["job"])
        run: Any = state.job[0, j]
        there = state.worker[0, j, : int(run["workers_now"])]["node"]
        share = float(suits[there].mean()) if len(there) else 0.0
        if share == 0.0 or run["units"] == 0:
            continue
        asked: Any = state.request[0, j]
        spec = engine.jobs.specs[ids[j]]
        found.append(
            Holder(
                job_id=ids[j],
                tenant=spec.tenant,
                priority=spec.priority.name,
                units=share * int(run["units"]) / 1000,
                expected_end_ms=max(int(entry["expected_end_ms"]), engine.now_ms),
                preemptible=bool(asked["preemptible"]) and asked["kind"] != JobKind.SERVICE,
            )
        )
    return tuple(found[:_TOLD])  # the list of who runs is by expected end


# --- the smallest changes ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Try:
    """A change to be tried: what it is, and how it is made; the identity of the job then."""

    change: Change
    make: Callable[[Rehearsal], str]


def smallest_changes(
    image: EngineImage, here: Rehearsal, rule: Rule, job_id: str, binding: Binding
) -> tuple[tuple[Change, ...], int]:
    """The smallest change of each kind that starts a waiting job at once; how many were tried.

    Parameters
    ----------
    image : EngineImage
        The cluster.
    here : Rehearsal
        Of it as it is, to be read only.
    rule : Rule
        Who is in charge.
    job_id : str
    binding : Binding
        What the job waits for.
    """
    found, tried = list[Change](), 0
    if _starts(image, here, rule, lambda copy: job_id) is not None:
        return (), 0  # it starts by itself, as soon as the rule is asked
    for kind in _kinds(image, here, job_id, binding):
        for attempt in kind:
            tried += 1
            came = _starts(image, here, rule, attempt.make)
            if came is not None:
                after_ms, displaced = came
                change = replace(attempt.change, starts_after_ms=after_ms, displaces=displaced)
                found.append(change)
                break
    return tuple(found), tried


def _starts(
    image: EngineImage, here: Rehearsal, rule: Rule, make: Callable[[Rehearsal], str]
) -> tuple[int, tuple[str, ...]] | None:
    """After how many ms the job starts if something is done, and whom it displaces; None: not."""
    try:
        copy = Rehearsal(image, here.now_ms)
        return copy.start_of(make(copy), rule)
    except QuartermasterError:
        return None  # it cannot be done to this cluster: then it is no way out


def _kinds(
    image: EngineImage, here: Rehearsal, job_id: str, binding: Binding
) -> Iterator[Iterator[_Try]]:
    """What is tried, kind by kind, the smallest change of each first."""
    spec = here.engine.jobs.specs[job_id]
    yield _fewer_workers(job_id, spec)
    yield _other_models(here, job_id, spec)
    yield _wider_topology(job_id, spec)
    yield _higher_priority(job_id, spec)
    yield _moves(image, here, job_id)
    if here.engine.semantics.quota_mode != QuotaMode.NONE:
        yield _other_tenants(here, job_id, spec)
        if binding.reason == Reason.QUOTA:
            yield _more_quota(here, job_id, spec, binding)
    yield _more_nodes(here, job_id)


def _anew(job_id: str, what: str, to: Any, text: str, spec: JobSpec) -> _Try:
    """The job submitted anew with another specification."""
    return _Try(Change(what, to, text, "user"), lambda copy: copy.resubmit(job_id, spec))


def _fewer_workers(job_id: str, spec: JobSpec) -> Iterator[_Try]:
    """One worker less, and so on: of n workers about 2 log n sizes are looked at."""
    step, workers = 1, spec.num_workers - 1
    while workers >= 1:
        fewer = replace(spec, num_workers=workers, min_workers=min(spec.min_workers, workers))
        text = f"ask for {workers} worker{'s' * (workers != 1)} instead of {spec.num_workers}"
        yield _anew(job_id, "workers", workers, text, fewer)
        if workers == 1:
            return
        step = step if spec.num_workers - workers < 8 else 2 * step
        workers = max(workers - step, 1)


def _other_models(here: Rehearsal, job_id: str, spec: JobSpec) -> Iterator[_Try]:
    """Each other GPU model, and any."""
    if not spec.gpu_models:
        return
    for model in here.engine.nodes.models:
        if model not in spec.gpu_models:
            wider = (*spec.gpu_models, model)
            text = f"take GPUs of model {model}, too"
            yield _anew(job_id, "gpu_models", wider, text, replace(spec, gpu_models=wider))
    yield _anew(job_id, "gpu_models", (), "take any GPU model", replace(spec, gpu_models=()))


def _wider_topology(job_id: str, spec: JobSpec) -> Iterator[_Try]:
    """The next wider domain, and so on."""
    for level in range(int(spec.topology) - 1, int(Topology.ANY) - 1, -1):
        domain = Topology(level)
        text = f"let workers be in one {domain.name.lower()} instead of one "
        text += spec.topology.name.lower()
        if domain == Topology.ANY:
            text = f"prefer, and do not require, one {spec.topology.name.lower()}"
        yield _anew(job_id, "topology", domain.name, text, replace(spec, topology=domain))


def _higher_priority(job_id: str, spec: JobSpec) -> Iterator[_Try]:
    """The next higher class, and so on."""
    for value in range(spec.priority.value - 1, -1, -1):
        level = JobPriority(value)
        text = f"priority {level.name} instead of {spec.priority.name}"
        yield _anew(job_id, "priority", level.name, text, replace(spec, priority=level))


def _moves(image: EngineImage, here: Rehearsal, job_id: str) -> Iterator[_Try]:
    """A move of a running job to a tighter place, two, and so on.

    Each move is the one after which most workers of the waiting job have a place; of equal ones
    that after which least is missing for another one, and of these that which costs least.
    """
    moved, spent, engine = tuple[str, ...](), 0.0, here.engine
    costs = _costs_of_moves(engine)
    while len(moved) < _MOST_MOVES:
        best: tuple[int, float, float, str] | None = None
        begun = engine
        for name in _in_the_way(begun, job_id, costs):
            copy = Rehearsal(image, here.now_ms)
            try:
                for one in (*moved, name):
                    copy.move(one)
            except QuartermasterError:
                continue  # it may not be moved, or is as tight as it can be
            workers, missing = _room_for(copy.engine, job_id)
            found = -workers, missing, costs[name], name
            if best is None or found < best:
                best, engine = found, copy.engine
        if best is None:
            return
        moved, spent = (*moved, best[-1]), spent + best[-2]
        yield _moves_try(job_id, moved, spent)


def _moves_try(job_id: str, moved: tuple[str, ...], costs_gpu_s: float) -> _Try:
    def make(copy: Rehearsal) -> str:
        for name in moved:
            copy.move(name)
        return job_id

    text = f"move {' and '.join(moved)} to tighter places ({costs_gpu_s:.0f} GPU seconds)"
    return _Try(Change("moves", moved, text, "operator", costs_gpu_s=costs_gpu_s), make)


def _costs_of_moves(engine: Engine) -> dict[str, float]:
    """What moving each job that runs costs, units times seconds; those that may not be left out."""
    state, ids, found = engine.state, engine.jobs.index.ids, dict[str, float]()
    for j in state.running[0, : int(state.rows[0]["running_len"])]["job"].tolist():
        asked: Any = state.request[0, j]
        stall_s = (int(asked["checkpoint_ms"]) + int(asked["restart_ms"])) / 1000
        if asked["preemptible"] and asked["kind"] != JobKind.SERVICE:
            found[ids[j]] = int(state.job[0, j]["units"]) / 1000 * stall_s
    return found


def _in_the_way(engine: Engine, job_id: str, costs: Mapping[str, float]) -> list[str]:
    """Who may be moved from the nodes on which least is missing for a worker of a job."""
    state, ids = engine.state, engine.jobs.index.ids
    _, missing = _lacks(engine, job_id)
    nearest = np.argsort(missing, kind="stable")[:_NEAREST_NODES]
    nearest = nearest[np.isfinite(missing[nearest])]
    found = set[str]()
    for j in state.running[0, : int(state.rows[0]["running_len"])]["job"].tolist():
        there = state.worker[0, j, : int(state.job[0, j]["workers_now"])]["node"]
        if ids[j] in costs and np.isin(there, nearest).any():
            found.add(ids[j])
    return sorted(found, key=lambda one: (costs[one], one))[:_MOST_MOVABLE]


def _lacks(engine: Engine, job_id: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Of each node how many workers of a job it has room for, and what it lacks for one more.

    That is a share of what a worker asks for, of the resource that lacks most; inf: it could not
    hold another one if it were empty.
    """
    state, row = engine.state, engine.jobs.index.find(job_id)
    ask: Any = state.request[0, row]
    nodes = state.node[0, : int(state.rows[0]["num_nodes"])]
    each = np.full(len(nodes), int(ask["workers"]), np.int64)
    lacks, holds = np.zeros(len(nodes)), nodes["state"] == NodeCode.UP
    wanted = [names for names in _RESOURCES if ask[names[-1]] > 0]
    for free, _, asked in wanted:
        each = np.minimum(each, nodes[free] // int(ask[asked]))
    for free, all_of, asked in wanted:
        lacks = np.maximum(lacks, each + 1 - nodes[free] / int(ask[asked]))
        holds = holds & ((each + 1) * int(ask[asked]) <= nodes[all_of])
    each[nodes["state"] != NodeCode.UP] = 0
    return each, np.where(holds, lacks, np.inf)


def _room_for(engine: Engine, job_id: str) -> tuple[int, float]:
    """How many workers of a job have a place, in the domain that has most, as far as it matters.

    And how much of one more is missing where least is: a move that lets nobody in yet may bring a
    place nearer.
    """
    ask: Any = engine.state.request[0, engine.jobs.index.find(job_id)]
    each, lacks = _lacks(engine, job_id)
    missing = float(lacks.min(initial=np.inf))
    if ask["topology"] >= Topology.NODE:
        return int(each.max(initial=0)), missing
    if ask["topology"] == Topology.ANY:
        return int(each.sum()), missing
    nodes = engine.state.node[0, : len(each)]
    domains = nodes["rack" if ask["topology"] == Topology.RACK else "spine"]
    return int(np.bincount(domains - domains.min(), each).max(initial=0)), missing


def _other_tenants(here: Rehearsal, job_id: str, spec: JobSpec) -> Iterator[_Try]:
    """Each other tenant, who has most left of its quota first."""
    left = dict[str, int]()
    for k, name in enumerate(here.engine.jobs.tenants.names):
        account: Any = here.engine.state.tenant[0, k]
        if name != spec.tenant and account["quota_units"] > 0:
            left[name] = int(account["quota_units"]) - int(account["used_units"])
    for name in sorted(left, key=lambda one: (-left[one], one)):
        text = f"submit it as tenant {name}"
        yield _anew(job_id, "tenant", name, text, replace(spec, tenant=name))


def _more_quota(here: Rehearsal, job_id: str, spec: JobSpec, binding: Binding) -> Iterator[_Try]:
    """As much more as is missing."""
    names = here.engine.jobs.tenants.names
    account: Any = here.engine.state.tenant[0, names.index(spec.tenant)]
    missing = (binding.asked or 0.0) - (binding.free or 0.0)
    quota = int(account["quota_units"]) / 1000 + missing

    def make(copy: Rehearsal) -> str:
        copy.set_quota(spec.tenant, quota)
        return job_id

    text = f"a quota of {quota:g} for tenant {spec.tenant}, {missing:g} more"
    yield _Try(Change("quota", quota, text, "operator"), make)


def _more_nodes(here: Rehearsal, job_id: str) -> Iterator[_Try]:
    """One more node, two, four, and so on, of each kind of hardware that is there."""
    nodes, kinds = here.engine.nodes, dict[tuple[Any, ...], str]()
    for name, spec in nodes.specs.items():
        if nodes.code(name) == NodeCode.UP:
            hardware = spec.gpus, spec.gpu_model, spec.gpu_memory_gb, spec.cpu_cores, spec.memory_gb
            kinds.setdefault(hardware, name)
    count = 1
    while count <= _MOST_NODES:
        for like in kinds.values():
            yield _nodes_try(job_id, like, count)
        count *= 2


def _nodes_try(job_id: str, like: str, count: int) -> _Try:
    def make(copy: Rehearsal) -> str:
        for spec in nodes_like(copy, like, count):
            copy.do(Register(spec))
        return job_id

    text = f"{count} node{'s' * (count != 1)} more like {like}"
    return _Try(Change("nodes", {"like": like, "count": count}, text, "operator"), make)
