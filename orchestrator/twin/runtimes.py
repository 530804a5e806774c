"""How long jobs will still work: run times of the like, given what they have worked by now.

What is looked at is the ratio of a run time to the user's estimate. Of jobs that still run it is
known to be larger than what they have done: survival is estimated as Kaplan and Meier do it (J. Am.
Stat. Assoc., 1958), so that the long ones are not left out. Jobs are alike by tenant, user, size
and the magnitude of their estimate; a few like ones are mixed with those of wider classes, the
fewer the more, and in the end with a guess: that run times are a uniform share of estimates
(Mu'alem and Feitelson, IEEE TPDS 2001). Beyond all that is known the tail is that of Pareto's law.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.twin.past import Past

__all__ = ["RunTimes", "Survival", "alike", "survival_of"]


_LEVELS: tuple[tuple[str, ...], ...] = (
    ("tenant", "user", "size", "estimate"),
    ("tenant", "size", "estimate"),
    ("tenant", "estimate"),
    ("estimate",),
    (),
)
"""What like jobs have in common, the narrowest class first."""


_MIXED = 30.0  # like jobs that count as much as all the wider classes together
_TAIL = 1.0  # Pareto's index: half of those that outlast all others do so by a factor of 2


@dataclass(frozen=True)
class Survival:
    """How many of a class last longer than so many of their estimates; n ends.

    Parameters
    ----------
    ratios : float64 [n]
        Run times by estimates of those that have ended, ascending.
    left : float64 [n]
        Share that lasts longer than each.
    """

    ratios: NDArray[np.float64]
    left: NDArray[np.float64]

    def beyond(self, ratio: float) -> float:
        """Share that lasts longer than a ratio."""
        k = int(np.searchsorted(self.ratios, ratio, "right"))
        return 1.0 if k == 0 else float(self.left[k - 1])

    def draw(self, ratio: float, lots: NDArray[np.float64]) -> NDArray[np.float64]:
        """Ratios beyond ``ratio``, by lots in (0, 1): the larger the lot, the sooner the end."""
        aims = self.beyond(ratio) * lots
        k = np.searchsorted(-self.left, -aims, "left")
        last = len(self.ratios) - 1
        drawn = self.ratios[np.minimum(k, last)]
        outlasts = k > last  # of some it is not known how much longer they last
        if outlasts.any():
            begin = max(float(self.ratios[last]), ratio)
            share = min(float(self.left[last]), self.beyond(ratio))
            drawn = np.where(outlasts, begin * (share / aims) ** (1.0 / _TAIL), drawn)
        return np.asarray(drawn)


def survival_of(ratios: NDArray[np.float64], ended: NDArray[np.bool_]) -> Survival:
    """Kaplan and Meier's estimate; ``ended`` False: it lasts longer than that.

    Parameters
    ----------
    ratios : float64 [n]
    ended : bool [n]
    """
    order = np.lexsort((~ended, ratios))  # ends before those that go on
    ends, at_risk = ended[order], np.arange(len(order), 0, -1)
    left = np.cumprod(1.0 - ends / at_risk)
    return Survival(ratios[order][ends], left[ends].astype(np.float64))


_SHARES = np.arange(1, 65) / 64.0
_GUESS = Survival(_SHARES, 1.0 - _SHARES)


class RunTimes:
    """Run times of the past, and draws of those to come.

    Parameters
    ----------
    past : Past
        What is known.
    limited : bool, optional
        Whether a job is ended when it has worked for its estimate.
    mixed : float, optional
        Like jobs that have ended which count as much as all wider classes together.
    """

    def __init__(self, past: Past, *, limited: bool = False, mixed: float = _MIXED) -> None:
        self._limited, self._mixed = limited, mixed
        ratios = past.work_ms / np.maximum(past.asks["requested_ms"], 1)
        seen = past.ended | (past.work_ms > 0)
        self.ended = int(past.ended.sum())
        self.running = int(seen.sum()) - self.ended
        self._classes: dict[tuple[int, ...], Survival] = {}
        keys = _keys(past.asks[seen])
        for depth in range(len(_LEVELS)):
            self._learn(depth, keys[depth], ratios[seen], past.ended[seen])

    def _learn(
        self,
        depth: int,
        keys: NDArray[np.int64],
        ratios: NDArray[np.float64],
        ended: NDArray[np.bool_],
    ) -> None:
        """Note the survival of each class of a level."""
        for key, members in _groups(keys):
            if ended[members].any():
                found = survival_of(ratios[members], ended[members])
                self._classes[depth, *key] = found

    def draw(
        self,
        asks: NDArray[np.void],
        done_ms: NDArray[np.int64],
        lots: NDArray[np.float64],
    ) -> NDArray[np.int64]:
        """How long jobs will still work, ms at nominal speed.

        Parameters
        ----------
        asks : REQUEST_DTYPE [n]
        done_ms : int64 [n]
            What they have worked by now.
        lots : float64 [2, futures, n]
            In (0, 1): which class, and which of its ends.

        Returns
        -------
        int64 [futures, n]
            At least 1.
        """
        estimates = np.maximum(asks["requested_ms"].astype(np.float64), 1.0)
        found = np.ones(lots.shape[1:], np.int64)
        narrowest = _keys(asks)
        begun = np.where(done_ms > 0, asks["requested_ms"], 0)  # who has begun is told apart
        like = np.column_stack([narrowest[0], done_ms, begun])
        for _, members in _groups(like):
            j = members[0]
            classes = self._alike([tuple(keys[j].tolist()) for keys in narrowest])
            ratio = float(done_ms[j] / estimates[j])
            drawn = _mixture(classes, ratio, lots[:, :, members])
            found[:, members] = np.maximum(np.rint(drawn * estimates[members] - done_ms[j]), 1)
        if self._limited:
            found = np.minimum(found, np.maximum(asks["requested_ms"] - done_ms, 1))
        return found

    def _alike(self, keys: list[tuple[int, ...]]) -> list[tuple[float, Survival]]:
        """Classes that a job is in and of which ends are known, and how much each counts."""
        left, found = 1.0, list[tuple[float, Survival]]()
        for depth, key in enumerate(keys):
            known = self._classes.get((depth, *key))
            if known is None:
                continue
            share = len(known.ratios) / (len(known.ratios) + self._mixed)
            found.append((left * share, known))
            left *= 1.0 - share
        return [*found, (left, _GUESS)]


def _mixture(
    classes: list[tuple[float, Survival]], ratio: float, lots: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Ratios of jobs that have come as far as ``ratio``, of a mixture of classes.

    Who has come so far is rather in a class whose members come so far: Bayes' rule.
    """
    weights = np.array([weight * known.beyond(ratio) for weight, known in classes])
    if not weights.sum() > 0.0:  # it has outlasted all
        return np.asarray(ratio * lots[1] ** (-1.0 / _TAIL))
    edges = np.cumsum(weights) / weights.sum()
    edges[np.flatnonzero(weights)[-1] :] = 1.0  # whatever rounding has left
    which = np.searchsorted(edges, lots[0], "left")
    drawn = np.empty(lots.shape[1:])
    for k, (_, known) in enumerate(classes):
        mine = which == k
        if weights[k] > 0.0:
            drawn[mine] = known.draw(ratio, lots[1][mine])
    return drawn


def _keys(asks: NDArray[np.void]) -> list[NDArray[np.int64]]:
    """What jobs are alike by, for each level: int64 [n, fields]."""
    traits = {
        "tenant": asks["tenant"].astype(np.int64),
        "user": asks["user"].astype(np.int64),
        "size": asks["workers"] * np.maximum(asks["gpus_per_worker"], 1),
        "estimate": np.floor(np.log2(np.maximum(asks["requested_ms"], 1))).astype(np.int64),
    }
    count = len(asks)
    return [
        np.stack([traits[name] for name in level], axis=1)
        if level
        else np.zeros((count, 0), np.int64)
        for level in _LEVELS
    ]


def alike(asks: NDArray[np.void]) -> NDArray[np.int64]:
    """A number of the class of each job, by tenant, user and size, int64 [n]."""
    traits = _keys(asks)[0][:, :3]
    word = np.zeros(len(asks), np.uint64)
    for k in range(traits.shape[1]):
        word = (word ^ traits[:, k].astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        word ^= word >> np.uint64(29)
    return (word >> np.uint64(1)).astype(np.int64)


def _groups(keys: NDArray[np.int64]) -> Iterator[tuple[tuple[int, ...], NDArray[np.int64]]]:
    """Rows that are equal: what they hold, and where they are, in ascending order of the keys."""
    if len(keys) == 0:
        return
    if keys.shape[1] == 0:
        yield (), np.arange(len(keys))
        return
    order = np.lexsort(keys.T[::-1])
    ranked = keys[order]
    begins = np.flatnonzero(np.any(ranked[1:] != ranked[:-1], axis=1)) + 1
    for members in np.split(order, begins):
        yield tuple(keys[members[0]].tolist()), members
