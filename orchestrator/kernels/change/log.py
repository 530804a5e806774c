"""The event log: every change of state, folded into a hash, optionally kept as records.

Beside it, and outside the hash, what a change asks of a runtime: for rows that have one.
"""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.lang.jit import kernel, small_kernel
from orchestrator.kernels.lang.memory import copy_record
from orchestrator.kernels.lang.numbers import mix
from orchestrator.kernels.state.access import effect, effect_worker, job, log_entry, worker

__all__ = ["job_effect", "node_effect", "record"]


_PRIME = np.uint64(0x100000001B3)


@kernel
def record(row, kind, subject, value):
    """Append (now, kind, subject, value) to the log of a row."""
    word = (np.uint64(row.now_ms) << np.uint64(20)) ^ (np.uint64(kind) << np.uint64(16))
    word = word ^ (np.uint64(subject) * _PRIME) ^ (np.uint64(value) << np.uint64(40))
    row.log_hash = mix((row.log_hash ^ word) * _PRIME)
    if row.keep_log != 0:
        slot = row.log_count % row.max_log
        log_entry(row, slot).time_ms = row.now_ms
        log_entry(row, slot).kind = np.int64(kind)
        log_entry(row, slot).subject = np.int64(subject)
        log_entry(row, slot).value = np.int64(value)
    row.log_count = row.log_count + 1


@kernel
def _append_effect(row, kind, subject):
    """Begin the next effect; its slot in the ring."""
    slot = row.effect_count % row.max_effects
    row.effect_count += 1
    effect(row, slot).time_ms = row.now_ms
    effect(row, slot).kind = np.int64(kind)
    effect(row, slot).subject = np.int64(subject)
    return slot


@kernel
def _append_job_effect(row, kind, j, cost_ms):
    slot = _append_effect(row, kind, j)
    effect(row, slot).run = np.int64(job(row, j).runs)
    effect(row, slot).workers = job(row, j).workers_now
    effect(row, slot).cost_ms = cost_ms
    effect(row, slot).progress_ms = job(row, j).progress_ms + job(row, j).unsaved_ms
    effect(row, slot).speed_milli = job(row, j).speed_milli
    for w in range(job(row, j).workers_now):
        copy_record(effect_worker(row, slot, w), worker(row, j, w))


@small_kernel
def job_effect(row, kind, j, cost_ms):
    """What a runtime is to do about a job, as it is now that it has changed."""
    if row.max_effects != 0:
        _append_job_effect(row, kind, j, cost_ms)


@small_kernel
def node_effect(row, kind, n):
    """What a runtime is to do about a node."""
    if row.max_effects != 0:
        _append_effect(row, kind, n)
