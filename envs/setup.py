"""What environments are made from: a trace, the part of it to play, and overrides of a config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.config import EnvConfig
from envs.defaults import default_scenario, default_trace
from envs.scenario import Scenario, playable
from envs.session import Session
from envs.workloads import Trace, WindowSplit
from orchestrator.errors import ConfigurationError

__all__ = ["make_session", "part_starts", "row_seeds"]

_MOST_WINDOWS = 4096


def part_starts(
    trace: Trace,
    config: EnvConfig,
    part: str,
    seed: int = 0,
    scenario: Scenario | None = None,
) -> NDArray[np.int64]:
    """Windows of a part of a trace: ``train``, ``validation``, ``test`` or ``all``.

    Where episodes have no jobs, they are windows of ticks, and parts of the services' series.
    """
    total = playable(trace, config, scenario or Scenario())
    if part == "all":
        split = WindowSplit(total, train=1.0, validation=0.0, test=0.0)
        part = "train"
    else:
        split = WindowSplit(total)
    count = min(len(split.admissible(part, config.length)), _MOST_WINDOWS)
    return split.starts(part, count, config.length, seed)


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
    if scenario is None:
        scenario = default_scenario(config, trace)
    if starts is None:
        starts = part_starts(trace, config, part, scenario=scenario)
    return Session(trace, config, envs, starts, incidents, scenario, threads)
