"""What tenants hold: exact counts, kept by whoever reserves and releases.

A row without tenants (``num_tenants`` is 0) keeps no accounts.
"""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.jit import kernel, small_kernel
from orchestrator.kernels.tables import request, tenant

__all__ = [
    "charge_service",
    "charge_worker",
    "free_storage",
    "hold_storage",
    "recount_tenants",
]


@small_kernel
def _has_account(row, j):
    return request(row, j).tenant < row.num_tenants


@small_kernel
def charge_worker(row, j, units, sign):
    """A worker of job ``j`` was reserved (``sign`` 1) or released (-1)."""
    if _has_account(row, j):
        ask = request(row, j)
        t = ask.tenant
        gpus = np.int64(ask.gpus_per_worker) * ask.gpu_milli
        tenant(row, t).used_units += sign * units
        tenant(row, t).used_gpu_milli += sign * gpus
        tenant(row, t).used_cpu_milli += sign * np.int64(ask.cpu_milli)
        tenant(row, t).used_memory_mib += sign * ask.memory_mib


@small_kernel
def charge_service(row, j, unit_ms):
    """Job ``j`` has held capacity for a time."""
    if _has_account(row, j):
        tenant(row, request(row, j).tenant).attained_unit_ms += unit_ms


@small_kernel
def hold_storage(row, j):
    """From its first start on, a job's checkpoints take their tenant's storage."""
    if _has_account(row, j):
        tenant(row, request(row, j).tenant).storage_mib += request(row, j).storage_mib


@small_kernel
def free_storage(row, j):
    """A job that had started has ended: its checkpoints are deleted."""
    if _has_account(row, j):
        tenant(row, request(row, j).tenant).storage_mib -= request(row, j).storage_mib


@kernel
def recount_tenants(row):
    """What tenants hold, in capacity units, anew: the unit may have changed."""
    for t in range(row.num_tenants):
        by_gpu = row.unit != 0
        tenant(row, t).used_units = (
            tenant(row, t).used_gpu_milli if by_gpu else tenant(row, t).used_cpu_milli
        )
