"""Tenants' entitlements as the records that kernels work on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import ValidationError
from orchestrator.kernels.records import TENANT_DTYPE
from orchestrator.types import NodeSpec, TenantSpec

__all__ = ["check_quotas", "tenant_records"]

_MIB_PER_GIB = 1024


def check_quotas(tenants: Sequence[TenantSpec], nodes: Sequence[NodeSpec]) -> None:
    """Raise if tenants are entitled to more than a cluster has, or one is named twice.

    A cluster without nodes is one that is being built; it may yet have anything.

    Raises
    ------
    ValidationError
        Naming the tenant that goes beyond the capacity.
    """
    names = [tenant.name for tenant in tenants]
    for tenant in tenants:
        if names.count(tenant.name) > 1:
            me = f"TenantSpec '{tenant.name}'"
            raise ValidationError(me, "name", "is given twice", "describe every tenant once")
    gpus = sum(node.gpus for node in nodes)
    capacity = gpus or sum(node.cpu_cores for node in nodes)
    unit = "GPUs" if gpus else "CPU cores"
    total = 0.0
    for tenant in tenants if nodes else ():
        total += tenant.quota
        if total > capacity:
            problem = f"is {tenant.quota:g}: with those before it {total:g} of {capacity} {unit}"
            remedy = "lower quotas, or add nodes"
            raise ValidationError(f"TenantSpec '{tenant.name}'", "quota", problem, remedy)


def tenant_records(tenants: Sequence[TenantSpec]) -> NDArray[np.void]:
    """Entitlements as TENANT_DTYPE records, [len(tenants)], nothing used."""
    records = np.zeros(len(tenants), TENANT_DTYPE)
    for record, tenant in zip(records, tenants, strict=True):
        record["weight"] = tenant.weight
        record["quota_units"] = round(tenant.quota * 1000)
        record["storage_quota_mib"] = int((tenant.storage_quota_gb or 0.0) * _MIB_PER_GIB)
    return records
