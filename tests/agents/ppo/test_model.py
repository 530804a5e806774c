"""The networks treat legal actions as a set."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from agents.ppo.model import ActionSet, SetCritic, SetScorer

_WIDTH, _GLOBALS = 7, 3


def _random_set(counts: list[int], seed: int = 0) -> ActionSet:
    generator = torch.Generator().manual_seed(seed)
    return ActionSet(
        torch.randn(sum(counts), _WIDTH, generator=generator),
        torch.tensor(counts),
        torch.randn(len(counts), _GLOBALS, generator=generator),
    )


def _scorer(prior: dict[int, float] | None = None, gain: float = 1.0) -> SetScorer:
    torch.manual_seed(1)
    scorer = SetScorer(_WIDTH, _GLOBALS, 16, prior or {}, gain)
    torch.nn.init.normal_(scorer.out.weight)  # as after some training
    return scorer


def _critic() -> SetCritic:
    torch.manual_seed(2)
    return SetCritic(_WIDTH, _GLOBALS, 16, 8)


def _permuted(actions: ActionSet, seed: int) -> tuple[ActionSet, Tensor]:
    """The same sets, each in another order, and that order."""
    generator = torch.Generator().manual_seed(seed)
    order, first = [], 0
    for count in actions.counts.tolist():
        order.append(first + torch.randperm(count, generator=generator))
        first += count
    index = torch.cat(order)
    return ActionSet(actions.vectors[index], actions.counts, actions.globals), index


@pytest.mark.parametrize("counts", [[1], [5, 1, 9], [3, 3]])
def test_permuting_actions_permutes_scores_and_leaves_values(counts: list[int]) -> None:
    actions, scorer, critic = _random_set(counts), _scorer({2: -3.0}), _critic()
    for seed in range(5):
        other, index = _permuted(actions, seed)
        torch.testing.assert_close(scorer(other), scorer(actions)[index])
        torch.testing.assert_close(critic(other), critic(actions))


def test_a_state_does_not_depend_on_its_batch() -> None:
    counts = [4, 1, 6]
    actions, scorer, critic = _random_set(counts), _scorer(), _critic()
    scores, values = scorer(actions), critic(actions)
    first = 0
    for b, count in enumerate(counts):
        alone = ActionSet(
            actions.vectors[first : first + count],
            actions.counts[b : b + 1],
            actions.globals[b : b + 1],
        )
        torch.testing.assert_close(scorer(alone), scores[first : first + count])
        torch.testing.assert_close(critic(alone), values[b : b + 1])
        first += count


def test_scores_start_as_the_prior_times_the_gain() -> None:
    actions = _random_set([4, 2])
    scorer = SetScorer(_WIDTH, _GLOBALS, 16, {1: -2.0, 4: 0.5}, gain=10.0)
    expected = 10.0 * (-2.0 * actions.vectors[:, 1] + 0.5 * actions.vectors[:, 4])
    torch.testing.assert_close(scorer(actions), expected)


def test_an_empty_set_has_a_value() -> None:
    actions, critic = _random_set([3, 0, 2]), _critic()
    values = critic(actions)
    assert torch.isfinite(values).all()
    rest = ActionSet(actions.vectors, torch.tensor([3, 2]), actions.globals[[0, 2]])
    torch.testing.assert_close(values[[0, 2]], critic(rest))


@pytest.mark.parametrize("filler", [-torch.inf, -1e9])
def test_padded_softmax_is_each_states_own(filler: float) -> None:
    counts = [4, 1, 9, 2]
    actions = _random_set(counts)
    scores = _scorer()(actions) * 5
    padded = torch.log_softmax(actions.pad(scores, filler), dim=1)
    assert padded.shape == (4, 9)
    first = 0
    for b, count in enumerate(counts):
        own = torch.log_softmax(scores[first : first + count], dim=0)
        torch.testing.assert_close(padded[b, :count], own)
        assert (padded[b, count:].exp() == 0).all()
        first += count


def test_gradients_reach_every_weight() -> None:
    actions, scorer, critic = _random_set([4, 1, 9]), _scorer(), _critic()
    log_p = torch.log_softmax(actions.pad(scorer(actions), -1e9), dim=1)
    (log_p[:, 0].sum() + critic(actions).sum()).backward()
    for network in (scorer, critic):
        for name, weight in network.named_parameters():
            assert weight.grad is not None, name
            assert torch.isfinite(weight.grad).all(), name
            assert weight.grad.abs().sum() > 0, name
