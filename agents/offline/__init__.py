"""Offline data: demonstrations of rules and trained policies, in Minari's format."""

from agents.offline.dataset import read_dataset, write_dataset
from agents.offline.demonstrations import Demonstration, demonstrate
from agents.offline.run import record

__all__ = ["Demonstration", "demonstrate", "read_dataset", "record", "write_dataset"]
