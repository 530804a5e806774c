"""Encoders against their twin; padding and masks; the schema that names what is encoded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from envs import CLUSTER, JOB_ORDERING, Session
from envs.workloads import gpu_cluster, lublin_feitelson
from orchestrator.kernels.lang import numbers as fastlog
from orchestrator.kernels.lang.jit import entry
from orchestrator.kernels.see.queue import Encoding
from orchestrator.kernels.state.codes import Placement, RuleKey
from orchestrator.scheduling import schema as schemas
from orchestrator.scheduling.schema import ActionLayout, FeatureSchema
from tests.envs.cases import CASES, EnvCase, pick_legal
from tests.naive.features import NaiveView

_fast_log = fastlog.fast_log
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def _assert_equals_twin(session: Session, e: int) -> None:
    twin = NaiveView(session, e)
    seen = session.observation(e)
    shown = session.buffers.shown[e]
    assert session.buffers.window[e, : shown[0]].tolist() == twin.window
    assert session.buffers.victim_jobs[e, : shown[1]].tolist() == twin.victims
    # Times since the episode's start are kept in single precision.
    elapsed = np.float32((twin.now - twin.asks[0].submit_ms) / 1000)
    close = 2e-5 + 0.2 * float(np.spacing(elapsed))
    for name, expected in twin.observation().items():
        if name == "action_mask":
            np.testing.assert_array_equal(seen[name], expected, err_msg=name)
        else:
            np.testing.assert_allclose(seen[name], expected, rtol=2e-5, atol=close, err_msg=name)


@every_case
def test_observations_equal_their_twin(case: EnvCase) -> None:
    session = case.session(2)
    session.reseed(np.array([3, 4], np.uint64))
    rng = np.random.default_rng(5)
    session.reset()
    for _ in range(110):
        for e in range(2):
            _assert_equals_twin(session, e)
        session.step(pick_legal(session.buffers.mask, rng))
        over = session.buffers.terminated | session.buffers.truncated
        if over.any():
            session.reset(over)


@pytest.mark.parametrize("processors", [48, 100, 1000])
def test_any_capacity_equals_the_twin(processors: int) -> None:
    """Capacities of which demands are not whole steps of the table."""
    trace = lublin_feitelson(200, 5, processors=processors, load=1.3)
    session = Session(trace, replace(JOB_ORDERING, window=16, episode_jobs=100), 1, part="all")
    rng = np.random.default_rng(6)
    session.reset()
    while not session.buffers.terminated[0]:
        _assert_equals_twin(session, 0)
        session.step(pick_legal(session.buffers.mask, rng))


def test_gangs_over_several_racks_equal_the_twin() -> None:
    """Small machines, so that gangs spread over many of them, in two racks."""
    trace = gpu_cluster(150, 8, nodes=20, gpus_per_node=1, load=1.2)
    assert len({node.rack for node in trace.nodes}) > 1
    session = Session(
        trace, replace(CLUSTER, episode_jobs=60, window=8, min_run_seconds=0.0), 1, part="all"
    )
    rng = np.random.default_rng(6)
    session.reset()
    seen = np.zeros(3, bool)
    for _ in range(150):
        _assert_equals_twin(session, 0)
        racks = session.buffers.candidates[0, :, 2]
        seen |= [(racks == value).any() for value in (0.0, 0.5, 1.0)]
        session.step(pick_legal(session.buffers.mask, rng))
    assert seen.all()


def test_a_gang_that_alternates_between_nodes_touches_each_once() -> None:
    trace = gpu_cluster(60, 4, nodes=2, gpus_per_node=4, load=1.0)
    requests = trace.requests.copy()
    requests["submit_ms"] = 0
    requests["workers"], requests["gpus_per_worker"], requests["gpu_milli"] = 4, 1, 1000
    requests["cpu_milli"] = requests["memory_mib"] = 0
    config = replace(CLUSTER, episode_jobs=2, placements=(Placement.SPREAD, Placement.FIRST_FIT))
    session = Session(replace(trace, requests=requests), config, 1, part="all")
    session.reset()
    spread, packed = session.buffers.candidates[0, :2]
    assert spread[1] == 2 / 4  # nodes touched / workers
    assert packed[1] == 1 / 4
    assert spread[3] == pytest.approx(4 / 8)  # free share of the touched nodes
    _assert_equals_twin(session, 0)


@every_case
def test_padding_is_zero_and_masked(case: EnvCase) -> None:
    session = case.session(3)
    session.reseed(np.arange(3, dtype=np.uint64))
    rng = np.random.default_rng(8)
    session.reset()
    placements = len(case.make().config.placements)
    for step in range(200):
        for e in range(3):
            jobs, victims, _ = session.buffers.shown[e]
            seen = session.observation(e)
            assert not seen["queue"][jobs:].any()
            assert not seen["action_mask"][jobs * placements : case_window(session)].any()
            if "candidates" in seen:
                assert not seen["candidates"][jobs * placements :].any()
                legal = seen["action_mask"][: len(seen["candidates"])]
                np.testing.assert_array_equal(legal, seen["candidates"][:, 0])
            if "victims" in seen:
                assert not seen["victims"][victims:].any()
        session.step(pick_legal(session.buffers.mask, rng))
        over = session.buffers.terminated | session.buffers.truncated
        if over.any() and step % 3 == 0:  # what is over is looked at for a while, too
            session.reset(over)


def case_window(session: Session) -> int:
    return session.config.window * len(session.config.placements)


def test_there_is_always_something_legal_until_the_end() -> None:
    for case in CASES.values():
        session = case.session(4)
        session.reseed(np.arange(4, dtype=np.uint64))
        rng = np.random.default_rng(9)
        session.reset()
        for _ in range(150):
            going = session.state.rows["done"] == 0
            assert session.buffers.mask[going].any(axis=1).all(), case.name
            assert not session.buffers.mask[~going].any(), case.name
            session.step(pick_legal(session.buffers.mask, rng))


@entry
def _take_logs(values, out):
    for i in range(values.shape[0]):
        out[i] = _fast_log(values[i])


def _logs(values: NDArray[np.float32]) -> NDArray[np.float32]:
    out = np.zeros(len(values), np.float32)
    _take_logs(values, out)
    return out


def test_fast_log_is_a_logarithm() -> None:
    tiny, huge = np.finfo(np.float32).tiny, np.finfo(np.float32).max
    values = np.geomspace(tiny, huge / 2, 500_001).astype(np.float32)
    values = np.concatenate([values, np.linspace(0.5, 2.0, 100_001).astype(np.float32)])
    exact = np.log(values.astype(np.float64))
    error = np.abs(_logs(values) - exact)
    # Two roundings of the result and one of what it is made from.
    assert (error <= 2.5e-7 * np.maximum(np.abs(exact), 0.5)).all()
    assert _logs(np.ones(1, np.float32)).tolist() == [0.0]
    powers = np.exp2(np.arange(-126, 128)).astype(np.float32)
    np.testing.assert_allclose(_logs(powers), np.log(powers.astype(float)), rtol=2e-7)


# --- the schema ----------------------------------------------------------------------------------


@every_case
def test_schema_names_every_column(case: EnvCase) -> None:
    session = case.session()
    schema, seen = session.schema, session.observation(0)
    assert seen["queue"].shape == (schema.actions.window, len(schema.queue))
    assert seen["global"].shape == (len(schema.globals),)
    assert seen["action_mask"].shape == (schema.actions.size,)
    assert ("candidates" in seen) == bool(schema.candidates)
    assert ("victims" in seen) == bool(schema.victims)
    if schema.candidates:
        pairs = schema.actions.window * schema.actions.candidates
        assert seen["candidates"].shape == (pairs, len(schema.candidates))
    if schema.victims:
        assert seen["victims"].shape == (schema.actions.victims, len(schema.victims))
    assert sum(head.size for head in schema.actions.heads) == schema.actions.size


def test_digest_tells_features_and_heads_apart_but_not_sizes() -> None:
    default = FeatureSchema(Encoding.DEFAULT, ActionLayout(128))
    others = [
        FeatureSchema(Encoding.PUBLISHED, ActionLayout(128)),
        FeatureSchema(Encoding.CLUSTER, ActionLayout(128)),
        FeatureSchema(Encoding.DEFAULT, ActionLayout(128, can_wait=True)),
        FeatureSchema(Encoding.DEFAULT, ActionLayout(128, victims=4, can_wait=True)),
    ]
    assert len({schema.digest for schema in [default, *others]}) == 5
    assert FeatureSchema(Encoding.DEFAULT, ActionLayout(16)).digest == default.digest
    wide = FeatureSchema(Encoding.CLUSTER, ActionLayout(32, 4, 16, can_wait=True))
    narrow = FeatureSchema(Encoding.CLUSTER, ActionLayout(8, 2, 3, can_wait=True))
    assert wide.digest == narrow.digest


@pytest.mark.parametrize("names", ["GLOBAL_NAMES", "CANDIDATE_NAMES", "VICTIM_NAMES"])
def test_digest_changes_when_features_change(names: str, monkeypatch: pytest.MonkeyPatch) -> None:
    schema = CLUSTER.schema
    before = schema.digest
    there = getattr(schemas, names)
    for changed in (there[::-1], there[1:], (*there, "new"), ("renamed", *there[1:])):
        monkeypatch.setattr(schemas, names, changed)
        assert schema.digest != before
    monkeypatch.undo()
    assert schema.digest == before


def test_digest_changes_when_queue_features_change(monkeypatch: pytest.MonkeyPatch) -> None:
    before = JOB_ORDERING.schema.digest
    table = {**schemas._QUEUE_NAMES, Encoding.DEFAULT: ("other",)}
    monkeypatch.setattr(schemas, "_QUEUE_NAMES", table)
    assert JOB_ORDERING.schema.digest != before


def test_window_order_is_stable_for_equal_scores() -> None:
    """Jobs that a rule does not tell apart are shown in the order of their submission."""
    trace = lublin_feitelson(60, 2, processors=64)
    requests = trace.requests.copy()
    requests["submit_ms"] = 0
    requests["requested_ms"] = np.tile([60_000, 30_000, 60_000], 20)
    config = replace(CLUSTER, window=50, episode_jobs=60, window_order=RuleKey.SJF)
    session = Session(replace(trace, requests=requests), config, 1, part="all")
    session.reset()
    window = session.buffers.window[0, : session.buffers.shown[0, 0]].tolist()
    assert window == sorted(range(60), key=lambda j: requests["requested_ms"][j])[:50]
