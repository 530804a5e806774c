"""Gangs start and change size: nodes are chosen and taken at once, or all stays as it was."""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.codes import Reason
from orchestrator.kernels.decisions import permitted_workers
from orchestrator.kernels.growth import island_of, place_more
from orchestrator.kernels.jit import kernel
from orchestrator.kernels.placement import place_gang
from orchestrator.kernels.tables import job, queue
from orchestrator.kernels.transition.elastic import grow_job, shrink_job
from orchestrator.kernels.transition.jobs import start_job

__all__ = ["change_size", "start_gang"]


@kernel
def start_gang(row, position, generator, nodes):
    """Start the job at a queue position where a generator places it, if it may and fits.

    Parameters
    ----------
    row : ROW_DTYPE record
    position : int
    generator : int
        A ``Placement``.
    nodes : int32 [>= workers]
        Scratch.

    Returns
    -------
    bool
        Whether it was started: with as many workers as its tenant may have now.
    """
    j = queue(row, position).job
    workers = permitted_workers(row, j, place_gang(row, j, generator, nodes))
    return workers > 0 and start_job(row, position, nodes, workers, generator)


@kernel
def change_size(row, j, workers, nodes):
    """Give a running gang, which may have it, another number of workers; a ``Reason``.

    Parameters
    ----------
    row : ROW_DTYPE record
    j : int
    workers : int
        Not its number of workers now.
    nodes : int32 [>= workers]
        Scratch.
    """
    more = workers - np.int64(job(row, j).workers_now)
    if more < 0:
        shrink_job(row, j, -more)
        return np.int64(Reason.OK)
    if place_more(row, j, more, nodes) < more:
        return np.int64(Reason.NO_CAPACITY)
    first, last = island_of(row, j)
    if not grow_job(row, j, nodes, more, first, last):
        return np.int64(Reason.NO_CAPACITY)
    return np.int64(Reason.OK)
