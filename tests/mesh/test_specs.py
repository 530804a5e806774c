"""Specifications refuse what cannot be meant, and become records without loss."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.errors import ValidationError
from orchestrator.kernels.state.records import SERVICE_DTYPE
from orchestrator.mesh import BreakerSpec, LimitSpec, RetrySpec, ServiceSpec, service_records


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": ""}, "'name' is ''"),
        ({"replicas": 0}, "'replicas' is 0; it must be 1"),
        ({"replicas": 2.5}, "'replicas' is 2.5; give an integer"),
        ({"replicas": 9, "max_replicas": 8}, r"'replicas' is 9; it must be within \[1, 8\]"),
        ({"min_replicas": 2}, r"'replicas' is 1; it must be within \[2, 64\]"),
        ({"slots": 0}, "'slots' is 0"),
        ({"service_ms": 0.0}, "'service_ms' is 0.0; it must be greater than 0"),
        ({"service_ms": float("nan")}, "'service_ms' is nan; give a finite number"),
        ({"objective_ms": -1.0}, "'objective_ms' is -1.0"),
        ({"arrival_cv2": -0.5}, "'arrival_cv2' is -0.5; it must be at least 0"),
        ({"timeout_ms": float("inf")}, "'timeout_ms' is inf"),
        ({"queue_limit": True}, "'queue_limit' is True"),
        ({"percentile": 1.0}, "'percentile' is 1.0; it must be 0.001 to 0.9999"),
        ({"sick_per_hour": -1.0}, "'sick_per_hour' is -1.0"),
        ({"limit": 30.0}, "'limit' is 30.0; give a LimitSpec"),
    ],
)
def test_services(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ServiceSpec(**({"name": "s", "service_ms": 50.0} | changes))


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        (LimitSpec, {"rate_rps": -1.0}, "'rate_rps' is -1.0"),
        (LimitSpec, {"burst": 0.5}, "'burst' is 0.5; it must be at least 1"),
        (RetrySpec, {"attempts": 0}, "'attempts' is 0; it must be 1 to 64"),
        (RetrySpec, {"factor": 0.5}, "'factor' is 0.5"),
        (RetrySpec, {"jitter": 1.5}, "'jitter' is 1.5; it must be 0 to 1"),
        (RetrySpec, {"budget": -0.1}, "'budget' is -0.1"),
        (BreakerSpec, {"failures": -1}, "'failures' is -1"),
        (BreakerSpec, {"ratio": 2.0}, "'ratio' is 2.0"),
        (BreakerSpec, {"open_ms": 0}, "'open_ms' is 0"),
        (BreakerSpec, {"probes": 0}, "'probes' is 0"),
    ],
)
def test_rules(kind: Any, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        kind(**changes)


def test_records_hold_all_of_a_specification() -> None:
    spec = ServiceSpec(
        "s",
        40.0,
        slots=3,
        service_cv2=0.5,
        arrival_cv2=2.0,
        objective_ms=700.0,
        percentile=0.99,
        timeout_ms=900.0,
        queue_limit=70.0,
        limit=LimitSpec(30.0, 60.0),
        retry=RetrySpec(4, budget=0.3, floor_rps=0.5, reserve=7.0),
        breaker=BreakerSpec(6, 0.4, 2000, 30, 4000, 2),
        sick_per_hour=0.1,
        sick_seconds=90.0,
    )
    assert spec.capacity_rps(2) == 150.0
    records = service_records([spec, ServiceSpec("t", 10.0)], [5, 2])
    expected = {
        "service_ms": 40.0,
        "service_cv2": 0.5,
        "arrival_cv2": 2.0,
        "objective_ms": 700.0,
        "percentile": 0.99,
        "timeout_ms": 900.0,
        "queue_limit": 70.0,
        "limit_rps": 30.0,
        "limit_burst": 60.0,
        "retry_budget": 0.3,
        "retry_floor_rps": 0.5,
        "retry_reserve": 7.0,
        "breaker_ratio": 0.4,
        "sick_per_hour": 0.1,
        "sick_ms": 90_000,
        "breaker_window_ms": 2000,
        "breaker_open_ms": 4000,
        "breaker_failures": 6,
        "breaker_minimum": 30,
        "breaker_probes": 2,
        "attempts": 4,
        "slots": 3,
        "job": 5,
    }
    names = SERVICE_DTYPE.names or ()
    assert list(expected) == list(names[: names.index("tokens")])
    assert {name: records[name][0].item() for name in expected} == expected
    assert records["job"].tolist() == [5, 2]


@pytest.mark.parametrize("jobs", [[], [1, 1], [0, -1]])
def test_each_service_needs_a_job_of_its_own(jobs: list[int]) -> None:
    specs = [ServiceSpec("a", 1.0), ServiceSpec("b", 1.0)]
    with pytest.raises(ValidationError, match="'jobs'"):
        service_records(specs, jobs)
