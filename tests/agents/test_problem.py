"""Problems: parts that never overlap, and what policies are judged in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from agents.problem import Problem, Windows, digest_of
from envs.config import CLUSTER, JOB_ORDERING, PLACEMENT
from envs.reward import RewardConfig
from envs.workloads import WindowSplit, gpu_pods


@pytest.fixture
def problem(trace, config) -> Problem:
    scaled = replace(config, reward=RewardConfig(reference="sjf"))
    return Problem(trace, scaled, evaluation_jobs=100, seed=3)


def test_without_a_split_three_fifths_train(problem, trace) -> None:
    assert problem.parts == WindowSplit(len(trace), 0.6, 0.2, 0.2)
    other = WindowSplit(len(trace), 0.5, 0.25, 0.25)
    assert replace(problem, split=other).parts == other


def test_judging_windows_are_longer_unscaled_and_the_same_for_every_seed(problem) -> None:
    windows = problem.judging_windows("validation", 8)
    assert windows.config.episode_jobs == 100
    assert windows.config.reward.reference is None
    low, high = problem.parts.region("validation")
    assert low <= windows.starts.min()
    assert windows.starts.max() + 100 <= high
    again = replace(problem, seed=4).judging_windows("validation", 8)
    assert (again.starts == windows.starts).all()
    assert problem.judged.config == windows.config


def test_training_sessions_play_training_windows_of_their_seed(problem) -> None:
    starts = problem.training_session(2, 16).source.episode.starts
    assert starts.max() + problem.config.episode_jobs <= problem.parts.region("train")[1]
    other = replace(problem, seed=4).training_session(2, 16).source.episode.starts
    assert not np.array_equal(starts, other)


def test_environments_that_choose_nodes_are_sized_to_the_cluster() -> None:
    pods = gpu_pods(50, 1, nodes=5)
    assert Problem(pods, PLACEMENT).config.nodes == 5


def test_played_out_windows_ask_wherever_there_is_a_choice(trace, starts) -> None:
    hasty = Windows(trace, replace(JOB_ORDERING, step_limit=3), starts).played_out()
    assert (hasty.config.step_limit, hasty.config.skip_forced) == (0, True)
    assert len(hasty.first(2)) == 2
    assert hasty.first(99).starts.tolist() == starts.tolist()


def test_digests_say_what_is_meant_and_nothing_of_the_process() -> None:
    assert digest_of(replace(CLUSTER, window=np.int16(32))) == digest_of(CLUSTER)
    assert digest_of({"b": (1, 2.0), "a": None}) == digest_of({"a": None, "b": [1, 2.0]})
    values = [1, 1.0, True, "1", None, [1], np.array([1]), np.array([1.0]), CLUSTER, JOB_ORDERING]
    assert len({digest_of(value) for value in values}) == len(values)
    long = np.zeros(5000)
    changed = long.copy()
    changed[2500] = 1.0  # which the middle of a printed array does not show
    assert digest_of(long) != digest_of(changed)
    assert digest_of([object()]) == digest_of([object()])


def test_one_s_own_part_counts_with_what_stands_in_its_file(tmp_path, monkeypatch) -> None:
    file = tmp_path / "terms_of_mine.py"
    monkeypatch.syspath_prepend(str(tmp_path))

    def digests(text: str) -> list[str]:
        file.write_text(text, encoding="utf-8")
        named = ("terms_of_mine:Term", f"{file}:Term", "terms_of_mine:RULE+predictive")
        return [digest_of(value) for name in named for value in ([name], {name: 1.0})]

    before, after = digests("Term = 1"), digests("Term = 2")
    assert all(one != other for one, other in zip(before, after, strict=True))
    assert digests("Term = 1") == before
    assert digest_of("12:30 is only a text") == digest_of("12:30 is only a text")
