"""Learned policies as players of the compiled engine: in lookahead, and in the twin's futures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from agents.linear.evaluate import scoring_of
from agents.linear.policy import LinearScorer, Ranker
from agents.problem import BatchPolicy
from envs.config import EnvConfig
from envs.rows.buffers import configure_view, make_bench, make_buffers, make_view
from orchestrator.kernels.run.linear import make_bench as make_ranker_bench
from orchestrator.kernels.run.roll import Player, ScorerDesk, make_player
from orchestrator.kernels.state.row import ClusterShape, ClusterState
from orchestrator.scheduling.rules import rule_named

__all__ = ["Compiled", "LearnedPlayer", "learned_player", "understudy_of"]


Compiled: TypeAlias = Ranker | LinearScorer
"""Policies that play rows without leaving compiled code."""


def learned_player(base: Compiled, shape: ClusterShape, config: EnvConfig) -> Player:
    """Who plays rows of a shape as a policy does, in an environment without own features."""
    rules = rule_named(config.advice or "sjf").to_record()
    if isinstance(base, Ranker):
        bench = make_ranker_bench(shape.jobs, config.window, shape.workers, base.hidden)
        return make_player(rules, shape.jobs, shape.workers, ranker=(bench, base.weights))
    buffers = make_buffers(shape, config)
    scoring = scoring_of(config, buffers, shape.jobs)
    desk = ScorerDesk(
        make_view(config),
        buffers,
        make_bench(shape, config),
        scoring._replace(weights=base.weights[None].copy()),
    )
    return make_player(rules, shape.jobs, shape.workers, scorer=desk)


@dataclass(frozen=True)
class LearnedPlayer:
    """Implements :class:`orchestrator.twin.scene.cast.Understudy`.

    Parameters
    ----------
    base : LinearRanker, SetRanker or LinearScorer
    config : EnvConfig
        The environment that it was trained in.
    ahead : bool, optional
        Whether the policy thinks ahead, which this does not.
    """

    base: Compiled
    config: EnvConfig
    ahead: bool = False

    @property
    def name(self) -> str:
        """Of the policy."""
        return self.base.name

    @property
    def unlike(self) -> tuple[str, ...]:
        """What the policy does and this does not, in words."""
        return ("that the policy in charge thinks ahead",) if self.ahead else ()

    def player(self, state: ClusterState, shape: ClusterShape) -> Player:
        """Who plays rows of a shape, and what it is to be shown said in the row of a state."""
        configure_view(state, self.config)
        return learned_player(self.base, shape, self.config)


def understudy_of(policy: BatchPolicy, config: EnvConfig, *, ahead: bool) -> LearnedPlayer | None:
    """Who plays in the place of a policy; None: the compiled engine does not know such policies.

    Parameters
    ----------
    policy : BatchPolicy
    config : EnvConfig
        The environment that it was trained in.
    ahead : bool
        Whether it thinks ahead.
    """
    own = [*config.reward.own_terms, *config.features]
    sizes = config.services > 0 or config.capacity_steps > 0 or config.window == 0
    if own or sizes or not isinstance(policy, Compiled):
        return None
    if isinstance(policy, LinearScorer) == bool(config.commitment):
        return None  # rankers play rows with commitment, scorers those without
    return LearnedPlayer(policy, config, ahead)
