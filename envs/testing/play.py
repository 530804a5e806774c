"""Small environments for checks, and random legal play in them."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from envs.config import CLUSTER, JOB_ORDERING, EnvConfig
from envs.scenario import Scenario
from envs.session import Session
from envs.workloads import Trace, gpu_cluster, lublin_feitelson
from orchestrator.errors import ConfigurationError, ContractError

__all__ = ["SMALL", "play", "small_session", "small_trace"]

SMALL: Mapping[str, EnvConfig] = {
    "ordering": replace(JOB_ORDERING, window=8, episode_jobs=24, backfill=True),
    "cluster": replace(
        CLUSTER,
        window=6,
        victims=4,
        elastics=3,
        tenants=3,
        racks=2,
        episode_jobs=24,
        min_run_seconds=30.0,
        fleet=True,
    ),
}
"""Environments of a few jobs by name: the machine waits for what was chosen; everything else."""

_SEED, _MOST_STEPS = 5, 5_000


def small_trace(config: EnvConfig) -> Trace:
    """More jobs than a small cluster can do: processors where jobs are ordered, else GPUs."""
    return _processors() if config.commitment else _gpus()


@functools.cache
def _processors() -> Trace:
    return lublin_feitelson(400, 3, processors=64, load=1.2)


@functools.cache
def _gpus() -> Trace:
    return gpu_cluster(400, 4, nodes=4, gpus_per_node=4, load=1.3)


def small_session(
    config: EnvConfig, rows: int, trace: Trace | None = None, scenario: Scenario | None = None
) -> Session:
    """Rows that play any window of a trace, by default a small one, seeded."""
    trace = small_trace(config) if trace is None else trace
    session = Session(trace, config, rows, scenario=scenario, part="all")
    session.reseed(np.arange(_SEED, _SEED + rows, dtype=np.uint64))
    return session


def play(session: Session, subject: str, seed: int = 0) -> Iterator[NDArray[np.float64]]:
    """Play an episode in every row by random legal actions; the rewards after every step.

    Before the first step nothing is yielded: the session has begun when the first one is asked for.

    Raises
    ------
    ContractError
        With what is wrong, in the subject's name, if the environment refuses what it gave.
    """
    dice = np.random.default_rng(seed)
    try:
        session.reset()
        for _ in range(_MOST_STEPS):
            over = session.buffers.terminated | session.buffers.truncated
            if over.all():
                return
            noise = dice.random(session.buffers.mask.shape) + 1.0
            actions = np.where(session.masks() != 0, noise, 0.0).argmax(axis=1)
            session.step(actions.astype(np.int64))
            yield session.buffers.reward.copy()
    except ConfigurationError as error:
        raise ContractError(subject, f"is refused ({error})", "see docs/own-parts.md") from error
    raise ContractError(
        subject, f"an episode did not end in {_MOST_STEPS} steps", "let time pass in it"
    )
