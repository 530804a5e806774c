"""The set scorer in stable-baselines3: every algorithm learns, and sets are treated as sets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import QRDQN, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO

import envs
from agents.ppo.batches import ActionPacker
from agents.sb3 import LegalActions, SetExtractor
from agents.sb3.values import LegalDiscrete, same_actions
from agents.testing import check_extractor
from envs.gym import observation_space
from envs.testing.play import SMALL, play, small_session
from orchestrator.errors import ConfigurationError

_SHORT = {"n_steps": 32, "batch_size": 64, "n_epochs": 1}
_REPLAY = {"learning_starts": 40, "buffer_size": 400, "train_freq": 8}
_ALGORITHMS = {
    PPO: _SHORT,
    A2C: {},
    MaskablePPO: _SHORT,
    RecurrentPPO: _SHORT,
    DQN: _REPLAY,
    QRDQN: _REPLAY,
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads that wait for each other on tiny layers take ten times as long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _rows(env_id: str = "Cluster", rows: int = 4) -> Any:
    small = {"window": 6, "episode_jobs": 24}
    return envs.make_sb3(f"quartermaster/{env_id}-v0", rows, seed=1, **small)


@pytest.mark.parametrize("algorithm", _ALGORITHMS, ids=lambda algorithm: algorithm.__name__)
def test_every_algorithm_learns_and_chooses_what_is_legal(algorithm: Any, tmp_path: Path) -> None:
    rows = _rows()
    if algorithm in (DQN, QRDQN):
        rows = LegalActions(rows)
    model = algorithm("SetPolicy", rows, seed=1, **_ALGORITHMS[algorithm])
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    model.learn(256)
    after = model.policy.state_dict()
    learning = [name for name in after if "target" not in name]
    idle = [name for name in learning if torch.equal(after[name], before[name])]
    assert idle == []
    model.save(tmp_path / "model")
    again = algorithm.load(tmp_path / "model")
    observation = rows.reset()
    for _ in range(20):
        actions, _ = model.predict(observation, deterministic=True)
        np.testing.assert_array_equal(again.predict(observation, deterministic=True)[0], actions)
        legal = observation["action_mask"][np.arange(len(actions)), actions]
        assert legal.all()
        observation = rows.step(actions)[0]


def test_the_extractor_s_vectors_are_those_of_the_packer() -> None:
    """One layout of an action's vector for all learners: advice, heads and shared jobs included."""
    config = SMALL["cluster"]
    session = small_session(config, 6)
    for step, _ in enumerate(play(session, "play")):
        if step > 20:
            break
    seen = session.told()
    mask = seen["action_mask"].astype(np.bool_)
    extractor = SetExtractor(observation_space(config))
    found = extractor._vectors({key: torch.from_numpy(part).float() for key, part in seen.items()})
    packed = ActionPacker(config.schema).pack(seen, mask)
    np.testing.assert_array_equal(found[torch.from_numpy(mask)].numpy(), packed.vectors)


@pytest.mark.parametrize("name", SMALL)
def test_the_extractor_keeps_what_extractors_promise(name: str) -> None:
    check_extractor(SetExtractor, SMALL[name])


def test_chances_follow_jobs_that_change_places() -> None:
    rows = _rows("JobOrdering")
    model = PPO("SetPolicy", rows, seed=1)
    seen = {key: torch.from_numpy(part).float() for key, part in rows.reset().items()}
    for _ in range(12):
        first = seen["action_mask"].argmax(dim=1).numpy()
        told = rows.step(first)[0]
        seen = {key: torch.from_numpy(part).float() for key, part in told.items()}
    order = torch.randperm(6, generator=torch.Generator().manual_seed(3))
    turned = seen | {key: seen[key][:, order] for key in ("queue", "action_mask")}
    with torch.no_grad():
        logits, moved = (
            model.policy.get_distribution(each).distribution.logits for each in (seen, turned)
        )
        values = [model.policy.predict_values(each) for each in (seen, turned)]
    assert (seen["action_mask"].sum(dim=1) > 1).any()
    torch.testing.assert_close(moved, logits[:, order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(values[0], values[1], rtol=1e-4, atol=1e-5)


def test_illegal_numbers_stand_for_legal_actions() -> None:
    legal = torch.tensor([[1, 0, 0, 1, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]]).bool()
    assert same_actions(legal).tolist() == [[0, 3, 0, 3, 0], [2] * 5, [0] * 5]


def test_rows_carry_out_what_drawn_numbers_stand_for() -> None:
    plain, mapped = _rows("JobOrdering", 3), LegalActions(_rows("JobOrdering", 3))
    assert isinstance(mapped.action_space, LegalDiscrete)
    seen, same = plain.reset(), mapped.reset()
    dice = np.random.default_rng(0)
    for _ in range(30):
        drawn = dice.integers(0, 6, 3)
        legal = torch.from_numpy(seen["action_mask"] > 0)
        meant = same_actions(legal).numpy()[np.arange(3), drawn]
        seen, reward, *_ = plain.step(meant)
        same, paid, *_ = mapped.step(drawn)
        np.testing.assert_array_equal(reward, paid)
        np.testing.assert_array_equal(seen["queue"], same["queue"])
    assert (mapped.get_attr("session")[0].illegal_actions == 0).all()


def test_while_learning_an_illegal_action_is_worth_what_it_did() -> None:
    """Mapped rows: the value of the action it stood for; others: that of doing nothing."""
    rows = _rows("JobOrdering")
    seen = {key: torch.from_numpy(part).float() for key, part in rows.reset().items()}
    legal = seen["action_mask"] > 0
    assert not legal.all()
    for wrapped in (LegalActions(rows), rows):
        model = DQN("SetPolicy", wrapped, seed=1, buffer_size=10)
        model.policy.set_training_mode(True)
        with torch.no_grad():
            learning = model.q_net(seen)
            model.policy.set_training_mode(False)
            choosing = model.q_net(seen)
        torch.testing.assert_close(learning[legal], choosing[legal])
        assert (choosing[~legal] < -1e7).all()
        if wrapped is rows:
            continue
        torch.testing.assert_close(learning, choosing.gather(1, same_actions(legal)))


def test_a_space_that_does_not_say_what_is_in_it_is_refused() -> None:
    space = spaces.Dict(dict(observation_space(SMALL["ordering"]).spaces))
    with pytest.raises(ConfigurationError, match="does not say what is in it"):
        SetExtractor(space)
