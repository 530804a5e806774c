"""What every policy promises."""

from __future__ import annotations

import asyncio
import random

import pytest

from orchestrator import InfrastructureOrchestrator, VirtualClock, in_memory
from orchestrator.engine.snapshot import Snapshot
from orchestrator.kernels.state.row import ClusterShape
from orchestrator.messages import Plan
from orchestrator.ports import Policy
from orchestrator.scheduling.rules import RULES, RulePolicy
from orchestrator.semantics import Semantics
from orchestrator.types import JobPriority, JobSpec, NodeSpec

POLICIES = {name: RulePolicy(rule) for name, rule in RULES.items()}
_SHAPE = ClusterShape(envs=1, jobs=64, workers=4, nodes=4, devices=4)


def _job(number: int, dice: random.Random) -> JobSpec:
    return JobSpec(
        job_id=f"job-{number}",
        name="",
        priority=dice.choice(list(JobPriority)),
        num_workers=dice.randint(1, 4),
        gpus_per_worker=dice.randint(1, 2),
        memory_per_worker_gb=1.0,
        max_duration_hours=dice.randint(1, 20),
        checkpoint_interval_steps=600,
        preemptible=dice.random() < 0.5,
        checkpoint_seconds=5.0,
        restart_seconds=5.0,
    )


class Auditor:
    """Asks a policy everything twice, and lets it see only what it may see."""

    def __init__(self, policy: Policy, orchestrator: list[InfrastructureOrchestrator]) -> None:
        self.policy = policy
        self.orchestrator = orchestrator
        self.asked = 0

    def decide(self, snapshot: Snapshot) -> Plan:
        engine = self.orchestrator[0].engine
        before = (engine.log_hash, engine.state.rows.tobytes(), engine.state.device.tobytes())
        plan = self.policy.decide(snapshot)
        after = (engine.log_hash, engine.state.rows.tobytes(), engine.state.device.tobytes())
        assert after == before, "the policy touched the cluster"
        assert self.policy.decide(engine.snapshot()) == plan, "another plan for the same state"
        self.asked += 1
        return plan


@pytest.mark.parametrize("commitment", [False, True])
@pytest.mark.parametrize("name", POLICIES)
def test_plans_are_legal_repeatable_and_touch_nothing(name: str, commitment: bool) -> None:
    async def run() -> None:
        clock, dice = VirtualClock(), random.Random(7)
        box: list[InfrastructureOrchestrator] = []
        auditor = Auditor(POLICIES[name], box)
        nodes = [NodeSpec(f"n{n}", 4, 80.0, 32, 256.0, 100.0, "NVLink") for n in range(4)]
        orchestrator = InfrastructureOrchestrator(
            *in_memory(clock),
            clock=clock,
            policy=auditor,
            shape=_SHAPE,
            nodes=nodes,
            semantics=Semantics(commitment=commitment, backfill=True),
            schedule_on_events=True,
        )
        box.append(orchestrator)
        for number in range(40):
            await orchestrator.submit_job(_job(number, dice))
            await clock.advance_to(clock.now_ms() + 1_800_000)
        await clock.run_until_idle()
        status = orchestrator.get_cluster_status()
        assert status["jobs"]["completed"] == 40
        assert status["refused_actions"] == 0
        assert auditor.asked > 10

    asyncio.run(run())
