"""What a resource manager says of a resource: capacity, what is used, what is free."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.errors import UnknownEntityError
from orchestrator.kernels import entry
from orchestrator.kernels.codes import NodeCode, Reason
from orchestrator.kernels.state import ClusterState

__all__ = ["ResourceView", "Usage"]

_WORDS = {
    Reason.OK: "it fits",
    Reason.NO_CAPACITY: "not enough is free",
    Reason.FRAGMENTED: "enough is free, but scattered: no node has room for whole workers",
    Reason.TOPOLOGY: "its workers fit, but not into one domain as it requires",
    Reason.BANDWIDTH: "its workers fit, but the links between them lack bandwidth",
}


@dataclass(frozen=True)
class Usage:
    """Amounts of one resource.

    Parameters
    ----------
    capacity, free : int
        What there is, and what of it nobody holds.
    unit : str
        For people.
    """

    capacity: int
    free: int
    unit: str

    @property
    def used(self) -> int:
        """What is held."""
        return self.capacity - self.free

    @property
    def share(self) -> float:
        """Share that is held, in [0, 1]; 0 of nothing."""
        return self.used / self.capacity if self.capacity else 0.0


class ResourceView:
    """A view on a row of cluster state: it reads, and never writes.

    Parameters
    ----------
    state : ClusterState
        The state.
    row : int, optional
        Which cluster.
    """

    def __init__(self, state: ClusterState, row: int = 0) -> None:
        self._state = state
        self._row = row

    @property
    def nodes(self) -> int:
        """Nodes in the table, in service or not."""
        return int(self._state.rows[self._row]["num_nodes"])

    def in_service(self, node: int) -> bool:
        """Whether a node takes work."""
        return bool(self._node(node)["state"] == NodeCode.UP)

    def why_not(self, job: int) -> Reason:
        """Why a waiting job could not start now; OK if it could."""
        if not 0 <= job < int(self._state.rows[self._row]["num_jobs"]):
            raise UnknownEntityError(f"no job {job}; give an index into the job table")
        return Reason(entry.why_not(self._state.rows, self._row, job))

    def explain(self, job: int) -> str:
        """The same for people."""
        return _WORDS[self.why_not(job)]

    def _node(self, node: int) -> dict[str, int]:
        if not 0 <= node < self.nodes:
            raise UnknownEntityError(f"no node {node}; there are {self.nodes}")
        record = self._state.node[self._row, node]
        return {name: int(record[name]) for name in record.dtype.names}

    def _total(self, parts: list[Usage], unit: str) -> Usage:
        """The sum over nodes in service."""
        up = [part for n, part in enumerate(parts) if self.in_service(n)]
        return Usage(sum(p.capacity for p in up), sum(p.free for p in up), unit)
