"""The scheduler's components as configuration: each selects kernels, none has an algorithm."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import ConfigurationError
from orchestrator.kernels.codes import Placement, Topology
from orchestrator.scheduler.rules import Rule

__all__ = ["BinPacker", "GangScheduler", "TopologyAwareScheduler"]

_PACKING = (
    Placement.FIRST_FIT,
    Placement.BEST_FIT,
    Placement.BEST_FIT_FGD,
    Placement.DOT_PRODUCT,
    Placement.GPU_PACKING,
    Placement.GPU_CLUSTERING,
    Placement.FGD,
    Placement.BUDDY,
)


@dataclass(frozen=True)
class BinPacker:
    """Packs workloads onto few nodes, so that large ones still find room.

    Parameters
    ----------
    strategy : Placement, optional
        A generator that packs: not one that spreads or draws lots.
    """

    strategy: Placement = Placement.BEST_FIT

    def __post_init__(self) -> None:
        """Reject strategies that do not pack."""
        if self.strategy not in _PACKING:
            known = ", ".join(placement.name.lower() for placement in _PACKING)
            raise ConfigurationError(
                f"BinPacker: 'strategy' is {Placement(self.strategy).name.lower()}, which does "
                f"not pack; choose from {known}"
            )

    def configure(self, rule: Rule) -> Rule:
        """The rule, placing by this strategy."""
        return replace(rule, placement=self.strategy)


@dataclass(frozen=True)
class GangScheduler:
    """All workers of a job start together, or none does: every placement here is of that kind.

    Parameters
    ----------
    strict_order : bool, optional
        Whether a gang that does not fit holds up all behind it, so that it is not starved by
        small jobs that do.
    """

    strict_order: bool = False

    def configure(self, rule: Rule) -> Rule:
        """The rule, in strict order or not."""
        return replace(rule, blocking=self.strict_order)

    @staticmethod
    def whole(requests: NDArray[np.void]) -> NDArray[np.bool_]:
        """Which jobs start with all of their workers, bool [jobs]; elastic ones need not."""
        return np.asarray(
            (requests["elastic"] == 0) | (requests["min_workers"] >= requests["workers"])
        )


@dataclass(frozen=True)
class TopologyAwareScheduler:
    """Keeps gangs close together.

    Parameters
    ----------
    required : Topology, optional
        Domain within which every gang must stay that does not ask for a narrower one itself;
        ANY leaves it to the jobs.
    prefer_close : bool, optional
        Whether gangs go into the narrowest domain that holds them.
    """

    required: Topology = Topology.ANY
    prefer_close: bool = True

    def configure(self, rule: Rule) -> Rule:
        """The rule, placing gangs into tight domains if that is preferred."""
        return replace(rule, placement=Placement.TIGHTEST) if self.prefer_close else rule

    def require(self, requests: NDArray[np.void]) -> NDArray[np.void]:
        """Copy requests, with the required domain on gangs that asked for a wider one."""
        bound: NDArray[Any] = requests.copy()
        gangs = bound["workers"] > 1
        bound["topology"][gangs] = np.maximum(bound["topology"][gangs], int(self.required))
        return bound
