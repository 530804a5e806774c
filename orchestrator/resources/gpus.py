"""GPUAllocator: which GPUs there are, and what share of each is free."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.resources.usage import ResourceView, Usage

__all__ = ["Device", "GPUAllocator"]

_WHOLE = 1000
_UNIT = "milli-GPU"


@dataclass(frozen=True)
class Device:
    """One GPU.

    Parameters
    ----------
    node, index : int
        Where it is.
    free_milli, free_memory_mib : int
        Share and memory that nobody holds.
    island : int
        Its NVLink island on the node; -1 where the node has none.
    """

    node: int
    index: int
    free_milli: int
    free_memory_mib: int
    island: int


class GPUAllocator(ResourceView):
    """GPUs and shares of GPUs, as the kernels reserve and release them."""

    def total(self) -> Usage:
        """GPUs of all nodes in service."""
        return self._total([self.node(n) for n in range(self.nodes)], _UNIT)

    def node(self, node: int) -> Usage:
        """GPUs of a node."""
        record = self._node(node)
        return Usage(record["gpus"] * _WHOLE, record["gpu_free_milli"], _UNIT)

    def whole_free(self, node: int) -> int:
        """GPUs of a node of which nobody holds anything."""
        return self._node(node)["whole_free"]

    def devices(self, node: int) -> tuple[Device, ...]:
        """The GPUs of a node."""
        record = self._node(node)
        size = record["island"]
        table = self._state.device[self._row, node]
        return tuple(
            Device(
                node=node,
                index=g,
                free_milli=int(table[g]["free_milli"]),
                free_memory_mib=int(table[g]["free_memory_mib"]),
                island=g // size if size else -1,
            )
            for g in range(record["gpus"])
        )

    def fragmentation(self) -> float:
        """Idle milli-GPUs that typical jobs cannot use (Weng et al., USENIX ATC 2023).

        0 until typical jobs are loaded (:func:`orchestrator.kernels.packing.load_typical`).
        """
        nodes = self._state.node[self._row, : self.nodes]
        return float(sum(float(x["fragmentation"]) for x in nodes))
