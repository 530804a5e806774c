"""Threads that step ranges of rows side by side."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.buffers import Bench, Buffers, Source
from orchestrator.kernels.session import step_rows

__all__ = ["Crew"]


class Crew:
    """Steps all rows, each thread a range of them; results do not depend on how many there are.

    Rows share nothing that a step writes. The caller's thread takes the first range.

    Parameters
    ----------
    envs : int
        Rows.
    benches : sequence of Bench
        Scratch, one for each thread.
    """

    def __init__(self, envs: int, benches: Sequence[Bench]) -> None:
        threads = len(benches)
        bounds = [envs * k // threads for k in range(threads + 1)]
        self._spans = list(zip(bounds, bounds[1:], benches, strict=False))
        helpers = threads - 1
        self._pool = ThreadPoolExecutor(helpers, "rows") if helpers > 0 else None

    def step(
        self, rows: NDArray[np.void], actions: NDArray[np.int64], source: Source, buffers: Buffers
    ) -> None:
        """Step rows, ROW_DTYPE [E], by ``actions`` [E]; the results are in ``buffers``."""
        helped: list[Future[Any]] = []
        if self._pool is not None:
            helped = [
                self._pool.submit(step_rows, rows, begin, end, actions, source, buffers, bench)
                for begin, end, bench in self._spans[1:]
            ]
        try:
            begin, end, bench = self._spans[0]
            step_rows(rows, begin, end, actions, source, buffers, bench)
        finally:
            for part in helped:
                part.result()

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()
