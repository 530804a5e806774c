"""Futures of a cluster: how long jobs will still work, and who will come.

They are the same for all that is compared. Who comes is who came in blocks of the recorded past, a
day of it at a time, at the same time of the day, and of the week once four weeks are known: what
belongs together stays so. Where less than two days are known a block begins at any moment; where
less than an hour is, nobody comes, and that is said.
"""

from __future__ import annotations

from copy import copy
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.engine.engine import Engine
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.state.records import INCIDENT_DTYPE, REQUEST_DTYPE
from orchestrator.twin.past import Past
from orchestrator.twin.runtimes import RunTimes, alike
from orchestrator.twin.scene.failures import FailurePast, Failures
from orchestrator.twin.scene.lots import Purpose, draw_lots

__all__ = ["LEAST_FUTURES", "Futures", "Sources", "TwinConfig"]


_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS
_WEEK_MS = 7 * _DAY_MS
_LEAST_MS = _HOUR_MS  # of a past that says anything of who will come
_WEEKS = 4  # from so many on, blocks are of the same day of the week
_MOST_FUTURES, _MOST_ARRIVALS = 10_000, 4096


LEAST_FUTURES = 8
"""That are played however long it takes."""


@dataclass(frozen=True)
class TwinConfig:
    """How a question is answered.

    Parameters
    ----------
    futures : int, optional
        How many futures are played.
    seed : int, optional
        Of what is drawn: the same seed and the same state give the same answer.
    horizon_hours : float, optional
        For how long jobs come, at most.
    limited : bool, optional
        Whether jobs are ended when they have worked for their estimate.
    arrivals : bool, optional
        Whether anybody comes at all.
    seconds : float or None, optional
        For how long futures are played, more or less: then so many have to do, but
        :data:`LEAST_FUTURES` at least. The answer then depends on the machine, too, and says how
        many there were. None: all are played.
    error : float, optional
        Futures are enough, once 50 are played, when the standard errors of the quantiles of a start
        are such a share of the time until its median, or less; 0: all are played.
    alike, common : float, optional
        Shares of the jobs that end as all do who are alike, and as all do at all: relatively soon
        or late, among those that each may end with. How jobs that come together go together.

    Raises
    ------
    ConfigurationError
        Naming the field and what it may be.
    """

    futures: int = 200
    seed: int = 0
    horizon_hours: float = 336.0
    limited: bool = False
    arrivals: bool = True
    seconds: float | None = None
    error: float = 0.0
    alike: float = 0.4
    common: float = 0.1

    def __post_init__(self) -> None:
        """Refuse what answers nothing."""
        for name, least, most in (
            ("futures", 2, _MOST_FUTURES),
            ("seed", 0, 2**63 - 1),
            ("horizon_hours", 0, 8760),
            ("seconds", 0, 86_400),
            ("error", 0, 1),
            ("alike", 0, 1),
            ("common", 0, 1),
        ):
            value = getattr(self, name)
            if value is None and name == "seconds":
                continue
            if isinstance(value, bool) or not least <= value <= most:
                raise ConfigurationError(
                    f"twin: '{name}' is {value!r}; give a number from {least} to {most}"
                )

    @property
    def horizon_ms(self) -> int:
        """For how long jobs come at most, ms."""
        return round(self.horizon_hours * _HOUR_MS)


@dataclass(frozen=True)
class Sources:
    """What futures were drawn from.

    Parameters
    ----------
    futures : int
        How many.
    ended_jobs, running_jobs : int
        Whose run times, so far or in all, say how long others will work.
    arrivals_of_hours : float
        How many hours of the past those who come are taken from; 0: nobody comes.
    same_time_of : str
        ``week``, ``day`` or ``any``: at which time of the past blocks begin; ``none``.
    hours_ahead : float
        For how long jobs come.
    failures, repairs : int
        Failures of nodes, and repairs, whose rates and times are those of the futures; 0: no node
        fails, and none that is down comes back.
    """

    futures: int
    ended_jobs: int
    running_jobs: int
    arrivals_of_hours: float
    same_time_of: str
    hours_ahead: float
    failures: int = 0
    repairs: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


class Futures:
    """Futures of one cluster at one moment.

    What is drawn for a job depends on its row, and for a block on its number, and on nothing else:
    all that is compared meets the same futures.

    Parameters
    ----------
    past : Past
    config : TwinConfig

    Attributes
    ----------
    ahead_ms : int or None
        For how long others come, where that is settled; None: for as long as they may matter.
    """

    ahead_ms: int | None = None

    def __init__(self, past: Past, config: TwinConfig) -> None:
        self.past, self.config = past, config
        self._times = RunTimes(past, limited=config.limited)
        count = len(past)
        going = ~past.ended
        lots = self._lots(past.asks[going], past.rows[going])
        self._whole = np.full((config.futures, count), -1, np.int64)
        left = self._times.draw(past.asks[going], past.work_ms[going], lots)
        self._whole[:, going] = past.work_ms[going] + left
        self._place = {j: k for k, j in enumerate(past.rows.tolist()) if going[k]}
        self._others = dict[int, NDArray[np.int64]]()
        self._block_ms, self._step_ms = self._blocks()
        self._failures: Failures | None = None
        self._outages = 0, 0

    def _blocks(self) -> tuple[int, int]:
        """How long a block is, and at which multiples before now one may begin; 0: none."""
        span = self.past.span_ms
        if not self.config.arrivals or len(self.past) == 0 or span < _LEAST_MS:
            return 0, 0
        if span >= _WEEKS * _WEEK_MS:
            return _DAY_MS, _WEEK_MS
        if span >= 2 * _DAY_MS:
            return _DAY_MS, _DAY_MS
        return max(span // 2, 1), 0

    @property
    def anybody_comes(self) -> bool:
        """Whether there is a past that others may be taken from."""
        return self._block_ms > 0

    def sources(self, played: int, ahead_ms: int) -> Sources:
        """What they were drawn from, if so many were played, and jobs come for so long."""
        here = self._block_ms > 0
        times = {0: "any", _DAY_MS: "day", _WEEK_MS: "week"}
        return Sources(
            played,
            self._times.ended,
            self._times.running,
            self.past.span_ms / _HOUR_MS if here else 0.0,
            times[self._step_ms] if here else "none",
            ahead_ms / _HOUR_MS if here else 0.0,
            *self._outages,
        )

    def whole(self, rows: NDArray[np.int32]) -> NDArray[np.int64]:
        """How long the jobs in some rows work in all, ms, int64 [futures, rows].

        -1: nothing is drawn for it, as for services; it is left as it is.
        """
        found = np.full((self.config.futures, len(rows)), -1, np.int64)
        for i, j in enumerate(rows.tolist()):
            k = self._place.get(j)
            if j in self._others:
                found[:, i] = self._others[j]
            elif k is not None:
                found[:, i] = self._whole[:, k]
        return found

    def with_job(self, row: int, ask: NDArray[np.void], like: int | None = None) -> Futures:
        """The same futures with a job in a row of the table that is not of the past.

        Parameters
        ----------
        row : int
        ask : REQUEST_DTYPE [1]
            What it asks for.
        like : int or None, optional
            The row of a job that it is in truth, and works as long as; None: it is a new one.
        """
        if like is not None:
            drawn = self.whole(np.array([like], np.int32))[:, 0]
        else:
            drawn = self._times.draw(ask, np.zeros(1, np.int64), self._lots(ask, np.array([row])))[
                :, 0
            ]
        made = copy(self)
        made._others = {**self._others, row: drawn}
        return made

    def _lots(self, asks: NDArray[np.void], rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Which class and which of its ends, for jobs in some rows, [2, futures, rows].

        Jobs that are alike end alike: some have the lot of all who are alike, or of all.
        """
        seed, each = self.config.seed, range(self.config.futures)
        own = draw_lots(seed, Purpose.END, each, rows)
        chosen = draw_lots(seed, Purpose.SHARED, each, rows)
        like = draw_lots(seed, Purpose.LIKE, each, alike(asks))
        common = draw_lots(seed, Purpose.COMMON, each, np.zeros(1, np.int64))
        ends = np.where(chosen < self.config.common + self.config.alike, like, own)
        ends = np.where(chosen < self.config.common, common, ends)
        return np.stack([draw_lots(seed, Purpose.CLASS, each, rows), ends])

    def with_failures(self, past: FailurePast, engine: Engine) -> Futures:
        """The same futures in which the nodes of a cluster fail as they have; if that is known."""
        made = copy(self)
        made._failures = past.on(engine) if past.tells else None
        made._outages = (past.failures, past.repaired) if past.tells else (0, 0)
        return made

    @property
    def fail(self) -> bool:
        """Whether nodes fail in them."""
        return self._failures is not None

    def incidents(self, future: int) -> NDArray[np.void]:
        """What happens to nodes in a future: INCIDENT_DTYPE by time, counted from now."""
        if self._failures is None:
            return np.zeros(0, INCIDENT_DTYPE)
        return self._failures.draw(self.config.seed, future, self.config.horizon_ms)

    def arrivals(self, future: int, ahead_ms: int) -> NDArray[np.void]:
        """Who comes in a future within so many ms from now: REQUEST_DTYPE, by submit time."""
        if self._block_ms == 0 or ahead_ms <= 0:
            return np.zeros(0, REQUEST_DTYPE)
        blocks, past = -(-ahead_ms // self._block_ms), self.past
        each = range(future, future + 1)
        lots = draw_lots(self.config.seed, Purpose.BLOCK, each, np.arange(blocks))[0]
        firsts = np.arange(blocks) * self._block_ms
        begins = np.array([self._begin(*one) for one in zip(firsts.tolist(), lots, strict=True)])
        lengths = np.minimum(self._block_ms, ahead_ms - firsts)
        submits = past.asks["submit_ms"]
        low, high = (np.searchsorted(submits, edge) for edge in (begins, begins + lengths))
        counts = np.minimum(np.cumsum(high - low), _MOST_ARRIVALS)
        counts = np.diff(counts, prepend=0)
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        index = np.repeat(low, counts) + within
        came: NDArray[np.void] = past.asks[index]
        came["submit_ms"] += np.repeat(past.now_ms + firsts - begins, counts)
        whole = np.where(past.ended[index], past.work_ms[index], self._whole[future, index])
        came["duration_ms"] = np.maximum(whole, 1)
        return came

    def _begin(self, first_ms: int, lot: float) -> int:
        """Where in the past a block begins that is to come ``first_ms`` from now."""
        past, length = self.past, self._block_ms
        if self._step_ms == 0:
            return past.since_ms + int(lot * (past.span_ms - length + 1))
        # The last one that lies wholly in the past, and how many there are before it.
        back = -(-(first_ms + length) // self._step_ms) * self._step_ms
        latest = past.now_ms + first_ms - back
        count = max((latest - past.since_ms) // self._step_ms + 1, 1)
        return latest - int(lot * count) * self._step_ms
