"""What the next job of a group should ask for, by what completed ones used."""

from __future__ import annotations

import pytest

from orchestrator.errors import ConfigurationError, UnknownEntityError, ValidationError
from orchestrator.workloads.advice import BOUNDS, Rightsizer, like_jobs
from orchestrator.workloads.training import TrainingJobManager
from tests.engine.builders import job, node, stage


def _run(number: int, **fields: object):
    asked = {"name": "bert", "cpus_per_worker": 16.0, "memory_per_worker_gb": 200.0}
    return job(f"bert-{number}", **(asked | fields))


async def test_the_next_job_asks_for_what_completed_ones_used() -> None:
    s = stage(node("n0"), schedule_on_events=True)
    training = TrainingJobManager(s.orchestrator, rightsizer=Rightsizer(least_jobs=3))
    for number, (cpus, memory_gb) in enumerate([(3.0, 30.0), (4.0, 50.0), (2.0, 40.0)]):
        job_id = await training.submit(_run(number), rightsize=True)
        await s.wait(1)
        training.report_usage(job_id, cpus=cpus, memory_gb=memory_gb)
        training.report_usage(job_id, cpus=cpus / 2, memory_gb=memory_gb / 2)  # another worker
        status = training.status(job_id)
        assert status["peak_usage"] == {"cpus_per_worker": cpus, "memory_per_worker_gb": memory_gb}
        assert status["recommended"]["memory_per_worker_gb"] == 200.0
        assert status["resources"]["memory_gb"] == 200.0
        await s.wait(60)
        assert s.state_of(job_id) == "completed"
        assert training.status(job_id)["peak_usage"] is None  # it has ended
    advice = training.recommended(_run(3))
    assert advice.changed
    assert advice.amounts == pytest.approx(
        {"cpus_per_worker": 1.15 * 3.9, "memory_per_worker_gb": 1.15 * 50.0}
    )
    assert "memory_per_worker_gb 200 to 57.5 (p100 of use)" in advice.reason
    await training.submit(_run(3), rightsize=True)
    await training.submit(_run(4))
    await s.wait(1)
    held = [training.status(f"bert-{n}")["resources"]["memory_gb"] for n in (3, 4)]
    assert held == pytest.approx([57.5, 200.0])
    assert training.recommended(job("a", name="vit")).reason == "no job of its group has completed"


async def test_jobs_that_fail_or_are_forgotten_teach_nothing() -> None:
    s = stage(node("n0", gpus=8), schedule_on_events=True)
    sizes = Rightsizer(least_jobs=1)
    training = TrainingJobManager(s.orchestrator, rightsizer=sizes)
    await training.submit(_run(0))
    await s.wait(1)
    training.report_usage("bert-0", cpus=1.0, memory_gb=1.0)
    with pytest.raises(ValidationError, match="field 'memory_per_worker_gb' is -1"):
        training.report_usage("bert-0", cpus=1.0, memory_gb=-1.0)
    with pytest.raises(UnknownEntityError, match="no training job 'bert-1'"):
        training.report_usage("bert-1", cpus=1.0, memory_gb=1.0)
    sizes.note("bert-7", cpus=1.0, memory_gb=1.0)  # nobody knows it
    assert sizes.status() == {"watched": 2, "groups": {}}
    assert not training.recommended(_run(1)).changed
    assert sizes.watched == ["bert-0"]
    sizes.ended("bert-0", _run(0), completed=False)
    assert sizes.status() == {"watched": 0, "groups": {}}
    await s.wait(60)
    training.report_usage("bert-0", cpus=1.0, memory_gb=1.0)  # too late
    assert sizes.status() == {"watched": 0, "groups": {}}


def test_what_is_not_asked_for_stays_so() -> None:
    sizes = Rightsizer(least_jobs=1)
    sizes.note("a", cpus=2.0, memory_gb=3.0)
    sizes.ended("a", _run(0), completed=True)
    sized = sizes.rightsized(_run(1, cpus_per_worker=0.0))
    assert sized.cpus_per_worker == 0.0
    assert sized.memory_per_worker_gb == pytest.approx(3.45)
    assert sizes.recommend(sized).reason == "use and requests agree"


def test_groups_are_forgotten_in_the_order_of_use() -> None:
    sizes = Rightsizer(least_jobs=1, most_groups=2)
    for number, name in enumerate(["x", "y", "x", "z"]):
        sizes.note(str(number), cpus=1.0, memory_gb=1.0)
        sizes.ended(str(number), job(str(number), name=name), completed=True)
    assert sizes.status()["groups"] == {"default/x/1": 2, "default/z/1": 1}
    assert like_jobs(job("a", name="")) == ""


async def test_without_a_rightsizer_nothing_is_recommended() -> None:
    s = stage(node("n0"), schedule_on_events=True)
    training = TrainingJobManager(s.orchestrator)
    await training.submit(_run(0))
    assert "recommended" not in training.status("bert-0")
    with pytest.raises(ConfigurationError, match="there is no 'rightsizer'"):
        await training.submit(_run(1), rightsize=True)
    with pytest.raises(ConfigurationError, match="'bounds' are of"):
        Rightsizer({"cpus_per_worker": BOUNDS["cpus_per_worker"]})
    with pytest.raises(ConfigurationError, match="'most_groups' is 0"):
        Rightsizer(most_groups=0)
    with pytest.raises(ConfigurationError, match="'least_samples'"):
        Rightsizer(least_jobs=0)


@pytest.mark.parametrize("margin", [0.0, 0.05, 0.15])
@pytest.mark.parametrize("seen", [1.0, 0.97])
def test_a_job_killed_at_its_limit_of_memory_raises_the_advice(margin: float, seen: float) -> None:
    sizes = Rightsizer(margin=margin)
    for number in range(4):
        sizes.note(f"small-{number}", cpus=1.0, memory_gb=10.0)
        sizes.ended(f"small-{number}", _run(number, memory_per_worker_gb=32.0), completed=True)
    advice = []
    while len(advice) < 20:
        spec = sizes.rightsized(_run(len(advice) + 4, memory_per_worker_gb=32.0))
        advice.append(spec.memory_per_worker_gb)
        if advice[-1] >= 20.0:
            break
        sizes.note(spec.job_id, cpus=1.0, memory_gb=seen * advice[-1])
        sizes.ended(spec.job_id, spec, completed=False)
    assert advice == sorted(set(advice))
    assert 20.0 <= advice[-1] < 32.0
    assert sizes.status()["groups"] == {"default/bert/1": 4}
    assert "killed at its limit" in sizes.recommend(_run(99)).reason


def test_the_first_death_at_the_limit_counts() -> None:
    sizes = Rightsizer()
    asked = _run(0, memory_per_worker_gb=10.0)
    sizes.note("bert-0", cpus=1.0, memory_gb=10.0)
    sizes.ended("bert-0", asked, completed=False)
    assert sizes.rightsized(asked).memory_per_worker_gb == pytest.approx(12.0)
    assert sizes.rightsized(asked).cpus_per_worker == 16.0
    more = _run(1, memory_per_worker_gb=64.0)
    assert sizes.rightsized(more).memory_per_worker_gb == 64.0
    assert sizes.rightsized(_run(2, memory_per_worker_gb=0.0)).memory_per_worker_gb == 0.0


def test_deaths_for_other_reasons_and_bounds_limit_the_advice() -> None:
    sizes = Rightsizer()
    sizes.note("bert-0", cpus=16.0, memory_gb=100.0)  # half of what it asked for
    sizes.ended("bert-0", _run(0), completed=False)
    assert sizes.recommend(_run(1)).amounts["memory_per_worker_gb"] == 200.0
    most = BOUNDS["memory_per_worker_gb"].most
    large = _run(2, memory_per_worker_gb=most)
    sizes.note("bert-2", cpus=1.0, memory_gb=most)
    sizes.ended("bert-2", large, completed=False)
    assert sizes.rightsized(large).memory_per_worker_gb == most
