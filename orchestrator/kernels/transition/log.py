"""The event log: every change of state, folded into a hash, optionally kept as records."""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.jit import kernel
from orchestrator.kernels.randomness import mix
from orchestrator.kernels.tables import log_entry

__all__ = ["record"]

_PRIME = np.uint64(0x100000001B3)


@kernel
def record(row, kind, subject, value):
    """Append (now, kind, subject, value) to the log of row ``e``."""
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
