"""Lookahead: try the best few actions of a rule on forks of the cluster, in several futures.

Each future is a block of jobs that have already come, at the same hour of another day where there
is one, submitted again after now; the same futures are used for every action, and the base rule
plays all of them to their end. Another action than the rule's is taken only if it is clearly
cheaper. Without sampled arrivals this hurts: an action looks good because nobody comes.

The actions are the rule's own, the placements that it would make next, and to wait.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from orchestrator.engine.snapshot import Snapshot
from orchestrator.kernels.run.roll import make_player
from orchestrator.kernels.state.codes import Information
from orchestrator.messages import Plan, Wait
from orchestrator.scheduling.ahead import (
    LookaheadConfig,
    Thinker,
    known_jobs,
    past_of,
    slowdown_weights,
)
from orchestrator.scheduling.rules import Rule

__all__ = ["Lookahead"]


_DEFAULT = LookaheadConfig(futures=3, margin=0.01)


class Lookahead:
    """A rule that thinks ahead.

    Futures are played on what policies may know: estimates, or run times drawn around them as those
    of the jobs that have ended have it, and no failures. What may come is what has come, as far as
    the cluster's table of jobs reaches back.

    Parameters
    ----------
    rule : Rule
        Proposes, and plays the futures.
    config : LookaheadConfig, optional
        How far to look; by default four actions in three futures of 48 jobs, and a gain of one
        standard error and one hundredth.
    weights : float64 [len(Metric)], optional
        Cost of one unit of each metric; None: bounded slowdown.
    """

    def __init__(
        self,
        rule: Rule,
        config: LookaheadConfig | None = None,
        weights: NDArray[np.float64] | None = None,
    ) -> None:
        self.rule = rule
        self.config = config or _DEFAULT
        self._weights = slowdown_weights() if weights is None else weights
        self._record = rule.to_record()
        self._thinker: Thinker | None = None

    def decide(self, snapshot: Snapshot) -> Plan:
        """The rule's action, or a clearly cheaper one."""
        state = snapshot.state
        information = Information(int(state.rows[0]["information"]))
        past = past_of(known_jobs(state), information, self.config, own=False)
        thought = self._asked(snapshot).ask(state, past)
        return Plan((Wait() if thought is None else snapshot.action(*thought.action),))

    def _asked(self, snapshot: Snapshot) -> Thinker:
        """Who is asked about clusters of this shape, kept from one decision to the next."""
        shape = snapshot.state.shape
        if self._thinker is None or self._thinker.shape != shape:
            played = Thinker.room_for(shape, self.config)
            player = make_player(self._record, played.jobs, played.workers)
            self._thinker = Thinker(shape, player, self.config, self._weights)
        return self._thinker
