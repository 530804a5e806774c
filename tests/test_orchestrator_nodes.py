"""Nodes: registered, failing, coming back, drained, taken away."""

from __future__ import annotations

import pytest

from orchestrator import ClusterShape
from orchestrator.errors import CapacityError, UnknownEntityError, ValidationError
from tests.engine.builders import MINUTE_MS, Stage, job, node, stage


def _nodes(s: Stage) -> dict[str, str]:
    states: dict[str, str] = s.orchestrator.get_cluster_status()["nodes"]["states"]
    return states


async def test_a_registered_node_takes_jobs() -> None:
    s = stage()
    assert await s.orchestrator.register_node(node("n0"))
    assert s.orchestrator.nodes == {"n0": node("n0")}
    await s.orchestrator.submit_job(job("a"))
    assert await s.orchestrator.schedule() == [("a", "n0")]


async def test_a_node_that_is_not_available_takes_none_until_it_is() -> None:
    s = stage()
    await s.orchestrator.register_node(node("n0", available=False))
    assert _nodes(s) == {"n0": "down"}
    await s.orchestrator.submit_job(job("a"))
    assert await s.orchestrator.schedule() == []
    assert await s.orchestrator.handle_node_recovery("n0")
    assert await s.orchestrator.schedule() == [("a", "n0")]


async def test_nodes_of_another_kind_may_join_while_jobs_run() -> None:
    s = stage()
    await s.orchestrator.register_node(node("cpu", gpus=0, cpu_cores=4))
    await s.orchestrator.submit_job(job("a", gpus_per_worker=0, cpus_per_worker=1.0))
    await s.orchestrator.schedule()
    assert s.orchestrator.get_cluster_status()["utilization"]["now"] == 0.25
    await s.wait(10)
    await s.orchestrator.register_node(node("gpu", gpu_model="H100"))
    status = s.orchestrator.get_cluster_status()
    assert status["gpus"] == {"total": 4, "free": 4.0, "allocated": 0.0}
    await s.orchestrator.submit_job(job("b"))
    assert await s.orchestrator.schedule() == [("b", "gpu")]
    await s.clock.run_until_idle()
    assert s.orchestrator.get_cluster_status()["jobs"]["completed"] == 2


# --- failures -------------------------------------------------------------------------------------


async def test_a_failure_costs_the_work_since_the_last_checkpoint() -> None:
    s = stage(node("n0"), node("n1"))
    await s.orchestrator.submit_job(job("gang", num_workers=2, gpus_per_worker=4))
    await s.orchestrator.submit_job(job("other", gpus_per_worker=0, cpus_per_worker=1.0))
    await s.orchestrator.schedule()
    await s.wait(25)
    report = await s.orchestrator.handle_node_failure("n1")
    assert report["interrupted_jobs"] == ["gang"]
    assert report["lost_work_ms"] == {"gang": 5 * MINUTE_MS}
    assert report["checkpoints"]["gang"]["progress_ms"] == 20 * MINUTE_MS
    assert report["rescheduled"] == []
    assert s.state_of("gang") == "pending"
    assert s.state_of("other") == "running"
    assert s.runtime.observe() == {"other": 1}
    await s.wait(10)
    assert await s.orchestrator.handle_node_recovery("n1")
    assert len(await s.orchestrator.schedule()) == 2
    await s.clock.run_until_idle()
    status = s.orchestrator.get_job_status("gang")
    assert status["end_ms"] == (35 + 40) * MINUTE_MS + 20_000  # the rest, and the restart
    assert (status["interruptions"], status["lost_ms"]) == (1, 5 * MINUTE_MS)


async def test_an_interrupted_job_is_rescheduled_at_once_where_there_is_room() -> None:
    s = stage(node("n0"), node("n1"))
    await s.orchestrator.submit_job(job("a"))
    await s.orchestrator.schedule()
    report = await s.orchestrator.handle_node_failure("n0")
    assert report["rescheduled"] == [("a", "n1")]
    assert report["checkpoints"] == {"a": None}


async def test_a_job_that_is_never_saved_starts_over() -> None:
    s = stage(node("n0"), node("n1"))
    await s.orchestrator.submit_job(job("a", checkpoint_interval_steps=0))
    await s.orchestrator.schedule()
    await s.wait(50)
    report = await s.orchestrator.handle_node_failure("n0")
    assert report["lost_work_ms"] == {"a": 50 * MINUTE_MS}
    assert report["checkpoints"] == {"a": None}


async def test_a_failure_while_saving_falls_back_to_the_checkpoint_before() -> None:
    s = stage(node("n0"), node("n1"))
    await s.orchestrator.submit_job(job("a", checkpoint_seconds=60.0))
    await s.orchestrator.schedule()
    await s.wait(25)
    await s.orchestrator.preempt_job("a", "")
    await s.wait(0.5)
    report = await s.orchestrator.handle_node_failure("n0")
    assert report["lost_work_ms"] == {"a": 5 * MINUTE_MS}
    assert report["checkpoints"]["a"]["progress_ms"] == 20 * MINUTE_MS
    await s.clock.run_until_idle()
    assert s.state_of("a") == "completed"


async def test_a_second_report_of_a_failure_changes_nothing() -> None:
    s = stage(node("n0"), node("n1"))
    await s.orchestrator.submit_job(job("a"))
    await s.orchestrator.handle_node_failure("n0")
    report = await s.orchestrator.handle_node_failure("n0")
    assert report["interrupted_jobs"] == []
    assert _nodes(s) == {"n0": "down", "n1": "up"}


async def test_the_fault_detector_is_heard() -> None:
    s = stage(node("n0"), node("n1"), schedule_on_events=True)
    await s.orchestrator.submit_job(job("a"))
    for _ in range(5):
        await s.foundations.fault_detector.heartbeat("n0")
        await s.wait(0.1)
    await s.wait(1)
    assert _nodes(s) == {"n0": "down", "n1": "up"}
    assert s.orchestrator.get_cluster_status()["suspects"] == ["n0"]
    assert s.orchestrator.get_job_status("a")["workers"] == [{"node": "n1", "gpus": [0]}]
    await s.foundations.fault_detector.heartbeat("n0")
    assert _nodes(s) == {"n0": "up", "n1": "up"}
    await s.foundations.fault_detector.heartbeat("somebody else")
    await s.wait(1)
    assert _nodes(s) == {"n0": "down", "n1": "up"}


async def test_a_node_that_is_back_by_word_of_mouth_is_not_suspected() -> None:
    s = stage(node("n0"))
    await s.orchestrator.handle_node_failure("n0")
    assert s.orchestrator.get_cluster_status()["suspects"] == ["n0"]
    await s.orchestrator.handle_node_recovery("n0")
    assert s.orchestrator.get_cluster_status()["suspects"] == []
    assert not await s.orchestrator.handle_node_recovery("n0")


# --- leaving --------------------------------------------------------------------------------------


async def test_a_drained_node_leaves_when_its_jobs_are_saved() -> None:
    s = stage(node("n0"), node("n1"))
    await s.orchestrator.submit_job(job("a"))
    await s.orchestrator.schedule()
    await s.wait(15)
    assert await s.orchestrator.decommission_node("n0")
    assert _nodes(s) == {"n0": "draining", "n1": "up"}
    assert s.state_of("a") == "checkpointing"
    assert not await s.orchestrator.decommission_node("n0")
    await s.wait(1)
    assert _nodes(s) == {"n1": "up"}
    assert set(s.orchestrator.nodes) == {"n1"}
    assert await s.orchestrator.schedule() == [("a", "n1")]
    await s.clock.run_until_idle()
    assert s.orchestrator.get_job_status("a")["lost_ms"] == 0
    assert not await s.orchestrator.decommission_node("n0")


async def test_without_draining_a_node_leaves_at_once() -> None:
    s = stage(node("n0"), node("n1"))
    await s.orchestrator.submit_job(job("a"))
    await s.orchestrator.schedule()
    await s.wait(15)
    assert await s.orchestrator.decommission_node("n0", drain=False)
    assert _nodes(s) == {"n1": "up"}
    assert s.orchestrator.get_job_status("a")["lost_ms"] == 5 * MINUTE_MS
    assert int(s.orchestrator.engine.state.node[0, 0]["failures"]) == 0


async def test_draining_can_be_cut_short() -> None:
    s = stage(node("n0"))
    await s.orchestrator.submit_job(job("a", checkpoint_seconds=600.0))
    await s.orchestrator.schedule()
    await s.orchestrator.decommission_node("n0")
    assert await s.orchestrator.decommission_node("n0", drain=False)
    assert _nodes(s) == {}
    assert s.state_of("a") == "pending"


async def test_a_draining_node_that_fails_does_not_come_back() -> None:
    s = stage(node("n0"))
    await s.orchestrator.submit_job(job("a", checkpoint_seconds=600.0))
    await s.orchestrator.schedule()
    await s.orchestrator.decommission_node("n0")
    await s.orchestrator.handle_node_failure("n0")
    assert not await s.orchestrator.handle_node_recovery("n0")
    assert _nodes(s) == {}


async def test_a_node_that_has_left_may_join_again_with_other_hardware() -> None:
    s = stage(node("n0", gpus=2))
    await s.orchestrator.decommission_node("n0")
    await s.orchestrator.register_node(node("n0", gpus=8))
    await s.orchestrator.submit_job(job("a", gpus_per_worker=8))
    assert await s.orchestrator.schedule() == [("a", "n0")]


async def test_a_node_that_is_down_may_come_back_with_other_hardware() -> None:
    s = stage(node("n0", gpus=2))
    await s.orchestrator.handle_node_failure("n0")
    await s.orchestrator.register_node(node("n0", gpus=4))
    assert s.orchestrator.get_cluster_status()["gpus"]["total"] == 4
    assert int(s.orchestrator.engine.state.node[0, 0]["failures"]) == 1


async def test_rows_of_nodes_that_have_left_are_used_again() -> None:
    s = stage(shape=ClusterShape(envs=1, jobs=4, nodes=2, devices=4))
    for name in ("n0", "n1"):
        await s.orchestrator.register_node(node(name))
    with pytest.raises(CapacityError, match=r"all 2 rows of the node table .* ClusterShape\.nodes"):
        await s.orchestrator.register_node(node("n2"))
    await s.orchestrator.decommission_node("n0")
    await s.orchestrator.register_node(node("n2"))
    assert _nodes(s) == {"n1": "up", "n2": "up"}
    with pytest.raises(UnknownEntityError, match="no node 'n0'"):
        await s.orchestrator.decommission_node("n0")


# --- validation -----------------------------------------------------------------------------------


async def test_an_id_is_given_once() -> None:
    s = stage(node("n0"))
    with pytest.raises(ValidationError, match="'node_id' is taken by a node that is up"):
        await s.orchestrator.register_node(node("n0"))
    with pytest.raises(ValidationError, match="NodeSpec 'n0': field 'node_id' is taken"):
        stage(node("n0"), node("n0"))


async def test_a_node_has_to_fit_the_shape() -> None:
    s = stage()
    with pytest.raises(ValidationError, match="'gpus' is 9, and a node has at most 8"):
        await s.orchestrator.register_node(node("n0", gpus=9))
    with pytest.raises(ValidationError, match="field 'gpu_memory_gb' is too large to be stored"):
        await s.orchestrator.register_node(node("n0", gpu_memory_gb=1e300))
    for number in range(32):
        await s.orchestrator.register_node(node("n0", gpu_model=f"model-{number}"))
        await s.orchestrator.decommission_node("n0")
    with pytest.raises(CapacityError, match="GPU model 'one-more'"):
        await s.orchestrator.register_node(node("n0", gpu_model="one-more"))


async def test_unknown_nodes_are_named() -> None:
    s = stage(node("n0"))
    for call in (
        s.orchestrator.decommission_node,
        s.orchestrator.handle_node_failure,
        s.orchestrator.handle_node_recovery,
    ):
        with pytest.raises(UnknownEntityError, match="no node 'x'; 1 are known"):
            await call("x")
