"""MemoryManager: memory of hosts and of GPUs."""

from __future__ import annotations

from orchestrator.resources.usage import ResourceView, Usage

__all__ = ["MemoryManager"]

_UNIT = "MiB"


class MemoryManager(ResourceView):
    """Host memory, which workers share, and GPU memory, which workers on a shared GPU share."""

    def total(self) -> Usage:
        """Host memory of all nodes in service."""
        return self._total([self.node(n) for n in range(self.nodes)], _UNIT)

    def node(self, node: int) -> Usage:
        """Host memory of a node."""
        record = self._node(node)
        return Usage(record["memory_cap_mib"], record["memory_free_mib"], _UNIT)

    def device(self, node: int, index: int) -> Usage:
        """Memory of a GPU, as far as jobs asked for it."""
        record = self._node(node)
        free = int(self._state.device[self._row, node, index]["free_memory_mib"])
        return Usage(record["gpu_memory_mib"], free, _UNIT)
