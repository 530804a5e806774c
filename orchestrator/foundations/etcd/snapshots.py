"""Snapshots in etcd: chunks first, then the manifest with which they count."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence, Set
from typing import Any, NamedTuple

import msgspec

from orchestrator.errors import CorruptedError
from orchestrator.foundations.etcd.connection import Connection, created, delete, put
from orchestrator.foundations.etcd.forms import Chunks, Keys, Manifest, joined, span
from orchestrator.wire.entries import decode_snapshot, encode_snapshot

__all__ = ["EtcdSnapshots", "Listed"]


_log = logging.getLogger(__name__)


_PAGE = 16  # chunks of one answer


class Listed(NamedTuple):
    """A snapshot that is there: the first entry that it does not contain, and its manifest."""

    first: int
    value: bytes


class EtcdSnapshots:
    """The snapshots of one log.

    Parameters
    ----------
    connection : Connection
    keys : Keys
        Of the log.
    """

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._connection, self._keys = connection, keys

    def _where(self, index: int) -> str:
        return f"{self._connection}, {self._keys.manifest(index).decode()}"

    async def listed(self, revision: int = 0) -> tuple[int, list[Listed]]:
        """A revision (0: the present one), and all that there were, the newest first."""
        reply = await self._connection.read(*span(self._keys.manifests), revision=revision)
        found = [Listed(Keys.number(pair.key), pair.value) for pair in reply.kvs]
        return revision or reply.header.revision, found[::-1]

    async def write(self, index: int, snapshot: object, guard: Sequence[Any]) -> None:
        """Keep a snapshot, if some comparisons hold then.

        Raises
        ------
        ValidationError
            If it holds what cannot be kept.
        StorageError
            If etcd does not take it.
        """
        chunks = Chunks(await asyncio.to_thread(encode_snapshot, (index, snapshot)))
        manifest = chunks.manifest()
        begin = self._keys.chunks_of(index, f"{manifest.name}/")
        for number, chunk in enumerate(chunks):
            await self._connection.change((), [put(begin + b"%06d" % number, chunk)])
        sealed = msgspec.json.encode(manifest)
        reply = await self._connection.change(guard, [put(self._keys.manifest(index), sealed)])
        if not reply.succeeded:
            raise CorruptedError(
                f"{self._where(index)}: the log was replaced while in use; begin anew"
            )

    async def _sealed(self, listed: Listed, revision: int) -> bytes:
        """A snapshot's bytes; an error if they are not what was written."""
        where = self._where(listed.first)
        try:
            manifest = msgspec.json.decode(listed.value, type=Manifest)
        except msgspec.MsgspecError as error:
            raise CorruptedError(f"{where}: {error}; restore it from a copy") from error
        start, end = span(self._keys.chunks_of(listed.first, f"{manifest.name}/"))
        chunks: list[bytes] = []
        while True:
            reply = await self._connection.read(start, end, limit=_PAGE, revision=revision)
            chunks += [pair.value for pair in reply.kvs]
            if not reply.more:
                return await asyncio.to_thread(joined, where, manifest, chunks)
            start = reply.kvs[-1].key + b"\0"

    async def read(self, listed: Listed, revision: int) -> object:
        """A snapshot, as it was at a revision.

        Raises
        ------
        UnknownSchemaError
            If another version wrote it.
        CorruptedError
            If it is not what was written.
        """
        sealed = await self._sealed(listed, revision)
        try:
            held = await asyncio.to_thread(decode_snapshot, sealed)
        except CorruptedError as error:
            raise CorruptedError(f"{self._where(listed.first)}: {error}") from error
        if not (isinstance(held, tuple) and len(held) == 2 and held[0] == listed.first):
            raise CorruptedError(
                f"{self._where(listed.first)}: is of another index; restore it from a copy"
            )
        return held[1]

    async def whole(self, count: int, known_bad: Set[Listed]) -> list[Listed]:
        """The newest ones that are what was written; they are not looked at further."""
        found: list[Listed] = []
        revision, listed = await self.listed()
        for one in listed:
            if len(found) == count:
                break
            if one in known_bad:
                continue
            try:
                await self._sealed(one, revision)
            except CorruptedError as error:
                _log.error("a snapshot is not counted on: %s", error)
            else:
                found.append(one)
        return found

    async def keep_from(self, index: int, head_created: int) -> None:
        """Remove snapshots and entries before an index, and have etcd forget them."""
        keys = self._keys
        reply = await self._connection.change(
            [created(keys.head, head_created)],
            [
                delete(keys.entry(0), keys.entry(index)),
                delete(keys.manifest(0), keys.manifest(index)),
                delete(keys.chunks_of(0), keys.chunks_of(index)),
            ],
        )
        if reply.succeeded:
            await self._connection.forget(reply.header.revision)
