"""Bookkeeping of decision points: open, close, commit to a job, end of an episode."""

from __future__ import annotations

from orchestrator.kernels.codes import NO_JOB
from orchestrator.kernels.jit import small_kernel

__all__ = [
    "close_point",
    "commit_to",
    "count_decision",
    "count_illegal",
    "end_commitment",
    "finish_episode",
    "number_point",
    "open_point",
]


@small_kernel
def open_point(row):
    """Something happened: there may be something to decide."""
    row.point += 1
    row.point_open = 1
    row.preemptions_here = 0


@small_kernel
def number_point(row, number):
    """What is decided now is decision ``number``: for rows without a timeline."""
    row.point = number


@small_kernel
def close_point(row):
    """Nothing more is decided at this instant."""
    row.point_open = 0
    row.scaling_open = 0


@small_kernel
def commit_to(row, j, reservation_ms):
    """From now on the row waits for job ``j``, expected to fit at ``reservation_ms``."""
    row.committed = j
    row.reservation_ms = reservation_ms


@small_kernel
def end_commitment(row):
    """The committed job has started."""
    row.committed = NO_JOB


@small_kernel
def count_decision(row):
    """An action was carried out."""
    row.decisions += 1


@small_kernel
def count_illegal(row):
    """An action was refused; nothing else changed."""
    row.illegal_actions += 1


@small_kernel
def finish_episode(row):
    """Nothing is left to happen or to decide."""
    row.done = 1
