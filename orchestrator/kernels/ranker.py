"""Linear rankers, replayed wholly inside the engine: a policy's cost at the speed of a rule's.

A ranker serves the queued job whose ``DEFAULT`` features, weighted and summed, are largest; ties go
to the first in the queue. Its replay does not write the features down: what a job contributes for
the whole episode is summed once, and the rest in one pass over the window that the compiler
vectorises. The scores equal those of :func:`orchestrator.kernels.features.encode_window` up to the
rounding of float32.

Rankers choose a job and nothing else, so rows need commitment semantics, and see the queue in
the order of submission.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.advance import advance
from orchestrator.kernels.codes import ActionKind, Placement, Reason, Status
from orchestrator.kernels.commit import commit
from orchestrator.kernels.fastlog import fast_log
from orchestrator.kernels.features import (
    BUCKETS,
    DEFAULT_NAMES,
    STATIC_WIDTH,
    Encoding,
    StaticColumn,
    fill_static,
)
from orchestrator.kernels.jit import kernel, small_kernel
from orchestrator.kernels.metrics import Metric, read_metrics
from orchestrator.kernels.rules import replay
from orchestrator.kernels.tables import queue, running
from orchestrator.kernels.transition.episode import begin_episode
