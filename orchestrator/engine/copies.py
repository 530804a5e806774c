"""Copies of cluster state: rows hold addresses of their tables, so a copy's have to be set anew.

Importing this module teaches :mod:`copy` and :mod:`pickle` how a :class:`ClusterState` is copied.
"""

from __future__ import annotations

import copyreg
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import ConfigurationError
from orchestrator.kernels.state.records import TABLES
from orchestrator.kernels.state.row import GROUPS, ClusterShape, ClusterState, allocate

__all__ = ["copy_state", "restore_state"]

# Where a row's tables are and how large is settled where its memory is asked for.
_OWN = {*GROUPS["addresses"], *GROUPS["capacities"]}


def copy_state(state: ClusterState) -> ClusterState:
    """A state in memory of its own, row for row and table for table as it is.

    Rows with services go on reading the series that the original's read: whoever copies them keeps
    that alive, or sets ``series_at`` and ``forecast_at`` anew.

    Parameters
    ----------
    state : ClusterState
    """
    return restore_state(state.shape, state.rows, _tables(state))


def restore_state(
    shape: ClusterShape, rows: NDArray[np.void], tables: Mapping[str, NDArray[Any]]
) -> ClusterState:
    """Put rows and tables of a state of some shape into memory of their own.

    Parameters
    ----------
    shape : ClusterShape
    rows : ROW_DTYPE [envs]
        What they say of addresses is not used, but for those of series.
    tables : mapping of str to ndarray
        By the names of ``records.TABLES``.
    """
    state = allocate(shape)
    for name in state.rows.dtype.names or ():
        if name not in _OWN:
            state.rows[name] = rows[name]
    for name, table in tables.items():
        getattr(state, name)[...] = table
    return state


def _tables(state: ClusterState) -> dict[str, NDArray[Any]]:
    return {name: getattr(state, name) for name in TABLES}


def _reduce(state: ClusterState) -> tuple[Any, ...]:
    """How a state that stands alone is copied and pickled."""
    if state.rows["series_at"].any() or state.rows["forecast_at"].any():
        raise ConfigurationError(
            "ClusterState: 'series_at' of its rows is the address of a series that the state does "
            "not own; copy or pickle the Session or the environment that it belongs to"
        )
    return restore_state, (state.shape, state.rows, _tables(state))


copyreg.pickle(ClusterState, _reduce)
