"""How fast rankers are evaluated on this machine."""

from __future__ import annotations

import os
import time

import numpy as np

from agents.cma.evaluator import RankerEvaluator
from agents.cma.policy import named_weights
from envs.config import EnvConfig
from envs.workloads import lublin_feitelson

__all__ = ["benchmark"]

_WINDOW = 1024


def benchmark(
    backfill: bool = False, threads: int | None = None, seconds: float = 3.0
) -> dict[str, float]:
    """Measure evaluation as training does it: a population around SJF on windows of 1,024 jobs.

    Parameters
    ----------
    backfill : bool, optional
    threads : int or None, optional
        None: one for each processor that this process may use.
    seconds : float, optional
        How long to measure, after compilation.

    Returns
    -------
    dict
        ``jobs_per_s``, jobs replayed per second of all threads together; ``threads``.
    """
    threads = threads or len(os.sched_getaffinity(0))
    trace = lublin_feitelson(40 * _WINDOW, 1)
    config = EnvConfig(episode_jobs=_WINDOW, backfill=backfill)
    evaluator = RankerEvaluator(trace, config, threads)
    starts = np.arange(0, len(trace) - _WINDOW, _WINDOW // 2, dtype=np.int64)
    rng = np.random.Generator(np.random.Philox(1))
    population = named_weights({"log_request": -1.0}) + 0.15 * rng.standard_normal((16, 14))
    evaluator.costs(population[:1], starts[:1])
    jobs, begun = 0, time.perf_counter()
    while (spent := time.perf_counter() - begun) < seconds:
        jobs += evaluator.costs(population, starts).size * _WINDOW
    evaluator.close()
    return {"jobs_per_s": jobs / spent, "threads": float(threads)}
