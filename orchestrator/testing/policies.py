"""What every policy promises, and every rule: played on a small live cluster, and audited there.

A policy gets its semantics, a fixed day of mixed jobs on a virtual clock, and an orchestrator that
asks it at every decision point. A twin, made in the same way, is asked the same.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.clock import VirtualClock
from orchestrator.engine.engine import Engine
from orchestrator.engine.snapshot import Snapshot
from orchestrator.errors import ContractError
from orchestrator.foundations import in_memory
from orchestrator.kernels.state.row import ClusterShape
from orchestrator.messages import Plan
from orchestrator.orchestrator import InfrastructureOrchestrator
from orchestrator.own.loading import make_part
from orchestrator.ports import Policy
from orchestrator.scheduling.rules import Rule, RulePolicy, rule_named
from orchestrator.semantics import Semantics
from orchestrator.types import JobPriority, JobSpec, NodeSpec

__all__ = ["check_policy", "check_rule"]


_SHAPE = ClusterShape(envs=1, jobs=64, workers=4, nodes=4, devices=4)


_JOBS, _EVERY_MS = 40, 1_800_000


_SEED = 7


def check_policy(policy: str | Callable[[], Policy], semantics: Semantics | None = None) -> None:
    """Check that a policy keeps what :class:`orchestrator.ports.Policy` asks for.

    Its plans are legal, it touches nothing but its snapshot, it decides alike whenever it is made
    anew and has seen the same, and every job is done in the end.

    Parameters
    ----------
    policy : str or callable
        ``package.module:Class``, or what makes one: its class.
    semantics : Semantics or None, optional
        The rules of the cluster that it plays in; None: the defaults of a live cluster.

    Raises
    ------
    ContractError
        Naming the promise that is broken.
    ConfigurationError
        If it cannot be made.
    """
    name = policy if isinstance(policy, str) else getattr(policy, "__name__", "policy")
    made = [_made(policy), _made(policy)]
    asyncio.run(_play(name, made[0], made[1], semantics or Semantics()))


def check_rule(rule: str | Rule) -> None:
    """Check that a rule, one's own or a known one, decides as a policy should.

    In clusters where chosen jobs are waited for, and where they are not.

    Parameters
    ----------
    rule : str or Rule
        As :func:`orchestrator.scheduling.rules.rule_named` takes it.

    Raises
    ------
    ContractError
        Naming the promise that is broken.
    ConfigurationError
        If there is no such rule.
    """
    known = rule if isinstance(rule, Rule) else rule_named(rule)
    for commitment in (False, True):
        rules = Semantics(commitment=commitment, backfill=True)
        asyncio.run(_play(known.name, RulePolicy(known), RulePolicy(known), rules))


def _made(policy: str | Callable[[], Policy]) -> Policy:
    if isinstance(policy, str):
        made: Policy = make_part(policy, "policy", "orchestrator.ports.Policy", ("decide",))
        return made
    return policy()


@dataclass
class _Auditor:
    """Hands questions on to a policy and to its twin, and looks at what they do."""

    name: str
    policy: Policy
    twin: Policy
    engine: Engine | None = None
    asked: int = 0
    fault: Exception | None = None

    def decide(self, snapshot: Snapshot) -> Plan:
        """The plan of the policy, which the twin has to make, too.

        A live cluster goes on without a policy that fails: the first fault is kept for later.
        """
        try:
            return self._audited(snapshot)
        except Exception as error:
            self.fault = self.fault or error
            raise

    def _audited(self, snapshot: Snapshot) -> Plan:
        assert self.engine is not None
        before = self._cluster()
        plan = self.policy.decide(snapshot)
        if not isinstance(plan, Plan):
            raise ContractError(
                self.name, f"'decide' gave {plan!r}", "give a Plan of actions, Plan((Wait(),)) last"
            )
        if self._cluster() != before:
            raise ContractError(
                self.name,
                "changed the cluster while it decided",
                "read the snapshot, and say in the plan what shall be done",
            )
        other = self.twin.decide(self.engine.snapshot())
        if other != plan:
            raise ContractError(
                self.name,
                f"made another plan for the same state: {plan.actions[:2]} and {other.actions[:2]}",
                "draw random numbers from a generator that the policy seeds itself, and do not go "
                "by clocks, or by the order of sets",
            )
        self.asked += 1
        return plan

    def _cluster(self) -> tuple[int, bytes, bytes]:
        assert self.engine is not None
        state = self.engine.state
        return self.engine.log_hash, state.rows.tobytes(), state.device.tobytes()


async def _play(name: str, policy: Policy, twin: Policy, semantics: Semantics) -> None:
    """Play a day under a policy, and judge what became of it."""
    clock, dice = VirtualClock(), random.Random(_SEED)
    auditor = _Auditor(name, policy, twin)
    nodes = [NodeSpec(f"n{n}", 4, 80.0, 32, 256.0, 100.0, "NVLink") for n in range(4)]
    orchestrator = InfrastructureOrchestrator(
        *in_memory(clock),
        clock=clock,
        policy=auditor,
        shape=_SHAPE,
        nodes=nodes,
        semantics=semantics,
        schedule_on_events=True,
    )
    auditor.engine = orchestrator.engine
    for number in range(_JOBS):
        await orchestrator.submit_job(_job(number, dice))
        await clock.advance_to(clock.now_ms() + _EVERY_MS)
    await clock.run_until_idle()
    if isinstance(auditor.fault, ContractError):
        raise auditor.fault
    if auditor.fault is not None:
        raise ContractError(
            name, f"raised {auditor.fault!r}", "wait instead: Plan((Wait(),))"
        ) from auditor.fault
    status = orchestrator.get_cluster_status()
    if auditor.asked == 0:
        raise ContractError(name, "was never asked", "report this: the check is broken")
    if status["refused_actions"] > 0:
        raise ContractError(
            name,
            f"had {status['refused_actions']} actions refused in {auditor.asked} plans",
            "try actions on the snapshot first (orchestrator.scheduling.zoo.board.Board)",
        )
    done = status["jobs"]["completed"]
    if done < _JOBS:
        raise ContractError(
            name,
            f"left {_JOBS - done} of {_JOBS} jobs undone on an idle cluster",
            "place every job that waits, sooner or later",
        )


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
