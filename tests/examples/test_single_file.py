"""PPO in a single file: two updates, and what it says."""

from __future__ import annotations

import math

import torch

from tests.examples.load import ROOT, load_script

_MOST_LINES = 300


def test_it_is_short_and_two_updates_change_the_agent() -> None:
    text = (ROOT / "examples" / "ppo_single_file.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) < _MOST_LINES
    single = load_script("ppo_single_file.py")
    small = {"jobs": 3000, "rows": 8, "steps": 16, "batch": 32, "epochs": 2, "windows": 2}
    args = single.Args(updates=2, validate_every=1, **small)
    found = list(single.train(args))
    assert [row["steps"] for row in found] == [0, 128, 256]
    assert all(math.isfinite(row["ratio"]) and row["ratio"] > 0 for row in found)
    assert found[0]["ratio"] != found[2]["ratio"]
    assert list(single.train(args))[2]["ratio"] == found[2]["ratio"]


def test_choices_of_states_stay_together() -> None:
    single = load_script("ppo_single_file.py")
    counts = torch.tensor([2, 0, 3])
    vectors = torch.arange(5.0).unsqueeze(1).repeat(1, len(single.FEATURES))
    choices = single.Choices.of(vectors, counts, torch.zeros(3, len(single.GLOBALS)))
    some = choices.some(torch.tensor([2, 0]))
    assert some.vectors[:, 0].tolist() == [2, 3, 4, 0, 1]
    assert some.states.tolist() == [0, 0, 0, 1, 1]
    agent = single.Agent(single.Args())
    whole = choices.some(torch.tensor([0, 2]))
    chances = torch.zeros(2).index_add(0, whole.states, agent.log_chances(whole).exp())
    torch.testing.assert_close(chances, torch.ones(2))
    assert single.highest(torch.tensor([1.0, 1.0, 0.0, 2.0, 2.0]), whole).tolist() == [0, 3]
