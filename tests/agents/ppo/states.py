"""Decision points of small environments, for tests of what learns from them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs import Session
from tests.envs.cases import CASES, pick_legal

__all__ = ["NAMES", "Observation", "session_of", "visit"]

Observation = dict[str, NDArray[Any]]

NAMES = ("ordering", "ordering-published", "cluster", "cluster-without-victims")
"""One environment of each layout of actions."""


def session_of(name: str, rows: int = 3) -> Session:
    session = CASES[name].session(rows)
    session.reseed(np.arange(rows, dtype=np.uint64))
    return session


def visit(session: Session, steps: int, seed: int = 0) -> Iterator[Observation]:
    """Copies of the observations on a random walk, of all rows."""
    rng = np.random.default_rng(seed)
    session.reset()
    for _ in range(steps):
        yield {name: part.copy() for name, part in session.observation().items()}
        session.step(pick_legal(session.buffers.mask, rng))
        over = session.buffers.terminated | session.buffers.truncated
        if over.any():
            session.reset(over)
