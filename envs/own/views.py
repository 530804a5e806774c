"""What one's own reward terms and features are told of a batch of rows: arrays, not copies.

A term may know everything, as rewards may; a feature sees what a policy may know. What is hidden
from it is left out of the records: true run times and what follows from them, and how many failures
are to come. Jobs that are still to come stand in the tables as well: whoever looks at them cheats,
and :func:`envs.testing.check_feature` finds it out.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.run.buffers import Buffers
from orchestrator.kernels.see.layout import Shown
from orchestrator.kernels.state.codes import NO_JOB
from orchestrator.kernels.state.row import GROUPS, ClusterState

__all__ = ["RowsView", "Views"]


_TRUE = {
    "request": ("duration_ms",),
    "job": ("onset_ms", "excess", "heap_slot"),
    "rows": (
        *("settled_excess", "queue_rate", "queue_onset", "seed", "log_hash"),
        *("num_incidents", "next_incident"),  # together they tell how many failures are to come
    ),
}
"""Fields that tell, directly or not, how long jobs really run, how dice will fall, what fails."""


class RowsView(NamedTuple):
    """B rows at a decision point, or at their end; nothing of it can be written.

    Records are those of ``orchestrator.kernels.state``: their units stand at the fields there, in
    ``records.py`` and ``row.py``. It is a plain tuple of arrays, so that functions compiled by
    numba take it, too.
    """

    now_ms: NDArray[np.int64]  # [B]
    row: NDArray[np.void]  # [B] ROW_DTYPE: counts, totals, capacity, rules
    request: NDArray[np.void]  # [B, J] REQUEST_DTYPE: what each job asks for, by submission
    job: NDArray[np.void]  # [B, J] JOB_DTYPE: what has become of it
    node: NDArray[np.void]  # [B, N] NODE_DTYPE
    queue: NDArray[np.int32]  # [B, Q] jobs of the window as observations show them; -1: none
    victims: NDArray[np.int32]  # [B, max(V, 1)] running jobs shown; -1: none
    elastics: NDArray[np.int32]  # [B, max(E, 1)] running elastic jobs shown; -1: none
    start_index: NDArray[np.int64]  # [B] window that each row plays


class Views:
    """Views of the rows of a state and their buffers, made once for as long as both live.

    Parameters
    ----------
    state : ClusterState
    buffers : Buffers
    """

    def __init__(self, state: ClusterState, buffers: Buffers) -> None:
        self._lists = tuple(
            (given, np.full_like(given, NO_JOB), shown)
            for given, shown in (
                (buffers.window, Shown.JOBS),
                (buffers.victim_jobs, Shown.VICTIMS),
                (buffers.elastic_jobs, Shown.ELASTICS),
            )
        )
        self._shown = buffers.shown
        addresses = GROUPS["addresses"]
        request, job = state.request, state.job
        shared: dict[str, Any] = {
            "now_ms": _reading(state.rows["now_ms"]),
            "node": _reading(state.node),
            "start_index": _reading(buffers.start_index),
        } | {
            name: _reading(jobs)
            for name, (_, jobs, _) in zip(
                ("queue", "victims", "elastics"), self._lists, strict=True
            )
        }
        self.features = RowsView(
            row=_without(state.rows, (*addresses, *_TRUE["rows"])),
            request=_without(request, _TRUE["request"]),
            job=_without(job, _TRUE["job"]),
            **shared,
        )
        """What features are told."""
        self.terms = RowsView(
            row=_without(state.rows, addresses),
            request=_reading(request),
            job=_reading(job),
            **shared,
        )
        """What reward terms are told."""

    def refresh(self) -> None:
        """Bring the lists of jobs up to date: all else is."""
        for given, jobs, shown in self._lists:
            count = self._shown[:, shown, np.newaxis]
            np.copyto(jobs, given)
            jobs[np.arange(given.shape[1]) >= count] = NO_JOB


def _reading(array: NDArray[Any]) -> NDArray[Any]:
    """The same memory, not to be written."""
    view = array.view()
    view.flags.writeable = False
    return view


def _without(records: NDArray[np.void], hidden: tuple[str, ...]) -> NDArray[np.void]:
    """The same records without some of their fields, not to be written."""
    names = records.dtype.names or ()
    shown = records[[name for name in names if name not in hidden]]
    shown.flags.writeable = False
    return shown
