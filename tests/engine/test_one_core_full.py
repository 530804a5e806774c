"""One core with services, tenants and a changing fleet: an episode, mirrored into an orchestrator.

A simulated episode is played, and what it decided is written down by its times. Then an
orchestrator on a virtual clock is told the same at the same instants: submissions, failures,
placements and moves (by its policy), preemptions, resizes and replicas (``scale_job``), nodes that
are given up (``decommission_node``) and nodes that are ordered, from a ``SimulatedProvisioner`` of
the same delay. Everything else is its own: when work is done or saved, what fits, who is
interrupted. All records of job states and placements must be the same, one by one, and the totals.

What a live cluster does not have, and hence no such test can compare:

- ticks, and traffic as a fluid: live requests are real ones (``tests/mesh/test_mesh.py``).
  Numbers of decision points differ with them, so that placements that are drawn by that number
  (RANDOM and UNIFORM) are left out, and only records of jobs are compared;
- services that start by themselves: a live policy places them as it does other jobs. Here it is
  told to when the simulated one did;
- an order that is taken back: a provisioner has no cancellation. Such actions are left out;
- an absent node as part of the cluster: a live one refuses a job that its present nodes could never
  hold. Only nodes that were ordered are given up here, so that this does not come up. For the same
  reason shares of the whole cluster differ (they count absent nodes), which no decision here reads.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import assume, given, settings

from orchestrator.clock import VirtualClock
from orchestrator.engine.snapshot import Snapshot
from orchestrator.foundations import in_memory
from orchestrator.kernels.state.codes import EventKind, LogKind, NodeCode, Placement
from orchestrator.messages import Action, MigrateJob, PlaceJob, Plan, Wait
from orchestrator.orchestrator import InfrastructureOrchestrator
from orchestrator.runtimes import SimulatedProvisioner, SimulatedRuntime
from orchestrator.types import NodeSpec
from tests.engine.cases import log_of
from tests.engine.full_cases import FULL_SHAPE, Episode, FullCase, full_cases

_TOTALS = (
    "job_ms",
    "wait_ms",
    "busy_unit_ms",
    "capacity_unit_ms",
    "lost_unit_ms",
    "preemptions",
    "interruptions",
    "resizes",
    "migrations",
    "completed_jobs",
    "queue_len",
    "active_services",
)


# --- the orchestrator ----------------------------------------------------------------------------


class Told:
    """A policy that does what it is told, and then waits."""

    def __init__(self) -> None:
        self.wanted: list[Action] = []

    def decide(self, snapshot: Snapshot) -> Plan:
        return Plan((self.wanted.pop(0) if self.wanted else Wait(),))


class Mirror:
    """An orchestrator that is told what an episode decided, when it did."""

    def __init__(self, episode: Episode) -> None:
        case = self.case = episode.case
        self.clock, self.policy = VirtualClock(), Told()
        self.provisioner = SimulatedProvisioner(
            self.clock, case.spare(0), delay_s=case.provision_ms / 1000
        )
        self.coming: list[int] = []
        self.orchestrator = InfrastructureOrchestrator(
            *in_memory(self.clock),
            clock=self.clock,
            runtime=SimulatedRuntime(self.clock),
            policy=self.policy,
            shape=FULL_SHAPE,
            nodes=case.base.nodes,
            semantics=case.base.semantics,
            tenants=case.tenants,
            seed=case.base.seed,
            time_limit_grace_s=None,
            check=True,
        )
        self.provisioner.bind(self._arrive)
        for submit_ms, spec in case.jobs:
            self._at(submit_ms, EventKind.ARRIVAL, "submit_job", spec)
        actions = {
            EventKind.NODE_FAILURE: "handle_node_failure",
            EventKind.NODE_RECOVERY: "handle_node_recovery",
            EventKind.NODE_DRAIN: "decommission_node",
        }
        lived = int(episode.state.rows[0]["next_incident"])  # an episode ends with its jobs
        for time_ms, kind, n in case.base.incidents[:lived]:
            self._at(time_ms, kind, actions[kind], case.base.nodes[n].node_id)
        for time_ms, op in episode.script:
            self.clock.call_at(time_ms, lambda op=op: self._do(*op), order=int(EventKind.NONE))

    def _at(self, time_ms: int, order: EventKind, method: str, subject: Any) -> None:
        self.clock.call_at(
            time_ms, lambda: getattr(self.orchestrator, method)(subject), order=int(order)
        )

    async def _arrive(self, spec: NodeSpec) -> None:
        await self.orchestrator.register_node(self.case.spare(self.coming.pop(0)))

    def _name(self, j: int) -> str:
        return self.case.jobs[j][1].job_id

    async def _do(self, what: str, subject: int, value: int) -> None:
        if what == "order":
            self.coming.append(subject)
            self.provisioner.order(1)
        elif what == "drain":
            assert await self.orchestrator.decommission_node(f"node-{subject}")
        elif what in ("replicas", "resize"):
            assert await self.orchestrator.scale_job(self._name(subject), value)
        elif what == "preempt":
            assert await self.orchestrator.preempt_job(self._name(subject), "told to")
        elif what != "wait":
            name, generator = self._name(subject), Placement(value)
            move = what == "migrate"
            self.policy.wanted.append((MigrateJob if move else PlaceJob)(name, generator))
            await self.orchestrator.schedule()
            assert not self.policy.wanted, f"nobody asked, though {what} {name} was due"


def _of_jobs(log: list[tuple[int, int, int, int]]) -> list[tuple[int, int, int, int]]:
    return [x for x in log if x[1] in (LogKind.JOB_STATE, LogKind.PLACEMENT)]


def _require_same(case: FullCase) -> Episode:
    assume(case.base.jobs)
    episode = Episode(case)
    episode.play()
    mirror = Mirror(episode)
    asyncio.run(mirror.clock.advance_to(episode.now_ms))
    engine = mirror.orchestrator.engine
    live = engine.state_at(episode.now_ms)
    assert _of_jobs(log_of(engine.state)) == _of_jobs(log_of(episode.state))
    totals = {name: episode.state.rows[0][name].item() for name in _TOTALS}
    assert {name: live.rows[0][name].item() for name in _TOTALS} == totals
    states = episode.state.node[0, : len(case.nodes)]["state"]
    for n, name in enumerate(engine.nodes.index.ids):
        assert name == f"node-{n}"
        if states[n] != NodeCode.PROVISIONING:  # due at the very end
            assert live.node[0, n]["state"] == states[n]
    return episode


@pytest.mark.slow
@pytest.mark.property
def test_an_episode_with_everything_is_lived_through_alike() -> None:
    """Replicas change, nodes come and go, jobs are preempted, resized and moved: all of it."""
    done: set[str] = set()

    @settings(max_examples=settings().max_examples)
    @given(case=full_cases())
    def live(case: FullCase) -> None:
        done.update(op[0] for _, op in _require_same(case).script)

    live()
    kinds = {"place", "wait", "preempt", "resize", "migrate", "replicas", "order", "drain"}
    assert done == kinds
