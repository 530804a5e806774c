"""Futures are played under the policy that is in charge, if the compiled engine knows it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agents.bundle import read_manifest, restore_environment
from agents.deploy import BundlePolicy
from agents.planning.players import LearnedPlayer
from envs.config import JOB_ORDERING
from orchestrator.clock import VirtualClock
from orchestrator.deployment import Guards, PolicyDeployment
from orchestrator.errors import ConfigurationError
from orchestrator.foundations import in_memory
from orchestrator.kernels.state.codes import NEVER
from orchestrator.kernels.state.row import ClusterShape
from orchestrator.orchestrator import InfrastructureOrchestrator
from orchestrator.scheduling.forks import Until
from orchestrator.scheduling.rules import RULES
from orchestrator.twin.futures import TwinConfig
from orchestrator.twin.scene.cast import Cast, cast_of
from orchestrator.twin.scene.stage import Stage
from orchestrator.twin.supposed import Suppose
from orchestrator.types import JobPriority, JobSpec, NodeSpec

_PUBLISHED = Path(__file__).resolve().parents[3] / "results" / "philly"
_CMA, _PPO = str(_PUBLISHED / "cma"), str(_PUBLISHED / "ppo")
_SHAPE = ClusterShape(envs=1, jobs=64, workers=4, nodes=4, devices=4, tenants=8)
_FREE = Guards(deadline_ms=None, pairs=1000)
_FEW = TwinConfig(futures=8, arrivals=False)
_MINUTE_MS = 60_000


class _Crowd:
    """A cluster on which a learned policy may be put in charge, with jobs that wait."""

    def __init__(self) -> None:
        self.clock = VirtualClock(1_000)
        self.deployment = PolicyDeployment(
            RULES["fcfs"], BundlePolicy.load, guards=_FREE, clock=self.clock
        )
        self.orchestrator = InfrastructureOrchestrator(
            *in_memory(self.clock),
            clock=self.clock,
            policy=self.deployment,
            shape=_SHAPE,
            nodes=[NodeSpec(f"n{k}", 4, 80.0, 32, 256.0, 100.0, "NVLink") for k in range(2)],
            semantics=restore_environment(read_manifest(_CMA).environment),
            schedule_on_events=True,
        )

    async def come(self, count: int) -> None:
        """So many jobs come, which work as long as their users say."""
        rng = np.random.default_rng(3)
        await self.deployment.attach(self.orchestrator)
        for k in range(count):
            hours = float(rng.choice([0.1, 0.5, 2.0, 5.0]))
            spec = JobSpec(
                *(f"job-{k}", f"job {k}", JobPriority.BATCH, int(rng.choice([1, 2, 4]))),
                gpus_per_worker=int(rng.choice([1, 2])),
                memory_per_worker_gb=1.0,
                checkpoint_interval_steps=600,
                duration_hours=hours,
                max_duration_hours=hours,
                tenant=f"tenant-{k % 3}",
            )
            await self.orchestrator.submit_job(spec)
        await self.clock.advance_to(self.clock.now_ms() + _MINUTE_MS)


async def _starts_of(crowd: _Crowd) -> dict[str, int]:
    """When those who wait will have started, in the end."""
    await crowd.clock.run_until_idle()
    told = {name: crowd.orchestrator.get_job_status(name) for name in crowd.orchestrator.jobs}
    return {name: int(status["first_start_ms"]) for name, status in told.items()}


def _foreseen(crowd: _Crowd, cast: Cast) -> dict[str, int]:
    """When they start in the one future in which all work as long as their users say."""
    engine = crowd.orchestrator.engine
    stage = Stage(engine.state, cast)
    stage.begin(stage.estimates_ms())
    stage.roll(Until.DRAINED)
    starts, ids = stage.starts_ms(), engine.jobs.index.ids
    waits = np.flatnonzero(stage.waits).tolist()
    return {ids[int(stage.kept[k])]: int(starts[k]) for k in waits}


async def test_what_the_policy_in_charge_will_do_is_foreseen() -> None:
    crowd = _Crowd()
    await crowd.come(30)
    await crowd.deployment.activate(_CMA)
    cast = cast_of(crowd.deployment)
    assert isinstance(cast.learned, LearnedPlayer)
    assert cast.missing == ()
    assert (cast.name, cast.rule.name) == (cast.learned.name, "fcfs")
    mine, by_rule = _foreseen(crowd, cast), _foreseen(crowd, Cast(RULES["fcfs"]))
    assert len(mine) > 15
    assert max(mine.values()) < NEVER
    came = await _starts_of(crowd)
    right = [abs(mine[name] - came[name]) <= _MINUTE_MS for name in mine]
    guessed = [abs(by_rule[name] - came[name]) <= _MINUTE_MS for name in mine]
    assert np.mean(right) > 0.9, [(mine[k] - came[k]) / 3.6e6 for k in mine]
    assert np.mean(guessed) < 0.5


async def test_answers_say_who_plays() -> None:
    crowd = _Crowd()
    await crowd.come(24)
    ask = crowd.orchestrator
    last = "job-23"
    stands_in = "the policy in charge: rule 'fcfs' plays in its place"
    assert (await ask.when(last, _FEW)).rule == "fcfs"
    with pytest.raises(ConfigurationError, match="no bundle that is tried"):
        await ask.what_if(Suppose(bundle=_CMA), _FEW)
    await crowd.deployment.shadow(_CMA)
    tried = await ask.what_if(Suppose(bundle=_CMA), _FEW)
    assert tried.rule == "cma"
    assert tried.total is not None
    assert tried.total.mean != 0.0
    assert (await ask.when(last, _FEW)).rule == "fcfs"
    await crowd.deployment.activate(_CMA)
    told = await ask.when(last, _FEW)
    assert told.rule == "cma"
    assert stands_in not in told.not_modelled
    back = await ask.what_if(Suppose(policy="fcfs"), _FEW)
    assert back.rule == "fcfs"
    assert back.total is not None
    assert back.total.mean == pytest.approx(-tried.total.mean)
    await crowd.deployment.canary(_CMA, 0.5)  # at a share of the points: nobody plays that
    assert stands_in in (await ask.when(last, _FEW)).not_modelled
    await crowd.deployment.activate(_PPO)  # a network in torch
    told = await ask.when(last, _FEW)
    assert told.rule == "fcfs"
    assert stands_in in told.not_modelled
    with pytest.raises(ConfigurationError, match="suppose one of"):
        Suppose(bundle=_CMA, policy="fcfs")


def test_only_what_the_compiled_engine_knows_is_played() -> None:
    published = BundlePolicy.load(_CMA)
    assert published.understudy is not None
    for head in ({"services": 1}, {"capacity_steps": 1}):
        config = replace(published.config, **head)
        assert BundlePolicy(published.policy, config).understudy is None, head
    assert BundlePolicy(published.policy, JOB_ORDERING).understudy is None
    assert BundlePolicy.load(_PPO).understudy is None
    ranker = BundlePolicy.load(_PUBLISHED.parent / "lublin" / "cma")
    assert ranker.understudy is not None
    assert ranker.config.commitment == JOB_ORDERING.commitment
