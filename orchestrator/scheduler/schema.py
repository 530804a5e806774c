"""The layout of actions and features, as values that encoders, networks and bundles share."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from orchestrator.kernels.candidates import CANDIDATE_NAMES, VICTIM_NAMES
from orchestrator.kernels.elastics import ELASTIC_NAMES
from orchestrator.kernels.features import (
    CLUSTER_EXTRA,
    DEFAULT_NAMES,
    FULL_EXTRA,
    GLOBAL_NAMES,
    PUBLISHED_NAMES,
    Encoding,
)
from orchestrator.kernels.node_choices import NODE_NAMES
from orchestrator.kernels.pods import POD_NAMES, POOL_NAMES
from orchestrator.kernels.surroundings import (
    CAPACITY_NAMES,
    FLEET_NAMES,
    RACK_NAMES,
    SERVICE_NAMES,
    TENANT_NAMES,
)

__all__ = ["ActionLayout", "FeatureSchema", "Head"]

_QUEUE_NAMES: dict[Encoding, tuple[str, ...]] = {
    Encoding.PUBLISHED: PUBLISHED_NAMES,
    Encoding.DEFAULT: DEFAULT_NAMES,
    Encoding.CLUSTER: DEFAULT_NAMES + CLUSTER_EXTRA,
    Encoding.FULL: DEFAULT_NAMES + CLUSTER_EXTRA + FULL_EXTRA,
    Encoding.PLACEMENT: POD_NAMES,
}


_LATER = ("elastics", "services", "capacity", "tenants", "racks")


@dataclass(frozen=True)
class Head:
    """A group of actions of one kind: ``size`` actions from ``offset`` on."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class ActionLayout:
    """The flat action space, head by head, as ``orchestrator.kernels.observe`` numbers it.

    Parameters
    ----------
    window : int
        Queued jobs that a policy sees, Q.
    candidates : int
        Placements per job, K.
    victims : int
        Running jobs that may be preempted, V.
    elastics : int
        Running elastic jobs that may shrink or grow by one worker, E.
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

    @property
    def heads(self) -> tuple[Head, ...]:
        """The heads in the order of their offsets."""
        sizes = {
            "place": self.window * self.candidates,
            "preempt": self.victims,
            "shrink": self.elastics,
            "grow": self.elastics,
            "migrate": self.victims if self.migrate else 0,
            "scale_in": self.capacity_steps,
            "scale_out": self.capacity_steps,
            "fewer_replicas": self.services,
            "more_replicas": self.services,
            "wait": int(self.can_wait),
        }
        heads, offset = [], 0
        for name, size in sizes.items():
            heads.append(Head(name, offset, size))
            offset += size
        return tuple(heads)

    @property
    def size(self) -> int:
        """Number of actions."""
        return sum(head.size for head in self.heads)

    def describe(self, action: int) -> str:
        """An action in words, for logs and renderings."""
        for head in self.heads:
            if head.offset <= action < head.offset + head.size:
                index = action - head.offset
                if head.name == "place":
                    by = "on node" if self.choose_node else "by candidate"
                    job, candidate = divmod(index, self.candidates)
                    return f"place job {job} of the window {by} {candidate}"
                if head.name in ("scale_in", "scale_out"):
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
    """

    encoding: Encoding
    actions: ActionLayout
    advisor: str | None = None
    fleet: bool = False
    tenants_shown: int = 0
    racks_shown: int = 0

    @property
    def queue(self) -> tuple[str, ...]:
        """Features of a queued job; none where no queue is shown."""
        return _QUEUE_NAMES[self.encoding] if self.actions.window > 0 else ()

    @property
    def globals(self) -> tuple[str, ...]:
        """Features of the cluster as a whole."""
        if self.encoding == Encoding.PLACEMENT:
            return POOL_NAMES
        return GLOBAL_NAMES + FLEET_NAMES if self.fleet else GLOBAL_NAMES

    @property
    def candidates(self) -> tuple[str, ...]:
        """Features of a candidate placement; none where placements are not chosen."""
        if self.actions.choose_node:
            return NODE_NAMES
        return CANDIDATE_NAMES if self.actions.can_wait and self.actions.window > 0 else ()

    @property
    def victims(self) -> tuple[str, ...]:
        """Features of a running job that may be preempted."""
        return VICTIM_NAMES if self.actions.victims > 0 else ()

    @property
    def elastics(self) -> tuple[str, ...]:
        """Features of a running elastic job that may be resized."""
        return ELASTIC_NAMES if self.actions.elastics > 0 else ()

    @property
    def services(self) -> tuple[str, ...]:
        """Features of a service."""
        return SERVICE_NAMES if self.actions.services > 0 else ()

    @property
    def capacity(self) -> tuple[str, ...]:
        """Features of a change of the fleet."""
        return CAPACITY_NAMES if self.actions.capacity_steps > 0 else ()

    @property
    def tenants(self) -> tuple[str, ...]:
        """Features of a tenant."""
        return TENANT_NAMES if self.tenants_shown > 0 else ()

    @property
    def racks(self) -> tuple[str, ...]:
        """Features of a rack."""
        return RACK_NAMES if self.racks_shown > 0 else ()

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

    @property
    def digest(self) -> str:
        """SHA-256 of the schema, hexadecimal."""
        text = json.dumps(self.as_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()
