from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from envs.workloads import Trace, processor_pool, unplaceable
from envs.workloads.table import COLUMNS, blank_requests
from orchestrator.errors import ValidationError
from orchestrator.kernels.state.records import REQUEST_DTYPE
from orchestrator.types import NodeSpec


def requests(count: int = 3, **fields: object) -> np.ndarray:
    array = blank_requests(count)
    array["submit_ms"] = np.arange(count) * 1000
    array["duration_ms"] = array["requested_ms"] = 5000
    array["cpu_milli"] = 1000
    for name, value in fields.items():
        array[name] = value
    return array


def node(name: str, gpus: int = 8, cores: int = 96, memory: float = 512.0) -> NodeSpec:
    return NodeSpec(name, gpus, 80.0, cores, memory, 100.0, "NVLink")


def test_columns_are_the_fields_of_a_request() -> None:
    assert tuple(c.name for c in COLUMNS) == REQUEST_DTYPE.names


def test_jobs_are_sorted_stably_and_frozen() -> None:
    array = requests(4)
    array["submit_ms"] = [5, 0, 5, 0]
    trace = Trace("t", array)
    assert trace.requests["source_id"].tolist() == [1, 3, 0, 2]
    with pytest.raises(ValueError, match="read-only"):
        trace.requests["submit_ms"][0] = 1
    array["submit_ms"][:] = 99  # the trace keeps a copy
    assert trace.requests["submit_ms"].tolist() == [0, 0, 5, 5]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("submit_ms", -1),
        ("duration_ms", 0),
        ("requested_ms", 0),
        ("workers", 0),
        ("gpu_milli", 0),
        ("gpu_milli", 1001),
        ("gpus_per_worker", 65),
        ("tenant", 1),
        ("priority", 4),
        ("preemptible", 2),
        ("topology", 5),
        ("user", -2),
    ],
)
def test_values_out_of_bounds_name_job_and_field(field: str, value: int) -> None:
    array = requests()
    array[field][1] = value
    with pytest.raises(ValidationError, match=f"job 1.*'{field}'.*{value}"):
        Trace("t", array)


def test_elastic_bounds_and_empty_demands_are_refused() -> None:
    with pytest.raises(ValidationError, match="min_workers"):
        Trace("t", requests(elastic=1, min_workers=2))
    with pytest.raises(ValidationError, match="max_workers"):
        Trace("t", requests(elastic=1, workers=3))
    Trace("t", requests(elastic=0, min_workers=2))  # bounds of a rigid job mean nothing
    with pytest.raises(ValidationError, match="asks for nothing"):
        Trace("t", requests(cpu_milli=0))


def test_bad_names_nodes_and_arrays_are_refused() -> None:
    with pytest.raises(ValidationError, match="no jobs"):
        Trace("t", blank_requests(0))
    with pytest.raises(ValidationError, match="REQUEST_DTYPE"):
        Trace("t", np.zeros(3))
    with pytest.raises(ValidationError, match="'name'"):
        Trace("a\nb", requests())
    with pytest.raises(ValidationError, match="printable name"):
        Trace("t", requests(), ("",))
    with pytest.raises(ValidationError, match="twice"):
        Trace("t", requests(), ("a", "a"))
    with pytest.raises(ValidationError, match="twice"):
        Trace("t", requests(), nodes=(node("a"), node("a")))


def test_offered_load_is_work_over_capacity_and_span() -> None:
    trace = Trace("t", requests(3), nodes=(processor_pool(10),))
    assert trace.span_ms == 2000
    assert trace.offered_load() == pytest.approx(3 * 1 * 5000 / (10 * 2000))
    assert trace.offered_load(5) == pytest.approx(1.5)
    gpus = requests(3, gpus_per_worker=4, workers=2, gpu_milli=500)
    assert Trace("t", gpus, nodes=(node("a"),)).offered_load() == pytest.approx(
        3 * 4 * 5000 / (8 * 2000)
    )
    assert np.isnan(Trace("t", requests(1), nodes=(processor_pool(10),)).offered_load())
    assert np.isnan(Trace("t", requests(3)).offered_load())


def test_a_load_is_offered_by_gaps_that_are_stretched_alike() -> None:
    trace = Trace("t", requests(30), nodes=(processor_pool(10),))
    faster = trace.at_load(0.8 * trace.offered_load())
    assert faster.offered_load() == pytest.approx(0.8 * trace.offered_load(), rel=1e-3)
    before, after = trace.requests["submit_ms"], faster.requests["submit_ms"]
    assert after[0] == before[0]
    assert np.allclose(np.diff(after), np.diff(before) / 0.8, atol=1.0)
    assert np.array_equal(faster.requests["duration_ms"], trace.requests["duration_ms"])
    with pytest.raises(ValidationError, match="load of nan"):
        Trace("t", requests(1), nodes=(processor_pool(10),)).at_load(0.9)


def test_window_keeps_or_shifts_the_clock() -> None:
    trace = Trace("t", requests(10))
    assert trace.window(4, 3).requests["submit_ms"].tolist() == [4000, 5000, 6000]
    assert trace.window(4, 3, rebase=True).requests["submit_ms"].tolist() == [0, 1000, 2000]
    for start, length in ((-1, 2), (9, 2), (0, 0)):
        with pytest.raises(ValidationError, match="window"):
            trace.window(start, length)


def test_equality_looks_at_every_part() -> None:
    trace = Trace("t", requests())
    assert trace == Trace("t", requests())
    assert trace != Trace("u", requests())
    assert trace != Trace("t", requests(), ("x",))
    assert trace != Trace("t", requests(user=1))
    assert trace != "t"


def _slow_room(request: np.void, nodes: tuple[NodeSpec, ...]) -> int:
    """Workers that fit, counted by placing one after the other."""
    room = 0
    for spec in nodes:
        shares = [1000] * spec.gpus
        held = [int(spec.gpu_memory_gb * 1024)] * spec.gpus
        cpu, memory = spec.cpu_cores * 1000, int(spec.memory_gb * 1024)
        while room < 40:
            need = int(request["gpus_per_worker"])
            usable = [
                i
                for i, free in enumerate(shares)
                if free >= request["gpu_milli"] and held[i] >= request["gpu_memory_mib"]
            ]
            if len(usable) < need or cpu < request["cpu_milli"] or memory < request["memory_mib"]:
                break
            for i in sorted(usable, key=lambda i: -shares[i])[:need]:
                shares[i] -= int(request["gpu_milli"])
                held[i] -= int(request["gpu_memory_mib"])
            cpu -= int(request["cpu_milli"])
            memory -= int(request["memory_mib"])
            room += 1
    return room


def test_unplaceable_agrees_with_placing_one_worker_after_the_other() -> None:
    rng = np.random.default_rng(0)
    array = requests(400)
    array["gpus_per_worker"] = rng.integers(0, 10, 400)
    array["gpu_milli"] = rng.choice([1000, 500, 300], 400)
    array["gpu_memory_mib"] = rng.choice([0, 30 * 1024, 80 * 1024, 80 * 1024 + 1], 400)
    array["cpu_milli"] = rng.integers(1, 30_000, 400)
    array["memory_mib"] = rng.integers(0, 300 * 1024, 400)
    array["workers"] = rng.integers(1, 12, 400)
    nodes = (node("a"), node("b"), node("c", gpus=2, cores=10, memory=64.0), node("d", gpus=0))
    slow = np.array([_slow_room(row, nodes) < row["workers"] for row in array])
    assert 0 < slow.sum() < 400
    np.testing.assert_array_equal(unplaceable(array, nodes), slow)


def test_what_changes_the_game_changes_the_digest_of_the_content() -> None:
    nodes = (node("a"), node("b"))
    trace = Trace("t", requests(), ("x", "y"), nodes)
    whole = Trace("other", requests(), ("x", "y"), tuple(replace(n, memory_gb=512) for n in nodes))
    assert whole.content_digest == trace.content_digest
    changed = [replace(trace, requests=requests(elastic=1, max_workers=2))]
    changed += [
        replace(trace, requests=requests(**{n: 1})) for n in ("tenant", "curve", "topology")
    ]
    changed += [replace(trace, nodes=(nodes[0], replace(nodes[1], rack=1)))]
    assert {other.digest for other in changed} == {trace.digest}
    assert len({other.content_digest for other in (trace, *changed)}) == 1 + len(changed)


def test_importing_workloads_loads_no_data_frames() -> None:
    code = (
        "import sys, envs.workloads;"
        "print([m for m in ('pandas', 'pyarrow', 'torch') if m in sys.modules])"
    )
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True
    )
    assert done.stdout.strip() == "[]"
