"""Linear rankers of jobs and scorers of actions, played without leaving compiled code.

A ranker serves the queued job whose ``DEFAULT`` features, weighted and summed, are largest; ties go
to the first in the queue. Its replay does not write the features down: what a job contributes for
the whole episode is summed once, and the rest in one pass over the window that the compiler
vectorises. The scores equal those of :func:`orchestrator.kernels.see.queue.encode_window` up to the
rounding of float32. A ranker may have a network besides (:mod:`orchestrator.kernels.run.network`);
its features are those of the encoder, to the last bit.

Rankers choose a job and nothing else, so rows need commitment semantics; they see the first jobs of
the queue in the order of submission.

A scorer takes the legal action whose vector, weighted and summed, is largest; of equals the first.
A vector holds the features of what the action is about, which head it belongs to and whether the
advising rule would take it; ``orchestrator.scheduling.schema`` lays it out. It is never written
down: features are weighted where the encoder left them, column after column, so that a policy
outside the engine that calls :func:`best_actions` decides alike, bit for bit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.decide.advance import advance
from orchestrator.kernels.decide.commit import commit
from orchestrator.kernels.decide.rules import replay
from orchestrator.kernels.lang.jit import entry, kernel, part, small_kernel
from orchestrator.kernels.lang.numbers import fast_log, random_bits
from orchestrator.kernels.run.buffers import Bench, Buffers, Source
from orchestrator.kernels.run.network import (
    NetworkBench,
    make_network,
    score_set,
    set_network,
)
from orchestrator.kernels.run.session import begin_jobs, begin_window, open_choice
from orchestrator.kernels.see.encode import look_anew
from orchestrator.kernels.see.layout import (
    DEFAULT_NAMES,
    Maximum,
    QueueColumn,
    StaticColumn,
    VectorPart,
    decode,
)
from orchestrator.kernels.see.metrics import cost
from orchestrator.kernels.see.queue import (
    BUCKETS,
    STATIC_WIDTH,
    Encoding,
    encode_global,
    encode_window,
    fill_static,
)
from orchestrator.kernels.state.access import queue, request, running
from orchestrator.kernels.state.codes import NO_JOB, ActionKind, Placement, Reason, Status

__all__ = [
    "RankerBench",
    "Scoring",
    "best_action",
    "best_actions",
    "evaluate_rankers",
    "evaluate_rule",
    "evaluate_rule_windows",
    "evaluate_scorers",
    "legal_scores",
    "make_bench",
    "play_order",
    "prepare_jobs",
    "prepare_ranker",
    "rank_action",
    "rank_also",
    "replay_ranker",
    "score_actions",
    "score_window",
    "set_ranker",
    "sets_of",
    "take_best",
]


_F = np.float32


# The same logarithm with its multiplications and additions fused, which rounds less and takes a
# third less time. Not cached by itself: the cache would take it for the other one.
_plain_log: Any = fast_log


_log = numba.njit(nogil=True, error_model="numpy", forceinline=True, fastmath={"contract"})(
    _plain_log.py_func
)


_COLUMNS = 8


_BLOCK = 16


_ZERO, _ONE = _F(0.0), _F(1.0)


_SUBMITS, _SCALES, _RATES, _REQUESTS, _STARTS, _PARTS, _SCORES = 0, 1, 2, 3, 4, 5, 6


class RankerBench(NamedTuple):
    """Scratch of one thread; J jobs, Q window, W workers."""

    window: int
    nodes: NDArray[np.int32]  # [W]
    jobs: NDArray[np.int32]  # [J]
    static: NDArray[np.float32]  # [J, STATIC_WIDTH] the episode's constants
    constant: NDArray[np.float32]  # [J] what a job's score has of them
    weights: NDArray[np.float32]  # [14] of the ranker at hand, its linear part
    rank: NDArray[np.float32]  # [Q] what a position contributes to a score
    starts: NDArray[np.float32]  # [BUCKETS + 1] when demands could start
    shift: NDArray[np.int64]  # [1] demands are multiples of 2 ** shift buckets
    columns: NDArray[np.float32]  # [8, Q]
    maxima: NDArray[np.float64]  # not used by this encoding
    network: NetworkBench  # of the ranker at hand, if it has one


def make_bench(jobs: int, window: int, workers: int = 1, hidden: int = 0) -> RankerBench:
    """Allocate the scratch of one thread, for so many jobs of an episode and workers of a job.

    ``window`` are the queued jobs that a ranker sees, ``hidden`` the units of its network; 0: it
    has none.
    """
    padded = -(-window // _BLOCK) * _BLOCK
    return RankerBench(
        window=window,
        nodes=np.zeros(workers, np.int32),
        jobs=np.zeros(jobs, np.int32),
        static=np.zeros((jobs, STATIC_WIDTH), np.float32),
        constant=np.zeros(jobs, np.float32),
        weights=np.zeros(len(DEFAULT_NAMES), np.float32),
        rank=np.zeros(padded, np.float32),
        starts=np.zeros(BUCKETS + 1, np.float32),
        shift=np.zeros(1, np.int64),
        columns=np.zeros((_COLUMNS, padded), np.float32),
        maxima=np.ones(len(Maximum)),
        network=make_network(jobs, window, hidden),
    )


@kernel
def prepare_jobs(row, bench):
    """Write the constants of the jobs of an episode that has just begun; whoever ranks them."""
    _prepare_from(row, bench, np.int64(0))


@kernel
def _prepare_from(row, bench, first):
    """Write the constants of the jobs from ``first`` on."""
    fill_static(row, np.int64(Encoding.DEFAULT), bench.maxima, bench.static, first)
    common = np.int64(BUCKETS)
    for j in range(row.num_jobs):
        common |= np.int64(bench.static[j, StaticColumn.BUCKET])
    shift = np.int64(0)
    while (common >> shift) & 1 == 0:
        shift += 1
    bench.shift[0] = shift


@kernel
def prepare_ranker(row, weights, bench):
    """Sum up what each job's and each position's score has of constants, for one ranker.

    The row is prepared by :func:`prepare_jobs`; ``weights``, float32, are in the order of
    ``layout.DEFAULT_NAMES``, and behind them those of the network.
    """
    set_ranker(weights, bench)
    _sum_constants(row, bench, np.int64(0))


@kernel
def set_ranker(weights, bench):
    """Let ``bench`` rank by these weights, float32: what its score has of each position."""
    w = bench.weights
    for f in range(w.shape[0]):
        w[f] = weights[f]
    if bench.network.hidden > 0:
        set_network(weights, bench.network)
    per_log = w[QueueColumn.LOG_RANK] / fast_log(_F(1.0 + bench.window))
    for i in range(bench.window):
        bench.rank[i] = per_log * fast_log(_F(1.0 + i))


@kernel
def rank_also(row, bench, first):
    """Prepare the jobs from ``first`` on, which have been added, for the ranker that is set."""
    _prepare_from(row, bench, first)
    _sum_constants(row, bench, first)


@kernel
def _sum_constants(row, bench, first):
    """Sum up what the scores of the jobs from ``first`` on have of constants."""
    if bench.network.hidden > 0:
        return
    w, static = bench.weights, bench.static
    relative = w[QueueColumn.LOG_SLOWDOWN] + w[QueueColumn.LOG_RELATIVE_TIME_TO_START]
    log_scale = _F(-0.2) * relative
    # The slack is the free share minus the demand's.
    demand_share = w[QueueColumn.DEMAND_SHARE] - w[QueueColumn.SLACK]
    for j in range(first, row.num_jobs):
        bench.constant[j] = (
            w[QueueColumn.LOG_REQUEST] * static[j, StaticColumn.LOG_REQUEST]
            + w[QueueColumn.LOG_DEMAND] * static[j, StaticColumn.LOG_DEMAND]
            + w[QueueColumn.LOG_AREA] * static[j, StaticColumn.LOG_AREA]
            + demand_share * static[j, StaticColumn.DEMAND_SHARE]
            + w[QueueColumn.IS_SHORT] * static[j, StaticColumn.SHORT]
            + log_scale * static[j, StaticColumn.LOG_SCALE]
        )


@small_kernel
def _fill(starts, begin, end, value):
    # Unsigned, so that the compiler need not care for indices that count from the end.
    for b in range(np.uint64(begin), np.uint64(end)):
        starts[b] = value


@kernel
def _start_table(row, shift, starts):
    """Write into ``starts[b]`` when, s from now, ``b << shift`` buckets of capacity will be free.

    By the running jobs' expected ends; never enough: the last of them.
    """
    size = BUCKETS >> shift
    to_bucket = BUCKETS / max(row.nominal_units, 1)
    free = row.free_units
    ahead = _F(0.0)
    filled = np.int64(0)
    k = 0
    while True:
        upto = (min(max(np.int64(free * to_bucket), -1), BUCKETS) >> shift) + 1
        if upto > filled:
            _fill(starts, filled, upto, ahead)
            filled = upto
        if k == row.running_len or filled > size:
            break
        free += running(row, k).units
        ahead = _F(max(running(row, k).expected_end_ms - row.now_ms, 0) / 1000.0)
        k += 1
    _fill(starts, filled, size + 1, ahead)


@kernel
def _gather(row, count, bench):
    """Bring what the scores of the window's jobs are made of into contiguous columns."""
    free = _F(row.free_units / 1000.0)
    fits_now = bench.weights[QueueColumn.FITS_NOW]
    shift = np.uint64(bench.shift[0])
    static, columns = bench.static, bench.columns
    for i in range(count):
        j = np.uint64(queue(row, i).job)  # unsigned: see _fill
        columns[_SUBMITS, i] = static[j, StaticColumn.SUBMIT]
        columns[_SCALES, i] = static[j, StaticColumn.SCALE]
        columns[_RATES, i] = static[j, StaticColumn.RATE]
        columns[_REQUESTS, i] = static[j, StaticColumn.REQUEST]
        columns[_STARTS, i] = bench.starts[np.uint64(static[j, StaticColumn.BUCKET]) >> shift]
        fits = fits_now if static[j, StaticColumn.DEMAND] <= free else _F(0.0)
        columns[_PARTS, i] = bench.constant[j] + fits


@kernel
def _combine(now_s, rate, count, w, rank, columns):
    """The scores of the window's jobs, from its columns.

    The inner loop has a fixed length, so that it compiles to wide operations without a scalar
    remainder; entries beyond ``count`` in the last block are computed for nothing.
    """
    w_wait = _F(0.1) * w[QueueColumn.LOG_WAIT]
    w_start = _F(0.1) * w[QueueColumn.LOG_TIME_TO_START]
    w_choosing = _F(0.1) * w[QueueColumn.LOG_COST_OF_CHOOSING]
    w_slowdown = _F(0.2) * w[QueueColumn.LOG_SLOWDOWN]
    w_waiting = _F(0.1) * w[QueueColumn.LOG_QUEUE_COST_OF_WAITING]
    w_relative = _F(0.2) * w[QueueColumn.LOG_RELATIVE_TIME_TO_START]
    for block in range((count + _BLOCK - 1) // _BLOCK):
        for lane in range(_BLOCK):
            i = np.uint64(block * _BLOCK + lane)
            wait = now_s - columns[_SUBMITS, i]
            wait = wait if wait > _ZERO else _ZERO
            rest = rate - columns[_RATES, i]
            rest = rest if rest > _ZERO else _ZERO
            scale = columns[_SCALES, i]
            start = columns[_STARTS, i]
            choosing = (start + columns[_REQUESTS, i]) * rest
            columns[_SCORES, i] = (
                columns[_PARTS, i]
                + rank[i]
                + w_wait * _log(_ONE + wait)
                + w_start * _log(_ONE + start)
                + w_slowdown * _log(scale + wait)
                + w_waiting * _log(_ONE + rate * start)
                + w_relative * _log(scale + start)
                + w_choosing * _log(_ONE + choosing)
            )


@kernel
def _score_by_network(row, count, bench):
    """Score the window's jobs by the network, from the encoder's features."""
    network = bench.network
    for i in range(count):
        network.window[i] = queue(row, i).job
    encode_window(row, network.window[:count], bench.static, network, network.features)
    encode_global(row, np.int64(Encoding.DEFAULT), network.around)
    score_set(network, count, bench.columns[_SCORES])


@kernel
def score_window(row, bench):
    """Score the window's jobs, prepared by :func:`prepare_ranker`; how many there are.

    Scores are the first entries of ``bench.columns[_SCORES]``; without a network all are short of
    the features' dot product by the weighted free share, which they have in common.
    """
    count = min(np.int64(row.queue_len), bench.window)
    if bench.network.hidden > 0:
        _score_by_network(row, count, bench)
        return count
    _start_table(row, bench.shift[0], bench.starts)
    _gather(row, count, bench)
    now_s = _F((row.now_ms - request(row, 0).submit_ms) / 1000.0)
    _combine(now_s, _F(row.request_rate), count, bench.weights, bench.rank, bench.columns)
    return count


@kernel
def take_best(bench, count):
    """Position of the job that :func:`score_window` scored highest; it is not found again."""
    best = np.int64(0)
    for i in range(1, count):
        if bench.columns[_SCORES, i] > bench.columns[_SCORES, best]:
            best = np.int64(i)
    bench.columns[_SCORES, best] = _F(-np.inf)
    return best


@kernel
def rank_action(row, bench):
    """The job that the ranker serves now, or NO_JOB if none waits."""
    if row.queue_len <= 1:
        return np.int64(queue(row, 0).job) if row.queue_len == 1 else np.int64(NO_JOB)
    count = score_window(row, bench)
    best = 0
    best_score = bench.columns[_SCORES, 0]
    for i in range(1, count):
        if bench.columns[_SCORES, i] > best_score:
            best, best_score = i, bench.columns[_SCORES, i]
    return np.int64(queue(row, best).job)


@kernel
def replay_ranker(row, bench):
    """Run a row to its end under the ranker that ``bench`` is prepared for; decisions taken."""
    count = 0
    place, first_fit = np.int64(ActionKind.PLACE), np.int64(Placement.FIRST_FIT)
    while advance(row, bench.nodes) == Status.DECISION:
        j = rank_action(row, bench)
        if commit(row, place, j, first_fit, bench.nodes) != Reason.OK:
            raise RuntimeError("a ranker chose an illegal action: the row has no commitment")
        count += 1
    return count


@entry
def evaluate_rankers(
    rows: NDArray[np.void],
    e: int,
    m: int,
    weights: NDArray[np.float32],
    source: Source,
    bench: RankerBench,
    costs: NDArray[np.float64],
) -> None:
    """Replay window ``m`` under each ranker of a population, on row ``e``.

    The row is configured, with ``commitment``. ``weights`` are float32 [P, D], D being 14, or
    ``network.weight_count``; of ``costs``, float64 [P, M], column ``m`` is filled. ``source`` gives
    windows their jobs and nodes, and prices them. Calls on different rows and benches may run at
    the same time.
    """
    row = rows[e]
    for p in range(weights.shape[0]):
        begin_jobs(row, np.uint64(0), source.episode, m)
        if p == 0:
            prepare_jobs(row, bench)
        prepare_ranker(row, weights[p], bench)
        replay_ranker(row, bench)
        costs[p, m] = cost(row, source.prices.weights)


@entry
def evaluate_rule(
    rows: NDArray[np.void],
    e: int,
    m: int,
    rules: NDArray[np.void],
    source: Source,
    bench: RankerBench,
    costs: NDArray[np.float64],
) -> None:
    """Replay window ``m`` under a rule, RULE_DTYPE [1], on row ``e``; ``costs`` float64 [M]."""
    row = rows[e]
    begin_jobs(row, np.uint64(0), source.episode, m)
    replay(row, rules[0], bench.nodes, bench.jobs)
    costs[m] = cost(row, source.prices.weights)


@kernel
def _first_in(row, order):
    """The waiting job that comes first in an order."""
    best = np.int64(queue(row, 0).job)
    for i in range(1, row.queue_len):
        j = np.int64(queue(row, i).job)
        if order[j] < order[best]:
            best = j
    return best


@entry
def play_order(
    rows: NDArray[np.void],
    e: int,
    order: NDArray[np.float64],
    nodes: NDArray[np.int32],
    weights: NDArray[np.float64],
) -> float:
    """Play a row, with ``commitment``, to its end in a given order of its jobs; what it costs.

    Of the jobs that wait the one of the lowest ``order``, float64 [jobs], is served; ``weights``,
    float64 [len(Metric)], are the costs of the metrics. ``nodes`` is scratch, int32 [workers].
    """
    row = rows[e]
    place, first_fit = np.int64(ActionKind.PLACE), np.int64(Placement.FIRST_FIT)
    while advance(row, nodes) == Status.DECISION:
        if commit(row, place, _first_in(row, order), first_fit, nodes) != Reason.OK:
            raise RuntimeError("an order of jobs was refused: the row has no commitment")
    return float(cost(row, weights))


_TWICE = 2.0


class Scoring(NamedTuple):
    """A population of scorers: weights, how vectors are laid out, what ends windows for them."""

    weights: NDArray[np.float32]  # [P, D]
    layout: NDArray[np.int64]  # [parts, len(VectorPart)] see scheduling.schema.vector_layout
    advice_at: int  # column of the advice, or -1
    rules: NDArray[np.void]  # [1] RULE_DTYPE that plays on beyond the step limit
    step_limit: int  # actions of a window


@small_kernel
def _add(features, weights, start, score):
    for f in range(features.shape[0]):
        score += features[f] * weights[start + f]
    return score


@small_kernel
def _last_row(layout, p):
    """The last row of the layout that is of the same head as row ``p``; they follow each other."""
    last, first = p, layout[p, VectorPart.FIRST_ACTION]
    while last + 1 < layout.shape[0] and layout[last + 1, VectorPart.FIRST_ACTION] == first:
        last += 1
    return last


@small_kernel
def _score(sets, b, layout, weights, part, k):
    """Score in state ``b`` of action ``k`` of the head of the layout's rows ``part``, unadvised."""
    first, last = part
    score = _ZERO
    for q in range(first, last + 1):
        if layout[q, VectorPart.SET] >= 0:
            i = layout[q, VectorPart.FIRST_ENTITY] + k // layout[q, VectorPart.SHARED_BY]
            features = sets[layout[q, VectorPart.SET]][b, i]
            score = _add(features, weights, layout[q, VectorPart.COLUMN], score)
    if layout[first, VectorPart.ONE_HOT] >= 0:
        score += weights[layout[first, VectorPart.ONE_HOT]]
    return score


@kernel
def best_action(sets, advice, mask, b, layout, advice_at, weights):
    """The legal action of the highest score in state ``b``, or -1 if none is legal.

    ``sets`` are those of ``layout.SETS``, float32 [B, entities, features]; ``mask`` is int8 [B, A],
    ``weights`` float32 [D], ``layout`` int64 [parts, len(VectorPart)]. ``advice``, float32 [B, A],
    is not read if ``advice_at`` is -1.
    """
    best, best_score = np.int64(-1), _F(-np.inf)
    p = 0
    while p < layout.shape[0]:
        last = _last_row(layout, p)
        for k in range(layout[p, VectorPart.ACTIONS]):
            a = layout[p, VectorPart.FIRST_ACTION] + k
            if mask[b, a] == 0:
                continue
            score = _score(sets, b, layout, weights, (p, last), k)
            if advice_at >= 0:
                score += weights[advice_at] * advice[b, a]
            if best < 0 or score > best_score:
                best, best_score = a, score
        p = last + 1
    return best


@kernel
def legal_scores(sets, advice, mask, layout, advice_at, weights, found):
    """Numbers and scores of the first state's legal actions, as :func:`best_action` sums them up.

    They are written into ``found``: float32 [A] and int64 [A]; how many they are is returned.
    """
    (scores, actions), n, p = found, 0, 0
    while p < layout.shape[0]:
        last = _last_row(layout, p)
        for k in range(layout[p, VectorPart.ACTIONS]):
            a = layout[p, VectorPart.FIRST_ACTION] + k
            if mask[0, a] == 0:
                continue
            score = _score(sets, 0, layout, weights, (p, last), k)
            if advice_at >= 0:
                score += weights[advice_at] * advice[0, a]
            scores[n], actions[n] = score, a
            n += 1
        p = last + 1
    return n


@entry
def score_actions(sets, advice, mask, layout, advice_at, weights, found) -> int:
    """:func:`legal_scores`, for Python."""
    return int(legal_scores(sets, advice, mask, layout, advice_at, weights, found))


@entry
def best_actions(sets, advice, mask, layout, advice_at, weights, actions) -> None:
    """The legal action of the highest score of every state, or -1: ``actions``, int64 [B]."""
    for b in range(actions.shape[0]):
        actions[b] = best_action(sets, advice, mask, b, layout, advice_at, weights)


@part
def sets_of(buffers):
    """``layout.SETS`` of buffers, in that order."""
    return (
        buffers.queue,
        buffers.candidates,
        buffers.victims,
        buffers.elastics,
        buffers.services,
        buffers.capacity,
        buffers.sizes,
    )


@kernel
def _play(row, p, view, buffers, bench, scoring):
    """Play a window that has just begun to its end; actions taken, or -1 beyond the limit."""
    e, weights = 0, scoring.weights[p]
    look_anew(row, e, view, buffers)
    advance(row, bench.nodes)
    sets = sets_of(buffers)
    steps = 0
    while True:
        open_choice(row, e, view, buffers, bench)
        if row.done != 0:
            return steps
        if steps == scoring.step_limit:
            replay(row, scoring.rules[0], bench.nodes, bench.jobs)
            return -1
        action = best_action(
            sets, buffers.advice, buffers.mask, e, scoring.layout, scoring.advice_at, weights
        )
        kind, j, value = decode(row, e, action, view, buffers)
        if commit(row, kind, j, value, bench.nodes) != Reason.OK:
            raise RuntimeError("a scorer chose an action that its mask allows and commit refuses")
        advance(row, bench.nodes)
        steps += 1


@entry
def evaluate_scorers(
    rows: NDArray[np.void],
    m: int,
    source: Source,
    buffers: Buffers,
    bench: Bench,
    scoring: Scoring,
    costs: NDArray[np.float64],
) -> None:
    """Play window ``m`` under each scorer of a population, on the first row.

    The row is configured, without commitment; of ``costs``, float64 [P, M], column ``m`` is filled.
    A window that takes a scorer more actions than the limit is finished by the rule, and its cost
    counts twice: a scorer that shuffles jobs about is to be no good, not to be endless.
    """
    row = rows[0]
    for p in range(scoring.weights.shape[0]):
        begin_window(row, random_bits(np.uint64(m), 0, 0), source.episode, m)
        steps = _play(row, p, source.seen, buffers, bench, scoring)
        paid = cost(row, source.prices.weights)
        costs[p, m] = paid if steps >= 0 else _TWICE * paid


@entry
def evaluate_rule_windows(
    rows: NDArray[np.void],
    m: int,
    rules: NDArray[np.void],
    source: Source,
    bench: Bench,
    costs: NDArray[np.float64],
) -> None:
    """Replay window ``m`` under a rule, RULE_DTYPE [1], on the first row; ``costs`` float64 [M]."""
    row = rows[0]
    begin_window(row, random_bits(np.uint64(m), 0, 0), source.episode, m)
    replay(row, rules[0], bench.nodes, bench.jobs)
    costs[m] = cost(row, source.prices.weights)
