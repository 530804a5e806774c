"""The Gittins index of attained service, from service times that were seen."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from orchestrator.errors import ValidationError
from orchestrator.kernels.state.records import GITTINS_DTYPE, GITTINS_ENTRIES

__all__ = ["gittins_index", "gittins_table", "job_services"]


def job_services(requests: NDArray[np.void]) -> tuple[float, ...]:
    """Service that each of a trace's jobs needs at the size it asks for.

    Parameters
    ----------
    requests : REQUEST_DTYPE [n]

    Returns
    -------
    tuple of float
        GPU-seconds; core-seconds if none of the jobs asks for a GPU.
    """
    fields = ("workers", "gpus_per_worker", "gpu_milli", "cpu_milli", "duration_ms")
    workers, gpus, milli, cores, duration_ms = (requests[f].astype(np.float64) for f in fields)
    each = gpus * milli
    units = workers * (each if each.any() else cores)
    return tuple((units * np.maximum(duration_ms, 1) / 1e6).tolist())


def gittins_index(services: ArrayLike, attained: float) -> float:
    """Gittins index of a job that has had ``attained`` service and is not done.

    The largest, over d > 0, of P(S - a <= d | S > a) / E[min(S - a, d) | S > a], S being drawn from
    the services seen (Gittins 1989; Gu et al., "Tiresias", NSDI 2019, section 3.1). The chance of
    finishing within d per unit of service spent on it; its maximum is at a service that was seen.

    Parameters
    ----------
    services : array of float, shape [n]
        Total service of finished jobs.
    attained : float
        a.

    Returns
    -------
    float
        0 if no job seen needed more than that.
    """
    values = np.sort(np.asarray(services, np.float64))
    left = values[np.searchsorted(values, attained, side="right") :] - attained
    if len(left) == 0:
        return 0.0
    done = np.arange(1, len(left) + 1)
    # Of d = left[i]: i + 1 jobs finish and have cost what they needed, the others cost d each.
    spent = np.cumsum(left) + left * (len(left) - done)
    return float(np.max(done / spent))


def gittins_table(services: ArrayLike, entries: int = GITTINS_ENTRIES) -> NDArray[np.void]:
    """The index as a step function, for ``load_gittins`` of the kernels.

    Parameters
    ----------
    services : array of float, shape [n]
        Total service of finished jobs, GPU-seconds (core-seconds where there are no GPUs).
    entries : int, optional
        Steps, at least 2 and at most ``GITTINS_ENTRIES``: one at 0, the others at quantiles of the
        services.

    Returns
    -------
    ndarray of GITTINS_DTYPE
        By attained service.

    Raises
    ------
    ValidationError
        If there are no services, or some are not positive.
    """
    values = np.asarray(services, np.float64)
    if len(values) == 0 or not np.all(values > 0):
        problem = "is empty or holds values that are not positive"
        raise ValidationError("Gittins index", "services", problem, "give services of past jobs")
    if not 2 <= entries <= GITTINS_ENTRIES:
        problem, remedy = f"is {entries}", f"give 2 to {GITTINS_ENTRIES}"
        raise ValidationError("Gittins index", "entries", problem, remedy)
    chances = np.linspace(0.0, 1.0, entries - 1)
    starts = np.unique(np.concatenate(([0.0], np.quantile(values, chances, method="lower"))))
    table = np.zeros(len(starts), GITTINS_DTYPE)
    table["service"] = starts
    table["index"] = [gittins_index(values, start) for start in starts]
    return table
