"""What the checks of policies on observations and of networks find wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from agents.deploy import BundlePolicy
from agents.ppo.model import ActionSet, OwnScorer, SetScorer, make_scorer
from agents.testing import check_batch_policy, check_network
from envs import RowsView
from envs.testing.play import SMALL
from orchestrator.errors import ConfigurationError, ContractError
from orchestrator.testing import check_policy
from tests.agents.evaluation.policies import Illegal, LastLegal


class Narrow(LastLegal):
    def actions(self, observation: Any, mask: Any) -> Any:
        return super().actions(observation, mask).astype(np.int32)


class Writer(LastLegal):
    def actions(self, observation: Any, mask: Any) -> Any:
        observation["global"][:] = 0.0
        return super().actions(observation, mask)


class Moody(LastLegal):
    """The first legal action and the last one, in turn."""

    turn = 0

    def actions(self, observation: Any, mask: Any) -> Any:
        self.turn += 1
        return mask.argmax(axis=1) if self.turn % 2 else super().actions(observation, mask)


class Crowd(LastLegal):
    """The first legal action of a batch, the last one of a row alone."""

    def actions(self, observation: Any, mask: Any) -> Any:
        return mask.argmax(axis=1) if len(mask) > 1 else super().actions(observation, mask)


class Nameless:
    def actions(self, observation: Any, mask: Any) -> Any:
        return mask.argmax(axis=1)


class Halves:
    """A feature: half of the free share."""

    of, name = "global", "half_free"

    def __call__(self, view: RowsView) -> Any:
        return view.row["free_units"] / view.row["nominal_units"] / 2.0


class Watching(LastLegal):
    """Notes what it is shown of the whole: the free share, and the feature."""

    seen: list[tuple[float, float]] = []  # noqa: RUF012 - the twin's are the same

    def actions(self, observation: Any, mask: Any) -> Any:
        around = observation["global"][0]
        self.seen.append((float(around[0]), float(around[-1])))
        return mask.argmax(axis=1)


def test_features_of_one_s_own_are_seen_in_live_clusters() -> None:
    config = replace(SMALL["cluster"], features=(Halves,), victims=0, preemption_limit=0)
    check_policy(lambda: BundlePolicy(Watching(), config), config)
    assert len(set(Watching.seen)) > 3
    assert all(half == pytest.approx(free / 2) for free, half in Watching.seen)


def test_a_policy_that_keeps_its_promises_passes() -> None:
    check_batch_policy(LastLegal)


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (Illegal, "chose action 13 in a row whose mask forbids it"),
        (Narrow, "numbers of type int32"),
        (Writer, "wrote into 'global'"),
        (Moody, "chose otherwise when asked again"),
        (Crowd, "chooses otherwise for a row when others are beside it"),
        (Nameless, "has no 'name'"),
    ],
)
def test_policies_that_break_their_promises_are_found(policy: Any, words: str) -> None:
    with pytest.raises(ContractError, match=words):
        check_batch_policy(policy)


class Plain(nn.Module):
    """Scores each action by itself."""

    def __init__(self, width: int, global_width: int, hidden: int) -> None:
        super().__init__()
        self.out = nn.Linear(width, 1)

    def forward(self, actions: ActionSet) -> torch.Tensor:
        return self.out(actions.vectors).squeeze(1)


class Mixing(Plain):
    def forward(self, actions: ActionSet) -> torch.Tensor:
        return super().forward(actions) + actions.vectors.mean()


class Ordered(Plain):
    def forward(self, actions: ActionSet) -> torch.Tensor:
        first = torch.cumsum(actions.counts, 0) - actions.counts
        place = torch.arange(len(actions.vectors)) - first[actions.states]
        return super().forward(actions) + place


class Wide(Plain):
    def forward(self, actions: ActionSet) -> torch.Tensor:
        return self.out(actions.vectors)


class Idle(Plain):
    def __init__(self, width: int, global_width: int, hidden: int) -> None:
        super().__init__(width, global_width, hidden)
        self.unused = nn.Linear(1, 1)


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (Mixing, "of a state when others are beside it"),
        (Ordered, "of a state when actions are moved"),
        (Wide, r"give a tensor of shape"),
        (Idle, "learn nothing: unused.weight, unused.bias"),
    ],
)
def test_networks_that_break_their_promises_are_found(network: Any, words: str) -> None:
    with pytest.raises(ContractError, match=words):
        check_network(network)


def test_networks_of_one_s_own_begin_at_the_prior() -> None:
    check_network(Plain)
    own = make_scorer(f"{__name__}:Plain", (5, 2, 8), {3: -2.0}, 10.0)
    assert isinstance(own, OwnScorer)
    assert isinstance(make_scorer(None, (5, 2, 8), {}), SetScorer)
    nn.init.zeros_(own.network.out.weight)
    nn.init.zeros_(own.network.out.bias)
    vectors = torch.rand(4, 5)
    scores = own(ActionSet(vectors, torch.tensor([1, 3]), torch.rand(2, 2)))
    torch.testing.assert_close(scores, -20.0 * vectors[:, 3])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a/file.py:Plain", "is named by a file, and a bundle would have to name it"),
        ("json:JSONDecoder", "is no class of torch.nn.Module"),
        ("torch.nn:ReLU", r"cannot be made .* its constructor takes width"),
    ],
)
def test_what_is_no_network_is_refused(name: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        make_scorer(name, (5, 2, 8), {})
