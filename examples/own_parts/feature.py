"""A feature of queued jobs: how much of its tenant's work waits beside each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from envs import RowsView
from envs.testing import check_feature


class TenantsCrowd:
    """Share of the jobs shown that are of the same tenant, [B, Q]."""

    of = "queue"
    name = "tenants_crowd"

    def __call__(self, view: RowsView) -> NDArray[np.float64]:
        """Compare every job of the window with every other one."""
        rows = np.arange(len(view.now_ms))[:, np.newaxis]
        tenant = np.where(view.queue >= 0, view.request["tenant"][rows, view.queue], -1)
        same = (tenant[:, :, np.newaxis] == tenant[:, np.newaxis]) & (tenant >= 0)[:, np.newaxis]
        return same.sum(axis=2) / np.maximum((tenant >= 0).sum(axis=1), 1)[:, np.newaxis]


if __name__ == "__main__":
    check_feature(TenantsCrowd)
    print("TenantsCrowd is a feature")
