"""Tables of placement: typical pods, nodes by domain, and the memo of what placements depend on.

The memo (see ``place.memo``) is derived from the state and never part of it: two rows that differ
in it only decide alike, and whoever blanks it out loses nothing but time. How much is remembered is
settled here and nowhere else.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "JOB_MEMO_FIELDS",
    "KEY_DTYPE",
    "KIND_DTYPE",
    "KIND_FIELDS",
    "MEMO_TABLES",
    "ORDER_DTYPE",
    "ROOM_DTYPE",
    "SCANNED_NODES",
    "SLOT_DTYPE",
    "TAGS",
    "TAG_DTYPE",
    "TOUCH_DTYPE",
    "TYPICAL_DTYPE",
    "VIEWS",
    "VIEW_DTYPE",
    "WINNER_DTYPE",
    "count_kinds",
    "memo_described",
    "memo_kinds",
    "memo_sizes",
]

MEMO_TABLES = ("kind", "slot", "room", "view", "key", "winner", "touch")
"""Tables of a row that only save time."""

JOB_MEMO_FIELDS = ("kind",)
"""Fields of a job that only save time."""

TAGS = 10
"""Kinds of workers that GPU clustering tells apart: shared, 1 to 8 GPUs, more."""

VIEWS = 4
"""Orders of the nodes that are remembered of one kind: by generator, and by workers to place."""

TYPICAL_DTYPE = np.dtype(
    [
        ("weight", "f8"),  # share of the pods; all add up to 1
        ("cpu_milli", "i8"),
        ("gpu_milli", "i8"),  # share of each GPU
        ("gpus", "i8"),
        ("model_mask", "u4"),  # as in REQUEST_DTYPE
    ],
    align=True,
)
"""A class of typical pods (Weng et al., USENIX ATC 2023), most frequent first."""

ORDER_DTYPE = np.dtype([("node", "i8")], align=True)
"""Nodes by (spine, rack, index): a rack, and a spine, is a run of consecutive entries."""

TAG_DTYPE = np.dtype([("workers", "i8")], align=True)
"""Workers of one kind on a node."""

KIND_FIELDS = (
    "memory_mib",
    "cpu_milli",
    "gpus_per_worker",
    "gpu_milli",
    "gpu_memory_mib",
    "model_mask",
)
"""Of REQUEST_DTYPE: what one worker asks of its node. Requests that agree in it are of one kind."""

KIND_DTYPE = np.dtype(
    [
        *((name, "i8") for name in KIND_FIELDS),
        ("jobs", "i8"),  # in the job table; 0: the entry may become another kind
        ("seen", "i8"),  # touches that the slots and the total take account of
        ("total", "i8"),  # workers that all nodes together hold
        ("summed", "i8"),  # touches that the nodes below take account of
        ("first", "i8"),  # of the nodes that hold a worker: that of the least index, or -1
        ("tightest", "i8"),  # with least free, or -1
        ("next_tightest", "i8"),  # after that one, or -1
        ("roomiest", "i8"),  # with most free, or -1
        ("next_view", "i8"),  # that makes way
    ],
    align=True,
)
"""A kind of requests. Entry 0 stands for all that are not remembered."""

SLOT_DTYPE = np.dtype([("workers", "i4")], align=True)
"""Workers of a kind that a node holds. A narrow integer: this is read most of all tables."""

ROOM_DTYPE = np.dtype(
    [
        ("share", "i8"),  # slots.free_share
        ("gpu_milli", "i8"),  # free
        ("cpu_milli", "i8"),  # free
        ("mates", "i8"),  # scratch: workers here of the gang that is looked at
        ("touched", "i8"),  # number of the node's last touch
    ],
    align=True,
)
"""What is free on a node, close together in memory."""

VIEW_DTYPE = np.dtype(
    [
        ("seen", "i8"),  # touches that its keys take account of
        ("generator", "i8"),  # codes.Placement
        ("limit", "i8"),  # workers beyond which its keys see no difference; 0: they see none
    ],
    align=True,
)
"""The nodes as a generator ranks them for a kind."""

KEY_DTYPE = np.dtype([("value", "i8")], align=True)
"""Key of a node in a view: the highest wins, of equals the first."""

WINNER_DTYPE = np.dtype([("node", "i4")], align=True)
"""An inner entry of a view's tournament tree: the node that won there, or -1; entry 1: the best."""

TOUCH_DTYPE = np.dtype([("node", "i8")], align=True)
"""A node that changed: an entry of a ring."""

SCANNED_NODES = 256
"""Up to here looking at the slots of all nodes is as fast as a tree, if their keys are cheap."""

_LEAST_NODES = 64  # from here on a memo pays however rarely it is asked
_USUAL_KINDS = 64
_MOST_KINDS = 1024
_BUDGET = 256 << 20  # bytes of all rows together
_MOST_DESCRIBED = 256
_DESCRIBED_BUDGET = 128 << 20


def _leaves(nodes: int) -> int:
    """Leaves of a tournament tree over so many nodes."""
    return 1 << max(nodes - 1, 1).bit_length()


def memo_kinds(nodes: int, rows: int, kinds: int = _USUAL_KINDS, often: bool = False) -> int:
    """How many of a row's request kinds are worth remembering, as ``ClusterShape`` takes it.

    Parameters
    ----------
    nodes, rows : int
    kinds : int, optional
        That are expected.
    often : bool, optional
        Whether every step describes many placements.
    """
    if nodes < _LEAST_NODES and not often:
        return 0
    keys = nodes * KEY_DTYPE.itemsize + _leaves(nodes) * WINNER_DTYPE.itemsize
    each = nodes * SLOT_DTYPE.itemsize + VIEWS * keys
    return max(min(kinds, _BUDGET // (each * rows), _MOST_KINDS), 8)


def memo_sizes(nodes: int, kinds: int) -> tuple[int, int, int]:
    """Sizes of a row's memo: nodes, leaves of a tree, and entries of the ring of touched nodes."""
    if kinds == 0:
        return 1, 0, 1
    return nodes, _leaves(nodes), 2 * _leaves(nodes)


def memo_described(nodes: int, rows: int, kinds: int, width: int) -> int:
    """For how many kinds the ``width`` features of ``nodes`` offered nodes are remembered."""
    if nodes == 0:
        return 0
    return min(kinds, _DESCRIBED_BUDGET // (4 * width * nodes * rows), _MOST_DESCRIBED)


def count_kinds(requests: NDArray[np.void]) -> int:
    """Number of kinds among requests (REQUEST_DTYPE)."""
    word = np.zeros(len(requests), np.uint64)
    for name in KIND_FIELDS:
        word = (word ^ requests[name].astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        word ^= word >> np.uint64(29)
    return len(np.unique(word))
