"""Features and actions of a policy by name, and how an action's vector is laid out.

A vector holds the features of what the action is about, zeros elsewhere, which head it belongs to,
and whether the advising rule would take it:
``[queued job | candidate | victim | elastic job | service | change of the fleet | head one-hot |
advised]``. Sets that an environment does not have take no room; where only one head exists, there
is no one-hot either.

What growing a job and shrinking it have in common a network can tell from the one-hot; to a linear
scorer the same weight would have to serve both. ``by_head`` gives each head columns of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import ConfigurationError
from orchestrator.kernels.see.layout import (
    CANDIDATE_NAMES,
    CAPACITY_NAMES,
    CLUSTER_EXTRA,
    DEFAULT_NAMES,
    ELASTIC_NAMES,
    FLEET_NAMES,
    FULL_EXTRA,
    GLOBAL_NAMES,
    HEADS,
    NODE_NAMES,
    POD_NAMES,
    POOL_NAMES,
    PUBLISHED_NAMES,
    RACK_NAMES,
    SERVICE_NAMES,
    SETS,
    SIZE_NAMES,
    SURROUNDINGS,
    TENANT_NAMES,
    VICTIM_NAMES,
    ActionHead,
    SizeChoice,
    VectorPart,
    head_offsets,
)
from orchestrator.kernels.see.queue import Encoding

__all__ = [
    "ActionLayout",
    "FeatureSchema",
    "Head",
    "advice_column",
    "feature_names",
    "named_vector",
    "vector_layout",
]


_QUEUE_NAMES: dict[Encoding, tuple[str, ...]] = {
    Encoding.PUBLISHED: PUBLISHED_NAMES,
    Encoding.DEFAULT: DEFAULT_NAMES,
    Encoding.CLUSTER: DEFAULT_NAMES + CLUSTER_EXTRA,
    Encoding.FULL: DEFAULT_NAMES + CLUSTER_EXTRA + FULL_EXTRA,
    Encoding.PLACEMENT: POD_NAMES,
}


_FIRST = ("queue", "candidates", "victims")


_LATER = tuple(part for part in (*SETS, *SURROUNDINGS) if part not in _FIRST)


@dataclass(frozen=True)
class Head:
    """A group of actions of one kind: ``size`` actions from ``offset`` on."""

    name: str
    offset: int
    size: int

    @property
    def kind(self) -> ActionHead:
        """Which of the heads it is."""
        return ActionHead[self.name.upper()]


@dataclass(frozen=True)
class ActionLayout:
    """The flat action space, head by head, as ``orchestrator.kernels.see.layout`` numbers it.

    Parameters
    ----------
    window : int
        Queued jobs that a policy sees, Q.
    candidates : int
        Placements per job, K.
    victims : int
        Running jobs that may be preempted, V.
    elastics : int
        Running elastic jobs that may be resized, E.
    migrate : bool
        Whether the victims may also be moved.
    capacity_steps : int
        Most nodes that may be ordered, or given up, in one action, c.
    services : int
        Services whose replicas may be changed by one, S.
    can_wait : bool
        Whether *wait* exists; under commitment semantics it does not.
    choose_node : bool
        Whether the K candidates are the nodes of the cluster.
    sizes : int
        Sizes that a resize chooses among, Z; 0: jobs shrink and grow step by step.
    """

    window: int
    candidates: int = 1
    victims: int = 0
    elastics: int = 0
    migrate: bool = False
    capacity_steps: int = 0
    services: int = 0
    can_wait: bool = False
    choose_node: bool = False
    sizes: int = 0

    @property
    def steps(self) -> int:
        """Steps of a kind that a job may be resized by: one, or none if sizes are chosen."""
        return int(self.sizes == 0)

    @property
    def heads(self) -> tuple[Head, ...]:
        """The heads in the order of their offsets."""
        offsets = head_offsets(self).tolist()
        bounds = zip(HEADS, offsets, offsets[1:], strict=False)
        return tuple(Head(head.name.lower(), first, end - first) for head, first, end in bounds)

    @property
    def size(self) -> int:
        """Number of actions."""
        return int(head_offsets(self)[-1])

    def describe(self, action: int) -> str:
        """An action in words, for logs and renderings."""
        for head in self.heads:
            if head.offset <= action < head.offset + head.size:
                index = action - head.offset
                if head.kind == ActionHead.PLACE:
                    by = "on node" if self.choose_node else "by candidate"
                    job, candidate = divmod(index, self.candidates)
                    return f"place job {job} of the window {by} {candidate}"
                if head.kind == ActionHead.RESIZE:
                    job, choice = divmod(index, self.sizes)
                    size = SizeChoice(choice).name.lower().replace("_", " ")
                    return f"resize {job} to {size}"
                if head.kind in (ActionHead.SCALE_IN, ActionHead.SCALE_OUT):
                    return f"{head.name} by {index + 1}"
                return f"{head.name} {index}" if head.size > 1 else head.name
        return f"no such action: {action}"


@dataclass(frozen=True)
class FeatureSchema:
    """What a policy sees: sets of named features, and the actions it answers with.

    Two policies with equal :attr:`digest` are interchangeable as far as inputs and outputs go.

    Parameters
    ----------
    encoding : Encoding
        Of queued jobs.
    actions : ActionLayout
    advisor : str or None
        Rule whose choice is marked.
    fleet : bool
        Whether the global vector describes the fleet, too.
    tenants_shown, racks_shown : int
        Sizes of the sets of tenants and of racks.
    own : tuple of (str, str), optional
        Features that somebody has added: set and name of each. They are the last of their sets.
    """

    encoding: Encoding
    actions: ActionLayout
    advisor: str | None = None
    fleet: bool = False
    tenants_shown: int = 0
    racks_shown: int = 0
    own: tuple[tuple[str, str], ...] = ()

    def _with_own(self, part: str, names: tuple[str, ...]) -> tuple[str, ...]:
        """Features of a set, with those that were added to it; none where it is not shown."""
        return names + tuple(name for of, name in self.own if of == part) if names else ()

    @property
    def queue(self) -> tuple[str, ...]:
        """Features of a queued job; none where no queue is shown."""
        names = _QUEUE_NAMES[self.encoding] if self.actions.window > 0 else ()
        return self._with_own("queue", names)

    @property
    def globals(self) -> tuple[str, ...]:
        """Features of the cluster as a whole."""
        if self.encoding == Encoding.PLACEMENT:
            return self._with_own("global", POOL_NAMES)
        names = GLOBAL_NAMES + FLEET_NAMES if self.fleet else GLOBAL_NAMES
        return self._with_own("global", names)

    @property
    def candidates(self) -> tuple[str, ...]:
        """Features of a candidate placement; none where placements are not chosen."""
        if self.actions.choose_node:
            return self._with_own("candidates", NODE_NAMES)
        shown = self.actions.can_wait and self.actions.window > 0
        return self._with_own("candidates", CANDIDATE_NAMES if shown else ())

    @property
    def victims(self) -> tuple[str, ...]:
        """Features of a running job that may be preempted."""
        return self._with_own("victims", VICTIM_NAMES if self.actions.victims > 0 else ())

    @property
    def elastics(self) -> tuple[str, ...]:
        """Features of a running elastic job that may be resized."""
        return self._with_own("elastics", ELASTIC_NAMES if self.actions.elastics > 0 else ())

    @property
    def services(self) -> tuple[str, ...]:
        """Features of a service."""
        return self._with_own("services", SERVICE_NAMES if self.actions.services > 0 else ())

    @property
    def capacity(self) -> tuple[str, ...]:
        """Features of a change of the fleet."""
        return self._with_own("capacity", CAPACITY_NAMES if self.actions.capacity_steps > 0 else ())

    @property
    def sizes(self) -> tuple[str, ...]:
        """Features of a size that an elastic job may be given."""
        shown = self.actions.elastics > 0 and self.actions.sizes > 0
        return self._with_own("sizes", SIZE_NAMES if shown else ())

    @property
    def tenants(self) -> tuple[str, ...]:
        """Features of a tenant."""
        return self._with_own("tenants", TENANT_NAMES if self.tenants_shown > 0 else ())

    @property
    def racks(self) -> tuple[str, ...]:
        """Features of a rack."""
        return self._with_own("racks", RACK_NAMES if self.racks_shown > 0 else ())

    @property
    def advice(self) -> tuple[str, ...]:
        """Features of any action: whether the advising rule would take it."""
        return (f"advised_by_{self.advisor}",) if self.advisor is not None else ()

    def as_dict(self) -> dict[str, object]:
        """Plain data, for manifests; window sizes are left out where weights do not depend on them.

        A permutation-equivariant policy serves any window, so the digest covers names, not sizes.
        """
        return {
            "encoding": self.encoding.name.lower(),
            "queue": list(self.queue),
            "global": list(self.globals),
            "candidates": list(self.candidates),
            "victims": list(self.victims),
            # Left out where there are none, as schemas were before there were any.
            **{part: list(getattr(self, part)) for part in _LATER if getattr(self, part)},
            **({"advice": list(self.advice)} if self.advice else {}),
            "heads": [head.name for head in self.actions.heads if head.size > 0],
        }

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """Sets and vectors that an observation has, besides the global vector and the mask."""
        return tuple(name for name in (*SETS, *SURROUNDINGS, "advice") if getattr(self, name))

    @property
    def digest(self) -> str:
        """SHA-256 of the schema, hexadecimal."""
        text = json.dumps(self.as_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


_PREFIX = {
    "queue": "",
    "candidates": "candidate:",
    "victims": "victim:",
    "elastics": "elastic:",
    "services": "service:",
    "capacity": "capacity:",
    "sizes": "size:",
}


def _columns(schema: FeatureSchema, by_head: bool) -> dict[tuple[str, str], str]:
    """Prefix of each block of columns, by (head, set); blocks that are shared have head ''."""
    if not by_head:
        return {("", part): _PREFIX[part] for part in SETS if getattr(schema, part)}
    blocks = {}
    for head in schema.actions.heads:
        for part in HEADS[head.kind].sets if head.size > 0 else ():
            if getattr(schema, part):
                own = head.kind != ActionHead.PLACE and part != "sizes"
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
    window, candidates, victims, elastics, services, changes, resizes = sizes
    per_job = candidates // window if schema.candidates else 1
    per_elastic = resizes // elastics if schema.sizes else 0
    layout = replace(
        schema.actions,
        window=window,
        candidates=per_job,
        victims=victims if schema.victims else 0,
        elastics=elastics if schema.elastics else 0,
        services=services if schema.services else 0,
        capacity_steps=changes // 2 if schema.capacity else 0,
        sizes=per_elastic,
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
            # Candidates and sizes are numbered as the actions are; their job is one for all.
            shared = {"queue": per_job, "elastics": max(spec.sets.count("sizes") * per_elastic, 1)}
            row[VectorPart.SHARED_BY] = shared.get(part, 1)
            row[VectorPart.COLUMN] = starts[head.name if by_head else "", part] if part else 0
            row[VectorPart.ONE_HOT] = one_hot + at if len(heads) > 1 else -1
            if spec.behind is not None:
                row[VectorPart.FIRST_ENTITY] = known[spec.behind].size
            rows.append(row)
    return np.array(rows)
