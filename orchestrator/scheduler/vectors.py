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
from orchestrator.kernels.see.layout import HEADS, SETS, ActionHead, VectorPart
from orchestrator.scheduler.schema import FeatureSchema

__all__ = ["advice_column", "feature_names", "named_vector", "vector_layout"]

_PREFIX = {
    "queue": "",
    "candidates": "candidate:",
    "victims": "victim:",
    "elastics": "elastic:",
    "services": "service:",
    "capacity": "capacity:",
}


def _columns(schema: FeatureSchema, by_head: bool) -> dict[tuple[str, str], str]:
    """Prefix of each block of columns, by (head, set); blocks that are shared have head ''."""
    if not by_head:
        return {("", part): _PREFIX[part] for part in SETS if getattr(schema, part)}
    blocks = {}
    for head in schema.actions.heads:
        for part in HEADS[head.kind].sets if head.size > 0 else ():
            if getattr(schema, part):
                own = head.kind != ActionHead.PLACE
                prefix = f"{head.name}:" if own else _PREFIX[part]
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
        Entities in each of ``layout.SETS``; there may be more than the schema has use for.
        Candidates count those of all jobs together.
    by_head : bool, optional
        Whether each head has columns of its own.

    Returns
    -------
    int64 [parts, len(VectorPart)]
        One row for each set that describes a head; rows of one head follow each other.
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
    known = {head.kind: head for head in layout.heads}
    heads = [head for head in layout.heads if head.size > 0]
    one_hot = sum(widths)
    rows = []
    for at, head in enumerate(heads):
        spec = HEADS[head.kind]
        sets = [part for part in spec.sets if getattr(schema, part)]
        for part in sets or [""]:
            row = np.zeros(len(VectorPart), np.int64)
            row[VectorPart.FIRST_ACTION] = head.offset
            row[VectorPart.ACTIONS] = head.size
            row[VectorPart.SET] = SETS.index(part) if part else -1
            # Candidates are numbered as the actions are; their job is one for all of them.
            row[VectorPart.SHARED_BY] = per_job if part == "queue" else 1
            row[VectorPart.COLUMN] = starts[head.name if by_head else "", part] if part else 0
            row[VectorPart.ONE_HOT] = one_hot + at if len(heads) > 1 else -1
            if spec.behind is not None:
                row[VectorPart.FIRST_ENTITY] = known[spec.behind].size
            rows.append(row)
    return np.array(rows)
