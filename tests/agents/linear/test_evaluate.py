"""Costs of rankers: the same on any number of threads; what they cannot be replayed in."""

import numpy as np
import pytest

from agents.linear.evaluate import RankerEvaluator
from agents.linear.policy import named_weights
from envs.config import CLUSTER, EnvConfig
from envs.workloads import lublin_feitelson
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.see.layout import DEFAULT_NAMES
from orchestrator.kernels.see.queue import Encoding
from orchestrator.kernels.state.codes import RuleKey
from orchestrator.scheduling.rules import rule_named

WINDOW = 128


@pytest.fixture(scope="module")
def trace():
    return lublin_feitelson(4000, 3)


def test_threads_do_not_change_costs(trace):
    config = EnvConfig(episode_jobs=WINDOW, backfill=True)
    starts = np.arange(0, 3000, 300)
    weights = np.random.default_rng(0).normal(size=(3, len(DEFAULT_NAMES)))
    one, three = (RankerEvaluator(trace, config, threads) for threads in (1, 3))
    assert np.array_equal(one.costs(weights, starts), three.costs(weights, starts))
    sjf = rule_named("sjf")
    assert np.array_equal(one.rule_costs(sjf, starts), three.rule_costs(sjf, starts))
    prior = named_weights({"log_request": -1.0})[None]
    assert np.allclose(one.costs(prior, starts)[0], one.rule_costs(sjf, starts))
    for evaluator in (one, three):
        evaluator.close()


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (CLUSTER, "commitment"),
        (EnvConfig(encoding=Encoding.PUBLISHED), "encoding"),
        (EnvConfig(window_order=RuleKey.SJF), "window_order"),
    ],
)
def test_unfit_environments_are_refused(trace, config, field):
    with pytest.raises(ConfigurationError, match=f"set '{field}' of the environment to"):
        RankerEvaluator(trace, config)
