"""Lessons: decision points of a ranker's own play, and what lookahead thinks of each alternative.

A lesson is the window's jobs as they are described, and for the few best jobs what choosing each
would gain over the ranker's own choice: the mean over common futures, and its standard error. Gains
of bad choices are as telling as those of good ones, and no choice is called the right one: over
many lessons the noise of the futures averages out, while a label that is the luckiest of several
would not.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from agents.planning.lookahead import LookaheadPolicy
from agents.problem import Windows
from orchestrator.scheduling.ahead import Thought, past_of

__all__ = ["Lessons", "collect", "join"]


class _Note(NamedTuple):
    """A decision point; shapes as in :class:`Lessons`."""

    jobs: NDArray[np.float32]
    around: NDArray[np.float32]
    tried: NDArray[np.int64]
    gains: NDArray[np.float64]
    errors: NDArray[np.float64]


@dataclass(frozen=True)
class Lessons:
    """S decision points with N jobs in all, of each of which K at most were tried.

    Parameters
    ----------
    jobs : float32 [N, 14]
        ``DEFAULT`` features, state after state.
    counts : int64 [S]
        Jobs of each state's window.
    around : float32 [S, 8]
        The cluster.
    tried : int64 [S, K]
        Positions in the window, the ranker's own choice first; -1: fewer were tried.
    gains : float32 [S, K]
        Mean gain over the own choice, in units of the cost; 0 for that itself.
    errors : float32 [S, K]
        Standard error of it.
    """

    jobs: NDArray[np.float32]
    counts: NDArray[np.int64]
    around: NDArray[np.float32]
    tried: NDArray[np.int64]
    gains: NDArray[np.float32]
    errors: NDArray[np.float32]

    def __len__(self) -> int:
        """Number of decision points."""
        return len(self.counts)


def join(parts: Sequence[Lessons]) -> Lessons:
    """Several lots of lessons as one."""
    names = Lessons.__dataclass_fields__
    return Lessons(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def collect(
    teacher: LookaheadPolicy,
    windows: Windows,
    record: NDArray[np.void],
    lessons: int,
    *,
    follow: float = 0.0,
    seed: int = 0,
    threads: int = 2,
) -> Lessons:
    """Let a ranker play windows, one after the other, and note what lookahead thinks on the way.

    Parameters
    ----------
    teacher : LookaheadPolicy
        Its base is the ranker.
    windows : Windows
        Of the training part.
    record : REQUEST_DTYPE [R]
        What futures are drawn from.
    lessons : int
        So many at least, unless the windows end before.
    follow : float, optional
        Probability that what lookahead chose is done, not the ranker's own choice.
    seed : int, optional
    threads : int, optional
        Windows played at the same time. What is learned of a window does not depend on them.

    Returns
    -------
    Lessons
        In the order of the windows.
    """
    todo, found = itertools.count(), dict[int, Lessons]()

    def work() -> None:
        play = _Play(teacher, windows, record)
        while sum(map(len, list(found.values()))) < lessons and (m := next(todo)) < len(windows):
            rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, m])))
            found[m] = play.through(m, follow, rng)

    with ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(work) for _ in range(threads)]:
            future.result()
    return join([found[m] for m in sorted(found)])


class _Play:
    """One thread's row, and who thinks ahead beside."""

    def __init__(
        self, teacher: LookaheadPolicy, windows: Windows, record: NDArray[np.void]
    ) -> None:
        self._session = session = windows.played_out().session(1)
        settings = teacher.settings
        self._thinker = teacher.thinker(session.state.shape, session.config)
        information = session.config.information
        self._past = past_of(record, information, settings, before=False, own=False)
        self._most = settings.actions
        self._noted = list[_Note]()

    def through(self, m: int, follow: float, rng: np.random.Generator) -> Lessons:
        """Play window ``m`` to its end."""
        session, buffers = self._session, self._session.buffers
        self._noted.clear()
        session.reseed_row(0, m)
        session.reset(windows=np.array([m]))
        while not buffers.terminated[0]:
            thought = self._thinker.ask(session.state, self._past)
            assert thought is not None  # rows with commitment have no other points
            shown = buffers.window[0, : int(buffers.mask[0].sum())]
            where = {int(j): i for i, j in enumerate(shown)}
            places = np.array([where[int(j)] for j in thought.actions[:, 1]], np.int64)
            if len(places) > 1:
                self._note(thought, places)
            taken = thought.taken if rng.random() < follow else 0
            session.step(places[taken : taken + 1])
        return self._lessons()

    def _note(self, thought: Thought, places: NDArray[np.int64]) -> None:
        """Keep a decision point."""
        buffers, most = self._session.buffers, self._most
        told = np.isfinite(thought.gains)  # the others come to the same as one before them
        n = int(told.sum())
        tried, gains, errors = np.full(most, -1), np.zeros(most), np.zeros(most)
        tried[:n], gains[:n], errors[:n] = places[told], thought.gains[told], thought.margins[told]
        jobs = buffers.queue[0, : int(buffers.mask[0].sum())].copy()
        self._noted.append(_Note(jobs, buffers.globals[0].copy(), tried, gains, errors))

    def _lessons(self) -> Lessons:
        """All that was kept."""
        notes = self._noted
        return Lessons(
            jobs=np.concatenate([note.jobs for note in notes]),
            counts=np.array([len(note.jobs) for note in notes]),
            around=np.array([note.around for note in notes]),
            tried=np.array([note.tried for note in notes], np.int64),
            gains=np.array([note.gains for note in notes], np.float32),
            errors=np.array([note.errors for note in notes], np.float32),
        )
