"""Thinking ahead, from Python: settings, what futures are drawn from, and who is asked.

The work is done by :mod:`orchestrator.kernels.run.lookahead`; one decision, or a whole episode, is
one call. What it costs grows with actions x futures x (jobs that run and wait + arrivals).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import ConfigurationError
from orchestrator.kernels.run.futures import Past, make_past
from orchestrator.kernels.run.lookahead import (
    Planner,
    Room,
    Tally,
    Trial,
    fork_shape,
    make_room,
    think_ahead,
)
from orchestrator.kernels.run.roll import Player, make_player
from orchestrator.kernels.see.metrics import Metric
from orchestrator.kernels.state.codes import Information, JobCode, JobKind
from orchestrator.kernels.state.row import ClusterShape, ClusterState
from orchestrator.scheduling.rules import rule_named

__all__ = [
    "LookaheadConfig",
    "Thinker",
    "Thought",
    "known_jobs",
    "past_of",
    "slowdown_weights",
]

_Code: TypeAlias = tuple[int, int, int]

_MOST_FUTURES, _MOST_ARRIVALS = 1 << 10, 1 << 19  # what lots are numbered for
_SAMPLE = 1024  # run times by estimates that are kept of a past
_UNKNOWN_MS = 3_600_000.0
_MS_PER_HOUR = 3_600_000


@dataclass(frozen=True)
class LookaheadConfig:
    """How far and how often to look.

    Parameters
    ----------
    actions : int, optional
        Actions tried at most, the policy's own included.
    futures : int, optional
        Common futures that each is tried in.
    arrivals : int, optional
        Jobs that come in each.
    errors : float, optional
        Standard errors of the mean gain over the futures that it must exceed.
    margin : float, optional
        And share of the cost of the policy's own action.
    cycle_hours : float, optional
        What comes in a future is what came at the same time of an earlier cycle; 0: at any time.
    draw : bool, optional
        Whether run times are drawn around their estimates as the past has it, or are these.
    ticks : int, optional
        Of services, that a future lasts.
    seed : int, optional
        Of the draws.
    roll : str or None, optional
        Rule that plays on in the futures; None: the policy itself.

    Raises
    ------
    ConfigurationError
        Naming the field and what it may be.
    """

    actions: int = 4
    futures: int = 8
    arrivals: int = 48
    errors: float = 1.0
    margin: float = 0.0
    cycle_hours: float = 24.0
    draw: bool = True
    ticks: int = 60
    seed: int = 0
    roll: str | None = None

    def __post_init__(self) -> None:
        """Refuse what would try nothing."""
        least = {"actions": 1, "futures": 1}
        most = {"futures": _MOST_FUTURES, "arrivals": _MOST_ARRIVALS}
        if self.roll is not None:
            rule_named(self.roll)
        for field in fields(self)[:-1]:
            value, name = getattr(self, field.name), field.name
            kinds = (int, float) if field.type == "float" else (int,)
            fine = isinstance(value, kinds) and not (isinstance(value, bool) and name != "draw")
            if not fine or not least.get(name, 0) <= value <= most.get(name, 1 << 40):
                top = f", at most {most[name]}" if name in most else ""
                raise ConfigurationError(
                    f"lookahead: '{name}' is {value!r}; give a number of at least "
                    f"{least.get(name, 0)}{top}"
                )

    @property
    def cycle_ms(self) -> int:
        """The cycle, ms."""
        return round(self.cycle_hours * _MS_PER_HOUR)


def slowdown_weights() -> NDArray[np.float64]:
    """Costs by metric, [len(Metric)], if bounded slowdowns are what counts."""
    weights = np.zeros(len(Metric))
    weights[Metric.SLOWDOWN_EXCESS] = 1.0
    return weights


def known_jobs(state: ClusterState, e: int = 0) -> NDArray[np.void]:
    """The jobs that have come to a row, by submit time, with what is known of their run times.

    Of those that have not completed these are the estimates.

    Parameters
    ----------
    state : ClusterState
    e : int, optional
        Row.

    Returns
    -------
    REQUEST_DTYPE [n]
        Services are left out.
    """
    arrived = int(state.rows[e]["next_arrival"])
    asks, states = state.request[e, :arrived], state.job[e, :arrived]["state"]
    came = (states != JobCode.ABSENT) & (asks["kind"] != JobKind.SERVICE)
    known, ended = asks[came].copy(), states[came] == JobCode.COMPLETED
    known["duration_ms"] = np.where(
        ended, known["duration_ms"], np.maximum(known["requested_ms"], 1)
    )
    in_order: NDArray[np.void] = known[np.argsort(known["submit_ms"], kind="stable")]
    return in_order


def past_of(
    record: NDArray[np.void],
    information: Information,
    config: LookaheadConfig,
    *,
    before: bool = True,
    own: bool = True,
    repairs_ms: NDArray[np.float64] | None = None,
) -> Past:
    """What futures are drawn from, of a record of jobs that have ended.

    How run times compare with estimates is taken from the whole record: windows that are judged
    come after it.

    Parameters
    ----------
    record : REQUEST_DTYPE [R]
        By submit time; may be none.
    information : Information
        What is known of run times: by what is believed of them they are drawn.
    config : LookaheadConfig
    before, own : bool, optional
        As for :func:`orchestrator.kernels.run.futures.make_past`.
    repairs_ms : float64 [m], optional
        How long repairs of nodes take, a sample; None: who is down is taken to stay so.

    Returns
    -------
    Past
    """
    jobs = record[record["kind"] != JobKind.SERVICE]
    ratios = None
    if config.draw and len(jobs) > 0 and information != Information.ORACLE:
        work = jobs["duration_ms"].astype(float)
        believed = np.maximum(jobs["requested_ms"].astype(float), 1.0)
        if information == Information.NONE:
            believed = np.full(len(jobs), _UNKNOWN_MS)
        known = np.sort(work / believed)
        at = np.linspace(0, len(known) - 1, min(len(known), _SAMPLE)).round().astype(int)
        ratios = known[at]
        if np.all(ratios == 1.0):
            ratios = None  # estimates are exact: there is nothing to draw
    past = make_past(
        np.ascontiguousarray(jobs),
        ratios,
        before=before,
        own=own,
        cycle_ms=config.cycle_ms,
        arrivals=config.arrivals,
        ticks=config.ticks,
    )
    repairs = np.zeros(0) if repairs_ms is None else np.sort(repairs_ms.astype(float))
    return past._replace(seed=config.seed, repairs_ms=repairs)


@dataclass(frozen=True)
class Thought:
    """What came of thinking ahead at one decision point; K actions.

    Parameters
    ----------
    actions : int64 [K, 3]
        (``ActionKind``, job, value) of those that were tried; the first is the player's own.
    taken : int
        Which one is taken.
    gains : float64 [K]
        Mean gain of each over the first, in units of the cost; -inf: it was not played on, as it
        comes to the same as another one, or cannot be taken.
    margins : float64 [K]
        What the gain must exceed.
    """

    actions: NDArray[np.int64]
    taken: int
    gains: NDArray[np.float64]
    margins: NDArray[np.float64]

    @property
    def action(self) -> _Code:
        """The action that is taken, as kernels take it."""
        kind, j, value = self.actions[self.taken].tolist()
        return kind, j, value


class Thinker:
    """Asks kernels to think ahead on rows of one shape; for one thread.

    Parameters
    ----------
    shape : ClusterShape
        Of the rows that it is asked about.
    base : Player
        Whose best actions are tried; it has room for ``config.arrivals`` more jobs than a row.
    config : LookaheadConfig
    weights : float64 [len(Metric)]
        Cost of one unit of each metric.
    """

    def __init__(
        self,
        shape: ClusterShape,
        base: Player,
        config: LookaheadConfig,
        weights: NDArray[np.float64],
    ) -> None:
        self.shape = shape
        roller = None
        if config.roll is not None:
            played = self.room_for(shape, config)
            record = rule_named(config.roll).to_record()
            roller = make_player(record, played.jobs, played.workers)
        self._players = base, roller
        trial = Trial(config.futures, float(config.errors), float(config.margin), weights)
        self._trial = trial
        found: tuple[Room, ClusterState] = make_room(
            shape, config.actions, config.futures, config.arrivals
        )
        self._room, self._memory = found  # the room's rows are in that memory

    @staticmethod
    def room_for(shape: ClusterShape, config: LookaheadConfig) -> ClusterShape:
        """Shape of the rows that players are asked to play."""
        return fork_shape(shape, config.arrivals)

    def ask(self, state: ClusterState, past: Past, e: int = 0) -> Thought | None:
        """What to do at the decision point of a row; None: the player sees nothing to choose."""
        planner, tally = Planner(*self._players, past, self._trial), _tally()
        taken, count = think_ahead(state.rows, e, planner, self._room, tally, False)
        if count == 0:
            return None
        room, tried = self._room, count > 1
        nothing = np.zeros(count)
        return Thought(
            room.found[:count].copy(),
            taken,
            room.gains[:count].copy() if tried else nothing,
            room.margins[:count].copy() if tried else nothing,
        )

    def play(self, state: ClusterState, past: Past, e: int = 0) -> dict[str, int]:
        """Play a row that has just begun to its end.

        Returns
        -------
        dict of str to int
            ``decisions``; of these ``tried``, where there was something to try, and ``switched``,
            where another action was taken than the player's own.
        """
        planner, tally = Planner(*self._players, past, self._trial), _tally()
        think_ahead(state.rows, e, planner, self._room, tally, True)
        counts: Any = tally._asdict()
        return {name: int(count[0]) for name, count in counts.items()}


def _tally() -> Tally:
    return Tally(*(np.zeros(1, np.int64) for _ in Tally._fields))
