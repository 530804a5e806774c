"""Demonstrations: what was recorded is what was played, and Minari reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from rich.console import Console

from agents.offline import Demonstration, demonstrate, read_dataset, record
from agents.offline.dataset import Recording
from agents.problem import Windows
from agents.program import config_dir
from envs import CLUSTER, JOB_ORDERING, SchedulingEnv
from orchestrator.errors import ConfigurationError, IllegalActionError
from orchestrator.scheduling.rules import rule_named
from tests.envs.cases import gpu_trace, lublin_trace

_STARTS = np.array([0, 40, 90, 130, 200], np.int64)
_ORDERING = Windows(lublin_trace(), replace(JOB_ORDERING, window=128, episode_jobs=24), _STARTS)
_CLUSTER = Windows(gpu_trace(), replace(CLUSTER, window=8, victims=8, episode_jobs=24), _STARTS)


class _Last:
    """Takes the last legal action, whatever it sees."""

    name = "last"

    def actions(self, observation: Mapping[str, np.ndarray], mask: np.ndarray) -> np.ndarray:
        assert len(observation["global"]) == len(mask)
        return mask.shape[1] - 1 - mask[:, ::-1].argmax(axis=1)


class _Wrong(_Last):
    name = "wrong"

    def actions(self, observation: Mapping[str, np.ndarray], mask: np.ndarray) -> np.ndarray:
        return np.full(len(mask), mask.shape[1] - 2)


def _by_window(windows: Windows, who: Any, rows: int = 32) -> dict[int, Demonstration]:
    found = {each.window: each for each in demonstrate(who, windows, rows)}
    assert sorted(found) == list(range(len(_STARTS)))
    return found


@pytest.mark.parametrize("windows", [_ORDERING, _CLUSTER], ids=["ordering", "cluster"])
@pytest.mark.parametrize("who", [rule_named("sjf"), _Last()], ids=lambda who: who.name)
def test_recorded_actions_are_played_again_to_the_same_end(windows: Windows, who: Any) -> None:
    alone = _by_window(windows, who, rows=1)
    for window, each in _by_window(windows, who).items():
        np.testing.assert_equal(vars(alone[window]), vars(each))
        assert "advice" not in each.observations
        session = windows.session(1)
        session.reseed_row(0, window)
        session.reset(windows=np.array([window]))
        for t, action in enumerate(each.actions):
            seen = {name: part[t] for name, part in each.observations.items()}
            assert seen["action_mask"][action] == 1
            np.testing.assert_equal(seen, session.told(0))
            session.step(np.array([action]))
            assert session.buffers.reward[0] == each.rewards[t]
            assert bool(session.buffers.terminated[0]) == each.terminations[t]
            assert not each.truncations[t]
        assert each.terminations[-1]
        assert each.metrics == session.episode_metrics(0)
        last = {name: part[len(each.actions)] for name, part in each.observations.items()}
        np.testing.assert_equal(last, session.told(0))


def test_a_recorded_rule_fares_as_the_rule_does() -> None:
    session = _ORDERING.session(len(_STARTS))
    session.replay("sjf")
    for window, each in _by_window(_ORDERING, rule_named("sjf")).items():
        assert each.unseen == 0
        wanted = session.episode_metrics(window)["bounded_slowdown"]
        assert each.metrics["bounded_slowdown"] == pytest.approx(wanted)


def test_what_a_rule_wants_beyond_the_window_is_counted() -> None:
    narrow = replace(_ORDERING, config=replace(_ORDERING.config, window=2))
    found = _by_window(narrow, rule_named("sjf"))
    assert sum(each.unseen for each in found.values()) > 0


def test_who_cannot_be_recorded_is_told_why() -> None:
    advised = replace(_ORDERING, config=replace(_ORDERING.config, advice="fcfs"))
    with pytest.raises(ConfigurationError, match="marks the choices of 'fcfs', and 'sjf' is"):
        next(demonstrate(rule_named("sjf"), advised))
    shown = next(demonstrate(rule_named("fcfs"), advised))
    assert "advice" in shown.observations  # it is part of that environment
    with pytest.raises(IllegalActionError, match="its mask forbids"):
        list(demonstrate(_Wrong(), _ORDERING))
    for name in ("lublin", "a b-v0", "x/y-v0", "-v1"):
        with pytest.raises(ConfigurationError, match="'name' is"):
            Recording(name, "sjf", JOB_ORDERING, None, "")
    with pytest.raises(ConfigurationError, match="'storage' is 'csv'; choose from arrow"):
        Recording("a-v0", "sjf", JOB_ORDERING, None, "", "csv")


def _config(folder: Path, *overrides: str) -> DictConfig:
    small = ["workload.jobs=800", "env.episode_jobs=16", "windows=4", f"output={folder}"]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose("record", [*small, *overrides])


def test_minari_reads_what_was_recorded(tmp_path: Path) -> None:
    pytest.importorskip("minari", reason="Minari is not installed: pip install minari")
    record(_config(tmp_path / "lublin-sjf-v0", "env.backfill=true"), Console(quiet=True))
    data = read_dataset(tmp_path / "lublin-sjf-v0")
    assert (data.total_episodes, data.spec.dataset_id) == (4, "lublin-sjf-v0")
    env = data.recover_environment().unwrapped
    assert isinstance(env, SchedulingEnv)
    assert env.config.backfill
    assert data.observation_space == env.observation_space
    assert data.action_space == env.action_space
    steps = 0
    for metadata, episode in zip(
        data.storage.get_episode_metadata(range(4)), data.iterate_episodes(), strict=True
    ):
        steps += len(episode.actions)
        env.session.reseed_row(0, metadata["window"])
        env.reset(options={"window": metadata["window"]})
        total = 0.0
        for t, action in enumerate(episode.actions):
            assert episode.observations["action_mask"][t][action] == 1
            seen, reward, _, _, info = env.step(int(action))
            np.testing.assert_array_equal(episode.observations["queue"][t + 1], seen["queue"])
            assert reward == episode.rewards[t]
            total += reward
        assert info["episode_metrics"] == metadata["metrics"]
        assert episode.terminations[-1]
    assert data.total_steps == steps > 0


def test_environments_that_plain_values_do_not_make_have_no_spec(tmp_path: Path) -> None:
    pytest.importorskip("minari", reason="Minari is not installed: pip install minari")
    console = Console(record=True, quiet=False, file=(tmp_path / "said").open("w"))
    record(
        _config(tmp_path / "a-v0", "name=a-v0", "rule=fcfs", "failures=infinitehbd", "windows=2"),
        console,
    )
    assert "no 'env_spec'" in console.export_text()
    data = read_dataset(tmp_path / "a-v0")
    assert data.spec.env_spec is None
    assert data.total_episodes == 2
