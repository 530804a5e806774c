"""Measured profiles: how the tenants of a cluster submit, and how fast training runs.

Tenants are those of Microsoft's Philly (Jeon et al., USENIX ATC 2019; msr-fiddle/philly-traces, CC
BY 4.0) from 2017-09-24 on, the eleven virtual clusters with more than 300 jobs. A burst is jobs of
one virtual cluster, each at most 300 s after the one before; its tail exponent is the one whose
mean burst, cut off at 1,000 jobs, has the measured mean.

Step times of training are Pollux's (Qiao et al., OSDI 2021; petuum/adaptdl, branch
osdi21-artifact), who measured six applications on nodes of four T4 GPUs, and Gavel's (Narayanan et
al., OSDI 2020; stanford-futuredata/gavel), who measured models on three types of GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.workloads.csvfile import Kind, header, read_columns, read_text, require_columns
from orchestrator.errors import ConfigurationError, TraceError
from orchestrator.workloads.throughput import ThroughputModel

__all__ = [
    "PHILLY_TENANTS",
    "POLLUX_MIX",
    "ApplicationClass",
    "StepTimes",
    "TenantProfile",
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
class TenantProfile:
    """How one tenant submits.

    Parameters
    ----------
    name : str
        Name of the tenant.
    share : float
        Its share of all jobs; the shares of a workload need not sum to 1.
    gpus : tuple of int
        GPU counts that it asks for.
    gpu_shares : tuple of float
        How often, in the same order.
    single : tuple of two floats
        Mean and standard deviation of ln(duration in s) of its one-GPU jobs.
    multi : tuple of two floats
        The same of its larger jobs.
    burst_tail : float
        Tail exponent of the (Pareto) number of jobs of a burst; smaller is burstier.
    alike : float
        Correlation of ln(duration) between jobs of a burst.
    """

    name: str
    share: float
    gpus: tuple[int, ...]
    gpu_shares: tuple[float, ...]
    single: tuple[float, float]
    multi: tuple[float, float]
    burst_tail: float
    alike: float


PHILLY_TENANTS: tuple[TenantProfile, ...] = (
    TenantProfile(
        "6214e9",
        0.464,
        (1, 2, 4, 8),
        (0.9907, 0.0012, 0.0035, 0.0046),
        (7.05, 1.70),
        (7.86, 2.54),
        0.63,
        0.88,
    ),
    TenantProfile(
        "11cb48",
        0.181,
        (1, 2, 4, 8, 16),
        (0.9078, 0.0879, 0.0025, 0.0006, 0.0012),
        (4.78, 1.58),
        (3.31, 1.76),
        2.26,
        0.49,
    ),
    TenantProfile(
        "6c71a0",
        0.112,
        (1, 2, 4, 8, 16),
        (0.9097, 0.0037, 0.0398, 0.0457, 0.0011),
        (7.45, 1.86),
        (7.12, 2.56),
        1.02,
        0.81,
    ),
    TenantProfile(
        "b436b2",
        0.083,
        (1, 2, 4, 8, 16),
        (0.9788, 0.0004, 0.0091, 0.0051, 0.0066),
        (7.22, 0.75),
        (10.31, 2.93),
        0.60,
        0.61,
    ),
    TenantProfile(
        "ee9e8c",
        0.065,
        (1, 2, 4, 8, 16, 32, 64, 128),
        (0.4055, 0.0297, 0.1628, 0.3160, 0.0735, 0.0110, 0.0010, 0.0005),
        (8.08, 3.31),
        (8.98, 2.97),
        1.71,
        0.55,
    ),
    TenantProfile(
        "0e4a51",
        0.030,
        (1, 2, 4, 8),
        (0.6368, 0.1005, 0.2316, 0.0311),
        (7.48, 3.24),
        (10.43, 2.74),
        0.66,
        0.90,
    ),
    TenantProfile(
        "103959",
        0.022,
        (1, 2, 4),
        (0.8122, 0.0171, 0.1707),
        (6.58, 2.23),
        (10.80, 1.57),
        2.09,
        0.87,
    ),
    TenantProfile(
        "7f04ca",
        0.016,
        (1, 2, 4, 8, 16, 32),
        (0.3190, 0.0036, 0.3039, 0.3269, 0.0287, 0.0180),
        (8.80, 2.88),
        (8.92, 3.11),
        1.63,
        0.62,
    ),
    TenantProfile("ed69ec", 0.013, (1,), (1.0,), (8.59, 2.15), (8.59, 2.15), 0.94, 0.92),
    TenantProfile(
        "2869ce",
        0.011,
        (1, 2, 4, 8, 16, 32),
        (0.1356, 0.0223, 0.0304, 0.6994, 0.0030, 0.1093),
        (6.75, 2.51),
        (8.33, 2.85),
        1.91,
        0.73,
    ),
    TenantProfile(
        "e13805",
        0.004,
        (1, 2, 4, 8, 12, 16, 24, 32),
        (0.5726, 0.0081, 0.2742, 0.0968, 0.0188, 0.0108, 0.0108, 0.0081),
        (9.48, 2.22),
        (8.86, 1.97),
        3.53,
        0.43,
    ),
)
"""The virtual clusters of Philly with more than 300 jobs: see the module."""


@dataclass(frozen=True)
class ApplicationClass:
    """Which applications stand for jobs of a certain size.

    Parameters
    ----------
    below_gpu_hours : float
        Jobs of less GPU time, and of no smaller class, are of this one.
    applications : tuple of str
        Names of ``orchestrator.workloads.throughput.APPLICATIONS``, equally likely.
    """

    below_gpu_hours: float
    applications: tuple[str, ...]


POLLUX_MIX: tuple[ApplicationClass, ...] = (
    ApplicationClass(1.0, ("cifar10", "ncf")),
    ApplicationClass(10.0, ("bert", "deepspeech2")),
    ApplicationClass(100.0, ("yolov3",)),
    ApplicationClass(float("inf"), ("imagenet",)),
)
"""Applications by the GPU time of Philly's jobs, as the authors of Pollux made their workloads.

Qiao et al., OSDI 2021, section 5; ``simulator/workload.py`` of petuum/adaptdl, branch
osdi21-artifact. They drop jobs of less than a minute and of more than 1,000 GPU hours; here these
are of the smallest and of the largest class.
"""


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
            if not (text.isascii() and text.isdecimal()):
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
