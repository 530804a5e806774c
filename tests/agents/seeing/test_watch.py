"""A window that is watched is the one that was evaluated, whoever decides."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from rich.console import Console

from agents import LinearRanker, LinearScorer, LookaheadPolicy, watch
from agents.build import Evaluation
from agents.evaluation.play import evaluate_named, evaluate_policy
from agents.evaluation.suite import Suite
from agents.problem import BatchPolicy, Problem, RowPolicy, Windows
from agents.seeing.show import events_table, explanation_table, show_window
from envs import CLUSTER, JOB_ORDERING, Scenario
from envs.viewing.episode import EpisodeView
from envs.workloads import lublin_feitelson
from envs.workloads.failures import FailureModel
from orchestrator.errors import ConfigurationError
from orchestrator.scheduling.ahead import LookaheadConfig
from orchestrator.scheduling.log import EVENT_COLUMNS
from orchestrator.scheduling.rules import rule_named
from tests.agents.evaluation.policies import Scattered
from tests.envs.cases import gpu_trace

_STARTS = np.array([0, 60, 120], np.int64)


@pytest.fixture(scope="module")
def cluster() -> Windows:
    """Four machines that fail now and then, with more jobs than they can do."""
    config = replace(CLUSTER, episode_jobs=40, victims=4, min_run_seconds=900.0)
    return Windows(gpu_trace(), config, _STARTS, Scenario(FailureModel(rate_scale=100.0)))


@pytest.fixture(scope="module")
def ordering() -> Windows:
    config = replace(JOB_ORDERING, episode_jobs=64, backfill=True)
    return Windows(lublin_feitelson(600, 5), config, _STARTS)


def _same(seen: EpisodeView, windows: Windows, policy: str | BatchPolicy | RowPolicy) -> None:
    """The jobs and runs of window 1 are those that an evaluation kept."""
    if isinstance(policy, str):
        kept = evaluate_named(policy, windows)
    else:
        kept = evaluate_policy(policy, windows)
    jobs, runs = kept.of_sequence(1), kept.runs.of_sequence(1)
    assert runs is not None
    assert len(runs) == len(seen.runs)
    for name in ("job", "run", "start_ms", "end_ms", "units", "workers", "end"):
        np.testing.assert_array_equal(runs[name], seen.runs[name])
    np.testing.assert_array_equal(jobs["job_id"], seen.jobs["id"])
    np.testing.assert_array_equal(jobs["end_ms"], seen.jobs["end_ms"])
    assert seen.policy == kept.policy


@pytest.mark.parametrize("name", ["srtf", "priority", "gavel_las"])
def test_rules_and_the_zoo(cluster: Windows, name: str) -> None:
    seen = watch(name, cluster, 1)
    _same(seen, cluster, name)
    assert len(seen.explanations) > 20
    assert [why.time_ms for why in seen.explanations] == sorted(
        w.time_ms for w in seen.explanations
    )
    assert len(watch(name, cluster, 1, explained=3).explanations) == 3


def test_policies_that_decide_on_observations(cluster: Windows, ordering: Windows) -> None:
    _same(watch(Scattered(), cluster, 1), cluster, Scattered())
    schema = cluster.session(1).config.schema
    scorer = LinearScorer.from_names({"log_wait": 1.0, "candidate:room_left": 0.3}, schema)
    _same(watch(scorer, cluster, 1), cluster, scorer)
    ranker = LinearRanker.from_names({"log_request": -1.0, "fits_now": 0.3})
    seen = watch(ranker, ordering, 1)
    _same(seen, ordering, ranker)
    placed = [event.job for event in seen.events if event.what == "placed"]
    first = [why.taken.action.split()[2] for why in seen.explanations]
    assert set(first) <= set(placed)


def test_who_thinks_ahead(ordering: Windows) -> None:
    settings = LookaheadConfig(3, futures=2, arrivals=8)
    policy = LookaheadPolicy(rule_named("fcfs"), settings, ordering.trace.requests[200:400])
    seen = watch(policy, ordering, 1)
    _same(seen, ordering, policy)
    assert any(why.taken.note != "its own action" for why in seen.explanations)


def test_there_is_no_such_window(ordering: Windows) -> None:
    with pytest.raises(ConfigurationError, match="'window' is 3 of 3"):
        watch("sjf", ordering, 3)


def test_an_evaluation_shows_a_window(ordering: Windows, tmp_path: Path) -> None:
    variants = {"": {"backfill": False}, "backfill": {"backfill": True}}
    suite = Suite("small", 48, ["fcfs", "sjf"], ["sjf"], variants, starts=[0, 100])
    made = Evaluation(suite, Problem(ordering.trace, ordering.config))
    ranker = LinearRanker.from_names({"log_request": -1.0})
    console = Console(record=True, width=160, file=(tmp_path / "told").open("w"))
    cfg = OmegaConf.create({"animate": 1, "explain": 5})
    show_window(cfg, made, {"": [ranker], "backfill": [ranker]}, tmp_path, console)
    told = console.export_text()
    assert "linear_ranker: decision 5 of" in told
    assert "sjf_backfill: decision 5 of" in told
    assert (tmp_path / "episode.html").read_text().startswith("<!doctype html>")
    assert "sjf_backfill" in (tmp_path / "episode_backfill.html").read_text()
    with (tmp_path / "events.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["policy", *EVENT_COLUMNS]
    for policy in ("linear_ranker", "fcfs", "sjf"):
        mine = [row for row in rows if row["policy"] == policy]
        assert sum(row["what"] == "completed" for row in mine) == 48
    windows = suite.windows_of("", made.problem)
    seen = watch("sjf", windows, 1)
    mine = [row for row in rows if row["policy"] == "sjf"]
    assert [row["job"] for row in mine] == [event.job for event in seen.events]
    assert events_table(seen.events).row_count == len(mine)
    assert explanation_table(seen.explanations[4]).row_count > 1
    nobody: dict[str, list[LinearRanker]] = {"": [], "backfill": []}
    with pytest.raises(ConfigurationError, match="'animate' is 2 of 2"):
        show_window(OmegaConf.create({"animate": 2}), made, nobody, tmp_path, console)
    with pytest.raises(ConfigurationError, match="explain"):
        show_window(OmegaConf.create({"explain": 0}), made, nobody, tmp_path, console)
    show_window(OmegaConf.create({}), made, nobody, None, console)
