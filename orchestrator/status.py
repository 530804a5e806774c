"""What is going on in a cluster, as plain data: states, demand, shares, why a job waits."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from orchestrator.engine.binding import Binding, account_binding, kept_for, room_binding
from orchestrator.engine.engine import Engine, Outcome, Room
from orchestrator.engine.history import JobNote
from orchestrator.engine.plans import short_jobs
from orchestrator.kernels.decide.scale import read_demand
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.state.codes import (
    NEVER,
    NO_JOB,
    JobCode,
    NodeCode,
    Reason,
)
from orchestrator.kernels.state.row import ClusterShape
from orchestrator.messages import (
    Cancel,
    Decide,
    Decommission,
    Entry,
    Establish,
    PlaceJob,
    Plan,
    Register,
    ReleaseNode,
    Review,
    StopJob,
    Submit,
    Undrain,
)
from orchestrator.ports import Checkpoint, CheckpointManager, Equipped, Runtime, ShardManager
from orchestrator.resources import ResourceManager, Usage
from orchestrator.types import JobPriority, JobSpec, JobState, NodeSpec

__all__ = [
    "Demand",
    "Owners",
    "binding_status",
    "checkpoint_status",
    "cluster_status",
    "demand_of",
    "failure_report",
    "fragmentation",
    "jain_index",
    "job_status",
    "load_answers",
    "node_states",
    "nodes_of",
    "or_error",
    "queue_position",
    "state_note",
    "tenant_shares",
    "warn_of_devices",
    "why_waiting",
]


_log = logging.getLogger(__name__)


_Rule: TypeAlias = NDArray[np.void] | None  # RULE_DTYPE [1]: by which jobs are placed; if one does


@dataclass(frozen=True)
class Demand:
    """What jobs hold and wait for, in GPUs, or in CPU cores where there are no GPUs.

    Parameters
    ----------
    unit : str
        ``"gpu"`` or ``"cpu"``.
    held, queued : float
        By placed jobs, and by those that wait.
    """

    unit: str
    held: float
    queued: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.held + self.queued

    def of_node(self, spec: NodeSpec) -> float:
        """Capacity of a node, in the same unit."""
        return float(spec.gpus if self.unit == "gpu" else spec.cpu_cores)


def demand_of(engine: Engine) -> Demand:
    """The demand of an engine's jobs now, as a simulated fleet is scaled by.

    A waiting job counts with the workers that it asked for, a placed one with those that it has;
    those that could not start with it, where it is no gang, wait. In a cluster with GPUs, jobs that
    need none count nothing.
    """
    by_gpu, held, queued = read_demand(engine.state.rows, 0)
    for j in short_jobs(engine.state, len(engine.jobs.index.ids)) if engine.jobs.loose else ():
        missing = int(engine.state.request[0, j]["workers"] - engine.state.job[0, j]["workers_now"])
        queued += entry.units_of(engine.state.rows, 0, int(j), missing)
    return Demand("gpu" if by_gpu else "cpu", held / 1000, queued / 1000)


def fragmentation(engine: Engine) -> float:
    """Share of the idle GPUs that lie on partly used nodes, in [0, 1]; 0 where none is idle.

    These are the GPUs that a job which needs whole nodes cannot have. (The fragmentation of Weng
    et al., USENIX ATC 2023, needs a distribution of typical jobs, which a live cluster does not
    have beforehand; see :meth:`orchestrator.resources.GPUAllocator.fragmentation`.)
    """
    nodes = engine.state.node[0]
    up = (nodes["state"] == NodeCode.UP) & (nodes["gpus"] > 0)
    idle = nodes["gpu_free_milli"][up]
    total = int(idle.sum())
    scattered = int(idle[idle < 1000 * nodes["gpus"][up]].sum())
    return scattered / total if total else 0.0


def jain_index(shares: NDArray[np.float64]) -> float:
    """(sum x)^2 / (n sum x^2), 1 if all have the same (Jain, Chiu and Hawe, DEC-TR-301, 1984)."""
    squares = float(np.sum(shares**2))
    return float(np.sum(shares)) ** 2 / (len(shares) * squares) if squares > 0 else 1.0


def tenant_shares(engine: Engine) -> dict[str, dict[str, float | None]]:
    """What each tenant that was ever named holds.

    Returns
    -------
    dict
        By name: ``used`` and ``quota`` (GPUs, or cores where there are none), ``weight``,
        ``dominant_share`` (the largest of its shares of GPUs, cores and memory; Ghodsi et al.,
        NSDI 2011), ``attained_hours`` (unit hours of runs that have ended, or so far accounted),
        ``storage_gb``, ``storage_quota_gb`` (None: no limit).
    """
    row = engine.row
    whole = {name: int(row[f"nominal_{name}"]) for name in ("gpu_milli", "cpu_milli", "memory_mib")}
    shares: dict[str, dict[str, float | None]] = {}
    for k, name in enumerate(engine.jobs.tenants.names):
        own: Any = engine.state.tenant[0, k]
        limit = int(own["storage_quota_mib"])
        shares[name] = {
            "used": int(own["used_units"]) / 1000,
            "quota": int(own["quota_units"]) / 1000,
            "weight": float(own["weight"]) or 1.0,
            "dominant_share": max(
                int(own[f"used_{part}"]) / most if most > 0 else 0.0 for part, most in whole.items()
            ),
            "attained_hours": int(own["attained_unit_ms"]) / 1000 / 3_600_000,
            "storage_gb": int(own["storage_mib"]) / 1024,
            "storage_quota_gb": limit / 1024 if limit > 0 else None,
        }
    return shares


def why_waiting(engine: Engine, job_ids: list[str], rule: _Rule = None) -> dict[str, Binding]:
    """Why waiting jobs are not placed.

    Parameters
    ----------
    engine : Engine
        The cluster; it is not changed.
    job_ids : list of str
        Jobs that wait.
    rule : ndarray of RULE_DTYPE, shape [1], or None, optional
        By which jobs are placed; None: by none, or one of which nobody knows whom it serves.

    Returns
    -------
    dict
        By job, what binds it; with the reason ``OK`` it would fit, and waits for its turn, or for
        another job for which the rule keeps room.
    """
    state, nodes = engine.state, np.empty(engine.shape.workers, np.int32)
    found, rooms = dict[str, Binding](), dict[tuple[object, ...], Binding]()  # of who asks alike
    for job_id in job_ids:
        j, spec = engine.jobs.index.find(job_id), engine.jobs.specs[job_id]
        ask: Any = state.request[0, j]
        reason = Reason(entry.why_not(state.rows, 0, j))
        started = bool(state.job[0, j]["first_start_ms"] >= 0)  # its checkpoints are counted
        account = account_binding(state, ask, spec, int(ask["tenant"]), ever=False)
        if reason != Reason.OK:
            wish = spec.kind, spec.gang_schedule, spec.gpu_models, spec.gpu_memory_gb
            alike = int(engine.jobs.asked[j]), *wish
            if alike not in rooms:
                rooms[alike] = room_binding(state, j, spec)
            found[job_id] = rooms[alike]
            if reason != Reason.FRAGMENTED:
                found[job_id] = replace(found[job_id], reason=reason)
        elif account is not None and not (started and account.reason == Reason.STORAGE):
            found[job_id] = account
        elif state.rows[0]["commitment"] == 0:
            reason = Reason(entry.start_refusal(state.rows, 0, j, nodes))
            found[job_id] = Binding(reason, text=_TURN if reason == Reason.OK else "")
        else:
            found[job_id] = Binding(reason, text=_TURN)
    if rule is not None and state.rows[0]["commitment"] == 0:
        _tell_for_whom(engine, rule, found)
    return found


def _tell_for_whom(engine: Engine, rule: NDArray[np.void], found: dict[str, Binding]) -> None:
    """Say it of jobs that only seem to wait for their turn."""
    index, room = engine.jobs.index, Room()
    turn = [index.find(job_id) for job_id, told in found.items() if told.text == _TURN]
    for j, other in kept_for(partial(engine.state_at, engine.now_ms, room), rule, turn).items():
        name = index.ids[other]
        text = f"it would fit, but the policy keeps room for job '{name}'"
        found[index.ids[j]] = replace(found[index.ids[j]], text=text, kept_for=name)


_TURN = "it would fit, and waits for its turn"


def binding_status(binding: Binding) -> dict[str, Any]:
    """What binds a job, as plain data."""
    return {**vars(binding), "reason": binding.reason.name.lower()}


_PLACED = ("started", "resized", "moved")


_STATES_TOLD = ("started", "preempted", "interrupted", "completed", "failed")


_EXPLAINED = 64  # waiting jobs of a cluster's status that are told why, the first ones; and events


def node_states(engine: Engine) -> dict[str, str]:
    """Nodes that are part of the cluster, and the state of each in lower case."""
    names = {int(code): code.name.lower() for code in NodeCode}
    return {node_id: names[code] for node_id, code in engine.nodes.codes.items()}


def device_status(nodes: Mapping[str, NodeSpec], runtime: Runtime) -> dict[str, Any]:
    """GPUs that were found on nodes, by node, and what is wrong with what is declared.

    Nodes on which nobody could look are left out.
    """
    found = dict[str, Any]()
    if not isinstance(runtime, Equipped):
        return found
    for node_id, spec in nodes.items():
        gpus = runtime.devices(node_id)
        if gpus is None:
            continue
        most_gb = min((gpu.memory_mb for gpu in gpus), default=0) / 1024
        problem = None
        if spec.gpus > len(gpus):
            problem = f"{spec.gpus} GPUs are declared, and {len(gpus)} are there"
        elif spec.gpus and spec.gpu_memory_gb > most_gb:
            problem = f"{spec.gpu_memory_gb:g} GiB a GPU are declared, and {most_gb:g} are there"
        found[node_id] = {
            "declared": spec.gpus,
            "problem": problem,
            "found": [
                {
                    "index": gpu.index,
                    "name": gpu.name,
                    "uuid": gpu.uuid,
                    "memory_mb": gpu.memory_mb,
                    "used_mb": gpu.used_mb,
                    "use_percent": gpu.use_percent,
                }
                for gpu in gpus
            ],
        }
    return found


def warn_of_devices(specs: Iterable[NodeSpec], runtime: Runtime) -> None:
    """Say which GPUs are declared and not there."""
    nodes = {spec.node_id: spec for spec in specs}
    for node_id, told in device_status(nodes, runtime).items():
        if told["problem"] is not None:
            _log.warning("node '%s': %s; correct its NodeSpec", node_id, told["problem"])


def cluster_status(
    engine: Engine, time_ms: int, owners: Owners, rule: _Rule = None
) -> dict[str, Any]:
    """What is going on in a cluster at a time, nothing having happened since the last entry.

    ``rule`` (RULE_DTYPE [1]) says by which jobs are placed: for whom it keeps room is told.

    Returns
    -------
    dict
        ``nodes`` (by state, and each), ``jobs`` (by state), ``gpus``, ``resources`` (see
        :class:`orchestrator.resources.ResourceManager`), ``utilization`` (now, and over time),
        ``queue`` (length, the longest wait, jobs that cannot ever be placed as the cluster is, and
        by job ``why_not`` and ``waits_for``, as of :func:`job_status`, of the first ones),
        ``fragmentation`` and ``tenants`` (see :mod:`orchestrator.status`), counts of
        ``decisions``, ``preemptions`` and ``interruptions``, the last ``events`` of all jobs (see
        :class:`orchestrator.engine.history.JobNote`), the ``event_log``'s length and hash, and
        ``shards`` (entities that each owns).
    """
    row = engine.row
    states, resources = node_states(engine), ResourceManager(engine.state)
    by_node = Counter(states.values())
    used, now_ms = int(row["capacity_units"]) - int(row["free_units"]), max(time_ms, engine.now_ms)
    elapsed = now_ms - engine.now_ms
    busy = int(row["busy_unit_ms"]) + elapsed * used
    there = int(row["capacity_unit_ms"]) + elapsed * int(row["capacity_units"])
    return {
        "now_ms": now_ms,
        "nodes": {
            "total": len(states),
            **{code.name.lower(): by_node[code.name.lower()] for code in NodeCode if code > 0},
            "states": states,
        },
        "jobs": _jobs_by_state(engine),
        "gpus": _gpus(resources.gpus.total()),
        "resources": resources.status(),
        "utilization": {
            "unit": "gpu" if row["unit"] else "cpu",
            "now": _share(used, int(row["capacity_units"])),
            "mean": _share(busy, there),
        },
        "queue": _queue_status(engine, now_ms, rule),
        "fragmentation": fragmentation(engine),
        "tenants": tenant_shares(engine),
        "decisions": int(engine.row["decisions"]),
        "refused_actions": int(engine.row["illegal_actions"]),
        "preemptions": engine.jobs.count("preemptions"),
        "interruptions": engine.jobs.count("interruptions"),
        "events": [note.as_dict() for note in engine.history.recent(_EXPLAINED)],
        "event_log": {"records": int(engine.row["log_count"]), "hash": f"{engine.log_hash:016x}"},
        "shards": or_error(lambda: owners.by_shard(engine)),
    }


def _queue_status(engine: Engine, now_ms: int, rule: _Rule) -> dict[str, Any]:
    """Who waits, for how long and for what."""
    state, row, ids = engine.state, engine.row, engine.jobs.index.ids
    queue = state.queue[0, : int(row["queue_len"])]["job"]  # in submit order
    first = [ids[j] for j in queue[:_EXPLAINED]]
    binding = {
        name: binding_status(found) for name, found in why_waiting(engine, first, rule).items()
    }
    committed = int(row["committed"])
    first_ms = int(state.request[0, queue[0]]["submit_ms"]) if len(queue) else now_ms
    return {
        "length": len(queue),
        "longest_wait_ms": int(now_ms - first_ms),
        "unplaceable": engine.unplaceable(),
        "committed_to": None if committed == NO_JOB else ids[committed],
        "why_not": {name: told["reason"] for name, told in binding.items()},
        "waits_for": binding,
    }


def job_status(
    engine: Engine,
    time_ms: int,
    job_id: str,
    checkpoints: CheckpointManager,
    shards: ShardManager,
    rule: _Rule = None,
) -> dict[str, Any]:
    """What is known of a job at a time, nothing having happened since the last entry.

    Returns
    -------
    dict
        Its ``state``, times (None: not yet), ``progress`` (share of the estimate), ``node_ids``
        (where its workers are, or were last), ``workers`` (node and GPUs of each), ``resources``
        that it holds, counts of what happened to it, its last ``checkpoint``, whether it is
        ``unplaceable`` in the cluster as it is, ``why_not`` (a :class:`Reason` in lower case) and
        ``waits_for`` (the resource, the field and more: see
        :class:`orchestrator.engine.binding.Binding`), both None unless it waits.
        ``queue_position`` counts from 1, in order of submission, and ``expected_start_ms`` is when
        it would fit by the estimates of the jobs that run, if nobody else took the room (None: not
        even then). ``exit_code``, ``reason`` (for the state that it is in), ``preempted_by`` (the
        last job that took its place), ``overdue`` (it has had its time and was warned) and
        ``history`` say what happened and why: see :class:`orchestrator.engine.history.JobNote`.
    """
    j = engine.jobs.index.find(job_id)
    spec, code = engine.jobs.specs[job_id], engine.jobs.code(job_id)
    state, now_ms = engine.state, max(time_ms, engine.now_ms)
    run: Any = state.job[0, j]
    ask: Any = state.request[0, j]
    ended = code in (JobCode.COMPLETED, JobCode.FAILED)
    first_start_ms, end_ms = _moment(run["first_start_ms"]), _moment(run["end_ms"])
    moments = (first_start_ms, end_ms, now_ms)
    waited_until_ms = next(moment for moment in moments if moment is not None)
    estimate_ms = int(ask["requested_ms"])
    done_ms = engine.jobs.work_done(job_id, now_ms)
    return {
        "job_id": job_id,
        **_asked(spec),
        "state": JobState[code.name].value,
        "shard": or_error(lambda: shards.owner(job_id)),
        "submit_ms": int(ask["submit_ms"]),
        "first_start_ms": first_start_ms,
        "start_ms": _moment(run["start_ms"]),
        "end_ms": end_ms,
        "wait_ms": waited_until_ms - int(ask["submit_ms"]),
        "progress_ms": done_ms,
        "progress": 1.0 if code == JobCode.COMPLETED else min(1.0, done_ms / estimate_ms),
        **_holdings(engine, job_id),
        "starts": engine.runs_of(job_id),
        "preemptions": int(run["preemptions"]),
        "interruptions": int(run["interruptions"]),
        "lost_ms": int(run["lost_ms"]),
        "checkpoint": or_error(partial(_latest, checkpoints, job_id)),
        "unplaceable": not ended and not engine.can_ever_fit(job_id),
        **_outlook(engine, job_id, now_ms, rule),
        **_story(engine, job_id),
    }


def _asked(spec: JobSpec) -> dict[str, Any]:
    """What kind of job it is."""
    return {
        "name": spec.name,
        "tenant": spec.tenant,
        "priority": spec.priority.name,
        "kind": spec.kind.name,
        "command": list(spec.command),
    }


def _holdings(engine: Engine, job_id: str) -> dict[str, Any]:
    """Where a job's workers are, and what they hold."""
    workers, spec = engine.workers_of(job_id), engine.jobs.specs[job_id]
    return {
        "node_ids": nodes_of(engine, job_id),
        "workers": [{"node": place.node_id, "gpus": list(place.gpus)} for place in workers],
        "resources": {
            "gpus": len(workers) * spec.gpus_per_worker * spec.gpu_fraction,
            "cpus": len(workers) * spec.cpus_per_worker,
            "memory_gb": len(workers) * spec.memory_per_worker_gb,
        },
    }


def state_note(engine: Engine, job_id: str) -> JobNote | None:
    """What brought a job into the state that it is in; None: its submission."""
    return engine.history.last(job_id, *_STATES_TOLD)


def nodes_of(engine: Engine, job_id: str) -> list[str]:
    """Nodes on which a job has workers, or had the last ones."""
    there = {place.node_id for place in engine.workers_of(job_id)}
    last = engine.history.last(job_id, *_PLACED)
    return sorted(there) or list(last.nodes if last is not None else ())


def _story(engine: Engine, job_id: str) -> dict[str, Any]:
    """What happened to a job, and why."""
    history = engine.history
    state = state_note(engine, job_id)
    ended, taken = history.last(job_id, "completed", "failed"), history.last(job_id, "displaced")
    overdue = history.last(job_id, "overdue")
    running = engine.jobs.code(job_id) == JobCode.RUNNING
    return {
        "reason": state.reason if state is not None else "",
        "exit_code": ended.exit_code if ended is not None else None,
        "preempted_by": taken.by if taken is not None else None,
        "overdue": running and overdue is not None and overdue.run == engine.run_of(job_id),
        "history": [note.as_dict() for note in history.of(job_id)],
    }


def _outlook(engine: Engine, job_id: str, now_ms: int, rule: _Rule) -> dict[str, Any]:
    """Why a job waits, behind how many, and until when."""
    state, j = engine.state, engine.jobs.index.find(job_id)
    if engine.jobs.code(job_id) not in (JobCode.PENDING, JobCode.PREEMPTED):
        names = ("why_not", "waits_for", "queue_position", "expected_start_ms")
        return dict.fromkeys(names)
    binding = binding_status(why_waiting(engine, [job_id], rule)[job_id])
    fits_ms = entry.earliest_fit(state.rows, 0, j)
    return {
        "why_not": binding["reason"],
        "waits_for": binding,
        "queue_position": queue_position(engine, j),
        "expected_start_ms": None if fits_ms == NEVER else max(now_ms, fits_ms),
    }


def queue_position(engine: Engine, j: int) -> int:
    """Where the waiting job of a row stands, from 1, by submission."""
    queue, submits = engine.state.queue[0]["job"], engine.jobs.submits_ms

    def place(q: int) -> tuple[int, int]:
        return int(submits[queue[q]]), int(queue[q])

    return 1 + bisect_left(range(int(engine.row["queue_len"])), (int(submits[j]), j), key=place)


def load_answers(rule: _Rule = None) -> None:
    """Ask all that can be asked of a small cluster in which a job waits, and what is seldom done.

    The first such question makes a process load compiled kernels: better before anybody asks, and
    all that goes on waits meanwhile.

    Parameters
    ----------
    rule : ndarray or None, optional
        By which jobs are placed.
    """
    node = NodeSpec("warm", 1, 1.0, 1, 1.0, 1.0, "PCIe")
    engine = Engine(ClusterShape(envs=1, jobs=2, workers=1, nodes=1, devices=1), nodes=(node,))
    spec = JobSpec("warm", "warm", JobPriority.BATCH, 1, 1, 0.0, 1.0, 1, checkpoint_seconds=1.0)
    engine.handle(Entry(0, Submit(spec)))
    engine.handle(Entry(0, Submit(replace(spec, job_id="too"))))
    tenant_shares(engine)
    _queue_status(engine, 0, rule)
    _story(engine, "warm")
    _outlook(engine, "warm", 0, rule)
    engine.handle(Entry(0, Review()))
    engine.handle(Entry(0, Decide(Plan((PlaceJob("warm"),)))))
    _holdings(engine, "warm")
    # What people do now and then, and the next decision has not loaded.
    for body in (Decommission("warm"), Undrain("warm"), Cancel("too"), Cancel("warm")):
        engine.handle(Entry(0, body))


def failure_report(
    engine: Engine, node_id: str, outcome: Outcome, checkpoints: CheckpointManager
) -> dict[str, Any]:
    """What a node's failure has done: see ``InfrastructureOrchestrator.handle_node_failure``."""
    stops = [effect for effect in outcome.effects if isinstance(effect, StopJob)]
    latest = {}
    for job_id in (stop.job_id for stop in stops):
        latest[job_id] = or_error(partial(_latest, checkpoints, job_id))
    return {
        "node_id": node_id,
        "time_ms": engine.now_ms,
        "interrupted_jobs": list(latest),
        "checkpoints": latest,
        "lost_work_ms": {stop.job_id: stop.lost_ms for stop in stops},
        "rescheduled": [],
    }


def or_error(ask: Callable[[], Any]) -> Any:
    """What somebody who is injected says, or ``{"error": ...}``: the rest is told all the same."""
    try:
        return ask()
    except Exception as error:
        _log.exception("a part of the status could not be had")
        return {"error": f"{type(error).__name__}: {error}"}


def _latest(checkpoints: CheckpointManager, job_id: str) -> dict[str, Any] | None:
    return checkpoint_status(checkpoints.latest(job_id))


def checkpoint_status(checkpoint: Checkpoint | None) -> dict[str, Any] | None:
    """A checkpoint as plain data."""
    if checkpoint is None:
        return None
    return {
        "checkpoint_id": checkpoint.checkpoint_id,
        "progress_ms": checkpoint.progress_ms,
        "time_ms": checkpoint.time_ms,
    }


def _moment(time_ms: Any) -> int | None:
    return int(time_ms) if time_ms >= 0 else None


def _share(part: int, whole: int) -> float:
    return part / whole if whole > 0 else 0.0


def _jobs_by_state(engine: Engine) -> dict[str, int]:
    """Jobs by state; the ones that have ended count even if they are forgotten."""
    codes = np.bincount(engine.state.job[0]["state"], minlength=len(JobCode))
    counts = {state.value: int(codes[JobCode[state.name]]) for state in JobState}
    counts[JobState.COMPLETED.value] = engine.jobs.count("completed_jobs")
    counts[JobState.FAILED.value] = engine.jobs.count("failed_jobs")
    return counts


def _gpus(usage: Usage) -> dict[str, float]:
    return {
        "total": usage.capacity // 1000,
        "free": usage.free / 1000,
        "allocated": usage.used / 1000,
    }


class _Tally:
    """How many names of one table each shard owns. Only those that have changed are looked at."""

    def __init__(self) -> None:
        self._of: dict[str, str] = {}
        self._counts = Counter[str]()
        self._touched: dict[str, None] = {}
        self._all = True

    def touch(self, name: str) -> None:
        """Somebody has come, or has gone."""
        self._touched[name] = None
        if len(self._touched) > _MOST_TOUCHED + len(self._of):
            self.renew()  # nobody asks: there is no need to remember more than there is

    def renew(self) -> None:
        """Anybody may have come, or gone."""
        self._all, self._touched = True, {}

    def counted(self, names: Mapping[str, object], owner: Callable[[str], str]) -> Counter[str]:
        """How many each shard owns."""
        if self._all:
            self._of = {name: owner(name) for name in names}
            self._counts = Counter(self._of.values())
            self._all = False
        while self._touched:
            name = next(iter(self._touched))
            now = owner(name) if name in names else None
            before = self._of.pop(name, None)
            if before is not None:
                self._counts[before] -= 1
            if now is not None:
                self._of[name] = now
                self._counts[now] += 1
            del self._touched[name]
        return self._counts


_MOST_TOUCHED = 1024


class Owners:
    """Who owns what, remembered as long as the shards stay the same.

    Parameters
    ----------
    shards : ShardManager
        Who says so: by the name alone.
    """

    def __init__(self, shards: ShardManager) -> None:
        self.shards = shards
        self._known: tuple[object, ...] = ()
        self._jobs, self._nodes = _Tally(), _Tally()

    def note(self, entry: Entry, outcome: Outcome) -> None:
        """An entry of the log was applied: who has come because of it, and who has gone."""
        body = entry.body
        if isinstance(body, Submit):
            self._jobs.touch(body.spec.job_id)
        elif isinstance(body, Register):
            self._nodes.touch(body.spec.node_id)
        elif isinstance(body, Establish):
            self._nodes.renew()
            self._jobs.renew()
        if outcome.forgotten:
            self._jobs.touch(outcome.forgotten)
        for effect in outcome.effects:
            if isinstance(effect, ReleaseNode):
                self._nodes.touch(effect.node_id)

    def by_shard(self, engine: Engine) -> dict[str, dict[str, int]]:
        """How many of a cluster's jobs and nodes each shard owns."""
        there = tuple(self.shards.shards)
        if self._known != (there, engine.loads):
            self._jobs.renew()
            self._nodes.renew()
            self._known = there, engine.loads
        jobs = self._jobs.counted(engine.jobs.specs, self.shards.owner)
        nodes = self._nodes.counted(engine.nodes.specs, self.shards.owner)
        return {name: {"jobs": jobs[name], "nodes": nodes[name]} for name in there}
