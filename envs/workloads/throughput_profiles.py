"""Measured step times of deep-learning training, and the throughput models fitted to them.

Pollux (Qiao et al., OSDI 2021; petuum/adaptdl, branch osdi21-artifact) measured six applications on
nodes of four T4 GPUs; Gavel (Narayanan et al., OSDI 2020; stanford-futuredata/gavel) measured
models on three types of GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.workloads.csvfile import Kind, header, read_columns, require_columns
from envs.workloads.files import read_text
from orchestrator.errors import ConfigurationError, TraceError
from orchestrator.workloads.throughput import ThroughputModel

__all__ = [
    "StepTimes",
    "fit_error",
    "fit_throughput",
    "read_gavel_ratios",
    "read_noise_scale",
    "read_step_times",
]

_STEP_KINDS = {
    "app": Kind.TEXT,
    "kind": Kind.TEXT,
    "placement": Kind.TEXT,
    "num_nodes": Kind.INTEGER,
    "num_replicas": Kind.INTEGER,
    "local_bsz": Kind.INTEGER,
    "step_time": Kind.NUMBER,
}
_NOISE_KINDS = {
    "app": Kind.TEXT,
    "batch_size": Kind.INTEGER,
    "grad_sqr": Kind.NUMBER,
    "grad_var": Kind.NUMBER,
}
_GAVEL_KINDS = {
    "gpu_type": Kind.TEXT,
    "consolidated": Kind.INTEGER,
    "model": Kind.TEXT,
    "batch_size": Kind.INTEGER,
    "num_workers": Kind.INTEGER,
    "steps_per_s": Kind.NUMBER,
}
_LEAST = 1e-8  # seconds: the smallest constant, as in Pollux
_OVERLAPS = (1.0, 10.0)


@dataclass(frozen=True)
class StepTimes:
    """Measured steps of one application, R rows.

    Parameters
    ----------
    workers : int64 [R]
        GPUs in all.
    across : bool [R]
        Whether they are on several nodes.
    local_batch : int64 [R]
        Samples of one GPU in one step.
    step_s : float64 [R]
        Time of a step.
    """

    workers: NDArray[np.int64]
    across: NDArray[np.bool_]
    local_batch: NDArray[np.int64]
    step_s: NDArray[np.float64]


def read_step_times(path: str | Path) -> dict[str, StepTimes]:
    """Read measured step times by application.

    Parameters
    ----------
    path : str or Path
        CSV with app, kind (``placements`` or ``scalability``), placement (digits: GPUs of each
        node), num_nodes and num_replicas (of rows without a placement), local_bsz and step_time
        (s).

    Raises
    ------
    TraceError
        Naming file, line and column of what is wrong, and the remedy.
    """
    path = Path(path)
    table = _table(path, _STEP_KINDS)
    placements = table["placement"].to_pylist()
    nodes = table["num_nodes"].to_pylist()
    replicas = table["num_replicas"].to_pylist()
    for row, text in enumerate(placements):
        if text:
            if not text.isdecimal():
                problem = f"column 'placement' is {text!r}, not digits"
                raise TraceError(str(path), problem, "give the GPUs of each node", row + 2)
            nodes[row], replicas[row] = len(text), sum(map(int, text))
        elif nodes[row] is None or replicas[row] is None:
            problem = "has neither 'placement' nor 'num_nodes' and 'num_replicas'"
            raise TraceError(str(path), problem, "fill one of them in", row + 2)
    count = np.asarray(replicas, np.int64)
    across = np.asarray(nodes, np.int64) > 1
    batch = _integers(table["local_bsz"])
    step = np.asarray(table["step_time"], np.float64)
    _refuse(path, ~(step > 0), "step_time", "is not positive")
    _refuse(path, batch < 1, "local_bsz", "is below 1")
    apps = np.asarray(table["app"].to_pylist(), dtype=object)
    found = {}
    for app in sorted(set(apps)):
        mine = apps == app
        found[app] = StepTimes(count[mine], across[mine], batch[mine], step[mine])
    return found


def read_noise_scale(path: str | Path) -> dict[str, tuple[int, float]]:
    """Read the initial batch size M0 and the gradient noise scale phi of each application.

    Parameters
    ----------
    path : str or Path
        CSV with app, batch_size, grad_sqr and grad_var (normalised to M0).

    Returns
    -------
    dict of str to (int, float)
        M0, the smallest batch size measured, and phi = M0 x the median of grad_var / grad_sqr at
        it. The noise grows as training goes on; one number stands for all of it.
    """
    path = Path(path)
    table = _table(path, _NOISE_KINDS)
    apps = np.asarray(table["app"].to_pylist(), dtype=object)
    batch = _integers(table["batch_size"])
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.asarray(table["grad_var"], np.float64) / np.asarray(
            table["grad_sqr"], np.float64
        )
    found = {}
    for app in sorted(set(apps)):
        first = int(batch[apps == app].min())
        known = ratio[(apps == app) & (batch == first)]
        known = known[np.isfinite(known) & (known > 0)]
        found[app] = (first, float(first * np.median(known)) if len(known) else 0.0)
    return found


def read_gavel_ratios(path: str | Path, reference: str) -> dict[str, dict[str, float]]:
    """Read how fast each type of GPU runs a model, relative to a reference type.

    Parameters
    ----------
    path : str or Path
        CSV with gpu_type, consolidated, model, batch_size, num_workers and steps_per_s.
    reference : str
        The GPU type whose speed is 1.

    Returns
    -------
    dict of str to dict of str to float
        By model and GPU type: the median ratio over the batch sizes that both types ran on one
        worker.
    """
    path = Path(path)
    table = _table(path, _GAVEL_KINDS)
    speeds: dict[tuple[str, str], dict[int | None, float]] = {}
    columns = ("gpu_type", "model", "batch_size", "num_workers", "consolidated", "steps_per_s")
    rows = zip(*(table[name].to_pylist() for name in columns), strict=True)
    for gpu, model, batch, workers, together, speed in rows:
        if workers == 1 and together == 1 and speed and speed > 0:
            speeds.setdefault((model, gpu), {})[batch] = speed
    if reference not in {gpu for _, gpu in speeds}:
        problem = f"has no 1-worker rows of gpu_type '{reference}'"
        raise TraceError(str(path), problem, "choose one of its GPU types as the reference")
    ratios: dict[str, dict[str, float]] = {}
    for (model, gpu), mine in sorted(speeds.items()):
        base = speeds.get((model, reference), {})
        both = [speed / base[batch] for batch, speed in mine.items() if batch in base]
        if both:
            ratios.setdefault(model, {})[gpu] = float(np.median(both))
    return ratios


def fit_throughput(
    name: str, times: StepTimes, local_batch: int, batch: int, noise_scale: float = 0.0
) -> ThroughputModel:
    """Fit the seven constants of a throughput model to measured steps.

    Least squares of ln(step time), as Pollux does, here with a loss that outliers do not rule
    (soft L1), on the logarithms of the constants, from three starts.

    Parameters
    ----------
    name : str
        Of the application.
    times : StepTimes
        What was measured.
    local_batch, batch, noise_scale
        See :class:`ThroughputModel`; they are not fitted.

    Raises
    ------
    ConfigurationError
        If there are fewer rows than constants.
    """
    from scipy.optimize import least_squares

    if len(times.step_s) < 7:
        raise ConfigurationError(
            f"throughput '{name}': {len(times.step_s)} measurements do not determine 7 constants"
        )

    def model(x: NDArray[np.float64]) -> ThroughputModel:
        c = [float(value) for value in np.exp(x[:6])]
        overlap = float(x[6])
        return ThroughputModel(
            name, c[0], c[1], c[2], c[3], c[4], c[5], overlap, local_batch, batch, noise_scale
        )

    def residuals(x: NDArray[np.float64]) -> NDArray[np.float64]:
        predicted = model(x).step_time(times.workers, times.across, times.local_batch)
        misses: NDArray[np.float64] = np.log(predicted) - np.log(times.step_s)
        return misses

    typical = float(np.median(times.step_s))
    each = typical / float(np.median(times.local_batch))
    low = np.array([np.log(_LEAST)] * 6 + [_OVERLAPS[0]])
    high = np.array([np.log(1e3)] * 6 + [_OVERLAPS[1]])
    best: Any = None
    for overlap in (1.2, 2.5, 6.0):
        parts = (typical / 2, each / 2, typical / 5, typical / 50, typical / 2, typical / 50)
        start = np.array([*np.log(np.maximum(parts, 10 * _LEAST)), overlap])
        found = least_squares(
            residuals, start, bounds=(low, high), loss="soft_l1", f_scale=0.1, x_scale="jac"
        )
        if best is None or found.cost < best.cost:
            best = found
    return model(best.x)


def fit_error(model: ThroughputModel, times: StepTimes) -> float:
    """Median relative error of a model's step times."""
    predicted = model.step_time(times.workers, times.across, times.local_batch)
    return float(np.median(np.abs(predicted / times.step_s - 1.0)))


def _table(path: Path, kinds: Mapping[str, Kind]) -> Any:
    text = read_text(path)
    require_columns(path, header(text), kinds, 1)
    table = read_columns(path, text, kinds)
    if table.num_rows == 0:
        raise TraceError(str(path), "holds no rows", "give a table with at least one row")
    return table


def _integers(column: Any) -> NDArray[np.int64]:
    import pyarrow.compute as pc

    return np.asarray(pc.fill_null(column, 0), dtype=np.int64)


def _refuse(path: Path, bad: NDArray[np.bool_], field: str, problem: str) -> None:
    if bad.any():
        line = int(np.argmax(bad)) + 2
        raise TraceError(str(path), f"column '{field}' {problem}", "correct the cell", line)
