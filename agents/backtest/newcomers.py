"""The wait of jobs that nobody has submitted yet: asked just before they come, and what it was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from agents.backtest.replay import ANSWER_DTYPE, ASKED_OF, Backtest, replayed, stops
from agents.backtest.scene import image_of, spec_of
from orchestrator.kernels.state.codes import NEVER
from orchestrator.scheduling.rules import rule_named
from orchestrator.twin.answers import LEVELS, Band, When
from orchestrator.twin.ask import Twin
from orchestrator.twin.futures import TwinConfig
from orchestrator.twin.scene.cast import Cast
from orchestrator.twin.supposed import Suppose

__all__ = ["ask_about_newcomers"]


_KIND = ASKED_OF.index("new job")
_NEW = "new"


def ask_about_newcomers(backtest: Backtest, config: TwinConfig) -> NDArray[np.void]:
    """Replay a trace; ask, before jobs that are drawn come, when they would start.

    Parameters
    ----------
    backtest : Backtest
        As many jobs as it has moments are drawn from those that come after the first one may be.
    config : TwinConfig

    Returns
    -------
    ANSWER_DTYPE [jobs]
        A start is told from the moment of the question on: the wait is what is asked for.
    """
    rule, rng = rule_named(backtest.rule), np.random.default_rng([backtest.seed, 3])
    session, truth = replayed(backtest)
    asks, jobs = backtest.trace.requests[: len(truth)], _drawn(backtest, len(truth), rng)
    submits = asks["submit_ms"][jobs]
    found = np.zeros(len(jobs), ANSWER_DTYPE)
    found["moment"], found["kind"], found["job"] = np.arange(len(jobs)), _KIND, jobs
    found["tenant"], found["now_ms"] = asks["tenant"][jobs], submits - 1
    found["true_ms"] = found["now_ms"] + truth["first_start_ms"][jobs] - submits
    for number, state in enumerate(stops(session, rule, found["now_ms"])):
        spec = spec_of(asks[jobs[number]], _NEW, backtest.trace)
        image, now_ms = image_of(state, backtest.trace), int(found["now_ms"][number])
        twin = Twin(image, Cast(rule), now_ms, replace(config, seed=config.seed + number))
        told = twin.what_if(Suppose(submit=spec)).new_job
        assert told is not None
        found["quantiles_ms"][number], found["reserved_ms"][number] = _times(told)
    session.close()
    return found


def _drawn(backtest: Backtest, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Jobs that are asked about, of the first so many, ascending.

    Of those that come at the same instant it is the first one at most: the others are not here yet.
    """
    submits = backtest.trace.requests[:count]["submit_ms"]
    begin = submits[0] + backtest.known * (submits[-1] - submits[0])
    later = np.flatnonzero((submits > begin) & (np.diff(submits, prepend=-1) > 0))
    chosen = rng.choice(later, min(backtest.moments, len(later)), replace=False)
    return np.sort(chosen)


def _times(told: When) -> tuple[list[int], int]:
    """The quantiles of a start, and what estimates say; NEVER: it does not happen."""
    band, by_estimates = told.start or _AT_NO_TIME, told.by_estimates_ms
    times = [getattr(band, f"p{round(100 * level)}") for level in LEVELS]
    return (
        [NEVER if time_ms is None else time_ms for time_ms in times],
        NEVER if by_estimates is None else by_estimates,
    )


_AT_NO_TIME = Band(None, None, None, None, None, 1.0)
