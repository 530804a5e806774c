"""Nodes that were down when another orchestrator took over come back with their heartbeats."""

from __future__ import annotations

import pytest

from orchestrator import InfrastructureOrchestrator, VirtualClock, in_memory
from orchestrator.foundations import HeartbeatFaultDetector, PhiAccrualFaultDetector
from orchestrator.kernels.state.codes import NodeCode
from orchestrator.ports import FaultDetector
from orchestrator.runtimes import SimulatedRuntime
from tests.engine.builders import SHAPE, job, node


@pytest.mark.parametrize("detector", [HeartbeatFaultDetector, PhiAccrualFaultDetector])
@pytest.mark.parametrize("beats_early", [False, True])
async def test_a_node_that_is_down_in_the_log_recovers_under_a_new_detector(
    detector: type[HeartbeatFaultDetector], beats_early: bool
) -> None:
    clock = VirtualClock()
    found, runtime = in_memory(clock), SimulatedRuntime(clock)

    def make(faults: FaultDetector) -> InfrastructureOrchestrator:
        return InfrastructureOrchestrator(
            found.consensus_engine,
            found.shard_manager,
            faults,
            found.checkpoint_manager,
            clock=clock,
            nodes=[node("n0"), node("n1")],
            shape=SHAPE,
            runtime=runtime,
            schedule_on_events=True,
        )

    first = make(found.fault_detector)
    await first.submit_job(job("a"))
    for name in ("n0", "n1"):
        await first.handle_node_failure(name)
    faults = detector(clock)
    second = make(faults)
    if beats_early:
        await faults.heartbeat("n0")
    await second.start()
    assert second.engine.nodes.code("n0") == NodeCode.DOWN
    await faults.heartbeat("n0")
    await clock.advance_to(clock.now_ms() + 100)
    assert second.engine.nodes.code("n0") == NodeCode.UP
    assert second.engine.nodes.code("n1") == NodeCode.DOWN
    assert second.get_job_status("a")["state"] == "running"
