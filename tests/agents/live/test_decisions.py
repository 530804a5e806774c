"""What a policy decided on a live cluster is decided again, and what it saw trains another."""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from rich.console import Console

from agents.bundle import Origin, PolicyParts, read_manifest, restore_environment, save_bundle
from agents.deploy import BundlePolicy
from agents.live import ReplayRun, run_replay
from agents.live.decisions import live_trace, reproduce
from agents.live.record import read_log
from agents.live.replay import compare
from agents.program import config_dir
from agents.run import train
from envs.workloads import Trace
from orchestrator.clock import VirtualClock
from orchestrator.deployment import DecisionLog, Guards, PolicyDeployment
from orchestrator.deployment.records import pack_choices, unpack_choices
from orchestrator.errors import ConfigurationError
from orchestrator.foundations import in_memory
from orchestrator.foundations.sqlite import SQLiteLog
from orchestrator.kernels.state.row import ClusterShape
from orchestrator.orchestrator import InfrastructureOrchestrator
from orchestrator.scheduling.rules import RULES
from orchestrator.types import JobPriority, JobSpec, NodeSpec

_PUBLISHED = Path(__file__).resolve().parents[3] / "results" / "philly"
_SHAPE = ClusterShape(envs=1, jobs=128, workers=4, nodes=4, devices=4, tenants=8)
_FREE = Guards(deadline_ms=None, pairs=1000)
_JOBS = 40


async def _live(folder: Path, cut_every: int | None = None) -> None:
    """Jobs under the published policies: the linear one in charge, then the network beside it."""
    clock = VirtualClock(1_000)
    rng = np.random.default_rng(0)
    semantics = restore_environment(read_manifest(_PUBLISHED / "cma").environment)
    options = {} if cut_every is None else {"cut_every": cut_every}
    with SQLiteLog(folder / "log.sqlite", **options) as entries:
        log = DecisionLog(folder / "decisions" / "decisions.sqlite")
        deployment = PolicyDeployment(
            RULES["fcfs"], BundlePolicy.load, guards=_FREE, log=log, clock=clock
        )
        orchestrator = InfrastructureOrchestrator(
            *in_memory(clock)._replace(consensus_engine=entries),
            clock=clock,
            policy=deployment,
            shape=_SHAPE,
            nodes=[NodeSpec(f"n{k}", 4, 80.0, 32, 256.0, 100.0, "NVLink") for k in range(3)],
            semantics=semantics,
            schedule_on_events=True,
        )
        await deployment.attach(orchestrator)
        await deployment.activate(str(_PUBLISHED / "cma"))
        for k in range(_JOBS):
            if k == _JOBS // 2:
                await deployment.shadow(str(_PUBLISHED / "ppo"))
            hours = float(rng.choice([0.1, 0.5, 2.0]))
            workers = int(rng.choice([1, 2, 4]))
            spec = JobSpec(
                *(f"job-{k}", f"job {k}", JobPriority.BATCH, workers, int(rng.choice([1, 2]))),
                memory_per_worker_gb=1.0,
                checkpoint_interval_steps=600,
                duration_hours=hours,
                max_duration_hours=1.5 * hours,
                elastic=workers > 1,
                max_workers=4,
                tenant=f"tenant-{k % 3}",
            )
            await orchestrator.submit_job(spec)
            await clock.advance_to(clock.now_ms() + 240_000)
            assert deployment.drain()
        await clock.run_until_idle()
        assert deployment.drain()
        deployment.close()
        log.close()


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("live")
    asyncio.run(_live(folder))
    return folder


def test_every_decision_is_made_again_bit_for_bit(lived: Path, tmp_path: Path) -> None:
    decisions = lived / "decisions" / "decisions.sqlite"
    found = reproduce(lived / "log.sqlite", decisions, BundlePolicy.load)
    assert {one.result for one in found} == {"same"}
    assert {(one.record.policy, one.record.mode) for one in found} == {
        ("cma", "active"),
        ("ppo", "shadow"),
    }
    assert sum(len(one.record.choices) for one in found) > _JOBS
    assert any(len(one.record.choices) > 1 for one in found)  # several choices of one plan
    console = Console(record=True, width=120, file=(tmp_path / "said").open("w"))
    assert run_replay(ReplayRun(lived / "log.sqlite"), tmp_path, console)
    assert "same" in console.export_text()
    assert (tmp_path / "decisions.csv").read_text().count("\n") == len(found) + 1


def test_what_was_altered_differs(lived: Path, tmp_path: Path) -> None:
    """A score in its last bit, an observation, the state, and the policy itself."""
    decisions = lived / "decisions" / "decisions.sqlite"
    copy = tmp_path / "decisions.sqlite"
    with sqlite3.connect(decisions) as source, sqlite3.connect(copy) as target:
        source.backup(target)
        rows = target.execute("SELECT id, choices FROM decisions ORDER BY id LIMIT 3").fetchall()
        for (number, data), kind in zip(rows, ("score", "observation", "state"), strict=True):
            first, *rest = unpack_choices(data)
            if kind == "score":
                scores = first.scores.copy()
                scores[0] = np.nextafter(scores[0], np.float32(np.inf))
                first = replace(first, scores=scores)
            elif kind == "observation":
                seen = {name: part.copy() for name, part in first.observation.items()}
                seen["global"][0] += 1
                first = replace(first, observation=seen)
            else:
                target.execute("UPDATE decisions SET state = 'x' WHERE id = ?", (number,))
            packed = pack_choices((first, *rest))
            target.execute("UPDATE decisions SET choices = ? WHERE id = ?", (packed, number))
    found = reproduce(lived / "log.sqlite", copy, BundlePolicy.load)
    told = [(one.state, one.observations, one.scores, one.choices) for one in found[:4]]
    assert told == [
        (True, True, False, True),
        (True, False, True, True),
        (False, True, True, True),
        (True, True, True, True),
    ]
    assert [one.result for one in found[:4]] == ["differs"] * 3 + ["same"]


def test_another_bundle_at_the_same_place_is_not_asked(lived: Path) -> None:
    decisions = lived / "decisions" / "decisions.sqlite"

    def other(bundle: str) -> BundlePolicy:
        policy = BundlePolicy.load(bundle)
        policy.digest += "!"
        return policy

    found = reproduce(lived / "log.sqlite", decisions, other)
    assert {one.result for one in found} == {"no bundle"}
    assert all(one.state for one in found)


def test_a_cut_log_tells_of_what_is_left(tmp_path: Path) -> None:
    asyncio.run(_live(tmp_path, cut_every=60))
    decisions = tmp_path / "decisions" / "decisions.sqlite"
    given = (str(_PUBLISHED / "cma"), str(_PUBLISHED / "ppo"))
    found = reproduce(tmp_path / "log.sqlite", decisions, BundlePolicy.load, given)
    results = [one.result for one in found]
    assert set(results) == {"cut", "same"}
    assert results == sorted(results)  # those that were cut come first


def test_a_live_log_becomes_a_trace_that_trains(lived: Path, tmp_path: Path) -> None:
    record = read_log(lived / "log.sqlite")
    trace = live_trace(record)
    assert len(trace) == _JOBS
    assert trace.tenants == ("tenant-0", "tenant-1", "tenant-2")
    assert trace.gpus == 12
    submitted = [job.submit_ms - record.begin_ms for job in record.jobs.values()]
    assert trace.requests["submit_ms"].tolist() == submitted
    path = tmp_path / "trace.csv"
    trace.write_table(path)
    assert Trace.read_table(path) == trace
    given = (
        *("workload=live_log", f"workload.path={path}", f"output={tmp_path / 'trained'}"),
        *("env.episode_jobs=4", "task.evaluation_jobs=4", "agent.generations=1"),
        *("agent.population=4", "agent.windows=2", "agent.validation_windows=2"),
        *("evaluation.windows=2", "evaluation.keep_jobs=1", "rules@evaluation=ordering"),
    )
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        train(compose("train", list(given)), Console(file=(tmp_path / "said").open("w")))
    assert read_manifest(tmp_path / "trained" / "bundle").kind == "linear_ranker"


def test_the_run_is_played_again_under_other_rules(lived: Path, tmp_path: Path) -> None:
    """Jobs come when they came and work as long; the shortest first does better."""
    console = Console(record=True, width=160, file=(tmp_path / "said").open("w"))
    asked = ReplayRun(lived / "log.sqlite", trace=False, rules=("srtf", "largest"))
    found = {one.name: one for one in compare(read_log(asked.log), asked.rules)}
    assert set(found) == {
        "live",
        "simulated: fcfs",
        "srtf",
        "largest",
    }
    assert {one.jobs for one in found.values()} == {_JOBS}
    assert found["srtf"].completion_s < found["largest"].completion_s
    assert found["srtf"].sooner > 0
    assert all(one.completion_s > one.wait_s >= 0 for one in found.values())
    assert run_replay(asked, tmp_path, console)
    assert "srtf" in console.export_text()
    assert (tmp_path / "policies.csv").read_text().count("\n") == 5
    assert not run_replay(replace(asked, at_most=0.01), tmp_path, console)
    assert "srtf: above 0.01 times" in console.export_text()
    with pytest.raises(ConfigurationError, match="unknown rule 'none'"):
        compare(read_log(asked.log), ["none"])


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no file"):
        reproduce(tmp_path / "log.sqlite", tmp_path / "decisions.sqlite", BundlePolicy.load)
    with pytest.raises(ConfigurationError, match="there is no file"):
        run_replay(ReplayRun(tmp_path / "log.sqlite"), tmp_path, Console(quiet=True))


def test_a_digest_is_that_of_what_is_decided_by(tmp_path: Path) -> None:
    first = BundlePolicy.load(_PUBLISHED / "cma")
    assert first.digest == BundlePolicy.load(_PUBLISHED / "cma").digest
    weights = first.policy.weights.copy()
    weights[0] += 1e-6
    parts = PolicyParts("linear_scorer", {"weights": weights}, "cma")
    other = save_bundle(tmp_path / "bundle", parts, Origin(first.config, 0))
    assert BundlePolicy.load(other).digest != first.digest
