"""What makes a folder a checkpoint: a manifest with the size and checksum of every file.

A checkpoint is written into a temporary folder, synced, given its manifest, synced again and
renamed: there is all of it, or nothing. torch.distributed.checkpoint loads a flipped byte without
a word, so whoever loads verifies first, and falls back to the checkpoint before.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import CheckpointError, CorruptCheckpointError

__all__ = [
    "MANIFEST",
    "SCHEMA",
    "Found",
    "Manifest",
    "StoredFile",
    "begin",
    "commit",
    "folder_bytes",
    "newest",
    "prune",
    "read",
    "seal",
    "search",
    "steps",
    "sweep",
    "verify",
    "write_atomically",
]

SCHEMA = 1
"""Version of the manifest's form."""
MANIFEST = "manifest.json"
"""Name of the file that makes a folder a checkpoint."""
_PREFIX, _TEMPORARY = "step-", "writing-"
_CHUNK = 1 << 20
_DIGEST_BYTES = 16


@dataclass(frozen=True)
class StoredFile:
    """A file of a checkpoint: its path inside the folder, its size in bytes, its checksum."""

    name: str
    size: int
    digest: str


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint consists of.

    ``step``: updates that are in it. ``world_size``: ranks that wrote it; any number may load it.
    ``fraction``: how much of the training that is, None if the script does not know.
    """

    step: int
    world_size: int
    files: tuple[StoredFile, ...]
    fraction: float | None = None
    schema: int = SCHEMA

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True)
class Found:
    """The newest checkpoint that verifies, and the newer ones that do not: folders, and why."""

    folder: Path
    manifest: Manifest
    skipped: tuple[tuple[Path, str], ...] = ()


def begin(root: Path) -> Path:
    """A new temporary folder, in which a checkpoint is written."""
    folder = root / f"{_TEMPORARY}{uuid.uuid4().hex[:12]}"
    folder.mkdir(parents=True)
    return folder


def seal(folder: Path, step: int, world_size: int, fraction: float | None = None) -> Manifest:
    """Sync all files of a folder, and write its manifest."""
    files = []
    for path in _files(folder):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        files.append(_describe(folder, path))
    if not files:
        raise CheckpointError(f"{folder}: nothing was written; a checkpoint needs a file")
    manifest = Manifest(step, world_size, tuple(files), fraction)
    write_atomically(folder / MANIFEST, _encode(manifest))
    return manifest


def commit(folder: Path, root: Path, step: int) -> Path:
    """Give a sealed folder its name: from here on it is a checkpoint."""
    final = root / f"{_PREFIX}{step:012d}"
    if final.exists():  # the same step was saved before: by a run that was set back, for example
        replaced = begin(root)
        final.rename(replaced / "replaced")
        folder.rename(final)
        shutil.rmtree(replaced)
    else:
        folder.rename(final)
    _sync_folder(root)
    return final


def steps(root: Path) -> list[Path]:
    """Folders that were committed, the newest first; whether they verify is not known."""
    if not root.is_dir():
        return []
    found = [path for path in root.iterdir() if path.name.startswith(_PREFIX) and path.is_dir()]
    return sorted(found, key=lambda path: path.name, reverse=True)


def read(folder: Path) -> Manifest:
    """A folder's manifest, with files neither counted nor read.

    Raises
    ------
    CorruptCheckpointError
        If it is missing, damaged or of another version.
    """
    path = folder / MANIFEST
    try:
        body = json.loads(path.read_bytes())
        content, digest = body["manifest"], body["digest"]
    except FileNotFoundError:
        raise CorruptCheckpointError(folder, "has no manifest") from None
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise CorruptCheckpointError(folder, f"has an unreadable manifest ({error})") from error
    if digest != _checksum(content):
        raise CorruptCheckpointError(folder, "has a manifest that is not what was written")
    if content["schema"] != SCHEMA:
        problem = f"has a manifest of version {content['schema']}, and this code reads {SCHEMA}"
        raise CorruptCheckpointError(folder, problem)
    files = tuple(StoredFile(**file) for file in content["files"])
    return Manifest(content["step"], content["world_size"], files, content["fraction"])


def verify(folder: Path) -> Manifest:
    """A folder's manifest, once every file is what was written.

    Raises
    ------
    CorruptCheckpointError
        If a file is missing, of another size, or its checksum differs.
    """
    manifest = read(folder)
    for file in manifest.files:
        path = folder / file.name
        try:
            if path.stat().st_size != file.size:
                problem = f"has {path.stat().st_size} of {file.size} bytes of '{file.name}'"
                raise CorruptCheckpointError(folder, problem)
            if _digest(path) != file.digest:
                problem = f"has another checksum of '{file.name}' than was written"
                raise CorruptCheckpointError(folder, problem)
        except OSError as error:
            problem = f"lacks '{file.name}' ({error.strerror})"
            raise CorruptCheckpointError(folder, problem) from error
    return manifest


def newest(root: Path) -> Found | None:
    """The newest checkpoint that verifies; None if there is none, for whatever reason."""
    found, _ = search(root)
    return found


def search(root: Path) -> tuple[Found | None, tuple[tuple[Path, str], ...]]:
    """The newest checkpoint that verifies, and all that were passed over, with the reason."""
    skipped: list[tuple[Path, str]] = []
    for folder in steps(root):
        try:
            manifest = verify(folder)
        except CorruptCheckpointError as error:
            skipped.append((folder, error.problem))
        else:
            return Found(folder, manifest, tuple(skipped)), tuple(skipped)
    return None, tuple(skipped)


def prune(root: Path, keep: int) -> list[Path]:
    """Remove all but the last ``keep`` checkpoints; what was removed.

    One whose manifest cannot be read does not count as kept, and goes with the old ones.
    """
    kept, removed = 0, []
    for folder in steps(root):
        if kept >= keep:
            shutil.rmtree(folder)
            removed.append(folder)
            continue
        try:
            read(folder)
            kept += 1
        except CorruptCheckpointError:
            continue
    return removed


def sweep(root: Path, *, older_than_s: float) -> list[Path]:
    """Remove what interrupted saves have left; what is younger may still be written by somebody."""
    before = time.time() - older_than_s
    found = [path for path in root.iterdir() if path.name.startswith(_TEMPORARY)]
    left = [path for path in found if path.stat().st_mtime < before]
    for folder in left:
        shutil.rmtree(folder, ignore_errors=True)
    return left


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder; those that vanish meanwhile count nothing."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def write_atomically(path: Path, body: bytes) -> None:
    """Write a file that is there whole or not at all, and stays after a crash."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    with temporary.open("wb") as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    _sync_folder(path.parent)


def _encode(manifest: Manifest) -> bytes:
    """A manifest as it is written, with a checksum of itself."""
    content: dict[str, Any] = {
        "schema": manifest.schema,
        "step": manifest.step,
        "world_size": manifest.world_size,
        "fraction": manifest.fraction,
        "files": [
            {"name": file.name, "size": file.size, "digest": file.digest} for file in manifest.files
        ],
    }
    body = {"manifest": content, "digest": _checksum(content)}
    return json.dumps(body, indent=1).encode()


def _checksum(content: object) -> str:
    """Checksum of plain data, whatever the order of its keys."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).hexdigest()


def _describe(folder: Path, path: Path) -> StoredFile:
    """A file as its manifest names it."""
    return StoredFile(path.relative_to(folder).as_posix(), path.stat().st_size, _digest(path))


def _files(folder: Path) -> Iterator[Path]:
    """All files below a folder but its manifest, in order."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MANIFEST:
            yield path


def _digest(path: Path) -> str:
    """Checksum of a file."""
    sum_ = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            sum_.update(chunk)
    return sum_.hexdigest()


def _sync_folder(folder: Path) -> None:
    """Have a folder's entries survive a crash."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
