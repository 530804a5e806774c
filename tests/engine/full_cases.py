"""A case with services, tenants and nodes to order; and a simulated episode of it, written down."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import numpy as np
from hypothesis import strategies as st

from orchestrator.engine.records import node_records, request_record, tenant_records
from orchestrator.invariants import assert_invariants
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.run.rows import settle
from orchestrator.kernels.state.codes import (
    FOREVER_MS,
    ActionKind,
    JobCode,
    JobKind,
    LogKind,
    NodeCode,
    Placement,
    QuotaMode,
    Reason,
    Status,
)
from orchestrator.kernels.state.records import SCALING_DTYPE
from orchestrator.kernels.state.row import ClusterState, allocate
from orchestrator.mesh.specs import ServiceSpec, service_records
from orchestrator.scheduling.rules import rule_named
from orchestrator.types import JobPriority, JobSpec, NodeSpec, TenantSpec
from tests.engine.cases import HOUR_MS, MAX_JOBS, SHAPE, Case, cases, choose, log_of
from tests.twins.kernel_calls import begin_with_services, load_incidents, load_tenants

__all__ = ["FULL_SHAPE", "Episode", "FullCase", "full_cases"]

_SPARES, _SERVICES, _TICK_MS = 3, 2, 700
FULL_SHAPE = replace(
    SHAPE, jobs=MAX_JOBS + _SERVICES, nodes=SHAPE.nodes + _SPARES, services=_SERVICES, log=32768
)
_DRAWN = (Placement.RANDOM, Placement.UNIFORM)  # by the number of the decision point


@dataclass(frozen=True)
class FullCase:
    """A case of ``test_one_core`` with services, tenants and nodes to order besides."""

    base: Case
    services: tuple[JobSpec, ...]
    tenants: tuple[TenantSpec, ...]
    provision_ms: int
    rule: str | None

    @property
    def jobs(self) -> list[tuple[int, JobSpec]]:
        """All of them, services first, as they are submitted."""
        begin = self.base.jobs[0][0]
        named = [
            (at, replace(spec, tenant=f"t{k % 2}")) for k, (at, spec) in enumerate(self.base.jobs)
        ]
        return [(begin, spec) for spec in self.services] + named

    @property
    def nodes(self) -> list[NodeSpec]:
        """Those that are there, and those that may be ordered."""
        there = list(self.base.nodes)
        return there + [self.spare(len(there) + k) for k in range(_SPARES)]

    def spare(self, n: int) -> NodeSpec:
        return replace(self.base.nodes[0], node_id=f"node-{n}", available=True)


def _least(spec: JobSpec, by_gpu: bool) -> float:
    """GPUs, or cores, without which a job does not start."""
    workers = spec.min_workers if spec.elastic else spec.num_workers
    return workers * (spec.gpus_per_worker * spec.gpu_fraction if by_gpu else spec.cpus_per_worker)


@st.composite
def full_cases(draw: st.DrawFn) -> FullCase:
    base = draw(cases(commitment=False))
    first = base.nodes[0]
    by_gpu = any(node.gpus for node in base.nodes)
    services = tuple(
        JobSpec(
            job_id=f"service-{s}",
            name=f"service-{s}",
            priority=JobPriority.PRODUCTION,
            num_workers=draw(st.integers(1, 3)),
            gpus_per_worker=int(by_gpu and first.gpus > 0),
            memory_per_worker_gb=0.5,
            max_duration_hours=FOREVER_MS / HOUR_MS,
            duration_hours=FOREVER_MS / HOUR_MS,
            checkpoint_interval_steps=0,
            elastic=True,
            max_workers=4,
            gpu_fraction=draw(st.sampled_from([1.0, 0.5])),
            cpus_per_worker=0.0 if by_gpu and first.gpus else 0.5,
            regroup_seconds=draw(st.sampled_from([0.0, 0.8])),
            tenant="cluster",
            kind=JobKind.SERVICE,
        )
        for s in range(_SERVICES)
    )
    capacity = sum(node.gpus for node in base.nodes) or sum(node.cpu_cores for node in base.nodes)
    tenants = tuple(TenantSpec(name, quota=capacity / 3) for name in ("cluster", "t0", "t1"))
    # A job that its tenant's hard quota never lets start is refused live, and waits in an episode.
    asked = [_least(spec, by_gpu) for spec in [*services, *(spec for _, spec in base.jobs)]]
    modes = [mode for mode in QuotaMode if mode != QuotaMode.HARD or max(asked) <= capacity / 3]
    mode = draw(st.sampled_from(modes))
    semantics = replace(base.semantics, quota_mode=mode, migrate=True)  # legal rarely enough
    rules = [None, None, "elastic_srtf+predictive", "reclaim+reactive"]
    return FullCase(
        base=replace(base, semantics=semantics),
        services=services,
        tenants=tenants,
        provision_ms=draw(st.sampled_from([300, 1000, 1900])),
        rule=draw(st.sampled_from(rules)),
    )


# --- the episode ---------------------------------------------------------------------------------


def _load(case: FullCase) -> tuple[ClusterState, np.ndarray]:
    """The case as a row that has just begun; and what its addresses point to."""
    state = allocate(FULL_SHAPE)
    row = state.rows[0]
    case.base.semantics.write(state.rows)
    row["keep_log"] = 1
    row["services"], row["capacity_steps"] = _SERVICES, 2
    row["tick_ms"], row["provision_ms"], row["min_nodes"] = _TICK_MS, case.provision_ms, 1
    rates = np.random.default_rng(case.base.seed).gamma(1.0, 9.0, (_SERVICES, 200))
    rates = np.ascontiguousarray(rates, np.float32)
    row["series_at"] = row["forecast_at"] = rates.ctypes.data
    row["series_len"], row["series_first"], row["series_stop"] = 200, 0, 40
    requests = np.concatenate(
        [request_record(spec, at, _tenant(case, spec)) for at, spec in case.jobs]
    )
    requests["service"][:_SERVICES] = np.arange(_SERVICES)
    specs = [ServiceSpec(spec.job_id, 100.0, max_replicas=4) for spec in case.services]
    plans = np.zeros(_SERVICES + 1, SCALING_DTYPE)
    plans["unit_capacity"], plans["target"], plans["tolerance"] = 10.0, 0.7, 0.1
    plans["min_size"], plans["max_size"] = 1, [FULL_SHAPE.nodes] + [4] * _SERVICES
    plans["unit_capacity"][0] = 2000.0
    plans["down_window_ms"] = [1500, 700, 700]
    nodes = node_records(case.nodes)
    nodes["state"][len(case.base.nodes) :] = NodeCode.ABSENT
    standing, jobs = requests[:_SERVICES], requests[_SERVICES:]
    records = service_records(specs, range(_SERVICES))
    begin_with_services(state.rows, 0, case.base.seed, nodes, standing, jobs, records, plans)
    load_tenants(state.rows, 0, tenant_records(case.tenants))
    incidents = np.zeros(len(case.base.incidents), state.incident.dtype)
    for k, (time_ms, kind, n) in enumerate(case.base.incidents):
        incidents[k] = (time_ms - case.base.jobs[0][0], int(kind), n)
    load_incidents(state.rows, 0, incidents)
    return state, rates


def _tenant(case: FullCase, spec: JobSpec) -> int:
    return [tenant.name for tenant in case.tenants].index(spec.tenant)


Op = tuple[str, int, int]


@dataclass
class Episode:
    """A simulated episode, and what was decided when."""

    case: FullCase
    state: ClusterState = field(init=False)
    script: list[tuple[int, Op]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state, self._rates = _load(self.case)
        self._trial, self._seen = allocate(FULL_SHAPE), 0
        self._nodes, self._jobs = (
            np.zeros(FULL_SHAPE.jobs, np.int32),
            np.zeros(FULL_SHAPE.jobs, np.int32),
        )

    @property
    def now_ms(self) -> int:
        return int(self.state.rows[0]["now_ms"])

    def play(self) -> None:
        while entry.advance(self.state.rows, 0, self._nodes) == Status.DECISION:
            self._note_starts()
            assert_invariants(self.state, 0)
            action = self._choose()
            reason = entry.commit(self.state.rows, 0, *action, self._nodes)
            if reason == Reason.NOTHING_TO_WAIT_FOR:
                break
            assert reason == Reason.OK
            self._note(action)
        self._note_starts()
        assert_invariants(self.state, 0)

    def _new_records(self) -> list[tuple[int, int, int, int]]:
        fresh = log_of(self.state, self._seen)
        self._seen += len(fresh)
        return fresh

    def _note_starts(self) -> None:
        """Services that have started by themselves."""
        for time_ms, kind, j, value in self._new_records():
            if kind == LogKind.JOB_STATE and value == JobCode.SCHEDULED:
                assert j < _SERVICES, "only services start by themselves"
                self.script.append((time_ms, ("place", j, int(Placement.BEST_FIT))))

    def _note(self, action: tuple[int, int, int]) -> None:
        kind, subject, value = action
        records = self._new_records()
        if kind == ActionKind.CAPACITY:
            codes = {NodeCode.PROVISIONING: "order", NodeCode.DRAINING: "drain"}
            changed = [(n, code) for _, what, n, code in records if what == LogKind.NODE_STATE]
            ops = [(codes[NodeCode(code)], n, 0) for n, code in changed if code in codes]
        elif kind == ActionKind.SERVICE or (kind == ActionKind.RESIZE and subject < _SERVICES):
            ops = [("replicas", subject, value)]
        else:
            ops = [(ActionKind(kind).name.lower(), subject, value)]
        self.script += [(self.now_ms, op) for op in ops]

    def _choose(self) -> tuple[int, int, int]:
        """The rule's action, or a random one; never one that a live cluster cannot mirror."""
        row, case = self.state.rows[0], self.case
        dice = random.Random(f"{case.base.seed} {row['decisions']} {row['now_ms']}")
        if case.rule is not None:
            rule = rule_named(case.rule).to_record()
            action = entry.rule_action(self.state.rows, 0, rule, self._jobs)
        else:
            action = choose(self.state, case.base.semantics, case.base.seed)
            scale = [(ActionKind.CAPACITY, 0, delta) for delta in (-1, 1, 2)]
            scale += [(ActionKind.SERVICE, s, k) for s in range(_SERVICES) for k in range(1, 5)]
            moves = [(ActionKind.MIGRATE, j, Placement.BEST_FIT) for j in self._running()]
            for rare, share in ((scale, 0.5), (moves, 0.9)):  # moves are rarely legal
                legal = [one for one in rare if self._mirrors(one)]
                if legal and dice.random() < share:
                    action = dice.choice(legal)
        kind, j, value = (int(part) for part in action)
        if kind in (ActionKind.PLACE, ActionKind.MIGRATE) and value in _DRAWN:
            value = int(Placement.BEST_FIT)
        if self._mirrors((kind, j, value)):
            return kind, j, value
        return int(ActionKind.WAIT), 0, 0

    def _running(self) -> list[int]:
        """Jobs that run, services left out."""
        found = np.flatnonzero(self.state.job[0]["state"] == JobCode.RUNNING)
        return [j for j in found.tolist() if j >= _SERVICES]

    def _mirrors(self, action: tuple[int, int, int]) -> bool:
        """Whether an action is legal, and takes nothing away but nodes that were ordered."""
        row, own = self.state.rows[0], len(self.case.base.nodes)
        entry.copy_row(self.state.rows, 0, self._trial.rows, 0)
        if entry.commit(self._trial.rows, 0, *action, self._nodes) != Reason.OK:
            return action[0] == ActionKind.WAIT
        if action[0] == ActionKind.MIGRATE:
            return self._would_ask()
        if action[0] != ActionKind.CAPACITY:
            return True
        if action[2] < 0 and row["arrival_len"] > 0:
            return False
        before, after = self.state.node[0]["state"], self._trial.node[0]["state"]
        return bool((before[:own] == after[:own]).all())

    def _would_ask(self) -> bool:
        """Whether a live cluster would ask its policy now: it does not for the sake of scaling."""
        entry.copy_row(self.state.rows, 0, self._trial.rows, 0)
        self._trial.rows["services"] = self._trial.rows["capacity_steps"] = 0
        return settle(self._trial.rows, 0, self._nodes) == Status.DECISION
