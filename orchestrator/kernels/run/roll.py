"""Forks of a row, and who plays them on: a rule, a ranker of jobs or a scorer of actions.

A fork holds what goes on and nothing that is over, so that a window of a thousand jobs is as small
as what it has running and waiting. Rolled on with the same arrivals and run times it comes to the
same as the row that it was made of; with others it is a what-if.

Who plays is a :class:`Player`: all that plays forward asks it through :func:`best`, :func:`rank`
and :func:`roll`, whatever it is made of. What a player does not have is None, and the compiler
leaves out what is about it.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.change.episode import add_arrival, load_incidents
from orchestrator.kernels.change.episode import fork_row as _fork_row
from orchestrator.kernels.change.jobs import assume_duration, work_of
from orchestrator.kernels.decide.advance import advance
from orchestrator.kernels.decide.commit import commit
from orchestrator.kernels.decide.legal import can_wait, placement_reason
from orchestrator.kernels.decide.order import precedes
from orchestrator.kernels.decide.rules import follow, rank_queue, replay, rule_action
from orchestrator.kernels.lang.jit import entry, kernel, small_kernel
from orchestrator.kernels.run.buffers import Bench, Buffers, View
from orchestrator.kernels.run.linear import (
    RankerBench,
    Scoring,
    best_action,
    legal_scores,
    rank_action,
    rank_also,
    score_window,
    set_ranker,
    sets_of,
    take_best,
)
from orchestrator.kernels.run.session import open_choice
from orchestrator.kernels.see.encode import encode, forget_looks, look_at_jobs
from orchestrator.kernels.see.layout import decode
from orchestrator.kernels.see.metrics import cost
from orchestrator.kernels.state.access import job, queue
from orchestrator.kernels.state.codes import (
    NEVER,
    NO_JOB,
    ActionKind,
    JobCode,
    Placement,
    Reason,
    Status,
)

__all__ = [
    "Player",
    "ScorerDesk",
    "Until",
    "action_limit",
    "assume_remaining",
    "best",
    "expect",
    "forget_nodes_seen",
    "fork",
    "make_player",
    "prepare",
    "price",
    "rank",
    "roll",
    "roll_on",
    "set_out",
]

Rows: TypeAlias = NDArray[np.void]


_PLACE, _FIRST_FIT = np.int64(ActionKind.PLACE), np.int64(Placement.FIRST_FIT)


class Until(IntEnum):
    """How far a row is played."""

    DRAINED = 0
    """Until nothing is left to happen."""
    STARTED = 1
    """Until a certain job has started."""
    ENDED = 2
    """Until a certain job has ended."""


class ScorerDesk(NamedTuple):
    """What a scorer of all actions plays with: its weights, and where it describes the one row."""

    seen: View
    buffers: Buffers
    bench: Bench
    scoring: Scoring  # of one scorer


class Player(NamedTuple):
    """Who plays rows on; W workers, J jobs, A actions."""

    rules: NDArray[np.void]  # [1] RULE_DTYPE: who plays if nobody else does
    ranker: RankerBench | None
    weights: NDArray[np.float32]  # [14] of the ranker, or with its network's; [0] without one
    scorer: ScorerDesk | None
    nodes: NDArray[np.int32]  # [W] scratch, as all that follows
    jobs: NDArray[np.int32]  # [max(J, W)]
    orders: NDArray[np.float64]  # [2, J]
    scores: NDArray[np.float32]  # [A]
    numbers: NDArray[np.int64]  # [A]


def make_player(
    rules: NDArray[np.void],
    jobs: int,
    workers: int,
    *,
    ranker: tuple[RankerBench, NDArray[np.float32]] | None = None,
    scorer: ScorerDesk | None = None,
) -> Player:
    """Allocate what plays rows of so many jobs, of so many workers each, for one thread.

    Parameters
    ----------
    rules : RULE_DTYPE [1]
        The rule that plays, if neither of the others is given.
    jobs, workers : int
    ranker : tuple of RankerBench and float32 [14] or [weight_count], optional
        Ranks jobs by these weights; for rows with commitment.
    scorer : ScorerDesk, optional
        Scores all actions; for rows without.
    """
    actions = 1 if scorer is None else scorer.buffers.mask.shape[1]
    bench, weights = (None, np.zeros(0, np.float32)) if ranker is None else ranker
    return Player(
        rules=rules,
        ranker=bench,
        weights=weights,
        scorer=scorer,
        nodes=np.zeros(workers, np.int32),
        jobs=np.zeros(max(jobs, workers), np.int32),
        orders=np.zeros((2, jobs)),
        scores=np.zeros(actions, np.float32),
        numbers=np.zeros(actions, np.int64),
    )


# --- what a player is asked ----------------------------------------------------------------------


@kernel
def _set_out(ranker, weights):
    if ranker is not None:
        set_ranker(weights, ranker)


@kernel
def set_out(player):
    """Make a player ready to be asked about any row; once for each that it shares scratch with."""
    _set_out(player.ranker, player.weights)


@kernel
def _prepare(row, ranker, scorer, first):
    if ranker is not None:
        rank_also(row, ranker, first)
    if scorer is not None:
        look_at_jobs(row, 0, scorer.seen, scorer.buffers, first)


@small_kernel
def prepare(row, player, first):
    """Tell a player of the jobs of a row from ``first`` on; those before it knows already."""
    _prepare(row, player.ranker, player.scorer, np.int64(first))


@kernel
def _forget(scorer):
    if scorer is not None:
        forget_looks(0, scorer.buffers)


@small_kernel
def forget_nodes_seen(player):
    """Tell a player that the nodes are those of another row now."""
    _forget(player.scorer)


@kernel
def _go_on(row, scorer, nodes):
    """Advance to a decision point at which there is something to choose; whether there is one."""
    going = advance(row, nodes) == Status.DECISION
    if scorer is not None:
        if going:
            open_choice(row, 0, scorer.seen, scorer.buffers, scorer.bench)
            going = row.done == 0
    return going


@kernel
def _best(row, rules, ranker, scorer, jobs):
    if ranker is not None:
        return _PLACE, rank_action(row, ranker), _FIRST_FIT
    if scorer is not None:
        ways, buffers = scorer.scoring, scorer.buffers
        action = best_action(
            sets_of(buffers), buffers.advice, buffers.mask, 0, ways.layout, ways.advice_at,
            ways.weights[0],
        )  # fmt: skip
        return decode(row, 0, action, scorer.seen, buffers)
    return rule_action(row, rules[0], jobs)


@kernel
def _carry_out(row, ranker, scorer, action, nodes):
    """Carry out what a player does; a rule that looks at one job after the other goes on so."""
    kind, j, value = action
    if ranker is not None:
        return commit(row, kind, j, value, nodes)
    if scorer is not None:
        return commit(row, kind, j, value, nodes)
    return follow(row, kind, j, value, nodes)


@small_kernel
def best(row, player):
    """What a player does at the decision point at which a row stands: (kind, job, value)."""
    return _best(row, player.rules, player.ranker, player.scorer, player.jobs)


# --- the best few --------------------------------------------------------------------------------


@small_kernel
def _put(found, i, kind, j, value):
    found[i, 0], found[i, 1], found[i, 2] = kind, j, value


@kernel
def _rank_jobs(row, ranker, found):
    """The jobs of the window with the highest scores."""
    count = score_window(row, ranker)
    taken = min(count, np.int64(found.shape[0]))
    for i in range(taken):
        j = np.int64(queue(row, take_best(ranker, count)).job)
        _put(found, i, _PLACE, j, _FIRST_FIT)
    return taken


@kernel
def _rank_actions(row, scorer, player, found):
    """The legal actions with the highest scores; the row has been described."""
    ways, buffers, scores = scorer.scoring, scorer.buffers, player.scores
    count = legal_scores(
        sets_of(buffers), buffers.advice, buffers.mask, ways.layout, ways.advice_at,
        ways.weights[0], (scores, player.numbers),
    )  # fmt: skip
    taken = min(np.int64(count), np.int64(found.shape[0]))
    for i in range(taken):
        top = np.int64(0)
        for k in range(1, count):
            if scores[k] > scores[top]:
                top = np.int64(k)
        scores[top] = -np.inf
        kind, j, value = decode(row, 0, player.numbers[top], scorer.seen, buffers)
        _put(found, i, kind, j, value)
    return taken


@kernel
def _rank_placements(row, rule, player, found):
    """What a rule does; then the jobs that it would place next, in its order; then to wait."""
    kind, own, value = rule_action(row, rule, player.jobs)
    _put(found, 0, kind, own, value)
    count, limit = np.int64(1), np.int64(found.shape[0])
    tiers, scores = player.orders[0], player.orders[1]
    rank_queue(row, rule, tiers, scores)
    for q in range(row.queue_len):
        j = np.int64(queue(row, q).job)
        i = count
        while i > 1 and precedes(
            tiers[q], scores[q], q, tiers[found[i - 1, 2]], scores[found[i - 1, 2]], found[i - 1, 2]
        ):
            i -= 1
        if i == limit or (kind == ActionKind.PLACE and j == own):
            continue
        if placement_reason(row, j) != Reason.OK:
            continue
        count = min(count + 1, limit)
        for k in range(count - 1, i, -1):
            _put(found, k, found[k - 1, 0], found[k - 1, 1], found[k - 1, 2])
        _put(found, i, _PLACE, j, np.int64(q))  # its position, until all are found
    for i in range(1, count):
        found[i, 2] = np.int64(rule.placement)
    if count < limit and kind != ActionKind.WAIT and row.commitment == 0 and can_wait(row):
        _put(found, count, np.int64(ActionKind.WAIT), np.int64(NO_JOB), np.int64(0))
        count += 1
    return count


@kernel
def _describe(row, scorer):
    """Describe a decision point to who scores actions; how many choices there are."""
    if scorer is not None:
        return np.int64(encode(row, 0, scorer.seen, scorer.buffers, scorer.bench))
    return np.int64(1)


@kernel
def _rank(row, ranker, scorer, player, found):
    if ranker is not None:
        return _rank_jobs(row, ranker, found)
    if scorer is not None:
        return _rank_actions(row, scorer, player, found)
    return _rank_placements(row, player.rules[0], player, found)


@small_kernel
def rank(row, player, found):
    """Write the best few actions of a player, its own first, into ``found``; how many.

    ``found`` is int64 [K, 3]: (kind, job, value). 0: it sees nothing to choose, and goes on.
    """
    if _describe(row, player.scorer) == 0:
        return np.int64(0)
    return _rank(row, player.ranker, player.scorer, player, found)


# --- playing on ----------------------------------------------------------------------------------


@small_kernel
def _has_happened(row, j, until, runs):
    """Whether what was waited for has happened to job ``j``, which had started ``runs`` times."""
    if until == Until.STARTED:
        return job(row, j).runs > runs
    state = job(row, j).state
    return until == Until.ENDED and (state == JobCode.COMPLETED or state == JobCode.FAILED)


@kernel
def action_limit(scorer):
    """Actions after which a rule plays on: who shuffles jobs about must not do it for ever."""
    if scorer is not None:
        return np.int64(scorer.scoring.step_limit)
    return np.int64(NEVER)


@kernel
def roll(row, player, until, j):
    """Play a row on, ``until`` it is drained or that has happened to job ``j``; decisions taken.

    It has been told to the player (:func:`prepare`, :func:`forget_nodes_seen`).
    """
    count, limit = np.int64(0), action_limit(player.scorer)
    runs = job(row, j).runs if until != Until.DRAINED else np.uint32(0)
    while _go_on(row, player.scorer, player.nodes):
        if until != Until.DRAINED and _has_happened(row, j, until, runs):
            break
        if count == limit:
            return count + replay(row, player.rules[0], player.nodes, player.jobs)
        action = best(row, player)
        done = _carry_out(row, player.ranker, player.scorer, action, player.nodes)
        if done != Reason.OK:
            if action[0] == ActionKind.WAIT:  # nothing is left to wait for
                break
            raise RuntimeError("who plays a row on chose an illegal action")
        count += 1
    return count


# --- for Python ----------------------------------------------------------------------------------


@entry
def fork(
    source_rows: Rows,
    i: int,
    target_rows: Rows,
    k: int,
    place: NDArray[np.int32],
    kept: NDArray[np.int32],
) -> int:
    """Fork row ``i`` onto row ``k``; the number of jobs.

    As :func:`orchestrator.kernels.change.episode.fork_row` does it: ``place``, int32 [jobs of the
    source], and ``kept``, int32 [jobs of the target], are filled.
    """
    return int(_fork_row(source_rows[i], target_rows[k], place, kept))


@entry
def assume_remaining(rows: Rows, e: int, remaining: NDArray[np.int64]) -> None:
    """Let each job of a fork work for so long from now on, int64 [jobs] ms; below 0: as it is."""
    row = rows[e]
    for j in range(min(remaining.shape[0], row.num_jobs)):
        if remaining[j] >= 0:
            assume_duration(row, np.int64(j), work_of(row, j) + remaining[j])


@entry
def expect(rows: Rows, e: int, arrivals: NDArray[np.void], incidents: NDArray[np.void]) -> None:
    """Let these come to a fork that knows of nothing to come.

    ``arrivals``, REQUEST_DTYPE [n], and ``incidents``, INCIDENT_DTYPE [m] counted from now, are
    sorted by time; the row has room for them.
    """
    row = rows[e]
    for i in range(arrivals.shape[0]):
        ask = arrivals[i]
        add_arrival(row, ask, ask.submit_ms, ask.duration_ms)
    load_incidents(row, incidents)


@entry
def roll_on(rows: Rows, e: int, player: Player, until: int, j: int) -> int:
    """Play a row on under a player, ``Until`` something has happened to job ``j``.

    The player is made ready, and told of all jobs. The number of decisions taken.
    """
    set_out(player)
    prepare(rows[e], player, 0)
    forget_nodes_seen(player)
    return int(roll(rows[e], player, np.int64(until), np.int64(j)))


@entry
def price(rows: Rows, e: int, weights: NDArray[np.float64]) -> float:
    """Weighted sum of a row's metrics so far; ``weights`` float64 [len(Metric)]."""
    return float(cost(rows[e], weights))
