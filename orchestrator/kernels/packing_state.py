"""Tables of placement: typical pods, nodes by domain, and the memo of the best nodes.

The memo (see ``index``) is derived from the state and never part of it: it is not copied with a
row, and two rows that differ in it only decide alike.
"""

from __future__ import annotations

import numpy as np

__all__ = [
    "ASK_DTYPE",
    "BRANCH_DTYPE",
    "MEMO_TABLES",
    "ORDER_DTYPE",
    "ROOM_DTYPE",
    "SHAPE_DTYPE",
    "SLOT_DTYPE",
    "TAGS",
    "TAG_DTYPE",
    "TOUCH_DTYPE",
    "TYPICAL_DTYPE",
    "memo_sizes",
]

MEMO_TABLES = ("shape_memo", "branch", "touch", "ask_memo", "slot", "room")

TAGS = 10
"""Kinds of workers that GPU clustering tells apart: shared, 1 to 8 GPUs, more."""

_INDEXED_NODES = 64  # below, a scan is faster
_SHAPES = 32
_SHAPES_OF_MANY = 8
_MANY_ROWS = 16

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

SHAPE_DTYPE = np.dtype(
    [
        ("used", "i8"),  # when last; 0: empty
        ("seen", "i8"),  # touches that it takes account of
        ("total", "i8"),  # workers that all nodes together can hold, at most `limit` on each
        ("memory_mib", "i8"),
        ("limit", "i8"),
        ("cpu_milli", "i8"),
        ("gpus_per_worker", "i8"),
        ("gpu_milli", "i8"),
        ("gpu_memory_mib", "i8"),
        ("model_mask", "u4"),
        ("generator", "i8"),
    ],
    align=True,
)
"""Requests that all nodes serve alike."""

BRANCH_DTYPE = np.dtype([("key", "i8"), ("winner", "i8"), ("slots", "i8")], align=True)
"""An entry of a shape's tournament tree; leaves are nodes, entry 1 is the root."""

TOUCH_DTYPE = np.dtype([("node", "i8")], align=True)
"""A node that changed: an entry of a ring."""

ASK_DTYPE = np.dtype(
    [
        ("used", "i8"),  # when last; 0: empty
        ("seen", "i8"),  # touches that it takes account of; -1: none
        ("word", "u8"),  # JOB_DTYPE.ask of all jobs whose workers ask for this
        ("total", "i8"),  # workers that all nodes together hold
        ("summed", "i8"),  # touches that the nodes below take account of; -1: none
        ("first", "i8"),  # of the nodes that hold a worker: that of the least index, or -1
        ("tightest", "i8"),  # with least free, or -1
        ("next_tightest", "i8"),  # after that one, or -1
        ("roomiest", "i8"),  # with most free, or -1
    ],
    align=True,
)
"""What one worker asks for; see ``slot_table``."""

SLOT_DTYPE = np.dtype([("workers", "i4")], align=True)
"""Workers of an ask that a node holds. The one narrow integer: this is read most of all tables."""

ROOM_DTYPE = np.dtype(
    [
        ("share", "i8"),  # scores.free_share
        ("gpu_milli", "i8"),  # free
        ("cpu_milli", "i8"),  # free
        ("mates", "i8"),  # scratch: workers here of the gang that is looked at
    ],
    align=True,
)
"""What is free on a node, close together in memory."""


def memo_sizes(nodes: int, shapes: int, rows: int, asks: int) -> tuple[int, int, int]:
    """Shapes remembered, entries of one shape's tree, and entries of the ring of touched nodes.

    Parameters
    ----------
    nodes : int
        Nodes of a row.
    shapes : int
        As in ``ClusterShape``.
    rows : int
        Rows; where there are many, each remembers less.
    asks : int
        As in ``ClusterShape``; with a slot table there is no need of trees.
    """
    leaves = 1 << max(nodes - 1, 1).bit_length()
    if shapes < 0 and asks > 0:
        shapes = 0
    if shapes < 0:
        shapes = _SHAPES if rows <= _MANY_ROWS else _SHAPES_OF_MANY
        shapes = shapes if nodes >= _INDEXED_NODES else 0
    if shapes == 0:
        return 0, 2, 2 * leaves if asks > 0 else 1
    return shapes, 2 * leaves, 2 * leaves
