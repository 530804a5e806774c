"""Who steps the rows of a session: threads, each a range of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.run.buffers import Bench, Buffers, Source
from orchestrator.kernels.run.session import step_rows

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
        self._helpers = threads - 1
        self._pool: ThreadPoolExecutor | None = None
        self._process = 0  # whose threads the pool's are: a forked process has none of them

    def step(
        self, rows: NDArray[np.void], actions: NDArray[np.int64], source: Source, buffers: Buffers
    ) -> None:
        """Step rows, ROW_DTYPE [E], by ``actions`` [E]; the results are in ``buffers``."""
        helped: list[Future[Any]] = []
        if self._helpers > 0:
            pool = self._hired()
            helped = [
                pool.submit(step_rows, rows, begin, end, actions, source, buffers, bench)
                for begin, end, bench in self._spans[1:]
            ]
        try:
            begin, end, bench = self._spans[0]
            step_rows(rows, begin, end, actions, source, buffers, bench)
        finally:
            for part in helped:
                part.result()

    def close(self) -> None:
        """End the threads; another step would begin new ones."""
        if self._pool is not None and self._process == os.getpid():
            self._pool.shutdown()
        self._pool = None

    def _hired(self) -> ThreadPoolExecutor:
        """Threads of this process."""
        if self._pool is None or self._process != os.getpid():
            self._pool = ThreadPoolExecutor(self._helpers, "rows")
            self._process = os.getpid()
        return self._pool
