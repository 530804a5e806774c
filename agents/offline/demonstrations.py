"""Play windows under a rule or a trained policy, and keep all that was seen, done and paid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.problem import BatchPolicy, Windows
from envs.session import Session
from orchestrator.errors import ConfigurationError, IllegalActionError
from orchestrator.scheduling.rules import Rule

__all__ = ["Demonstration", "demonstrate"]

_ROWS = 32


@dataclass(frozen=True, eq=False)
class Demonstration:
    """An episode of T steps, whole.

    Parameters
    ----------
    window : int
        Which of the windows was played; it also seeds the episode's random streams.
    observations : mapping of str to array [T + 1, ...]
        What was seen before each step, and in the end; ``action_mask`` among them.
    actions : int64 [T]
    rewards : float64 [T]
    terminations, truncations : bool [T]
    metrics : mapping of str to float
        What became of it: see :func:`envs.outcomes.episode_metrics`.
    unseen : int
        Steps at which a rule wanted something that the observation does not offer, a job beyond
        the window for example, and the first legal action was taken instead.
    """

    window: int
    observations: Mapping[str, NDArray[Any]]
    actions: NDArray[np.int64]
    rewards: NDArray[np.float64]
    terminations: NDArray[np.bool_]
    truncations: NDArray[np.bool_]
    metrics: Mapping[str, float]
    unseen: int = 0


@dataclass
class _Episode:
    """One that is being played."""

    window: int
    seen: list[dict[str, NDArray[Any]]] = field(default_factory=list)
    done: list[tuple[int, float, bool, bool]] = field(default_factory=list)
    unseen: int = 0

    def whole(self, metrics: Mapping[str, float]) -> Demonstration:
        """What was played."""
        actions, rewards, terminations, truncations = zip(*self.done, strict=True)
        return Demonstration(
            window=self.window,
            observations={name: np.stack([s[name] for s in self.seen]) for name in self.seen[0]},
            actions=np.array(actions, np.int64),
            rewards=np.array(rewards, np.float64),
            terminations=np.array(terminations, np.bool_),
            truncations=np.array(truncations, np.bool_),
            metrics=metrics,
            unseen=self.unseen,
        )


def demonstrate(
    demonstrator: Rule | BatchPolicy, windows: Windows, rows: int = _ROWS
) -> Iterator[Demonstration]:
    """Play every window once.

    Parameters
    ----------
    demonstrator : Rule or BatchPolicy
        A policy takes its greedy actions.
    windows : Windows
        Environment, scenario, trace, and what is played of it. The environment's own limit of
        steps holds.
    rows : int, optional
        Windows that are played side by side; the outcome does not depend on it.

    Yields
    ------
    Demonstration
        As windows end. One that leaves no choice has no steps, and is left out.

    Raises
    ------
    ConfigurationError
        If a rule is to be followed where the environment advises another one.
    IllegalActionError
        If a policy chooses what its mask forbids.
    """
    hide = False
    if isinstance(demonstrator, Rule):
        windows, hide = _advised(demonstrator, windows)
    session = windows.session(min(rows, len(windows)))
    playing: list[_Episode | None] = [None] * session.envs
    following = 0
    while True:
        for e in range(session.envs):
            while playing[e] is None and following < len(windows):
                playing[e] = _begun(session, e, following)
                following += 1
        live = np.array([episode is not None for episode in playing])
        if not live.any():
            return
        actions, unseen = _choose(demonstrator, session, live)
        for e, episode in enumerate(playing):
            if episode is not None:
                _keep_seen(episode, session, e, hide)
        session.step(actions)
        _check_legal(session, live)
        for e, episode in enumerate(playing):
            if episode is None:
                continue
            ended, cut = bool(session.buffers.terminated[e]), bool(session.buffers.truncated[e])
            reward = float(session.buffers.reward[e])
            episode.done.append((int(actions[e]), reward, ended, cut))
            episode.unseen += int(unseen[e])
            if ended or cut:
                _keep_seen(episode, session, e, hide)
                yield episode.whole(session.episode_metrics(e))
                playing[e] = None


def _advised(rule: Rule, windows: Windows) -> tuple[Windows, bool]:
    """Windows in which the rule's choice is marked; whether nobody else is to see the mark."""
    config = windows.config
    if config.advice not in (None, rule.name):
        raise ConfigurationError(
            f"record: the environment marks the choices of '{config.advice}', and '{rule.name}' is "
            f"to be recorded; leave 'advice' out, or record '{config.advice}'"
        )
    marked = replace(windows.under(rule), config=replace(config, advice=rule.name))
    return marked, config.advice is None


def _begun(session: Session, e: int, window: int) -> _Episode | None:
    """An episode that has just begun; None if there is nothing to choose in it."""
    which = np.arange(session.envs) == e
    session.reseed_row(e, window)
    session.reset(which, np.where(which, window, -1))
    return None if session.buffers.terminated[e] else _Episode(window)


def _keep_seen(episode: _Episode, session: Session, e: int, hide: bool) -> None:
    seen = session.told(e)
    if hide:
        del seen["advice"]
    episode.seen.append(seen)


def _choose(
    demonstrator: Rule | BatchPolicy, session: Session, live: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """What is done in each row, and where the rule's own choice is not offered."""
    mask = session.masks().astype(np.bool_)
    actions = mask.argmax(axis=1)
    if isinstance(demonstrator, Rule):
        advised = session.buffers.advised
        return np.where(advised >= 0, advised, actions).astype(np.int64), (advised < 0) & live
    seen = {name: part[live] for name, part in session.observation().items()}
    actions[live] = demonstrator.actions(seen, mask[live])
    return actions, np.zeros(len(live), np.bool_)


def _check_legal(session: Session, live: NDArray[np.bool_]) -> None:
    if np.count_nonzero(session.buffers.reason[live]) > 0:
        raise IllegalActionError(
            "record: the policy chose an action that its mask forbids; it was trained on another "
            "environment, or is broken"
        )
