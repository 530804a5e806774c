"""Encoders of services, fleet, tenants and racks, their masks, and scaling rules against twins."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs import Scenario, Session
from envs.scenario import FleetPlan, ServiceMix
from orchestrator.kernels.decide.scale import scaling_action
from orchestrator.kernels.lang.jit import entry
from orchestrator.kernels.see.layout import FULL_EXTRA, GLOBAL_NAMES
from orchestrator.kernels.state.codes import ActionKind, Placement, QuotaMode, Scaling
from orchestrator.scheduling import schema as schemas
from orchestrator.types import TenantSpec
from tests.envs.cases import EnvCase, pick_legal
from tests.envs.scaling_cases import SCALING_CASES, bare_trace, busy_scenario, busy_trace
from tests.naive.surroundings import FullView

_action = scaling_action


@entry
def _scaling_action(rows, e, mode, nodes):
    kind, subject, value = _action(rows[e], mode, nodes)
    return int(kind), int(subject), int(value)


def _assert_equals_twin(session: Session, e: int) -> tuple[int, int, int]:
    """Demand what the twin says of the sets, the masks and the rules; the predictive one's."""
    twin, seen, config = FullView(session, e), session.observation(e), session.config
    for name, expected in twin.surroundings().items():
        found = seen["global"][len(GLOBAL_NAMES) :] if name == "fleet" else seen[name]
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5, err_msg=name)
    size = 2 * (config.capacity_steps + config.services)
    mask = seen["action_mask"]
    assert mask[len(mask) - 1 - size : -1].tolist() == twin.scaling_mask()
    assert bool(mask[-1]) == (twin.pending() and not twin.row.done)
    for i, j in enumerate(twin.window):
        if FULL_EXTRA[0] in session.schema.queue:
            t = twin.asks[j].tenant
            share, due = twin.shares(t) if t < len(twin.tenants) else (0.0, 0.0)
            np.testing.assert_allclose(seen["queue"][i, -2:], [share, share - due], atol=1e-6)
    nodes, found_action = np.zeros(64, np.int32), (0, 0, 0)
    for mode in (Scaling.REACTIVE, Scaling.PREDICTIVE):
        found_action = _scaling_action(session.state.rows, e, int(mode), nodes)
        assert found_action == twin.scaling_action(mode), mode
    return found_action


def _walk(session: Session, rng: np.random.Generator, steps: int) -> set[tuple[int, bool]]:
    """Random play, the twin asked at each step; kinds and directions that rules wanted."""
    wanted = set()
    session.reset()
    for _ in range(steps):
        for e in range(session.envs):
            kind, _, value = _assert_equals_twin(session, e)
            wanted.add((kind, value > 0))
        mask = session.buffers.mask.copy()
        waits = (rng.random(session.envs) < 0.25) & (mask[:, -1] != 0)
        mask[waits, :-1] = 0
        session.step(pick_legal(mask, rng))
        over = session.buffers.terminated | session.buffers.truncated
        if over.any():
            session.reset(over)
    return wanted


@pytest.mark.parametrize("case", SCALING_CASES.values(), ids=SCALING_CASES)
def test_sets_masks_and_rules_equal_their_twins(case: EnvCase) -> None:
    session = case.session(2)
    session.reseed(np.array([3, 4], np.uint64))
    wanted = _walk(session, np.random.default_rng(5), 150)
    kinds = {kind for kind, _ in wanted}
    assert ActionKind.WAIT in kinds
    if session.config.services > 0:
        assert ActionKind.SERVICE in kinds
    if session.config.capacity_steps > 0 and session.config.episode_jobs > 0:
        assert ActionKind.CAPACITY in kinds


@st.composite
def _sessions(draw: st.DrawFn) -> Session:
    """Any mix of services, fleet, quotas and heads on the busy trace."""
    base, trace = busy_scenario(draw(st.booleans())), busy_trace()
    assert base.services is not None
    services: ServiceMix | None = replace(
        base.services,
        gpu_share=draw(st.sampled_from([0.3, 0.5, 1.0])),
        gpus=draw(st.sampled_from([1, 1, 2])),
        startup_seconds=draw(st.sampled_from([0.0, 60.0, 150.0])),
        target_utilisation=draw(st.sampled_from([0.5, 0.9])),
        up_window_s=draw(st.sampled_from([0.0, 120.0])),
        down_window_s=draw(st.sampled_from([0.0, 60.0, 300.0])),
    )
    fleet: FleetPlan | None = FleetPlan(
        spare=draw(st.integers(0, 4)),
        provision_seconds=draw(st.sampled_from([0.0, 60.0, 100.0, 400.0])),
        least=draw(st.integers(0, 4)),
        most=draw(st.sampled_from([0, 0, 5])),
        price=draw(st.sampled_from([0.0, 2.5])),
        up_window_s=draw(st.sampled_from([0.0, 120.0])),
        down_window_s=draw(st.sampled_from([0.0, 180.0])),
    )
    alone = draw(st.booleans())
    if not alone and draw(st.integers(0, 3)) == 0:
        services = None
    if services is not None and draw(st.integers(0, 3)) == 0:
        fleet = None
    quota = draw(st.sampled_from([16.0 / len(trace.tenants), 0.0]))
    scenario = Scenario(
        failures=draw(st.sampled_from([base.failures, None])),
        tenants=tuple(TenantSpec(name, 2.0, quota) for name in trace.tenants[:3]),
        quota_mode=draw(st.sampled_from(QuotaMode)) if quota else QuotaMode.NONE,
        curves=base.curves,
        services=services,
        fleet=fleet,
    )
    return _session_of(draw, scenario, alone=alone)


def _session_of(draw: st.DrawFn, scenario: Scenario, *, alone: bool) -> Session:
    heads: dict[str, Any] = {
        "services": 0 if scenario.services is None else draw(st.sampled_from([0, 3])),
        "capacity_steps": 0 if scenario.fleet is None else draw(st.integers(0, 3)),
        "tenants": draw(st.integers(0, 5)),
        "racks": draw(st.integers(0, 2)),
        "fleet": draw(st.booleans()),
        "reward": SCALING_CASES["full"].options["reward"],
    }
    if alone:
        case, heads["episode_ticks"] = SCALING_CASES["autoscaling"], draw(st.integers(2, 15))
        heads["services"] = 3
    else:
        case, heads["episode_jobs"] = SCALING_CASES["full"], draw(st.integers(2, 12))
        heads["placements"] = tuple(
            draw(st.lists(st.sampled_from(Placement), min_size=1, max_size=2, unique=True))
        )
    if heads["services"] == 0 and heads["capacity_steps"] == 0:
        heads["autoscale"] = draw(st.sampled_from(Scaling))
    starts = np.array([0, 40, 90], np.int64)
    return case.session(1, scenario=scenario, starts=starts, **heads)


@pytest.mark.property
@settings(max_examples=max(settings().max_examples // 2, 1))
@given(session=_sessions(), seed=st.integers(0, 1 << 16))
def test_any_surroundings_equal_their_twins(session: Session, seed: int) -> None:
    session.reseed(np.array([seed], np.uint64))
    _walk(session, np.random.default_rng(seed), 35)


@pytest.mark.parametrize("case", SCALING_CASES.values(), ids=SCALING_CASES)
def test_the_schema_names_every_column_of_the_sets(case: EnvCase) -> None:
    session = case.session()
    schema, seen = session.schema, session.observation(0)
    assert seen["global"].shape == (len(schema.globals),)
    for name in ("queue", "candidates", "victims", "elastics", "services", "capacity"):
        assert (name in seen) == bool(getattr(schema, name))
        if name in seen:
            assert seen[name].shape[1] == len(getattr(schema, name)), name
    for name in ("tenants", "racks"):
        assert (name in seen) == (getattr(session.config, name) > 0)
    assert sum(head.size for head in schema.actions.heads) == schema.actions.size
    assert seen["action_mask"].shape == (schema.actions.size,)


_NAMES = ("SERVICE_NAMES", "CAPACITY_NAMES", "FLEET_NAMES", "TENANT_NAMES", "RACK_NAMES")


@pytest.mark.parametrize("names", _NAMES)
def test_digest_changes_when_features_of_the_sets_change(
    names: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = SCALING_CASES["full"].session().schema
    before, there = schema.digest, getattr(schemas, names)
    for changed in (there[::-1], there[1:], (*there, "new")):
        monkeypatch.setattr(schemas, names, changed)
        assert schema.digest != before
    monkeypatch.undo()
    assert schema.digest == before


def test_tenants_and_racks_beyond_the_sets_are_not_shown() -> None:
    jobs = [{"tenant": t, "gpus_per_worker": 1} for t in range(3)]
    trace = bare_trace(nodes=2, jobs=jobs, tenants=3)
    scenario = Scenario(tenants=tuple(TenantSpec(name) for name in trace.tenants))
    config = replace(SCALING_CASES["full"].session().config, services=0, capacity_steps=0)
    config = replace(config, tenants=2, racks=3, episode_jobs=3, elastics=0)
    session = Session(trace, config, 1, scenario=scenario, part="all")
    session.reset()
    seen = session.observation(0)
    assert seen["tenants"][:, 3].tolist() == pytest.approx([1 / 8, 1 / 8])  # one GPU of eight
    assert not seen["racks"][1:].any()  # there is one rack
    assert seen["racks"][0, :4].tolist() == [1.0, 1.0, 1.0, 1.0]
