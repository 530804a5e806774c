"""What specifications are as records: whatever fits exactly, fits."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.engine.records import (
    RecordMaker,
    check_quotas,
    never_fit,
    node_records,
    request_record,
    requested_ms,
    tenant_records,
)
from orchestrator.errors import ValidationError
from orchestrator.types import TenantSpec
from tests.engine.builders import job, node, stage

_PAIRS = (
    ("memory_per_worker_gb", "memory_gb", "memory_mib", "memory_cap_mib"),
    ("gpu_memory_gb", "gpu_memory_gb", "gpu_memory_mib", "gpu_memory_mib"),
    ("network_gbps", "network_bandwidth_gbps", "bandwidth_mbps", "bandwidth_mbps"),
)


@pytest.mark.parametrize(("asked", "offered", "ask", "capacity"), _PAIRS)
@given(
    total=st.floats(min_value=1e-4, max_value=4096.0),
    parts=st.integers(min_value=1, max_value=64),
)
def test_equal_parts_of_a_capacity_fit(
    asked: str, offered: str, ask: str, capacity: str, total: float, parts: int
) -> None:
    whole = node_records([node("n", **{offered: total})])[capacity][0]
    part = request_record(job("a", **{asked: total / parts}), 0, 0)[ask][0]
    assert part >= 1
    assert parts * part <= max(whole, parts)
    assert request_record(job("a", **{asked: total}), 0, 0)[ask][0] == whole


@pytest.mark.parametrize("parts", [1, 3, 6, 7, 9, 11, 13])
def test_equal_parts_of_cores_and_gpus_fit(parts: int) -> None:
    ask = request_record(job("a", gpu_fraction=1 / parts, cpus_per_worker=64 / parts), 0, 0)
    assert parts * ask["gpu_milli"][0] <= 1000
    assert parts * ask["cpu_milli"][0] <= 64_000
    assert parts * (ask["gpu_milli"][0] + 1) > 1000


@pytest.mark.parametrize(
    ("field", "value", "name", "stored"),
    [
        ("cpus_per_worker", 1.001, "cpu_milli", 1001),  # 1000.9999999999999
        ("cpus_per_worker", 0.29, "cpu_milli", 290),
        ("gpu_fraction", 0.57, "gpu_milli", 570),  # 569.9999999999999
        ("gpu_fraction", 1e-9, "gpu_milli", 1),
        ("memory_per_worker_gb", 1e-9, "memory_mib", 1),
        ("memory_per_worker_gb", 0.0, "memory_mib", 0),
        ("network_gbps", 0.0, "bandwidth_mbps", 0),
    ],
)
def test_what_is_meant_is_stored(field: str, value: float, name: str, stored: int) -> None:
    assert request_record(job("a", **{field: value}), 0, 0)[name][0] == stored


@pytest.mark.parametrize("value", [62.8, 125.7, 503.57, 15.9, 23.65, 79.647, 0.1, 1e-5])
async def test_a_job_of_a_nodes_size_runs(value: float) -> None:
    s = stage(node("n0", memory_gb=value, gpu_memory_gb=value))
    await s.orchestrator.submit_job(job("a", memory_per_worker_gb=value, gpu_memory_gb=value))
    await s.orchestrator.schedule()
    assert s.state_of("a") in ("running", "scheduled")


@pytest.mark.parametrize(("total", "parts"), [(62.8, 2), (125.6, 4), (100.1, 3)])
def test_parts_of_a_nodes_size_fit_together(total: float, parts: int) -> None:
    asks: Any = request_record(job("a", memory_per_worker_gb=total / parts), 0, 0)
    asks["workers"] = asks["min_workers"] = asks["max_workers"] = parts
    assert not never_fit(asks, [node("n0", gpus=parts, memory_gb=total)]).any()
    assert never_fit(asks, [node("n0", gpus=parts, memory_gb=total - 0.01)]).all()


def test_quotas_of_all_there_is_are_granted() -> None:
    tenants = [TenantSpec(f"t{n}", quota=4.2 / 3 + 0.0) for n in range(3)]
    check_quotas(tenants, [node("a", gpus=4), node("b", gpus=1)])
    check_quotas([TenantSpec(f"t{n}", quota=0.1) for n in range(10)], [node("a", gpus=1)])
    thirds = [TenantSpec(name, quota=2.1) for name in "abc"] + [TenantSpec("d", quota=0.7)]
    check_quotas(thirds, [node("a", gpus=7)])
    with pytest.raises(ValidationError, match="'quota'"):
        check_quotas([*thirds, TenantSpec("e", quota=0.001)], [node("a", gpus=7)])


def test_storage_of_a_whole_quota_is_granted() -> None:
    for size in (15.9, 23.65, 100.3):
        quota = tenant_records([TenantSpec("t", storage_quota_gb=size)])["storage_quota_mib"][0]
        assert request_record(job("a", checkpoint_gb=size), 0, 0)["storage_mib"][0] == quota


@pytest.mark.parametrize(
    "field", ["memory_gb", "gpu_memory_gb", "network_bandwidth_gbps", "cpu_cores", "rack"]
)
def test_nodes_too_large_to_be_stored_are_refused(field: str) -> None:
    value = 1 << 62 if field in ("cpu_cores", "rack") else 1e300
    with pytest.raises(ValidationError, match=f"NodeSpec 'n': field '{field}' is too large"):
        node_records([node("n", **{field: value})])
    assert np.all(node_records([node("n", rack=0)])["rack"] == 0)


@pytest.mark.parametrize("hours", [1e-12, 1e-7, 0.1, 1 / 3, 7.77, 100_000.0])
def test_how_long_a_job_may_run_is_what_its_record_says(hours: float) -> None:
    spec = job("a", max_duration_hours=hours)
    assert requested_ms(spec) == request_record(spec, 0, 0)["requested_ms"][0]


@given(
    asked=st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 9), st.sampled_from(["ask", "drop", "copy"])),
        max_size=40,
    )
)
def test_records_that_are_remembered_are_those_that_are_made(
    asked: list[tuple[int, int, str]],
) -> None:
    specs = [job(f"j{k}", num_workers=k + 1, gpu_models=("b",) * (k % 2)) for k in range(6)]
    maker = RecordMaker(most=3)
    for k, number, what in asked:
        if what == "drop":
            maker.drop(specs[k])
        elif what == "copy":
            specs, maker = deepcopy((specs, maker))
        models = ("a", "b")[number % 2 :]
        made = maker.record(specs[k], number, number, models)
        assert made.tobytes() == request_record(specs[k], number, number, models).tobytes()
        made["workers"] = 99  # of the caller's own


def test_a_specification_that_cannot_be_stored_is_refused_every_time() -> None:
    maker, spec = RecordMaker(), job("a", memory_per_worker_gb=1e300)
    for _ in range(2):
        with pytest.raises(ValidationError, match="'memory_per_worker_gb' is too large"):
            maker.record(spec, 0, 0)
    with pytest.raises(ValidationError, match="which no node has"):
        maker.record(job("b", gpu_models=("a",)), 0, 0, ("b",))
