"""NetworkBandwidthManager: bandwidth of nodes and of racks' uplinks."""

from __future__ import annotations

from orchestrator.errors import UnknownEntityError
from orchestrator.resources.usage import ResourceView, Usage

__all__ = ["NetworkBandwidthManager"]

_UNIT = "Mbit/s"


class NetworkBandwidthManager(ResourceView):
    """Bandwidth that gangs hold which span nodes or racks.

    A node or an uplink of capacity 0 has no limit that anybody stated, and keeps no account.
    """

    def node(self, node: int) -> Usage:
        """Bandwidth of a node."""
        record = self._node(node)
        if record["bandwidth_mbps"] == 0:
            return Usage(0, 0, _UNIT)
        return Usage(record["bandwidth_mbps"], record["bandwidth_free_mbps"], _UNIT)

    @property
    def uplinks(self) -> int:
        """Racks with an uplink in the table."""
        return int(self._state.rows[self._row]["num_uplinks"])

    def uplink(self, rack: int) -> Usage:
        """Bandwidth of a rack's uplink."""
        if not 0 <= rack < self.uplinks:
            raise UnknownEntityError(f"no uplink of rack {rack}; {self.uplinks} are known")
        record = self._state.uplink[self._row, rack]
        if record["capacity_mbps"] == 0:
            return Usage(0, 0, _UNIT)
        return Usage(int(record["capacity_mbps"]), int(record["free_mbps"]), _UNIT)

    def tightest(self) -> Usage | None:
        """The node or uplink with the largest share in use; None if none has a limit."""
        links = [self.node(n) for n in range(self.nodes) if self.in_service(n)]
        links += [self.uplink(rack) for rack in range(self.uplinks)]
        limited = [link for link in links if link.capacity > 0]
        return max(limited, key=lambda link: link.share, default=None)
