"""Specifications refuse what is of the wrong type, and take numbers out of arrays and tables."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from orchestrator.errors import ValidationError
from orchestrator.kernels.state.codes import JobKind, Topology
from orchestrator.types import TenantSpec
from tests.engine.builders import job, node


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("preemptible", "false"),
        ("preemptible", 1),
        ("elastic", "no"),
        ("gang_schedule", None),
        ("topology_aware", np.int64(1)),
        ("topology", 99),
        ("topology", -1),
        ("topology", "rack"),
        ("topology", True),
        ("topology", 2.0),
        ("kind", 9),
        ("kind", None),
        ("priority", 2),
        ("job_id", 7),
        ("job_id", ""),
        ("job_id", "\ud800"),
        ("name", "half a pair: \udfff"),
        ("tenant", "\ud83d"),
        ("gpu_models", ("A100", "\ud800")),
        ("name", None),
        ("tenant", 3),
        ("gpu_models", "A100"),
        ("gpu_models", ("A100", None)),
        ("gpu_models", None),
        ("num_workers", 2.0),
        ("num_workers", True),
        ("num_workers", np.float64(2)),
        ("num_workers", np.bool_(True)),
        ("num_workers", np.int64(0)),
        ("memory_per_worker_gb", "1"),
        ("memory_per_worker_gb", np.float32("nan")),
        ("memory_per_worker_gb", np.float64("inf")),
        ("max_duration_hours", None),
        ("step_seconds", np.True_),
        ("duration_hours", "1"),
        ("deadline_hours", float("nan")),
        ("gpu_fraction", 1.5),
        ("network_gbps", np.array([1.0, 2.0])),
        ("command", "python train.py"),
        ("command", ("",)),
        ("command", ("python", 3)),
        ("command", ("python", "a\0b")),
        ("command", None),
        ("working_dir", 3),
        ("working_dir", "a\0"),
        ("environment", "A=1"),
        ("environment", {"A": 1}),
        ("environment", {"A=B": "1"}),
        ("environment", {"": "1"}),
        ("environment", (("A", "1"), ("A", "2"))),
        ("environment", (("A",),)),
    ],
)
def test_jobs_of_wrong_types_are_refused(field: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=f"JobSpec '.*': field '{field}'"):
        job(**({"job_id": "a"} | {field: value}))


def test_commands_and_environments_become_tuples() -> None:
    spec = job("a", command=["python", "-c", ""], environment={"B": "2", "A": ""})
    assert spec.command == ("python", "-c", "")
    assert spec.environment == (("A", ""), ("B", "2"))
    assert hash(spec) == hash(job("a", command=("python", "-c", ""), environment=spec.environment))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("available", "yes"),
        ("available", None),
        ("gpu_topology", 4),
        ("gpu_model", None),
        ("node_id", 1),
        ("gpus", 4.0),
        ("gpus", np.int64(65)),
        ("cpu_cores", np.float64(8)),
        ("memory_gb", np.float32("inf")),
        ("rack", "r1"),
    ],
)
def test_nodes_of_wrong_types_are_refused(field: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=f"NodeSpec '.*': field '{field}'"):
        node(**({"node_id": "n"} | {field: value}))


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"name": 1}, "name"),
        ({"weight": "2"}, "weight"),
        ({"quota": float("nan")}, "quota"),
        ({"storage_quota_gb": True}, "storage_quota_gb"),
    ],
)
def test_tenants_of_wrong_types_are_refused(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError, match=f"field '{field}'"):
        TenantSpec(**({"name": "t"} | fields))


def test_numbers_of_numpy_become_plain_ones() -> None:
    spec = job(
        "a",
        name=np.str_("b"),
        num_workers=np.int64(2),
        gpus_per_worker=np.uint8(1),
        memory_per_worker_gb=np.float32(1.5),
        max_duration_hours=np.int32(3),
        duration_hours=np.float64(2.5),
        preemptible=np.True_,
        topology=np.uint8(2),
        kind=1,
        gpu_models=["A100"],
    )
    assert (spec.num_workers, spec.memory_per_worker_gb, spec.duration_hours) == (2, 1.5, 2.5)
    assert spec.topology is Topology.RACK
    assert spec.kind is JobKind.BATCH
    assert spec.gpu_models == ("A100",)
    fields = dataclasses.asdict(spec) | {"priority": None}
    assert json.loads(json.dumps(fields))["preemptible"] is True
    assert {type(value).__module__ for value in fields.values()} <= {
        "builtins",
        "orchestrator.kernels.state.codes",
    }
    machine = node("n", gpus=np.int16(4), memory_gb=np.float32(0.5), available=np.False_)
    assert (type(machine.gpus), machine.memory_gb, machine.available) == (int, 0.5, False)
    assert type(TenantSpec("t", quota=np.float32(2.0)).quota) is float
