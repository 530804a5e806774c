"""Priors fit the actions of an environment: nothing outranks a placement that did not mean to."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest

from agents.evaluation.play import evaluate_policy, evaluate_rule
from agents.linear.policy import LinearScorer
from agents.linear.settings import CMASettings
from agents.linear.train import CMATrainer
from agents.ppo.settings import PPOSettings
from agents.problem import Windows
from agents.settings import features_for, prior_for
from envs.config import AUTOSCALING, CLUSTER, JOB_ORDERING, PLACEMENT, EnvConfig
from envs.workloads import gpu_cluster
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.see.queue import Encoding
from orchestrator.scheduling.schema import feature_names, named_vector

_ELASTIC = replace(CLUSTER, elastics=8, migrate=True)
_ADVISED = replace(_ELASTIC, advice="elastic_srtf")


@pytest.mark.parametrize(
    "config",
    [
        CLUSTER,
        replace(CLUSTER, victims=0),
        _ELASTIC,
        replace(CLUSTER, encoding=Encoding.FULL),
    ],
    ids=["cluster", "without victims", "elastic", "full"],
)
def test_scorers_begin_at_shortest_job_first(config: EnvConfig) -> None:
    """Not at one job at a time: waiting and preempting rank below all placements."""
    trace = gpu_cluster(900, 2, nodes=4, load=1.2)
    windows = Windows(trace, replace(config, episode_jobs=128), np.array([0, 300, 600]))
    start = CMASettings().start_in(config.schema)
    assert start["head:wait"] < start["log_request"] < 0
    others = [name for name in feature_names(config.schema, True) if name.startswith("head:")]
    assert {name for name in others if name != "head:place"} <= set(start)
    scorer = LinearScorer.from_names(start, config.schema)
    mine = evaluate_policy(scorer, windows).values["completion_time"].mean()
    best = evaluate_rule("sjf", windows).values["completion_time"].mean()
    assert mine < 1.3 * best
    lazy = LinearScorer.from_names({"log_request": -1.0}, config.schema)
    assert evaluate_policy(lazy, windows).values["completion_time"].mean() > 3 * best


@pytest.mark.parametrize("by_head", [False, True])
def test_ppo_begins_there_as_well(by_head: bool) -> None:
    start = PPOSettings(by_head=by_head).start_in(CLUSTER.schema)
    weights = named_vector(CLUSTER.schema, start, by_head)
    named = dict(zip(feature_names(CLUSTER.schema, by_head), weights.tolist(), strict=True))
    assert named["log_request"] == -2.0
    assert named["head:wait"] == named["head:preempt"] == -3.0
    assert named["head:place"] == 0.0


def test_rankers_have_no_heads_to_rank() -> None:
    assert CMASettings().start_in(JOB_ORDERING.schema) == {"log_request": -1.0}
    published = replace(JOB_ORDERING, encoding=Encoding.PUBLISHED)
    assert PPOSettings().start_in(published.schema) == {"request_time": -2.0}


def test_a_prior_is_kept_where_it_fits() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert CMASettings(prior={"advice": 1.0}).start_in(_ADVISED.schema) == {"advice": 1.0}
        given = {"log_wait": 0.5, "head:wait": 2.0}
        assert CMASettings(prior=given).start_in(CLUSTER.schema) == given


def test_without_an_advising_rule_training_starts_at_shortest_job_first() -> None:
    settings = CMASettings(prior={"advice": 1.0, "log_wait": 0.25}, made_for="cluster_elastic")
    with pytest.warns(UserWarning, match="env=cluster_elastic"):
        found = settings.start_in(CLUSTER.schema)
    assert found == CMASettings().start_in(CLUSTER.schema) | {"log_wait": 0.25}


def test_weights_of_actions_that_are_not_there_are_left_out() -> None:
    wanted = ["log_wait", "preempt:helps", "shrink:size", "head:grow", "head:wait", "migrate:helps"]
    found = features_for(CLUSTER.schema, wanted, by_head=True)
    assert found == ["log_wait", "preempt:helps", "head:wait"]
    assert features_for(_ELASTIC.schema, wanted, by_head=True) == wanted
    prior = {"shrink:size": 1.0, "log_area": 2.0}
    assert prior_for(CLUSTER.schema, prior, -1.0, by_head=True) == {"log_area": 2.0}


@pytest.mark.parametrize(
    ("settings", "config", "message"),
    [
        ({"prior": {"candidate:gradient": 1.0}, "made_for": "placement"}, CLUSTER, "env=placement"),
        ({"prior": {"shrink:lenght": 1.0}}, CLUSTER, "unknown feature 'shrink:lenght'"),
        ({"made_for": "x"}, AUTOSCALING, r"does not describe jobs \(the agent is made for env=x\)"),
        ({"prior": {"head:place": 1, "head:fly": 1}}, _ELASTIC, "unknown feature 'head:fly'"),
    ],
)
def test_priors_that_fit_nowhere_name_the_environment(
    settings: dict[str, object], config: EnvConfig, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        CMASettings(**settings).start_in(config.schema)  # type: ignore[arg-type]


def test_agents_for_something_else_say_what_for() -> None:
    features = ["head:scale_in", "head:scale_out", "scale_in:nodes", "head:wait"]
    with pytest.raises(ConfigurationError, match=r"of its 4 'features' .* has 1 .*env=autoscaling"):
        features_for(CLUSTER.schema, features, "autoscaling", by_head=True)
    assert len(features_for(AUTOSCALING.schema, features, by_head=True)) == 4
    assert isinstance(
        CMATrainer(prior={"candidate:gradient": 1.0}).start_in(PLACEMENT.schema), dict
    )
