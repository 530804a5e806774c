"""Sealed bytes: a header says what is inside and in which form, a digest that it is whole.

Nothing inside is looked at before the digest is: what was cut short, or has another bit anywhere,
is refused, and never read as something else.
"""

from __future__ import annotations

import hashlib
import struct
from enum import Enum

from orchestrator.errors import CorruptedError, UnknownSchemaError

__all__ = ["SCHEMA", "Content", "open_seal", "seal"]


SCHEMA = 1
"""Version of all forms that are written. It is raised whenever a message or a snapshot changes so
that what was written before would be read wrongly, or not at all."""


_HEADER = struct.Struct(">2s2sH16s")  # ours, what is inside, the version, the digest
_OURS = b"Qm"
_DIGEST = 16  # bytes: 2^64 random changes until one passes


class Content(Enum):
    """What may be sealed."""

    ENTRY = b"en"
    """One entry of a log."""
    SNAPSHOT = b"sn"
    """What all entries before an index have made."""


def _digest(start: bytes, inside: bytes | memoryview) -> bytes:
    found = hashlib.blake2b(start, digest_size=_DIGEST, usedforsecurity=False)
    found.update(inside)
    return found.digest()


def seal(content: Content, inside: bytes) -> bytes:
    """Bytes with a header.

    Parameters
    ----------
    content : Content
        What they are.
    inside : bytes
    """
    start = _HEADER.pack(_OURS, content.value, SCHEMA, b"")[:-_DIGEST]
    return start + _digest(start, inside) + inside


def open_seal(content: Content, sealed: bytes) -> memoryview:
    """What was sealed.

    Parameters
    ----------
    content : Content
        What it should be.
    sealed : bytes

    Raises
    ------
    UnknownSchemaError
        If another version wrote it.
    CorruptedError
        If it is not what was sealed.
    """
    what = content.name.lower()
    if len(sealed) < _HEADER.size:
        raise CorruptedError(
            f"{what}: {len(sealed)} bytes are too few, a header has {_HEADER.size}; "
            "restore it from a copy"
        )
    ours, inner, version, digest = _HEADER.unpack_from(sealed)
    if (ours, inner) != (_OURS, content.value):
        raise CorruptedError(f"{what}: begins with {ours + inner!r}; restore it from a copy")
    inside = memoryview(sealed)[_HEADER.size :]
    whole = _digest(sealed[: _HEADER.size - _DIGEST], inside) == digest
    if version != SCHEMA:
        # Other versions may reckon the digest differently: only the number can be told.
        raise UnknownSchemaError(
            f"{what}: has schema version {version}, and this program reads {SCHEMA}; "
            "run the version that wrote it, or begin a new log"
        )
    if not whole:
        raise CorruptedError(
            f"{what}: its digest is not that of its {len(inside)} bytes; restore it from a copy"
        )
    return inside
