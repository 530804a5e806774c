"""Advance a row through its events to the next decision point."""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.change.events import (
    close_point,
    end_commitment,
    finish_episode,
    open_point,
    step_event,
)
from orchestrator.kernels.change.jobs import turn_away
from orchestrator.kernels.change.queue import queue_position
from orchestrator.kernels.change.timeline import next_event
from orchestrator.kernels.decide.legal import decision_open
from orchestrator.kernels.decide.reserve import backfill_queue, start_gang
from orchestrator.kernels.decide.scale import scale_by_itself, start_services
from orchestrator.kernels.lang.jit import kernel, part
from orchestrator.kernels.place.fit import fits
from orchestrator.kernels.state.codes import EventKind, Placement, Scaling, Status

__all__ = ["advance", "serve_commitment"]


_PLACEMENT = np.int64(Placement.FIRST_FIT)


@kernel
def serve_commitment(row, nodes):
    """Start the committed job if it fits, else backfill; whether the row is still committed."""
    j = row.committed
    if fits(row, j) and start_gang(row, queue_position(row, j), _PLACEMENT, nodes):
        end_commitment(row)
        return False
    if row.backfill != 0:
        backfill_queue(row, j, nodes)
    return True


@part
def _step_instant(row):
    """Apply the next event and, as a rule, all others at the same instant.

    Under commitment semantics, and where jobs are turned away, every event is decided by itself.
    """
    if not step_event(row):
        return False
    if row.commitment == 0 and row.turn_away == 0:
        time_ms, kind, _ = next_event(row)
        while kind != EventKind.NONE and time_ms <= row.now_ms:
            step_event(row)
            time_ms, kind, _ = next_event(row)
    return True


@kernel
def advance(row, nodes):
    """Advance the row to its next decision point, ``Status.DECISION``, or to its end, ``DONE``.

    A row is done when nothing is left to happen and nothing is left to decide; jobs that could
    never be placed are then still queued.
    """
    while row.done == 0:
        if row.committed >= 0:
            if not serve_commitment(row, nodes):
                continue
        elif row.point_open != 0:
            if row.num_services > 0:
                start_services(row, nodes)
            if row.autoscale != Scaling.NONE:
                scale_by_itself(row, nodes)
            if decision_open(row):
                return Status.DECISION
            close_point(row)
        if row.turn_away != 0:
            turn_away(row)
        if _step_instant(row):
            open_point(row)
        elif row.queue_len > 0 and row.preemptions_here > 0:
            # Nothing else will ever happen: without another point the victims of this one, which
            # may not be placed at it, would stay queued for good.
            open_point(row)
        else:
            finish_episode(row)
    return Status.DONE
