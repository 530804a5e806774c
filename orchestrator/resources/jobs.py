"""Job specifications as the records that kernels work on."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import ValidationError
from orchestrator.kernels.records import REQUEST_DTYPE
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


def request_record(
    spec: JobSpec, submit_ms: int, tenant: int, models: Sequence[str] = ()
) -> NDArray[np.void]:
    """A job specification as one REQUEST_DTYPE record, [1].

    Parameters
    ----------
    spec : JobSpec
        What the user asks for.
    submit_ms : int
        When.
    tenant : int
        Index of ``spec.tenant``.
    models : sequence of str
        GPU models of the cluster, in the order of their numbers.

    Raises
    ------
    ValidationError
        If a value is too large to be stored, or a GPU model is unknown.
    """
    record = np.zeros(1, REQUEST_DTYPE)
    milli = np.iinfo(np.int32).max
    steps = _whole(spec, "checkpoint_interval_steps", spec.checkpoint_interval_steps, _LONGEST_MS)
    interval_ms = steps * spec.step_seconds * 1000
    longest_ms = _true_hours(spec) * _MS_PER_HOUR
    deadline_ms = (spec.deadline_hours or 0.0) * _MS_PER_HOUR
    values: dict[str, tuple[str, float, int]] = {
        "requested_ms": ("max_duration_hours", spec.max_duration_hours * _MS_PER_HOUR, _LONGEST_MS),
        "duration_ms": ("duration_hours", longest_ms, _LONGEST_MS),
        "checkpoint_interval_ms": ("checkpoint_interval_steps", interval_ms, _LONGEST_MS),
        "checkpoint_ms": ("checkpoint_seconds", spec.checkpoint_seconds * 1000, _LONGEST_MS),
        "restart_ms": ("restart_seconds", spec.restart_seconds * 1000, _LONGEST_MS),
        "regroup_ms": ("regroup_seconds", spec.regroup_seconds * 1000, _LONGEST_MS),
        "deadline_ms": ("deadline_hours", deadline_ms, _LONGEST_MS),
        "storage_mib": ("checkpoint_gb", spec.checkpoint_gb * _MIB_PER_GIB, _LONGEST_MS),
        "gpu_memory_mib": ("gpu_memory_gb", spec.gpu_memory_gb * _MIB_PER_GIB, milli),
        "bandwidth_mbps": ("network_gbps", spec.network_gbps * 1000, milli),
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
    record["topology"] = spec.topology
    record["kind"] = spec.kind
    record["model_mask"] = _model_mask(spec, models)
    return record


def _model_mask(spec: JobSpec, models: Sequence[str]) -> int:
    mask = 0
    for name in spec.gpu_models:
        if name not in models:
            known = ", ".join(models) or "none yet"
            problem, remedy = f"name '{name}', which no node has", f"known models: {known}"
            raise ValidationError(f"JobSpec '{spec.job_id}'", "gpu_models", problem, remedy)
        mask |= 1 << models.index(name)
    return mask


def _whole(spec: JobSpec, field: str, value: float, limit: int) -> int:
    """Round a value, in the unit in which it is stored, to an integer that is not too large."""
    if not value <= limit:  # an overflow to infinity is not
        raise ValidationError(
            f"JobSpec '{spec.job_id}'", field, "is too large to be stored", "give a smaller value"
        )
    return round(value)
