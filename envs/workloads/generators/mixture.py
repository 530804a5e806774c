"""Mixtures of workloads after Lublin and Feitelson: blocks of jobs, each of a domain of its own.

What is learned on one set of parameters may be about that set. Here every few thousand jobs the
parameters of the model, the size of the machine that jobs are made for and the offered load are
drawn anew from ranges; what the ranges leave out is a family that training has never seen.

All blocks are played on one machine. A block that is made for a smaller one of m processors has
jobs that are larger in proportion: a processor of it is P / m of the P that there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.checks import check_finite, check_whole
from envs.workloads.generators.lublin import LublinParameters, lublin_feitelson
from envs.workloads.readers.swf import processor_pool
from envs.workloads.trace import Trace
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.state.codes import Stream

__all__ = ["lublin_mixture"]

_DAY_MS = 86_400_000


def lublin_mixture(
    jobs: int,
    seed: int,
    *,
    processors: int = 256,
    block: int = 4096,
    machines: Sequence[int] = (256,),
    ranges: Mapping[str, Sequence[float]] | None = None,
    loads: Sequence[float] = (0.9, 1.0),
) -> Trace:
    """Draw jobs from a mixture of models of Lublin and Feitelson.

    Parameters
    ----------
    jobs : int
        Number of jobs, at least 2.
    seed : int
        Not negative; the same seed gives the same trace.
    processors : int, optional
        Size of the machine that all jobs are submitted to.
    block : int, optional
        Jobs that have their parameters in common, at least 2; a block begins at midnight.
    machines : sequence of int, optional
        Sizes that blocks are made for, each as likely; they divide ``processors``.
    ranges : mapping of str to (low, high), optional
        Parameters of :class:`LublinParameters` that are drawn, uniformly; the others are the
        published values.
    loads : (low, high), optional
        Offered load of a block, drawn uniformly. Run times are scaled to give it, so that arrivals
        keep their daily cycle.

    Returns
    -------
    Trace
        As :func:`lublin_feitelson` makes them.

    Raises
    ------
    ConfigurationError
        Naming the option, and what it may be.
    """
    bounds = _check(jobs, block, processors, machines, {"loads": loads, **(ranges or {})})
    counts = [len(part) for part in np.array_split(np.arange(jobs), max(jobs // block, 1))]
    parts, midnight = list[NDArray[np.void]](), 0
    for k, count in enumerate(counts):
        rng = np.random.Generator(
            np.random.Philox(np.random.SeedSequence([seed, Stream.WORKLOAD, k]))
        )
        requests = _draw(count, (int(rng.choice(np.array(machines))), processors), bounds, rng)
        requests["submit_ms"] += midnight
        midnight = (int(requests["submit_ms"][-1]) // _DAY_MS + 1) * _DAY_MS
        parts.append(requests)
    together = np.concatenate(parts)
    together["source_id"] = np.arange(1, jobs + 1)
    return Trace(
        f"lublin-mixture-{processors}-{seed}", together, nodes=(processor_pool(processors),)
    )


def _draw(
    count: int,
    sizes: tuple[int, int],
    bounds: Mapping[str, tuple[float, float]],
    rng: np.random.Generator,
) -> NDArray[np.void]:
    """The jobs of a block that is made for a machine of the first size, on one of the second."""
    machine, processors = sizes
    drawn: dict[str, Any] = {name: float(rng.uniform(*pair)) for name, pair in bounds.items()}
    load = drawn.pop("loads")
    parameters = LublinParameters(**drawn)
    seed = int(rng.integers(2**31))
    made = lublin_feitelson(count, seed, processors=machine, parameters=parameters)
    return _fitted(made.requests, processors // machine, processors, load)


def _fitted(
    requests: NDArray[np.void], larger: int, processors: int, load: float
) -> NDArray[np.void]:
    """Jobs of a block, larger by a factor, with run times that give an offered load."""
    fitted = requests.copy()
    fitted["cpu_milli"] *= larger
    span = int(fitted["submit_ms"][-1] - fitted["submit_ms"][0])
    work = float(np.dot(fitted["cpu_milli"].astype(float), fitted["duration_ms"].astype(float)))
    if span > 0 and work > 0:
        factor = load * processors * 1000.0 * span / work
        seconds = np.maximum(np.rint(fitted["duration_ms"] * factor / 1000.0), 1.0)
        fitted["duration_ms"] = fitted["requested_ms"] = (seconds * 1000.0).astype(np.int64)
    return fitted


def _check(
    jobs: int,
    block: int,
    processors: int,
    machines: Sequence[int],
    ranges: Mapping[str, Sequence[float]],
) -> dict[str, tuple[float, float]]:
    """The ranges as pairs; refuse numbers that make no sense."""
    check_whole("lublin mixture: 'jobs'", jobs, 2)
    check_whole("lublin mixture: 'block'", block, 2)
    check_whole("lublin mixture: 'processors'", processors, 4)
    for machine in machines or [0]:
        check_whole("lublin mixture: a size in 'machines'", machine, 4)
        if processors % machine != 0:
            raise ConfigurationError(
                f"lublin mixture: 'machines' has {machine}, which does not divide 'processors', "
                f"{processors}; give sizes that do"
            )
    bounds = {}
    for name, pair in ranges.items():
        if name != "loads" and name not in LublinParameters.__dataclass_fields__:
            known = ", ".join(LublinParameters.__dataclass_fields__)
            raise ConfigurationError(
                f"lublin mixture: 'ranges' has the unknown parameter '{name}'; known: {known}"
            )
        if len(pair) != 2 or not pair[0] <= pair[1]:
            raise ConfigurationError(
                f"lublin mixture: '{name}' is {list(pair)}; give the lowest and the highest value"
            )
        low, high = (check_finite(f"lublin mixture: '{name}'", value) for value in pair)
        bounds[name] = (low, high)
    check_finite("lublin mixture: the lowest of 'loads'", bounds["loads"][0], above=0)
    return bounds
