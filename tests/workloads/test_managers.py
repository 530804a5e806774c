"""Managers of workloads: training, elastic training, inference, batches; and storage."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrator import TenantSpec
from orchestrator.errors import UnknownEntityError, UnknownServiceError, ValidationError
from orchestrator.kernels.state.codes import JobKind
from orchestrator.mesh import ServiceSpec
from orchestrator.resources import StorageQuotaManager
from orchestrator.scheduling.rules import RULES
from orchestrator.types import JobPriority, JobSpec
from orchestrator.workloads.serving import BatchProcessor, InferenceJobManager
from orchestrator.workloads.throughput import application_named
from orchestrator.workloads.training import ElasticTrainer, TrainingJobManager
from tests.engine.builders import MINUTE_MS, job, node, stage


async def test_training_jobs_are_submitted_paused_and_watched() -> None:
    s = stage(node("n0"), schedule_on_events=True)
    training = TrainingJobManager(s.orchestrator)
    await training.submit(job("a"))
    await s.orchestrator.submit_job(job("b", kind=JobKind.BATCH))
    await s.wait(7)
    assert training.jobs() == ["a"]
    assert await training.pause("a")
    await s.clock.advance_to(s.clock.now_ms() + 5000)
    assert training.status("a")["progress_ms"] == 7 * MINUTE_MS
    with pytest.raises(UnknownEntityError, match="no training job 'b'; 1 are known"):
        training.status("b")
    with pytest.raises(ValidationError, match="field 'kind' is BATCH"):
        await training.submit(job("c", kind=JobKind.BATCH))


async def test_the_elastic_trainer_follows_goodput() -> None:
    s = stage(node("n0", 8), schedule_on_events=True)
    model = application_named("bert")
    elastic = job("a", elastic=True, max_workers=8)
    await s.orchestrator.submit_job(elastic)
    await s.orchestrator.submit_job(job("other", gpus_per_worker=4))
    await s.clock.advance_to(0)
    trainer = ElasticTrainer(s.orchestrator, {"a": model})
    assert trainer.goodput("a") == pytest.approx(float(model.goodput(1, False)))
    best = trainer.best_workers("a")
    assert best == model.best_workers(4, 8)  # four GPUs are taken
    assert best > 1
    before = trainer.goodput("a")
    assert await trainer.tune_all() == {"a": best}
    assert trainer.goodput("a") > before
    assert not await trainer.tune("a")
    assert s.orchestrator.get_job_status("a")["starts"] == 1
    with pytest.raises(ValidationError, match="field 'elastic' is False"):
        trainer.best_workers("other")
    with pytest.raises(UnknownEntityError, match="no job 'x'"):
        trainer.best_workers("x")
    await s.orchestrator.submit_job(job("b", elastic=True))
    with pytest.raises(UnknownEntityError, match=r"no throughput model of job 'b'; call learn\(\)"):
        trainer.best_workers("b")
    trainer.learn("b", model)
    assert trainer.goodput("b") == 0.0  # it waits


def _service(**fields: Any) -> JobSpec:
    values: dict[str, Any] = {
        "kind": JobKind.SERVICE,
        "num_workers": 2,
        "elastic": True,
        "max_workers": 4,
        "max_duration_hours": 1e4,
    }
    return job("chat", **(values | fields))


async def test_services_are_deployed_and_scaled_with_their_demand() -> None:
    s = stage(node("n0"), schedule_on_events=True)
    inference = InferenceJobManager(s.orchestrator, target_utilisation=0.5, down_window_s=60.0)
    rules = ServiceSpec("chat", 100.0, replicas=2, max_replicas=4)
    assert await inference.deploy(_service(), rules) == "chat"
    await s.clock.advance_to(0)
    assert inference.replicas("chat") == 2
    assert inference.attainment("chat") is None
    decision = await inference.autoscale("chat", 19.0)  # ten per replica, of which half
    assert (decision.target_nodes, inference.replicas("chat")) == (4, 4)
    await inference.autoscale("chat", 3.0)
    assert inference.replicas("chat") == 4  # not so soon
    await s.wait(2)
    await inference.autoscale("chat", 3.0)
    assert inference.replicas("chat") == 1
    assert await inference.scale("chat", 2)
    assert len(await s.orchestrator.discover_service("chat")) == 2
    with pytest.raises(UnknownServiceError, match="'other'"):
        inference.replicas("other")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"kind": JobKind.BATCH}, "kind"),
        ({"name": "x"}, "name"),
        ({"num_workers": 3}, "num_workers"),
    ],
)
async def test_a_service_and_its_job_must_agree(fields: dict[str, Any], field: str) -> None:
    s = stage(node("n0"))
    inference = InferenceJobManager(s.orchestrator)
    with pytest.raises(ValidationError, match=f"field '{field}'"):
        await inference.deploy(_service(**fields), ServiceSpec("chat", 100.0, replicas=2))
    assert s.orchestrator.jobs == {}
    assert s.orchestrator.mesh.services == []


async def test_batches_fill_gaps_and_yield() -> None:
    s = stage(node("n0"), policy=RULES["priority"], schedule_on_events=True)
    batches = BatchProcessor(s.orchestrator)
    await s.orchestrator.submit_job(job("train", gpus_per_worker=2))
    await batches.submit(job("tokens", gpus_per_worker=2), deadline_hours=1.5)
    await s.wait(15)
    assert s.state_of("tokens") == "running"  # in the gap
    assert batches.slack_hours("tokens") == pytest.approx(0.5)
    assert batches.at_risk() == []
    await s.orchestrator.submit_job(
        job("now", gpus_per_worker=2, priority=JobPriority.PRODUCTION, max_duration_hours=0.6)
    )
    await s.wait(33)
    assert s.state_of("tokens") == "preempted"
    assert batches.at_risk() == ["tokens"]
    await s.clock.run_until_idle()
    assert s.state_of("tokens") == "completed"
    assert batches.slack_hours("tokens") is None
    completion = s.orchestrator.metrics.summary(s.clock.now_ms())["completion"]
    assert (completion["deadlines_met"], completion["deadlines_missed"]) == (0, 1)
    assert batches.jobs() == ["tokens"]
    with pytest.raises(ValidationError, match=r"field 'deadline_hours' is 0\.5"):
        await batches.submit(job("late"), deadline_hours=0.5)


async def test_storage_quotas_are_told_and_kept() -> None:
    tenants = (TenantSpec("a", storage_quota_gb=10.0), TenantSpec("b"))
    s = stage(node("n0"), tenants=tenants, schedule_on_events=True)
    storage = StorageQuotaManager(s.orchestrator.engine.state)
    for k in range(2):
        await s.orchestrator.submit_job(job(f"a{k}", tenant="a", checkpoint_gb=6.0))
    await s.orchestrator.submit_job(job("b0", tenant="b", checkpoint_gb=60.0))
    await s.clock.advance_to(0)
    assert s.orchestrator.get_job_status("a1")["why_not"] == "storage"
    assert (storage.tenant(0).used, storage.tenant(0).free) == (6 * 1024, 4 * 1024)
    assert storage.admits(0, 4 * 1024)
    assert not storage.admits(0, 4 * 1024 + 1)
    assert storage.admits(1, 1 << 40)
    assert not storage.is_limited(1)
    assert storage.total().used == 66 * 1024
    shares = s.orchestrator.get_cluster_status()["tenants"]
    assert (shares["a"]["storage_gb"], shares["a"]["storage_quota_gb"]) == (6.0, 10.0)
    assert shares["b"]["storage_quota_gb"] is None
    await s.clock.run_until_idle()
    assert storage.total().used == 0
    with pytest.raises(UnknownEntityError, match="no tenant 99"):
        storage.tenant(99)


@pytest.mark.parametrize(("rate_rps", "wanted"), [(19.0, 4), (12.0, 3), (9.0, 2)])
async def test_a_new_manager_knows_the_services_that_run(rate_rps: float, wanted: int) -> None:
    s = stage(node("n0"), schedule_on_events=True)
    rules = ServiceSpec("chat", 100.0, replicas=2, max_replicas=4)
    await InferenceJobManager(s.orchestrator).deploy(_service(), rules)
    await s.clock.advance_to(0)
    other = InferenceJobManager(s.orchestrator, target_utilisation=0.5, down_window_s=60.0)
    assert other.replicas("chat") == 2
    assert other.attainment("chat") is None
    await other.autoscale("chat", rate_rps)
    assert other.replicas("chat") == wanted
    assert await other.scale("chat", 1)
    with pytest.raises(UnknownServiceError, match=r"'other'.*chat"):
        other.replicas("other")


async def test_a_service_goes_on_under_its_next_job() -> None:
    s = stage(node("n0"), schedule_on_events=True)
    inference = InferenceJobManager(s.orchestrator)
    rules = ServiceSpec("chat", 100.0, replicas=2, max_replicas=4)
    ended = await inference.deploy(_service(), rules)
    await s.wait(1)
    await s.end(ended)
    assert inference.replicas("chat") == 0  # it has ended
    with pytest.raises(UnknownServiceError, match="'chat'"):
        InferenceJobManager(s.orchestrator).replicas("chat")
    await s.orchestrator.submit_job(replace(_service(max_workers=3), job_id="next", name="chat"))
    await s.wait(1)
    assert inference.replicas("chat") == 2
    await inference.autoscale("chat", 1000.0)
    assert len(s.orchestrator.engine.workers_of("next")) == 3  # within that job's bounds


@pytest.mark.parametrize(("replicas", "fits"), [(1, False), (2, True), (4, True), (5, False)])
async def test_a_service_keeps_to_its_rules_however_it_is_submitted(
    replicas: int, fits: bool
) -> None:
    s = stage(node("n0", 8), schedule_on_events=True)
    s.orchestrator.manage(InferenceJobManager(s.orchestrator))
    s.orchestrator.mesh.add_service(
        ServiceSpec("chat", 100.0, replicas=2, min_replicas=2, max_replicas=4)
    )
    spec = job("chat", kind=JobKind.SERVICE, num_workers=replicas)
    if fits:
        assert await s.orchestrator.submit_job(spec) == "chat"
    else:
        with pytest.raises(ValidationError, match=rf"is {replicas}, and service 'chat' has \[2, 4"):
            await s.orchestrator.submit_job(spec)
        assert "chat" not in s.orchestrator.jobs


@pytest.mark.parametrize("kind", [JobKind.TRAINING, JobKind.SERVICE])
async def test_managers_leave_the_jobs_of_others_alone(kind: JobKind) -> None:
    s = stage(node("n0", 8), schedule_on_events=True)
    batches, training = BatchProcessor(s.orchestrator), TrainingJobManager(s.orchestrator)
    s.orchestrator.manage(batches, training, ElasticTrainer(s.orchestrator, {}))
    spec = job("a", kind=kind, priority=JobPriority.PRODUCTION, preemptible=False)
    await s.orchestrator.submit_job(spec)
    assert s.orchestrator.jobs["a"] == spec


async def test_a_batch_job_that_will_be_late_is_warned_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    s = stage(node("n0"), schedule_on_events=True)
    s.orchestrator.manage(BatchProcessor(s.orchestrator))
    await s.orchestrator.submit_job(job("busy", gpus_per_worker=4, max_duration_hours=3.0))
    await s.wait(0)
    await s.orchestrator.submit_job(job("late", kind=JobKind.BATCH, deadline_hours=2.0))
    hopeless = job("hopeless", kind=JobKind.BATCH, deadline_hours=0.5)
    with pytest.raises(ValidationError, match="deadline_hours"):
        await s.orchestrator.submit_job(hopeless)
    for minutes in (30, 31):
        await s.orchestrator.auto_scale_cluster()
        assert "late" not in caplog.text
        await s.wait(minutes)
    for _ in range(2):
        await s.orchestrator.auto_scale_cluster()
    assert caplog.text.count("'late' will miss its deadline") == 1
