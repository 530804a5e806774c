"""Random lives of an engine: every command and report, in any order, also those that make no sense.

The invariants are checked after every entry by the engine, and the effects by a ledger that knows
nothing but the effects.
"""

from __future__ import annotations

import contextlib
import copy
import pickle
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.engine.engine import Engine, Outcome
from orchestrator.errors import QuartermasterError
from orchestrator.kernels.state.codes import JobKind, NodeCode, Placement
from orchestrator.kernels.state.row import ClusterShape
from orchestrator.messages import (
    Action,
    Cancel,
    CheckpointCommitted,
    Command,
    Decide,
    Decommission,
    Effect,
    Entry,
    Event,
    MigrateJob,
    NodeFailed,
    NodeRecovered,
    PlaceJob,
    Plan,
    Preempt,
    PreemptJob,
    Register,
    RegroupJob,
    ReleaseNode,
    ResizeJob,
    Review,
    SaveCheckpoint,
    Scale,
    StartJob,
    StopJob,
    Submit,
    Undrain,
    Wait,
    WorkerExited,
    WorkersLost,
)
from orchestrator.semantics import Semantics
from orchestrator.types import JobPriority, JobSpec, NodeSpec
from tests.naive.effects import NaiveEffects

pytestmark = pytest.mark.property

SHAPE = ClusterShape(envs=1, jobs=4, workers=3, nodes=3, devices=2, kinds=2)


def _job(
    job_id: str,
    workers: int,
    gpus: int,
    share: float,
    save_s: float,
    elastic: bool,
    kind: JobKind,
) -> JobSpec:
    return JobSpec(
        job_id=job_id,
        name="",
        priority=JobPriority.BATCH,
        num_workers=workers,
        gpus_per_worker=gpus,
        memory_per_worker_gb=1.0,
        max_duration_hours=0.01,
        checkpoint_interval_steps=3,
        preemptible=True,
        cpus_per_worker=1.0,
        gpu_fraction=share,
        checkpoint_seconds=save_s,
        restart_seconds=1.0,
        elastic=elastic,
        max_workers=3,
        kind=kind,
    )


def _node(node_id: str, gpus: int, cores: int, available: bool) -> NodeSpec:
    return NodeSpec(node_id, gpus, 16.0, cores, 8.0, 10.0, "PCIe", available)


def _plan(engine: Engine, dice: random.Random) -> Plan:
    """A plan about any jobs, legal or not."""
    actions: list[Action] = []
    for _ in range(dice.choice([0, 1, 1, 1, 2, 3])):
        job_id = dice.choice([*engine.jobs.specs, "nobody"])
        place = PlaceJob(job_id, dice.choice(list(Placement)))
        others: list[Action] = [
            PreemptJob(job_id),
            ResizeJob(job_id, dice.randint(0, 4)),
            MigrateJob(job_id, dice.choice(list(Placement))),
        ]
        actions.append(dice.choice(others) if dice.random() < 1 / 2 else place)
    return Plan((*actions, Wait()) if dice.random() < 0.2 else tuple(actions))


def _report(engine: Engine, dice: random.Random) -> Event:
    """A report about a job that is placed; now and then about another run, or another job."""
    placed = engine.placed()
    job_id = dice.choice(list(placed) or ["nobody"])
    run = placed.get(job_id, 1) + dice.choice([0, 0, 0, 0, -1])
    reports: list[Event] = [
        WorkerExited(job_id, run, dice.choice([0, 0, 1])),
        CheckpointCommitted(job_id, run),
        WorkersLost(job_id, run),
    ]
    return dice.choice(reports)


def _body(engine: Engine, dice: random.Random, count: int) -> Command | Event:
    """Something that somebody might send, given what there is."""
    gpus, save_s = dice.randint(0, 2), dice.choice([0.0, 2.0])
    share, elastic = dice.choice([1.0, 0.5]), dice.random() < 0.5
    kind = JobKind.SERVICE if dice.random() < 0.3 else JobKind.TRAINING
    job = _job(f"j{count}", dice.randint(1, 3), gpus, share, save_s, elastic, kind)
    if dice.random() < 0.1 and engine.jobs.specs:
        job = replace(job, job_id=dice.choice(list(engine.jobs.specs)))
    node_id = f"n{dice.randint(0, 4)}"
    node = _node(node_id, dice.randint(0, 2), dice.randint(1, 4), dice.random() < 0.9)
    node_events: list[Command] = [
        Decommission(node_id, drain=dice.random() < 0.7),
        NodeFailed(node_id),
        NodeRecovered(node_id),
        Undrain(node_id),
    ]
    preempt = Preempt(dice.choice([*engine.jobs.specs, "nobody"]))
    choices: list[Command | Event] = [Submit(job), Register(node), dice.choice(node_events)]
    choices += [preempt, Review(), Scale(preempt.job_id, dice.randint(0, 4))]
    choices += [Decide(_plan(engine, dice)), _report(engine, dice), Cancel(preempt.job_id, "x")]
    return dice.choices(choices, weights=[6, 3, 2, 2, 4, 2, 8, 4, 2])[0]


_semantics = st.builds(
    Semantics, commitment=st.booleans(), backfill=st.booleans(), preemption_limit=st.integers(0, 3)
)


@dataclass
class Ledger:
    """What a runtime believes, from the effects alone."""

    runs: dict[str, int] = field(default_factory=dict)
    gpus: dict[str, list[tuple[str, int, float]]] = field(default_factory=dict)
    saving: set[str] = field(default_factory=set)

    def take(self, effects: tuple[Effect, ...]) -> None:
        for effect in effects:
            if isinstance(effect, StartJob):
                assert effect.job_id not in self.runs, "started twice"
                self.runs[effect.job_id] = effect.run
                self.hold(effect)
            elif isinstance(effect, RegroupJob):
                assert self.runs[effect.job_id] == effect.run, "another run than the one resized"
                assert effect.job_id not in self.saving
                self.hold(effect)
            elif isinstance(effect, SaveCheckpoint):
                assert self.runs[effect.job_id] == effect.run
                self.saving.add(effect.job_id)
            elif isinstance(effect, StopJob):
                assert self.runs.pop(effect.job_id) == effect.run
                del self.gpus[effect.job_id]
                self.saving.discard(effect.job_id)
            else:
                assert isinstance(effect, ReleaseNode)
                held = {node for places in self.gpus.values() for node, _, _ in places}
                assert effect.node_id not in held, "released with workers on it"

    def hold(self, effect: StartJob | RegroupJob) -> None:
        spec, count = effect.spec, len(effect.workers)
        least, most = spec.num_workers, spec.num_workers
        if spec.elastic:
            least, most = spec.min_workers, spec.max_workers
        assert least <= count <= most, "a part of a gang"
        self.gpus[effect.job_id] = [
            (place.node_id, g, spec.gpu_fraction) for place in effect.workers for g in place.gpus
        ]

    def finish(self, job_id: str) -> None:
        del self.runs[job_id]
        del self.gpus[job_id]

    def require_no_overlap(self) -> None:
        used: dict[tuple[str, int], float] = {}
        for places in self.gpus.values():
            for node, g, share in places:
                used[node, g] = used.get((node, g), 0.0) + share
        assert all(share <= 1.0 for share in used.values()), used


def _apply(engine: Engine, ledger: Ledger, time_ms: int, body: Command | Event) -> None:
    before = (engine.log_hash, engine.placed())
    ends = isinstance(body, WorkerExited) and body.exit_code == 0 and engine.is_current(body)
    if ends and isinstance(body, WorkerExited):
        ends = body.job_id not in ledger.saving
    try:
        outcome = engine.handle(Entry(time_ms, body))
    except QuartermasterError:
        outcome = Outcome()
        assert (engine.log_hash, engine.placed()) == before, "refused, but something changed"
    if ends and isinstance(body, WorkerExited):
        ledger.finish(body.job_id)
    ledger.take(outcome.effects)
    ledger.require_no_overlap()
    assert engine.placed() == ledger.runs
    assert set(engine.nodes.specs) == {
        node_id
        for node_id in engine.nodes.index.ids
        if engine.nodes.code(node_id) != NodeCode.ABSENT
    }
    assert set(engine.jobs.specs) == set(engine.jobs.index.ids)


@given(seed=st.integers(0, 1 << 32), length=st.integers(0, 120), semantics=_semantics)
def test_whatever_happens_state_and_effects_are_sound(
    seed: int, length: int, semantics: Semantics
) -> None:
    dice = random.Random(seed)
    engine, ledger = Engine(SHAPE, semantics=semantics, check=True), Ledger()
    time_ms = 0
    log = []
    for count in range(length):
        time_ms += dice.choice([0, 0, 500, dice.randint(0, 20_000)])
        log.append((time_ms, _body(engine, dice, count)))
        _apply(engine, ledger, *log[-1])
    again = Engine(SHAPE, semantics=semantics)
    for at_ms, body in log:
        try:
            again.handle(Entry(at_ms, body))
        except QuartermasterError:
            continue
    assert again.log_hash == engine.log_hash
    assert again.placed() == engine.placed()
    for name in ("now_ms", "point", "busy_unit_ms", "capacity_unit_ms", "free_units", "decisions"):
        assert again.row[name] == engine.row[name]


@given(seed=st.integers(0, 1 << 32), length=st.integers(0, 120), semantics=_semantics)
def test_effects_are_what_a_slow_reading_of_the_log_infers(
    seed: int, length: int, semantics: Semantics
) -> None:
    dice = random.Random(seed)
    engine = Engine(SHAPE, semantics=semantics)
    slow = Engine(replace(SHAPE, log=1 << 14), semantics=semantics)
    reader = NaiveEffects(slow)
    told: list[Effect] = []
    time_ms = 0
    for count in range(length):
        time_ms += dice.choice([0, 0, 500, dice.randint(0, 20_000)])
        entry = Entry(time_ms, _body(engine, dice, count))
        try:
            outcome = engine.handle(entry)
        except QuartermasterError:
            continue
        assert outcome.effects == reader.effects_of(entry, outcome.reason)
        told += outcome.effects
    assert slow.log_hash == engine.log_hash
    saved = [effect for effect in told if isinstance(effect, SaveCheckpoint)]
    saved_at_once = [effect for effect in told if isinstance(effect, StopJob) and effect.save]
    moved = [effect for effect in told if isinstance(effect, RegroupJob) and effect.moved]
    preempted = len(saved) + len(saved_at_once)
    assert preempted == engine.jobs.count("preemptions"), "forgotten jobs included"
    assert len(moved) == engine.jobs.count("migrations"), "forgotten jobs included"


def _live_on(engine: Engine, dice: random.Random, time_ms: int) -> list[Entry]:
    """Forty entries that come to an engine, some of them refused."""
    log = []
    for count in range(40):
        time_ms += dice.choice([0, 0, 500, dice.randint(0, 20_000)])
        log.append(Entry(time_ms, _body(engine, dice, 1000 * time_ms + count)))
        _hand(engine, log[-1])
    return log


def _hand(engine: Engine, entry: Entry) -> None:
    with contextlib.suppress(QuartermasterError):
        engine.handle(entry)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "way", [copy.copy, copy.deepcopy, lambda engine: pickle.loads(pickle.dumps(engine))]
)
def test_a_copied_engine_goes_on_alone(way: Callable[[Engine], Engine], seed: int) -> None:
    dice, engine = random.Random(seed), Engine(SHAPE, check=True)
    now_ms = _live_on(engine, dice, 0)[-1].time_ms
    twin, stranger = way(engine), way(engine)
    assert twin.row["job_at"] != engine.row["job_at"] != stranger.row["job_at"]
    _live_on(stranger, random.Random(seed + 99), now_ms)  # nothing of it reaches the others
    before = engine.log_hash
    for entry in _live_on(engine, dice, now_ms):
        _hand(twin, entry)
    assert engine.log_hash != before
    assert engine.log_hash != stranger.log_hash
    assert twin.log_hash == engine.log_hash
    assert twin.placed() == engine.placed()
    assert twin.jobs.specs == engine.jobs.specs
