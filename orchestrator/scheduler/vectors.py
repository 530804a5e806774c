"""How the vector of an action is laid out, for networks and compiled scorers alike.

A vector holds the features of what the action is about, zeros elsewhere, which head it belongs to,
and whether the advising rule would take it:
``[queued job | candidate | victim | elastic job | service | change of the fleet | head one-hot |
advised]``. Sets that an environment does not have take no room; where only one head exists, there
is no one-hot either.

What growing a job and shrinking it have in common a network can tell from the one-hot; to a linear
scorer the same weight would have to serve both. ``by_head`` gives each head columns of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import ConfigurationError
from orchestrator.scheduler.schema import FeatureSchema

__all__ = ["SETS", "advice_column", "feature_names", "named_vector", "vector_layout"]

SETS = ("queue", "candidates", "victims", "elastics", "services", "capacity")
"""Sets of an observation in the order in which an action's vector holds them."""

_PREFIX = {
    "queue": "",
    "candidates": "candidate:",
    "victims": "victim:",
    "elastics": "elastic:",
    "services": "service:",
    "capacity": "capacity:",
}

_HEAD_SETS = {
    "place": ("queue", "candidates"),
    "preempt": ("victims",),
    "shrink": ("elastics",),
    "grow": ("elastics",),
    "migrate": ("victims",),
    "scale_in": ("capacity",),
    "scale_out": ("capacity",),
    "fewer_replicas": ("services",),
    "more_replicas": ("services",),
    "wait": (),
}
"""Whose features describe an action of a head."""


def _columns(schema: FeatureSchema, by_head: bool) -> dict[tuple[str, str], str]:
    """Prefix of each block of columns, by (head, set); blocks that are shared have head ''."""
    if not by_head:
        return {("", part): _PREFIX[part] for part in SETS if getattr(schema, part)}
    blocks = {}
    for head in schema.actions.heads:
        for part in _HEAD_SETS[head.name] if head.size > 0 else ():
            if getattr(schema, part):
                prefix = _PREFIX[part] if head.name == "place" else f"{head.name}:"
                blocks[head.name, part] = prefix
    return blocks


def feature_names(schema: FeatureSchema, by_head: bool = False) -> list[str]:
    """Names of the entries of an action's vector."""
    blocks = _columns(schema, by_head)
    names = [
        f"{prefix}{name}" for (_, part), prefix in blocks.items() for name in getattr(schema, part)
    ]
    heads = [head.name for head in schema.actions.heads if head.size > 0]
    names += [f"head:{name}" for name in heads if len(heads) > 1]
    return names + [f"advice:{name}" for name in schema.advice]


def advice_column(schema: FeatureSchema, by_head: bool = False) -> int:
    """Column of the advice in an action's vector, or -1."""
    return len(feature_names(schema, by_head)) - 1 if schema.advice else -1


def named_vector(
    schema: FeatureSchema, weights: Mapping[str, float], by_head: bool = False
) -> NDArray[np.float64]:
    """Weights by feature name as a vector in the order of the features; the others are 0.

    ``advice`` is short for the advising rule's feature, whatever the rule.
    """
    names = feature_names(schema, by_head)
    vector = np.zeros(len(names))
    for name, weight in weights.items():
        full = f"advice:{schema.advice[0]}" if name == "advice" and schema.advice else name
        if full not in names:
            raise ConfigurationError(
                f"weights: unknown feature '{name}'; known: {', '.join(names)}"
            )
        vector[names.index(full)] = weight
    return vector


def vector_layout(
    schema: FeatureSchema, sizes: Sequence[int], *, by_head: bool = False
) -> NDArray[np.int64]:
    """Where things are, for sets of certain sizes: the names of a schema serve any window.

    Parameters
    ----------
    schema : FeatureSchema
    sizes : sequence of int
        Entities in each of the observation's :data:`SETS`; there may be more than the schema has
        use for. Candidates count those of all jobs together.
    by_head : bool, optional
        Whether each head has columns of its own.

    Returns
    -------
    int64 [parts, 7]
        One row for each set that describes a head: first action of the head, number of actions,
        set (index into :data:`SETS`; -1: none), actions that share an element, the set's first
        column, column of the one-hot (-1: none), the head's first element in the set. Rows of one
        head follow each other.
    """
    window, candidates, victims, elastics, services, changes = sizes
    per_job = candidates // window if schema.candidates else 1
    layout = replace(
        schema.actions,
        window=window,
        candidates=per_job,
        victims=victims if schema.victims else 0,
        elastics=elastics if schema.elastics else 0,
        services=services if schema.services else 0,
        capacity_steps=changes // 2 if schema.capacity else 0,
    )
    blocks = _columns(schema, by_head)
    widths = [len(getattr(schema, part)) for _, part in blocks]
    starts = dict(zip(blocks, np.cumsum([0, *widths]).tolist(), strict=False))
    heads = [head for head in layout.heads if head.size > 0]
    one_hot = sum(widths)
    parts = []
    for at, head in enumerate(heads):
        hot = one_hot + at if len(heads) > 1 else -1
        sets = [part for part in _HEAD_SETS[head.name] if getattr(schema, part)]
        for part in sets or [""]:
            # Candidates are numbered as the actions are; their job is one for all of them.
            share = per_job if part == "queue" else 1
            number, start, first = -1, 0, 0
            if part:
                number, start = SETS.index(part), starts[head.name if by_head else "", part]
                first = head.size if head.name == "scale_out" else 0
            parts.append((head.offset, head.size, number, share, start, hot, first))
    return np.array(parts, np.int64)
