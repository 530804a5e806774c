"""What one's own readers, generators and scenarios promise: the same again, to be played."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from envs.config import EnvConfig
from envs.scenario import Scenario, scenario_named
from envs.session import Session
from envs.testing.play import SMALL, play, small_session
from envs.workloads import Trace, load_workload, unplaceable
from orchestrator.errors import ContractError
from orchestrator.invariants import assert_invariants
from orchestrator.own.loading import load_part, part_name

__all__ = ["check_generator", "check_reader", "check_scenario"]

_ROWS = 2


def check_reader(reader: str | Callable[..., Trace], **options: Any) -> None:
    """Check that a reader of traces gives the same trace again, and one that can be played.

    Parameters
    ----------
    reader : str or callable
        As ``load_workload`` takes it.
    **options
        Its arguments: the path of a small file, for one.

    Raises
    ------
    ContractError
        Naming the promise that is broken.
    ConfigurationError, TraceError, ValidationError
        If it cannot be found, or refuses its options or the file.
    """
    name = part_name(reader, "workload")
    trace = load_workload(name, **options)
    _check_trace(name, trace, load_workload(name, **options))


def check_generator(generator: str | Callable[..., Trace], **options: Any) -> None:
    """Check the same of a generator, and that its ``seed`` alone decides what is drawn.

    Parameters
    ----------
    generator : str or callable
        As ``load_workload`` takes it; it has an argument ``seed``.
    **options
        Its other arguments: ``jobs``, for one.

    Raises
    ------
    ContractError
        Naming the promise that is broken.
    ConfigurationError, ValidationError
        If it cannot be found, or refuses its options.
    """
    name = part_name(generator, "workload")
    if "seed" not in inspect.signature(load_part(name, "workload")).parameters:
        raise ContractError(name, "has no argument 'seed'", "draw from default_rng(seed)")
    options.pop("seed", None)
    drawn = [load_workload(name, seed=seed, **options) for seed in (0, 0, 1)]
    _check_trace(name, drawn[0], drawn[1])
    if drawn[0] == drawn[2]:
        raise ContractError(
            name, "draws the same jobs for another seed", "draw from default_rng(seed)"
        )


def check_scenario(
    scenario: str | Callable[..., Scenario], config: EnvConfig | None = None, **options: Any
) -> None:
    """Check that a scenario can be played, and that the same happens in it again.

    Parameters
    ----------
    scenario : str or callable
        As :func:`envs.scenario.scenario_named` takes it.
    config : EnvConfig or None, optional
        An environment to play in; None: a small cluster, without commitment.
    **options
        Its arguments.

    Raises
    ------
    ContractError
        Naming the promise that is broken.
    ConfigurationError
        If it cannot be found, or does not fit the environment.
    """
    name = part_name(scenario, "scenario")
    hashes = [
        _played(name, config or SMALL["cluster"], None, scenario_named(name, **options))
        for _ in range(2)
    ]
    if hashes[0] != hashes[1]:
        raise ContractError(
            name, "is another one when it is made again", "draw from default_rng(seed)"
        )


def _check_trace(name: str, trace: Trace, again: Trace) -> None:
    """Whether it is the same, fits its cluster, and is played to its end."""
    if trace != again:
        raise ContractError(
            name, "gives another trace for the same options", "draw from default_rng(seed)"
        )
    if not trace.nodes:
        raise ContractError(
            name, "describes no cluster", "give the nodes that its jobs ran on (NodeSpec)"
        )
    lost = unplaceable(trace.requests, trace.nodes)
    if np.any(lost):
        first = int(np.flatnonzero(lost)[0])
        raise ContractError(
            name,
            f"{int(np.sum(lost))} jobs never fit its cluster, job {first} for one",
            "leave them out, or describe larger nodes",
        )
    jobs = min(24, len(trace))
    _played(name, replace(SMALL["cluster"], episode_jobs=jobs, racks=0), trace, None)


def _played(
    name: str, config: EnvConfig, trace: Trace | None, scenario: Scenario | None
) -> list[int]:
    """Hashes of what happened in each row when it was played to its end at random."""
    session: Session = small_session(config, _ROWS, trace, scenario)
    steps = sum(1 for _ in play(session, name))
    if steps == 0:
        raise ContractError(name, "leaves nothing to decide", "give more jobs, or fewer nodes")
    for e in range(_ROWS):
        assert_invariants(session.state, e)
    return [int(row["log_hash"]) for row in session.state.rows]
