from __future__ import annotations

from pathlib import Path

import pytest

from envs.workloads import (
    WORKLOADS,
    GpuClusterParameters,
    LublinParameters,
    gpu_cluster,
    load_workload,
    lublin_feitelson,
)
from orchestrator.errors import ConfigurationError, TraceError


def test_generators_by_name() -> None:
    assert load_workload("lublin", jobs=50, seed=1) == lublin_feitelson(50, 1)
    assert load_workload("gpu_cluster", jobs=50, seed=1, nodes=4) == gpu_cluster(50, 1, nodes=4)


def test_tables_by_name(tmp_path: Path) -> None:
    trace = gpu_cluster(20, 0)
    trace.write_table(tmp_path / "t.csv")
    assert load_workload("table", path=tmp_path / "t.csv") == trace


def test_parameters_may_be_a_mapping() -> None:
    lublin = load_workload("lublin", jobs=50, seed=1, parameters={"serial": 0.9})
    assert lublin == lublin_feitelson(50, 1, parameters=LublinParameters(serial=0.9))
    shares = {"priority_shares": [0, 0, 1, 0]}
    cluster = load_workload("gpu_cluster", jobs=50, seed=1, parameters=shares)
    expected = GpuClusterParameters(priority_shares=(0, 0, 1, 0))
    assert cluster == gpu_cluster(50, 1, parameters=expected)


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="'lubin'") as caught:
        load_workload("lubin")
    for kind in WORKLOADS:
        assert kind in str(caught.value)
    with pytest.raises(ConfigurationError, match=r"unknown option 'job'.*'jobs'"):
        load_workload("lublin", job=5, seed=1)
    with pytest.raises(ConfigurationError, match="option 'seed' is missing"):
        load_workload("lublin", jobs=5)
    with pytest.raises(ConfigurationError, match=r"unknown option 'serail'.*'serial'"):
        load_workload("lublin", jobs=5, seed=1, parameters={"serail": 0.1})


@pytest.mark.parametrize("kind", ["swf", "philly", "tiresias", "openb", "table"])
def test_readers_name_the_absent_file(kind: str, tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no such file"):
        load_workload(kind, path=tmp_path / "absent.csv")
