"""What episodes of many rows are made from and what they write: arrays, grouped by their owner."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.place.memo import NodeMemo

__all__ = [
    "SETTINGS_DTYPE",
    "Bench",
    "Buffers",
    "Episode",
    "Prices",
    "RewardForm",
    "Sampling",
    "Source",
    "View",
]


class Sampling(IntEnum):
    """How a row picks the window of its next episode."""

    RANDOM = 0
    SEQUENTIAL = 1
    """Row e plays windows e, e + E, e + 2E, ... in turn."""


class RewardForm(IntEnum):
    """When rewards are paid; the sum over an episode is the same."""

    DENSE = 0
    TERMINAL = 1


SETTINGS_DTYPE = np.dtype(
    [
        ("encoding", "u1"),  # see.queue.Encoding
        ("tenants", "u1"),  # tenants are shown
        ("around", "u1"),  # fleet, tenants or racks are shown, or a job's tenant
        ("fleet", "u1"),  # the global vector describes the fleet, too
        ("advice", "u1"),  # the advisor's choice is marked
    ],
    align=True,
)
"""How rows are shown."""


class Episode(NamedTuple):
    """What episodes are made from; T trace jobs, M windows."""

    length: int  # jobs of an episode
    sampling: int  # Sampling
    trace: NDArray[np.void]  # [T] REQUEST_DTYPE
    nodes: NDArray[np.void]  # [N] NODE_DTYPE
    incidents: NDArray[np.void]  # [I] INCIDENT_DTYPE, times relative to the episode's start
    incident_range: NDArray[np.int64]  # [M, 2] incidents of each window: first, and the one after
    tenants: NDArray[np.void]  # [T] TENANT_DTYPE; none: no accounts are kept
    curves: NDArray[np.void]  # CURVE_DTYPE
    services: NDArray[np.void]  # [S] SERVICE_DTYPE
    standing: NDArray[np.void]  # [S] REQUEST_DTYPE: their jobs, submitted with the first other one
    plans: NDArray[np.void]  # [S + 1] SCALING_DTYPE: of the fleet, then of each service
    series_range: NDArray[np.int64]  # [M, 2] ticks of the series that each window plays
    uplinks: NDArray[np.void]  # UPLINK_DTYPE, by rack
    typical: NDArray[np.void]  # TYPICAL_DTYPE, by which fragmentation is measured
    gittins: NDArray[np.void]  # GITTINS_DTYPE, by attained service; none: every index is 0
    starts: NDArray[np.int64]  # [M] first job of each window; without jobs, its first tick


class View(NamedTuple):
    """What rows are described by, and what the numbers of actions mean; K candidates."""

    settings: NDArray[np.void]  # [1] SETTINGS_DTYPE
    heads: NDArray[np.int64]  # see layout.head_offsets
    generators: NDArray[np.int32]  # [K] of each candidate: its Placement, or NODE_CHOICE + node
    advisor: NDArray[np.void]  # [1] RULE_DTYPE; used if the settings ask for advice
    maxima: NDArray[np.float64]  # [len(Maximum)] for the published encoding


class Prices(NamedTuple):
    """What rewards are paid by; M windows."""

    form: int  # RewardForm
    scaled: int  # 1: divided by the reference rule's cost on the same window
    weights: NDArray[np.float64]  # [len(Metric)] cost of one unit of each metric
    reference: NDArray[np.float64]  # [M] the reference rule's cost; NaN: not computed yet
    reference_rule: NDArray[np.void]  # [1] RULE_DTYPE


class Source(NamedTuple):
    """Where episodes come from, what is seen of them, and what they are worth."""

    episode: Episode
    seen: View  # numba keeps the name `view` to itself
    prices: Prices


class Buffers(NamedTuple):
    """What a step writes; E rows, Q window, V victims, A actions."""

    queue: NDArray[np.float32]  # [E, Q, F]
    globals: NDArray[np.float32]  # [E, G], or [E, G + F] with features of the fleet
    candidates: NDArray[np.float32]  # [E, Q * K, C]
    victims: NDArray[np.float32]  # [E, max(V, 1), F_v]
    elastics: NDArray[np.float32]  # [E, max(E_n, 1), F_e]
    services: NDArray[np.float32]  # [E, max(S, 1), F_s]
    capacity: NDArray[np.float32]  # [E, max(2 c, 1), F_c] changes by -1 .. -c, 1 .. c nodes
    sizes: NDArray[np.float32]  # [E, max(E_n * Z, 1), F_z] of each elastic job
    tenants: NDArray[np.float32]  # [E, max(T, 1), F_t]
    racks: NDArray[np.float32]  # [E, max(R, 1), F_r]
    advice: NDArray[np.float32]  # [E, A] 1 at the advisor's choice; [E, 1] without advice
    mask: NDArray[np.int8]  # [E, A]
    reward: NDArray[np.float64]  # [E]
    terminated: NDArray[np.bool_]  # [E]
    truncated: NDArray[np.bool_]  # [E]
    reason: NDArray[np.int32]  # [E] Reason of the last action
    # --- the session's own memory ---
    nodes_seen: NDArray[np.int64]  # [E] changes of nodes when racks were described
    shown: NDArray[np.int32]  # [E, len(Shown)] jobs of the last encoding
    advised: NDArray[np.int32]  # [E] the advisor's choice, or -1
    window: NDArray[np.int32]  # [E, Q] the jobs shown
    victim_jobs: NDArray[np.int32]  # [E, max(V, 1)]
    elastic_jobs: NDArray[np.int32]  # [E, max(E_n, 1)]
    resize_to: NDArray[np.int32]  # [E, max(E_n * Z, 1)] workers; 0: no such choice
    static: NDArray[np.float32]  # [E, J, STATIC_WIDTH]
    metrics: NDArray[np.float64]  # [E, len(Metric)] at the last step
    scale: NDArray[np.float64]  # [E] reward scale of the episode
    episode: NDArray[np.int64]  # [E] episodes begun
    start_index: NDArray[np.int64]  # [E] window being played
    steps: NDArray[np.int64]  # [E] steps of this episode
    nodes: NodeMemo  # of candidates that are nodes


class Bench(NamedTuple):
    """Scratch of one thread; W workers, J jobs."""

    nodes: NDArray[np.int32]  # [(K + 1) * W]
    jobs: NDArray[np.int32]  # [max(J, W)]
    releases: NDArray[np.float32]  # see.queue.make_scratch
    table: NDArray[np.int32]
    columns: NDArray[np.float32]
    scores: NDArray[np.float64]  # [Q]
    racks: NDArray[np.float64]  # [R, see.cluster.RACK_SUMS]
    tenants: NDArray[np.float64]  # [tenants, len(ShareColumn)]
