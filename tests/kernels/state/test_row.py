"""The groups of a row, and that an episode begins afresh whatever was there before."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.state.codes import NodeCode
from orchestrator.kernels.state.records import JOB_DTYPE, NODE_DTYPE, REQUEST_DTYPE, TABLES
from orchestrator.kernels.state.row import (
    CAPACITIES,
    GROUPS,
    MEMO_FIELDS,
    ROW_DTYPE,
    RUN_GROUPS,
    ClusterShape,
    ClusterState,
    allocate,
)

_RUN = [name for group in RUN_GROUPS for name in GROUPS[group]]
_NODES, _JOBS = 3, 4


def _begin(state: ClusterState) -> None:
    nodes = np.zeros(_NODES, NODE_DTYPE)
    nodes["gpus"], nodes["cpu_cap_milli"], nodes["price_milli"] = 2, 8000, 5
    nodes["state"] = NodeCode.UP
    requests = np.zeros(_JOBS, REQUEST_DTYPE)
    requests["submit_ms"], requests["workers"] = 7000, 1
    requests["gpus_per_worker"], requests["gpu_milli"] = 1, 1000
    entry.begin_episode(state.rows, 0, 3, nodes, requests)


def _fill(records: NDArray[np.void], names: list[str]) -> None:
    for k, name in enumerate(names):
        records[name] = 1 + k % 250


def test_every_field_is_in_one_group_in_the_order_of_memory() -> None:
    assert [name for fields in GROUPS.values() for name in fields] == list(ROW_DTYPE.names or ())
    assert set(RUN_GROUPS) < set(GROUPS)
    assert list(GROUPS)[-2:] == ["stamp", "memo"]
    assert GROUPS["memo"] == MEMO_FIELDS
    assert GROUPS["addresses"] == tuple(f"{name}_at" for name in TABLES)
    groups = list(GROUPS)
    run = groups.index(RUN_GROUPS[0])
    assert tuple(groups[run:-2]) == RUN_GROUPS


def test_an_episode_begins_afresh() -> None:
    """A counter that is added later cannot be forgotten."""
    shape = ClusterShape(envs=1, jobs=_JOBS, nodes=_NODES, devices=2)
    fresh, used = allocate(shape), allocate(shape)
    _fill(used.rows, [*_RUN, *MEMO_FIELDS])
    _fill(used.job, list(JOB_DTYPE.names or ()))
    kept = {name: used.rows[name].copy() for name in ROW_DTYPE.names if name not in _RUN}
    _begin(fresh)
    _begin(used)
    for name in _RUN:
        assert used.rows[0][name] == fresh.rows[0][name], name
    for name in JOB_DTYPE.names or ():
        np.testing.assert_array_equal(used.job[name], fresh.job[name], name)
    for name in set(kept) - {*MEMO_FIELDS, *GROUPS["stamp"]}:
        assert used.rows[name] == kept[name], name


def test_tables_are_as_large_as_rows_say() -> None:
    state = allocate(ClusterShape(envs=2, jobs=5, workers=3, nodes=4, devices=2, log=6, kinds=8))
    for name, (dtype, axes) in TABLES.items():
        table = getattr(state, name)
        assert table.dtype == dtype
        assert list(state.rows[f"{name}_at"] - table.ctypes.data) == [0, table[0].nbytes]
        for extent, axis in zip(table.shape[1:], axes, strict=True):
            if axis in CAPACITIES:
                assert extent == max(int(state.rows[0][CAPACITIES[axis]]), 1)
            elif isinstance(axis, int):
                assert extent == axis
