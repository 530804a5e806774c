"""A trained policy that thinks ahead: its best few actions are tried in common futures.

It decides by :mod:`orchestrator.kernels.run.lookahead`, in evaluation and on a live cluster alike.
What may come is drawn from a record, such as the training part of a trace, and from what has come
already; where one stands in for the other is said there. A decision takes actions x futures rolls,
a fraction of a millisecond for rankers and rules, some milliseconds for scorers of all actions; a
rule may play on in their place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from agents.linear.evaluate import check_own
from agents.linear.policy import LinearScorer
from agents.planning.players import Compiled, learned_player
from agents.problem import BatchPolicy
from envs.config import EnvConfig
from envs.session import Session
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.run.futures import Past
from orchestrator.kernels.run.roll import Player, make_player
from orchestrator.kernels.state.records import REQUEST_DTYPE
from orchestrator.kernels.state.row import ClusterShape, ClusterState
from orchestrator.scheduling.ahead import (
    LookaheadConfig,
    Thinker,
    Thought,
    known_jobs,
    past_of,
)
from orchestrator.scheduling.rules import Rule

__all__ = ["LookaheadPolicy", "advised_scorer"]


_Base: TypeAlias = Compiled | Rule


def advised_scorer(rule: str, weights: Mapping[str, float], config: EnvConfig) -> LinearScorer:
    """A rule as a base that tries actions of all kinds beside its own, not placements alone.

    Parameters
    ----------
    rule : str
        It has to be the environment's advice.
    weights : mapping of str to float
        By feature name; those of all others rank what is tried, and ``advice`` outweighs them.
    config : EnvConfig

    Raises
    ------
    ConfigurationError
        If another rule advises, or a feature is unknown.
    """
    if config.advice != rule:
        raise ConfigurationError(
            f"lookahead: '{rule}' is to try actions of all kinds, and the environment is advised "
            f"by {config.advice!r}; set env.advice={rule}"
        )
    return LinearScorer.from_names(weights, config.schema, rule)


class LookaheadPolicy:
    """Implements :class:`agents.problem.RowPolicy`: it plays rows, for observations do not do.

    Parameters
    ----------
    base : LinearRanker, SetRanker, LinearScorer or Rule
        Whose actions are tried, and who plays on.
    settings : LookaheadConfig, optional
    record : REQUEST_DTYPE [R], optional
        Jobs of a recorded past, by submit time; None: only what comes in an episode itself.
    before : bool, optional
        The record is on the clock of the windows that are played, and counts up to each decision.

    Raises
    ------
    ConfigurationError
        If the base is of another kind.
    """

    def __init__(
        self,
        base: BatchPolicy | Rule,
        settings: LookaheadConfig | None = None,
        record: NDArray[np.void] | None = None,
        *,
        before: bool = True,
    ) -> None:
        if not isinstance(base, _Base):
            raise ConfigurationError(
                f"lookahead: policy '{base.name}' is no ranker, no scorer and no rule, and is not "
                "known to the compiled engine; give one of these as the base"
            )
        self.base: _Base = base
        self.settings = settings or LookaheadConfig()
        self.name = f"{base.name}_ahead"
        self._record = np.zeros(0, REQUEST_DTYPE) if record is None else record
        self._before = before
        self._asked: Thinker | None = None

    def player_on(self, session: Session) -> Callable[[], Mapping[str, int]]:
        """What plays the first row of a session, which has just begun, to its end.

        It returns counts: ``decisions``, ``tried`` and ``switched``.
        """
        thinker, past = self._asked_on(session)
        return lambda: thinker.play(session.state, past)

    def thinking_on(self, session: Session) -> Callable[[int], Thought | None]:
        """What says what to do at the decision point of a row of a session, and why.

        None: the base sees nothing to choose. Played by it, decision by decision, a row comes to
        what :meth:`player_on` makes of it.
        """
        thinker, past = self._asked_on(session)
        return lambda e: thinker.ask(session.state, past, e)

    def _asked_on(self, session: Session) -> tuple[Thinker, Past]:
        """Who is asked about rows of a session, and what futures are drawn from."""
        config, settings = session.config, self.settings
        if config.episode_jobs == 0:  # nobody comes
            settings = replace(settings, arrivals=0)
        failures = session.scenario.failures
        past = past_of(
            self._record,
            config.information,
            settings,
            before=self._before,
            repairs_ms=None if failures is None else failures.repair_sample(),
        )
        return self.thinker(session.state.shape, config), past

    def think(self, state: ClusterState, config: EnvConfig) -> Thought | None:
        """What to do at the decision point of a live cluster's row; None: nothing is to be chosen.

        What may come is what has come, as far as the cluster's table of jobs reaches back, and the
        record, whose clock is another one. The same state gives the same thought.
        """
        if self._asked is None or self._asked.shape != state.shape:
            self._asked = self.thinker(state.shape, config)
        known = known_jobs(state)
        if len(known) < 2 * self.settings.arrivals and len(self._record) > 0:
            past = past_of(self._record, config.information, self.settings, before=False, own=False)
        else:
            past = past_of(known, config.information, self.settings, own=False)
        return self._asked.ask(state, past)

    def thinker(self, shape: ClusterShape, config: EnvConfig) -> Thinker:
        """What is asked about rows of a shape, in an environment without own terms and features."""
        check_own(config, "lookahead: futures are played", "let the policy decide by itself")
        played = replace(Thinker.room_for(shape, self.settings), envs=1)
        player = self._player(played, config)
        return Thinker(shape, player, self.settings, config.reward.weights)

    def _player(self, shape: ClusterShape, config: EnvConfig) -> Player:
        base = self.base
        if isinstance(base, Rule):
            return make_player(base.to_record(), shape.jobs, shape.workers)
        return learned_player(base, shape, config)

    @property
    def information(self) -> str:
        """What futures are drawn from, in words, for tables and logs."""
        jobs = len(self._record)
        recorded = f"a record of {jobs:,} jobs" if jobs else "no record"
        return f"{recorded} and what has come"
