"""Configurations: what makes no sense is refused by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest

from envs import AUTOSCALING, CLUSTER, JOB_ORDERING, PLACEMENT, EnvConfig
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.run.buffers import Sampling
from orchestrator.kernels.see.queue import Encoding
from orchestrator.kernels.state.codes import Placement, RuleKey
from tests.envs.cases import lublin_trace

_WRONG: list[tuple[dict[str, Any], str]] = [
    ({"window": 0}, "'window' is 0"),
    ({"window": 1.5}, "'window' is 1.5"),
    ({"window": True}, "'window' is True"),
    ({"episode_jobs": 0}, r"without jobs \('episode_jobs' 0\)"),
    ({"victims": -1}, "'victims' is -1"),
    ({"step_limit": -1}, "'step_limit' is -1"),
    ({"preemption_limit": -2}, "'preemption_limit' is -2"),
    ({"min_run_seconds": -1.0}, "'min_run_seconds' is -1.0"),
    ({"min_run_seconds": float("nan")}, "'min_run_seconds' is nan"),
    ({"placements": ()}, "'placements' is empty"),
    ({"placements": (99,)}, "'placements' is 99; choose from first_fit"),
    ({"placements": ("loosest",)}, "'placements' is 'loosest'; choose from"),
    ({"window_order": "shortest"}, "'window_order' is 'shortest'; choose from fcfs, sjf"),
    ({"window_order": 99}, "'window_order' is 99"),
    ({"encoding": "images"}, "'encoding' is 'images'; choose from published, default"),
    ({"information": "everything"}, "'information' is 'everything'; choose from none, estimate"),
    ({"sampling": "backwards"}, "'sampling' is 'backwards'; choose from random, sequential"),
    ({"reward": "wait"}, "'reward' is .*RewardConfig"),
    ({"reward": {"waiting": 1.0}}, "unknown term 'waiting'"),
    ({"victims": 3}, "'commitment' leaves no choice"),
    ({"placements": (0, 1)}, "'commitment' leaves no choice"),
    ({"commitment": False, "backfill": True}, "'backfill' needs 'commitment'"),
    ({"commitment": False, "encoding": "published"}, "published encoding needs 'commitment'"),
]


@pytest.mark.parametrize(("changes", "words"), _WRONG, ids=[str(w[0]) for w in _WRONG])
def test_configurations_that_make_no_sense_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        replace(JOB_ORDERING, **changes)


def test_enumerations_may_be_given_by_name_or_value() -> None:
    config = EnvConfig(
        commitment=False,
        window_order="sjf",
        encoding=2,
        placements=["spread", 1],
        sampling="Random",
    )  # type: ignore[arg-type]
    assert config.window_order is RuleKey.SJF
    assert config.encoding is Encoding.CLUSTER
    assert config.placements == (Placement.SPREAD, Placement.BEST_FIT)
    assert config.sampling is Sampling.RANDOM
    env = gymnasium.make(
        "quartermaster/JobOrdering-v0",
        trace=lublin_trace(),
        episode_jobs=8,
        part="all",
        window_order="sjf",
    ).unwrapped
    assert env.session.state.rows["window_order"].tolist() == [RuleKey.SJF]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"services": -1}, "'services' is -1"),
        ({"capacity_steps": 1.5}, "'capacity_steps' is 1.5"),
        ({"autoscale": "sometimes"}, "choose from none, reactive, predictive"),
        ({"autoscale": "reactive"}, "'autoscale' changes nodes and replicas without asking"),
        ({"episode_jobs": 10}, "an episode without jobs"),
        ({"episode_ticks": 0}, "give one of them"),
        ({"episode_jobs": 10, "episode_ticks": 0}, "'window' is 0"),
        ({"window_order": "sjf"}, "'window_order' is fcfs"),
        ({"commitment": True, "window": 4}, "'commitment' knows no services"),
    ],
)
def test_heads_that_contradict_each_other(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        replace(AUTOSCALING, **changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"window": 1 << 31}, "'window' is 2147483648; give a whole number from 0 to 65536"),
        ({"tenants": 10**30}, "'tenants' is 10{30}; give a whole number from 0 to 65536"),
        ({"step_limit": 1 << 31}, "'step_limit' is 2147483648; give a whole number from 0 to"),
        ({"preemption_limit": 1 << 40}, "'preemption_limit' is 1099511627776; give an integer"),
        ({"min_run_seconds": 10**30}, "'min_run_seconds' is .*; give a number"),
    ],
)
def test_numbers_beyond_all_memory_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        replace(CLUSTER, **changes)


def test_numpys_small_numbers_are_pythons_afterwards() -> None:
    given = {"window": np.uint8(200), "episode_jobs": np.int16(300), "nodes": np.int8(100)}
    config = replace(JOB_ORDERING, **given, min_run_seconds=np.float16(2), backfill=np.bool_(1))
    assert config == replace(
        JOB_ORDERING, window=200, episode_jobs=300, nodes=100, min_run_seconds=2.0, backfill=True
    )
    assert {type(getattr(config, name)) for name in given} == {int}
    assert type(config.min_run_seconds) is float
    assert config.backfill is True


@pytest.mark.parametrize("base", [PLACEMENT, replace(CLUSTER, encoding="placement")])
def test_the_fleet_is_described_only_where_there_is_room_for_it(base: EnvConfig) -> None:
    """It was written behind the end of the global features."""
    with pytest.raises(ConfigurationError, match="'fleet' is not described in the placement"):
        replace(base, fleet=True)
