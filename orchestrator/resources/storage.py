"""StorageQuotaManager: what tenants' checkpoints take, and what they may take."""

from __future__ import annotations

from orchestrator.errors import UnknownEntityError
from orchestrator.resources.usage import ResourceView, Usage

__all__ = ["StorageQuotaManager"]

_UNIT = "MiB"


class StorageQuotaManager(ResourceView):
    """Storage of tenants' checkpoints.

    A job's checkpoint counts from its first start until its end. A job that would go beyond its
    tenant's quota is not started (``Reason.STORAGE``): the kernels see to it, this only tells.
    """

    def tenant(self, tenant: int) -> Usage:
        """Storage of a tenant; where there is no limit, its capacity is what it uses.

        Raises
        ------
        UnknownEntityError
            If there is no such account.
        """
        record = self._account(tenant)
        used, quota = int(record["storage_mib"]), int(record["storage_quota_mib"])
        return Usage(max(quota, used), max(quota - used, 0), _UNIT)

    def is_limited(self, tenant: int) -> bool:
        """Whether a tenant has a quota."""
        return self._account(tenant)["storage_quota_mib"] > 0

    def admits(self, tenant: int, size_mib: int) -> bool:
        """Whether a job with checkpoints of such a size may start."""
        return not self.is_limited(tenant) or size_mib <= self.tenant(tenant).free

    def total(self) -> int:
        """Storage that all checkpoints take, MiB."""
        return sum(int(self._account(k)["storage_mib"]) for k in range(self.tenants))

    @property
    def tenants(self) -> int:
        """Accounts."""
        return int(self._state.rows[self._row]["num_tenants"])

    def _account(self, tenant: int) -> dict[str, int]:
        if not 0 <= tenant < self.tenants:
            raise UnknownEntityError(f"no tenant {tenant}; there are {self.tenants} accounts")
        record = self._state.tenant[self._row, tenant]
        return {name: int(record[name]) for name in ("storage_mib", "storage_quota_mib")}
