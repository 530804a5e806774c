"""Rendezvous hashing (Thaler and Ravishankar, IEEE/ACM Transactions on Networking 6(1), 1998)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from orchestrator.errors import ConfigurationError, UnknownEntityError

__all__ = ["HashShardManager"]


class HashShardManager:
    """Each key belongs to the shard whose hash with it is highest.

    A shard that joins takes its keys from all others alike, and one that leaves gives them to all
    others; no other key moves.

    Parameters
    ----------
    shards : sequence of str
        Shards, at least one.
    """

    def __init__(self, shards: Sequence[str] = ("shard-0",)) -> None:
        self._shards: list[str] = []
        for shard in shards:
            self.add(shard)
        if not self._shards:
            raise ConfigurationError("HashShardManager: no shards; give at least one")

    @property
    def shards(self) -> tuple[str, ...]:
        """All shards, in alphabetical order."""
        return tuple(self._shards)

    def add(self, shard: str) -> None:
        """A shard joins."""
        if shard in self._shards:
            raise ConfigurationError(f"HashShardManager: shard '{shard}' is there already")
        self._shards.append(shard)
        self._shards.sort()

    def remove(self, shard: str) -> None:
        """A shard leaves."""
        if shard not in self._shards:
            raise UnknownEntityError(f"no shard '{shard}'; known: {', '.join(self._shards)}")
        if len(self._shards) == 1:
            raise ConfigurationError(
                f"HashShardManager: '{shard}' is the last shard; add another one first"
            )
        self._shards.remove(shard)

    def owner(self, key: str) -> str:
        """The shard that owns a job or node."""
        return max(self._shards, key=lambda shard: _weight(shard, key))


def _weight(shard: str, key: str) -> bytes:
    # A length in front keeps ("a", "bc") and ("ab", "c") apart.
    text = f"{len(shard)}:{shard}:{key}"
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
