"""A window played once more to be looked at: every run, every event, and why each action was taken.

It is played as it was evaluated, with the same random streams, so it comes to the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from agents.evaluation.play import is_planned, policy_named, zoo_policy
from agents.planning.lookahead import LookaheadPolicy
from agents.problem import BatchPolicy, RowPolicy, Windows
from agents.seeing.explain import explainer_of
from envs.session import Session
from envs.viewing.episode import (
    Alternative,
    EpisodeReader,
    EpisodeView,
    Explanation,
    job_names,
)
from orchestrator.deployment.records import text_of
from orchestrator.engine.snapshot import Snapshot
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.state.codes import ActionKind, Placement, Reason, Status
from orchestrator.messages import Action, Plan, ScaleFleet, Wait
from orchestrator.ports import Policy, WakefulPolicy
from orchestrator.scheduling.rollout import rollout
from orchestrator.scheduling.rules import Rule

__all__ = ["watch"]

_EXPLAINED = 3000  # decisions of a window


def watch(
    policy: Rule | str | BatchPolicy | RowPolicy,
    windows: Windows,
    window: int = 0,
    *,
    title: str = "",
    explained: int = _EXPLAINED,
) -> EpisodeView:
    """Play one window under a policy, and keep all that there is to be seen.

    Parameters
    ----------
    policy : Rule, str, BatchPolicy or RowPolicy
        A name may be that of a rule, or of a policy that plans (:data:`agents.ZOO`); the latter is
        told what it plans, and not why.
    windows : Windows
        All of them, as they were evaluated: a window's number seeds its random streams.
    window : int, optional
        Which one.
    title : str, optional
        Of the page.
    explained : int, optional
        Decisions that are explained, the first ones; 0: none.

    Returns
    -------
    EpisodeView
        :func:`envs.viewing.page.episode_page` makes a page of it.

    Raises
    ------
    ConfigurationError
        If there is no such window.
    """
    if not 0 <= window < len(windows):
        raise ConfigurationError(
            f"watch: 'window' is {window} of {len(windows)}; give a number below"
        )
    planned = isinstance(policy, str) and is_planned(policy)
    found = policy_named(policy) if isinstance(policy, str) and not planned else policy
    under = windows.under(found) if isinstance(found, Rule) else windows
    session = under.played_out().session(1)
    watched = _Watched(session, EpisodeReader(session), explained)
    _play(found, watched, window)
    name = policy if isinstance(policy, str) else policy.name
    title = title or f"{windows.trace.name}, window {window}"
    return watched.reader.read(name, title).explained(watched.explanations)


def _play(found: Any, watched: _Watched, window: int) -> None:
    """Play a window to its end under whoever decides; a name is that of one who plans."""
    session, asked = watched.session, np.array([window])
    if isinstance(found, str | Rule | RowPolicy):
        session.begin(asked)
    else:
        session.reseed_row(0, window)
        session.reset(windows=asked)
    if isinstance(found, str):
        _plan(zoo_policy(found), watched)
    elif isinstance(found, Rule):
        _follow(found, watched)
    elif isinstance(found, LookaheadPolicy):
        _think(found, watched)
    elif isinstance(found, RowPolicy):
        found.player_on(session)()
    else:
        _decide(found, watched)


class _Watched:
    """A session's only row, and what is kept of it."""

    def __init__(self, session: Session, reader: EpisodeReader, explained: int) -> None:
        self.session, self.reader = session, reader
        self.explanations: list[Explanation] = []
        self._explained = explained

    @property
    def chooses(self) -> bool:
        """Whether there is anything to choose: whom to serve, where nobody may be let wait."""
        row = self.session.state.rows[0]
        return not row["commitment"] or bool(row["queue_len"] > 1)

    def note(self, why: Callable[[], Explanation]) -> None:
        """Keep an explanation, if there are not enough."""
        if len(self.explanations) < self._explained:
            self.explanations.append(why())


def _follow(rule: Rule, watched: _Watched) -> None:
    """Play a row to its end under a rule."""
    rows, bench = watched.session.state.rows, watched.session.bench
    explainer, record = explainer_of(rule, watched.session), rule.to_record()
    while entry.advance(rows, 0, bench.nodes) == Status.DECISION:
        code = entry.rule_action(rows, 0, record, bench.jobs)
        if watched.chooses:
            watched.note(lambda: _known(explainer.ask()))
        if entry.commit(rows, 0, *code, bench.nodes) != Reason.OK:
            # Waiting is refused when nothing is left to wait for: the window is at its end.
            assert code[0] == ActionKind.WAIT
            break
        watched.reader.keep_up()


def _known(asked: tuple[Explanation, tuple[int, int, int]] | None) -> Explanation:
    assert asked is not None
    return asked[0]


def _decide(policy: BatchPolicy, watched: _Watched) -> None:
    """Play a row to its end under a policy's greedy actions."""
    session = watched.session
    explainer = explainer_of(policy, session)
    while not session.buffers.terminated[0]:
        watched.note(lambda: _known(explainer.ask()))
        seen = session.observation()
        session.step(policy.actions(seen, seen["action_mask"].astype(np.bool_)))
        session.require_legal()
        watched.reader.keep_up()


def _think(policy: LookaheadPolicy, watched: _Watched) -> None:
    """Play a row to its end as :func:`orchestrator.kernels.run.lookahead.think_ahead` does."""
    session = watched.session
    state, nodes = session.state, session.bench.nodes
    explainer = explainer_of(policy, session)
    while entry.advance(state.rows, 0, nodes) == Status.DECISION:
        if not watched.chooses:
            code = int(ActionKind.PLACE), int(state.queue[0, 0]["job"]), int(Placement.FIRST_FIT)
        else:
            asked = explainer.ask()
            if asked is None:
                entry.wait(state.rows, 0)
                continue
            code = asked[1]
            watched.note(partial(_known, asked))
        if entry.commit(state.rows, 0, *code, nodes) != Reason.OK:
            assert code[0] == ActionKind.WAIT
            break
        watched.reader.keep_up()


def _plan(policy: Policy, watched: _Watched) -> None:
    """Play a row to its end under a policy that plans on snapshots."""
    if isinstance(policy, WakefulPolicy):
        rollout(watched.session.state, _WakefulPlanning(policy, watched))
    else:
        rollout(watched.session.state, _Planning(policy, watched))


@dataclass
class _Planning:
    """A policy that plans, watched: what it wants is noted before it is done."""

    policy: Policy
    watched: _Watched

    def decide(self, snapshot: Snapshot) -> Plan:
        self.watched.reader.keep_up()
        plan = self.policy.decide(snapshot)
        self.watched.note(lambda: self._told(snapshot, plan))
        return plan

    def _told(self, snapshot: Snapshot, plan: Plan) -> Explanation:
        """A plan in words; jobs are called as everywhere else."""
        names = dict(zip(snapshot.job_ids, job_names(self.watched.session, 0), strict=True))
        said = [_named(action, names) for action in plan.actions or (Wait(),)]
        taken = Alternative("; ".join(map(text_of, said)), math.nan)
        by = "what is planned at once; it is not said why"
        return Explanation(snapshot.now_ms, snapshot.point, by, (taken,))


@dataclass
class _WakefulPlanning(_Planning):
    """One that may ask to be asked again."""

    policy: WakefulPolicy

    @property
    def wake_ms(self) -> int | None:
        """When."""
        return self.policy.wake_ms


def _named(action: Action, names: Mapping[str, str]) -> Action:
    """An action that speaks of its job by another name."""
    if isinstance(action, ScaleFleet | Wait):
        return action
    return replace(action, job_id=f"job {names[action.job_id]}")
