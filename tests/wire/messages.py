"""Random messages."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from orchestrator.kernels.state.codes import Information, Placement, QuotaMode, Topology
from orchestrator.kernels.state.row import ClusterShape
from orchestrator.mesh.specs import BreakerSpec, LimitSpec, RetrySpec, ServiceSpec
from orchestrator.messages import (
    Cancel,
    CheckpointCommitted,
    Configure,
    Decide,
    Decommission,
    Entry,
    Establish,
    FleetSeen,
    JobOverdue,
    Lead,
    MigrateJob,
    NodeFailed,
    NodeRecovered,
    PlaceJob,
    Plan,
    Preempt,
    PreemptJob,
    Register,
    ResizeJob,
    Review,
    Scale,
    ScaleFleet,
    ScaleService,
    ServiceSeen,
    Sizing,
    Submit,
    Tick,
    Undrain,
    Wait,
    WorkerExited,
    WorkersLost,
)
from orchestrator.scheduling.rules import RULES
from orchestrator.semantics import Semantics
from orchestrator.types import JobKind, JobPriority, JobSpec, NodeSpec, TenantSpec

_TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
_NAME = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
_EXEC = st.text(st.characters(codec="utf-8", exclude_characters="\0="), min_size=1, max_size=8)
_AMOUNT = st.one_of(st.integers(0, 2**40), st.floats(0, 1e12))
_POSITIVE = st.one_of(st.integers(1, 2**40), st.floats(1e-6, 1e12))
_COUNT = st.integers(0, 2**31 - 1)
_RUN = st.integers(0, 2**63 - 1)
_SEEN = st.integers(-1, 2**63 - 1)
_FLAG = st.booleans()


@st.composite
def jobs(draw: Any) -> JobSpec:
    """Specifications of jobs, every field drawn."""
    least = draw(st.integers(1, 64))
    count = draw(st.integers(least, 128))
    most = draw(st.integers(count, 256))
    return JobSpec(
        draw(_NAME),
        draw(_TEXT),
        draw(st.sampled_from(JobPriority)),
        count,
        draw(st.integers(1, 16)),
        draw(_AMOUNT),
        draw(_POSITIVE),
        draw(_COUNT),
        elastic=draw(_FLAG),
        min_workers=least,
        max_workers=most,
        preemptible=draw(_FLAG),
        gang_schedule=draw(_FLAG),
        topology_aware=draw(_FLAG),
        tenant=draw(_NAME),
        cpus_per_worker=draw(_AMOUNT),
        gpu_fraction=draw(st.floats(0.01, 1.0)),
        step_seconds=draw(_POSITIVE),
        duration_hours=draw(st.none() | _POSITIVE),
        checkpoint_seconds=draw(_AMOUNT),
        gpu_memory_gb=draw(_AMOUNT),
        gpu_models=draw(st.lists(_NAME, max_size=3)),
        topology=draw(st.sampled_from(Topology)),
        kind=draw(st.sampled_from(JobKind)),
        deadline_hours=draw(st.none() | _POSITIVE),
        command=draw(st.lists(_EXEC, max_size=3)),
        working_dir=draw(_EXEC),
        environment=draw(st.dictionaries(_EXEC, _EXEC, max_size=3)),
    )


_NODES = st.builds(
    NodeSpec,
    _NAME,
    st.integers(0, 64),
    _AMOUNT,
    _COUNT,
    _AMOUNT,
    _AMOUNT,
    _TEXT,
    available=_FLAG,
    gpu_model=_NAME,
    rack=_COUNT,
    spine=_COUNT,
)
_TENANTS = st.builds(TenantSpec, _NAME, _POSITIVE, _AMOUNT, st.none() | _POSITIVE)
_GENERATORS = st.sampled_from(Placement)
_ACTIONS = st.one_of(
    st.builds(PlaceJob, _NAME, st.none() | _GENERATORS | st.integers(1 << 20, 1 << 21)),
    st.builds(PreemptJob, _NAME, _TEXT),
    st.builds(ResizeJob, _NAME, _COUNT),
    st.builds(MigrateJob, _NAME, _GENERATORS),
    st.builds(ScaleService, _NAME, _COUNT),
    st.builds(ScaleFleet, st.integers(-64, 64)),
)
_PLANS = st.builds(
    lambda actions, wait: Plan((*actions, *([Wait()] if wait else []))),
    st.lists(_ACTIONS, max_size=6),
    _FLAG,
)
_SHAPES = st.builds(
    ClusterShape, envs=st.just(1), jobs=st.integers(1, 2**31), devices=st.integers(0, 64)
)
_RULES = st.builds(
    Semantics,
    commitment=_FLAG,
    quota_mode=st.sampled_from(QuotaMode),
    information=st.sampled_from(Information),
    min_run_seconds=st.floats(0, 1e6),
    resize_lock_seconds=st.none() | st.floats(0, 1e6),
)
_SERVICES = st.builds(
    ServiceSpec,
    _NAME,
    st.floats(1e-3, 1e6),
    limit=st.builds(LimitSpec, st.floats(0, 1e6)),
    retry=st.builds(RetrySpec, st.integers(1, 64)),
    breaker=st.builds(BreakerSpec, st.integers(0, 9)),
)
_SIZINGS = st.builds(
    Sizing, *[st.floats(0, 1e6)] * 3, *[_COUNT] * 4, st.integers(0, 2**40), st.integers(0, 2**40)
)
_TICKS = st.builds(
    Tick,
    st.integers(1, 2**40),
    st.lists(
        st.builds(
            ServiceSeen,
            _NAME,
            st.integers(1, 64),
            st.floats(1e-3, 1e6),
            st.floats(1e-3, 1e6),
            _SIZINGS,
            *[st.floats(0, 1e6)] * 5,
            _COUNT,
            st.integers(0, 2),
        ),
        max_size=3,
        unique_by=lambda seen: seen.job_id,
    ).map(tuple),
    st.builds(
        FleetSeen,
        _NODES,
        _COUNT,
        _COUNT,
        _COUNT,
        _SIZINGS,
        st.integers(-(1 << 62), 2**52),
        st.integers(-64, 64),
    )
    | st.builds(
        FleetSeen,
        st.none(),
        st.just(0),
        st.just(0),
        _COUNT,
        _SIZINGS,
        st.just(0),
        st.just(0),
    ),
)
_SETTINGS = st.one_of(
    st.none(), _FLAG, st.integers(), _TEXT, _SERVICES, st.sampled_from(list(RULES.values()))
)
BODIES = st.one_of(
    st.builds(Submit, jobs(), _FLAG),
    st.builds(Preempt, _TEXT, _TEXT),
    st.builds(Scale, _TEXT, _COUNT),
    st.builds(Cancel, _TEXT, _TEXT),
    st.builds(Undrain, _TEXT),
    st.builds(Register, _NODES, _FLAG),
    st.builds(Decommission, _TEXT, _FLAG),
    st.builds(NodeFailed, _TEXT, _SEEN),
    st.builds(NodeRecovered, _TEXT),
    st.just(Review()),
    st.builds(Decide, _PLANS),
    _TICKS,
    st.builds(Configure, _TEXT, _SETTINGS),
    st.builds(
        Establish,
        _SHAPES,
        st.lists(_NODES, max_size=3).map(tuple),
        _RULES,
        st.lists(_TENANTS, max_size=3).map(tuple),
        _RUN,
    ),
    st.builds(Lead, _TEXT, _RUN),
    st.builds(WorkerExited, _TEXT, _RUN, st.integers(-(2**31), 2**31 - 1), _TEXT),
    st.builds(CheckpointCommitted, _TEXT, _RUN),
    st.builds(WorkersLost, _TEXT, _RUN, _TEXT, _SEEN),
    st.builds(JobOverdue, _TEXT, _RUN, _TEXT),
)
"""Commands and events of all kinds."""
ENTRIES = st.builds(Entry, st.integers(0, 2**52), BODIES, _SEEN, _RUN)
"""Entries of logs."""
