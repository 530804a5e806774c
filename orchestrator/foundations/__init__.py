"""The injected dependencies: simple and in memory; log, leases and checkpoints durable, too."""

from __future__ import annotations

from typing import NamedTuple

from orchestrator.foundations.checkpoints import FolderCheckpoints, InMemoryCheckpoints
from orchestrator.foundations.consensus import InMemoryConsensus
from orchestrator.foundations.faults import HeartbeatFaultDetector, PhiAccrualFaultDetector
from orchestrator.foundations.shards import HashShardManager
from orchestrator.ports import Clock, ConsensusEngine

__all__ = [
    "FolderCheckpoints",
    "Foundations",
    "HashShardManager",
    "HeartbeatFaultDetector",
    "InMemoryCheckpoints",
    "InMemoryConsensus",
    "PhiAccrualFaultDetector",
    "in_memory",
]


class Foundations(NamedTuple):
    """The dependencies in the order in which the orchestrator takes them."""

    consensus_engine: ConsensusEngine
    shard_manager: HashShardManager
    fault_detector: HeartbeatFaultDetector
    checkpoint_manager: InMemoryCheckpoints


def in_memory(clock: Clock) -> Foundations:
    """All four in memory: ``InfrastructureOrchestrator(*in_memory(clock), clock=clock)``."""
    return Foundations(
        InMemoryConsensus(),
        HashShardManager(),
        HeartbeatFaultDetector(clock),
        InMemoryCheckpoints(),
    )
