"""Linear rankers: which job they take, and what they refuse."""

import numpy as np
import pytest

from agents.linear.policy import LinearRanker
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.see.layout import DEFAULT_NAMES


def test_ranker_respects_the_mask_and_breaks_ties_by_position():
    features = np.zeros((3, 5, len(DEFAULT_NAMES)), np.float32)
    features[0, :, 1] = [3, 1, 2, 1, 0]
    features[1, :, 1] = [2, 2, 2, 2, 2]
    features[2, :, 1] = [5, 4, 3, 2, 1]
    mask = np.ones((3, 5), bool)
    mask[0, 4] = False
    mask[2, 2:] = False
    policy = LinearRanker.from_names({"log_request": -2.0}, "mine")
    assert policy.name == "mine"
    assert policy.actions({"queue": features}, mask).tolist() == [1, 0, 1]
    assert "log_request=-2" in repr(policy)


def test_ranker_refuses_what_is_not_job_ordering():
    with pytest.raises(ConfigurationError, match="one number for each of the 14 features"):
        LinearRanker(np.zeros(8))
    with pytest.raises(ConfigurationError, match="not finite"):
        LinearRanker(np.full(14, np.nan))
    policy = LinearRanker(np.ones(14))
    with pytest.raises(ConfigurationError, match="not those of job ordering"):
        policy.actions({"queue": np.zeros((1, 4, 8), np.float32)}, np.ones((1, 4), bool))
    with pytest.raises(ConfigurationError, match="not those of job ordering"):
        policy.actions({"queue": np.zeros((1, 4, 14), np.float32)}, np.ones((1, 5), bool))
