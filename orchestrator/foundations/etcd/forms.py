"""Where a log lies in etcd, and what its keys hold: entries with their marks, manifests.

An entry's key holds one byte that says whether it is compressed, its mark, and its sealed form.
Numbers in keys have 20 digits, so that the order of keys is theirs.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from orchestrator.errors import (
    CapacityError,
    ConfigurationError,
    CorruptedError,
    StorageError,
    UnknownSchemaError,
)
from orchestrator.foundations.etcd.connection import prefix_end
from orchestrator.messages import Entry
from orchestrator.wire.entries import decode_entry, encode_entry
from orchestrator.wire.seals import SCHEMA

__all__ = ["MOST_BYTES", "Chunks", "Keys", "Manifest", "Marks", "decode", "mark_of", "open_meta"]


MOST_BYTES = 1 << 20
"""Of a request's values; etcd takes 1.5 MiB with all that is around them."""


_CHUNK_BYTES = 512 << 10


_PLAIN, _PACKED = b"p", b"z"


_MARK = 16  # bytes


_PACK_BYTES = 16 << 10  # from which on an entry is compressed: plans, and settings of many nodes


class Keys:
    """The keys of one log.

    Parameters
    ----------
    prefix : str
        With which all of them begin.
    """

    def __init__(self, prefix: str) -> None:
        if not isinstance(prefix, str) or not prefix.strip("/"):
            raise ConfigurationError(
                f"etcd: 'prefix' is {prefix!r}; give the beginning of its keys"
            )
        self.prefix = f"{prefix.rstrip('/')}/".encode()
        self.meta, self.head = self.prefix + b"meta", self.prefix + b"head"
        # What is watched is under one key: entries, and the manifests of snapshots.
        self.log = self.prefix + b"log/"
        self.entries, self.manifests = self.log + b"entry/", self.log + b"snapshot/"
        self.chunks = self.prefix + b"chunk/"

    def entry(self, index: int) -> bytes:
        """Of an entry."""
        return self.entries + b"%020d" % index

    def manifest(self, index: int) -> bytes:
        """Of the manifest of a snapshot."""
        return self.manifests + b"%020d" % index

    def chunks_of(self, index: int, name: str = "") -> bytes:
        """With which the keys of a snapshot's chunks begin."""
        return self.chunks + b"%020d/" % index + name.encode()

    @staticmethod
    def number(key: bytes) -> int:
        """The number with which a key ends."""
        return int(key[-20:])


# --- what says that a log is here ----------------------------------------------------------------


class _Meta(msgspec.Struct, frozen=True):
    log: str
    schema: int
    id: str


_NAME = "quartermaster"


def make_meta() -> bytes:
    """What a new log says of itself."""
    return msgspec.json.encode(_Meta(_NAME, SCHEMA, os.urandom(6).hex()))


def open_meta(where: str, value: bytes) -> None:
    """Read what a log says of itself.

    Raises
    ------
    StorageError
        If it is none of ours.
    UnknownSchemaError
        If another version made it.
    """
    try:
        meta = msgspec.json.decode(value, type=_Meta)
    except msgspec.MsgspecError as error:
        raise StorageError(f"{where}: is no log ({error}); give another prefix") from error
    if meta.log != _NAME:
        raise StorageError(f"{where}: is a log of '{meta.log:.80}'; give another prefix")
    if meta.schema != SCHEMA:
        raise UnknownSchemaError(
            f"{where}: has schema version {meta.schema}, and this program reads {SCHEMA}; "
            "run the version that wrote it, or give another prefix"
        )


# --- entries -------------------------------------------------------------------------------------


class Marks:
    """Marks that nobody else gives, and nobody gives twice: by them one knows one's own entries."""

    def __init__(self) -> None:
        self._mine, self._numbers = os.urandom(_MARK - 8), itertools.count()

    def seal(self, entry: Entry) -> tuple[bytes, bytes]:
        """An entry's mark, and what its key holds.

        Raises
        ------
        ValidationError
            If it is not well formed.
        CapacityError
            If it is too large.
        """
        sealed, kind = encode_entry(entry), _PLAIN
        if len(sealed) > _PACK_BYTES:
            sealed, kind = zlib.compress(sealed, 1), _PACKED
        if len(sealed) > MOST_BYTES:
            raise CapacityError(
                f"entry: a {type(entry.body).__name__} of {len(sealed):,} bytes, compressed, does "
                f"not fit into a request of etcd; say it in parts of less than {MOST_BYTES:,}"
            )
        mark = self._mine + next(self._numbers).to_bytes(8, "big")
        return mark, kind + mark + sealed


def mark_of(value: bytes) -> bytes:
    """The mark of what an entry's key holds."""
    return value[1 : 1 + _MARK]


def decode(value: bytes) -> Entry:
    """The entry that a key holds.

    Raises
    ------
    UnknownSchemaError
        If another version wrote it.
    CorruptedError
        If it is not what was written.
    """
    kind, sealed = value[:1], value[1 + _MARK :]
    if kind == _PACKED:
        try:
            sealed = zlib.decompress(sealed)
        except zlib.error as error:
            raise CorruptedError(f"entry: {error}; restore it from a copy") from error
    elif kind != _PLAIN:
        raise CorruptedError(f"entry: begins with {kind!r}; restore it from a copy")
    return decode_entry(sealed)


# --- snapshots -----------------------------------------------------------------------------------


class Manifest(msgspec.Struct, frozen=True):
    """What a snapshot is made of: it counts from when this is there.

    ``name``: with which its chunks' keys end, before their number.
    """

    name: str
    chunks: int
    size: int
    digest: str


@dataclass(frozen=True)
class Chunks:
    """A snapshot's bytes, in parts that fit into requests."""

    sealed: bytes

    def manifest(self) -> Manifest:
        """What they have to be when they are put together again."""
        count = -(-len(self.sealed) // _CHUNK_BYTES)
        return Manifest(os.urandom(6).hex(), count, len(self.sealed), _digest(self.sealed))

    def __iter__(self) -> Iterator[bytes]:
        """One after the other."""
        for begin in range(0, len(self.sealed), _CHUNK_BYTES):
            yield self.sealed[begin : begin + _CHUNK_BYTES]


def _digest(sealed: bytes) -> str:
    return hashlib.blake2b(sealed, digest_size=16, usedforsecurity=False).hexdigest()


def joined(where: str, manifest: Manifest, chunks: list[bytes]) -> bytes:
    """A snapshot's bytes, from its chunks.

    Raises
    ------
    CorruptedError
        If they are not what was written.
    """
    sealed = b"".join(chunks)
    found = (len(chunks), len(sealed), _digest(sealed))
    if found != (manifest.chunks, manifest.size, manifest.digest):
        raise CorruptedError(
            f"{where}: {len(chunks)} of {manifest.chunks} chunks and {len(sealed):,} of "
            f"{manifest.size:,} bytes are there, or others; restore it from a copy"
        )
    return sealed


def span(prefix: bytes) -> tuple[bytes, bytes]:
    """The first key that may begin so, and the first one behind all that do."""
    return prefix, prefix_end(prefix)
