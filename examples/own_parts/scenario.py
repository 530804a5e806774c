"""A scenario: nodes that fail often, and two tenants of unequal weight."""

from __future__ import annotations

from envs import FailureModel, Scenario
from envs.testing import check_scenario
from orchestrator import TenantSpec


def bad_week(faults: float = 2.0) -> Scenario:
    """So many faults per node and day; who has the larger weight is entitled to more."""
    failures = FailureModel(faults_per_node_day=faults, burst_share=0.0)
    tenants = (TenantSpec("ee9e8c", weight=3.0), TenantSpec("7f04ca", weight=1.0))
    return Scenario(failures=failures, failure_seed=1, tenants=tenants)


if __name__ == "__main__":
    check_scenario(bad_week)
    print("bad_week is a scenario")
