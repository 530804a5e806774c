"""Job specifications as the records that kernels work on."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import ValidationError
from orchestrator.kernels.codes import Topology
from orchestrator.kernels.state import REQUEST_DTYPE
from orchestrator.types import JobSpec

__all__ = ["duration_ms", "request_record"]

_MS_PER_HOUR = 3_600_000
_MIB_PER_GIB = 1024
_LONGEST_MS = 2**53  # beyond, a float does not hold whole milliseconds


def duration_ms(spec: JobSpec) -> int:
    """True run time of a job, as far as anybody knows; at least 1 ms."""
    return max(1, round(_true_hours(spec) * _MS_PER_HOUR))


def _true_hours(spec: JobSpec) -> float:
    return spec.max_duration_hours if spec.duration_hours is None else spec.duration_hours


def request_record(spec: JobSpec, submit_ms: int, tenant: int) -> NDArray[np.void]:
    """A job specification as one REQUEST_DTYPE record, [1].

    Parameters
    ----------
    spec : JobSpec
        What the user asks for.
    submit_ms : int
        When.
    tenant : int
        Index of ``spec.tenant``.

    Raises
    ------
    ValidationError
        If a value is too large to be stored.
    """
    record = np.zeros(1, REQUEST_DTYPE)
    milli = np.iinfo(np.int32).max
    steps = _whole(spec, "checkpoint_interval_steps", spec.checkpoint_interval_steps, _LONGEST_MS)
    interval_ms = steps * spec.step_seconds * 1000
    longest_ms = _true_hours(spec) * _MS_PER_HOUR
    values: dict[str, tuple[str, float, int]] = {
        "requested_ms": ("max_duration_hours", spec.max_duration_hours * _MS_PER_HOUR, _LONGEST_MS),
        "duration_ms": ("duration_hours", longest_ms, _LONGEST_MS),
        "checkpoint_interval_ms": ("checkpoint_interval_steps", interval_ms, _LONGEST_MS),
        "checkpoint_ms": ("checkpoint_seconds", spec.checkpoint_seconds * 1000, _LONGEST_MS),
        "restart_ms": ("restart_seconds", spec.restart_seconds * 1000, _LONGEST_MS),
        "cpu_milli": ("cpus_per_worker", spec.cpus_per_worker * 1000, milli),
        "workers": ("num_workers", spec.num_workers, milli),
        "min_workers": ("min_workers", spec.min_workers, milli),
        "max_workers": ("max_workers", spec.max_workers, milli),
        "gpus_per_worker": ("gpus_per_worker", spec.gpus_per_worker, milli),
    }
    for name, (field, value, limit) in values.items():
        record[name] = _whole(spec, field, value, limit)
    # Rounding never makes something out of nothing, nor nothing out of something.
    memory_mib = spec.memory_per_worker_gb * _MIB_PER_GIB
    _whole(spec, "memory_per_worker_gb", memory_mib, _LONGEST_MS)
    record["memory_mib"] = math.ceil(memory_mib)
    least = {"requested_ms": 1, "duration_ms": 1, "checkpoint_interval_ms": min(steps, 1)}
    for name, value in least.items():
        record[name] = np.maximum(record[name], value)
    record["gpu_milli"] = max(1, round(spec.gpu_fraction * 1000))
    record["submit_ms"] = submit_ms
    record["tenant"] = tenant
    record["priority"] = spec.priority.value
    record["preemptible"] = spec.preemptible
    record["elastic"] = spec.elastic
    record["gang"] = spec.gang_schedule
    # Where workers are close, placement likes them better; it never has to be.
    record["topology"] = Topology.ANY
    return record


def _whole(spec: JobSpec, field: str, value: float, limit: int) -> int:
    """Round a value, in the unit in which it is stored, to an integer that is not too large."""
    if not value <= limit:  # an overflow to infinity is not
        raise ValidationError(
            f"JobSpec '{spec.job_id}'", field, "is too large to be stored", "give a smaller value"
        )
    return round(value)
