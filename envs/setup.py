"""What environments are made from: a trace, the part of it to play, and overrides of a config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.config import EnvConfig
from envs.scenario import Scenario
from envs.session import Session
from envs.workloads import Trace, WindowSplit, gpu_cluster, gpu_pods, lublin_feitelson
from orchestrator.errors import ConfigurationError

__all__ = ["default_trace", "make_session", "part_starts", "row_seeds"]

_DEFAULT_JOBS = 20_000
_DEFAULT_SEED = 1
_MOST_WINDOWS = 4096


def default_trace(config: EnvConfig) -> Trace:
    """The embedded workload.

    Lublin-Feitelson for job ordering, pods of a GPU-sharing cluster where nodes are chosen, a GPU
    cluster otherwise.
    """
    if config.commitment:
        return lublin_feitelson(_DEFAULT_JOBS, _DEFAULT_SEED)
    if config.choose_node:
        return gpu_pods(_DEFAULT_JOBS, _DEFAULT_SEED)
    return gpu_cluster(_DEFAULT_JOBS, _DEFAULT_SEED)


def part_starts(trace: Trace, config: EnvConfig, part: str, seed: int = 0) -> NDArray[np.int64]:
    """Windows of a part of a trace: ``train``, ``validation``, ``test`` or ``all``."""
    if part == "all":
        split = WindowSplit(len(trace), train=1.0, validation=0.0, test=0.0)
        part = "train"
    else:
        split = WindowSplit(len(trace))
    possible = len(split.admissible(part, config.episode_jobs))  # type: ignore[arg-type]
    count = min(possible, _MOST_WINDOWS)
    return split.starts(part, count, config.episode_jobs, seed)  # type: ignore[arg-type]


def row_seeds(seed: int | None, envs: int) -> NDArray[np.uint64]:
    """Seeds of all rows from one; None: from the operating system."""
    return np.random.SeedSequence(seed).generate_state(envs, np.uint64).astype(np.uint64)


def make_session(
    base: EnvConfig,
    envs: int,
    trace: Trace | None,
    part: str,
    starts: NDArray[np.int64] | None,
    incidents: NDArray[np.void] | None,
    overrides: Mapping[str, Any],
    scenario: Scenario | None = None,
    threads: int = 1,
) -> Session:
    """Make the session of an environment; see ``SchedulingEnv`` for the arguments."""
    known = [field.name for field in fields(EnvConfig)]
    for name in overrides:
        if name not in known:
            raise ConfigurationError(
                f"environment: unknown option '{name}'; known: {', '.join(known)}"
            )
    config = replace(base, **overrides)
    if trace is None:
        trace = default_trace(config)
    if starts is None:
        starts = part_starts(trace, config, part)
    return Session(trace, config, envs, starts, incidents, scenario, threads)
