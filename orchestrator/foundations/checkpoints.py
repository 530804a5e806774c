"""Metadata of checkpoints: in memory, and in files beside what the workers have saved."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import CorruptCheckpointError, UnknownEntityError, ValidationError
from orchestrator.ports import Checkpoint
from orchestrator.worker import manifests

__all__ = ["FolderCheckpoints", "InMemoryCheckpoints", "StorageUse"]

_log = logging.getLogger(__name__)

_SCHEMA = 1
_RECORDS, _COUNT = "records", "count.json"


class InMemoryCheckpoints:
    """The last committed checkpoint of every job, and those that are being written."""

    def __init__(self) -> None:
        self._count = 0
        self._pending: dict[str, Checkpoint] = {}
        self._latest: dict[str, Checkpoint] = {}

    def save(self, job_id: str, progress_ms: int, time_ms: int) -> str:
        """A checkpoint has begun; its identity."""
        self._count += 1
        checkpoint_id = f"{job_id}@{self._count}"
        self._pending[checkpoint_id] = Checkpoint(checkpoint_id, job_id, progress_ms, time_ms)
        return checkpoint_id

    def commit(self, checkpoint_id: str) -> None:
        """A checkpoint is complete: it replaces the job's former one."""
        checkpoint = self._take(checkpoint_id)
        self._latest[checkpoint.job_id] = checkpoint

    def discard(self, checkpoint_id: str) -> None:
        """A checkpoint will not be completed."""
        self._take(checkpoint_id)

    def latest(self, job_id: str) -> Checkpoint | None:
        """The last committed checkpoint of a job."""
        return self._latest.get(job_id)

    def forget(self, job_id: str) -> None:
        """Nobody will ask for a job any more."""
        self._latest.pop(job_id, None)
        for checkpoint in [c for c in self._pending.values() if c.job_id == job_id]:
            del self._pending[checkpoint.checkpoint_id]

    def _take(self, checkpoint_id: str) -> Checkpoint:
        try:
            return self._pending.pop(checkpoint_id)
        except KeyError:
            raise UnknownEntityError(
                f"no checkpoint '{checkpoint_id}' is being written; save() begins one"
            ) from None


@dataclass(frozen=True)
class StorageUse:
    """What checkpoints take of a folder, bytes; ``quota_bytes``: None for no limit."""

    used_bytes: int
    quota_bytes: int | None

    @property
    def over(self) -> bool:
        """Whether that is more than there should be."""
        return self.quota_bytes is not None and self.used_bytes > self.quota_bytes


@dataclass(frozen=True)
class _Record:
    """A checkpoint as it stands in its file.

    ``order``: its place among the job's committed ones, 0 while it is being written. ``saved``:
    which of the workers' own checkpoints it goes with, if any.
    """

    checkpoint: Checkpoint
    order: int = 0
    saved: str | None = None


class FolderCheckpoints:
    """Checkpoints in a folder: what a restart finds again, beside what the workers have written.

    A job has a subfolder (:meth:`folder`, its ``QUARTERMASTER_CHECKPOINT_DIR``). A record that is
    committed goes with the newest checkpoint that its workers had saved by then; if that one is
    damaged later, the record before counts. A job whose workers save nothing that is known here has
    records alone.

    Parameters
    ----------
    root : Path or str
        The folder.
    keep : int, optional
        How many records of a job are kept.
    quota_bytes : int or None, optional
        What all checkpoints may take. Above that the oldest go, but for each job's last one.
    """

    def __init__(self, root: Path | str, *, keep: int = 3, quota_bytes: int | None = None) -> None:
        for field, value in (("keep", keep), ("quota_bytes", quota_bytes)):
            if value is not None and value < 1:
                problem, remedy = f"is {value}", "give at least 1"
                raise ValidationError("FolderCheckpoints", field, problem, remedy)
        self._root, self._keep, self._quota = Path(root), keep, quota_bytes
        self._root.mkdir(parents=True, exist_ok=True)
        self._whole: dict[Path, tuple[object, str | None]] = {}  # by folder: its look, its fault
        self._pending: dict[str, _Record] = {}
        self._committed: dict[str, list[_Record]] = {}  # by job, the oldest first
        self._count = self._read_count()
        for path in sorted(self._root.glob(f"*/{_RECORDS}/*.json")):
            self._remember(path)
        for records in self._committed.values():
            records.sort(key=lambda record: record.order)

    def folder(self, job_id: str) -> Path:
        """Where a job's checkpoints are."""
        name = urllib.parse.quote(job_id, safe="")
        return self._root / (name.replace(".", "%2E") if name in (".", "..") else name)

    def save(self, job_id: str, progress_ms: int, time_ms: int) -> str:
        """A checkpoint has begun; its identity."""
        self._count += 1
        _write(self._root / _COUNT, {"count": self._count})
        checkpoint_id = f"{job_id}@{self._count}"
        checkpoint = Checkpoint(checkpoint_id, job_id, progress_ms, time_ms)
        record = _Record(checkpoint)
        self._store(record)
        self._pending[checkpoint_id] = record
        return checkpoint_id

    def commit(self, checkpoint_id: str) -> None:
        """A checkpoint is complete: it goes before the job's former ones."""
        checkpoint = self._take(checkpoint_id).checkpoint
        found, _ = manifests.search(self.folder(checkpoint.job_id))
        saved = None if found is None else found.folder.name
        records = self._committed.setdefault(checkpoint.job_id, [])
        record = _Record(checkpoint, records[-1].order + 1 if records else 1, saved)
        self._store(record)
        records.append(record)
        while len(records) > self._keep:
            self._path(records.pop(0).checkpoint).unlink(missing_ok=True)
        self._make_room()

    def discard(self, checkpoint_id: str) -> None:
        """A checkpoint will not be completed."""
        self._path(self._take(checkpoint_id).checkpoint).unlink(missing_ok=True)

    def latest(self, job_id: str) -> Checkpoint | None:
        """The last committed checkpoint of a job whose files are what was written."""
        for record in reversed(self._committed.get(job_id, [])):
            fault = self._fault(record)
            if fault is None:
                return record.checkpoint
            _log.warning("checkpoint %s: %s", record.checkpoint.checkpoint_id, fault)
        return None

    def forget(self, job_id: str) -> None:
        """Nobody will ask for a job any more; what it has saved stays, see :meth:`purge`."""
        self._committed.pop(job_id, None)
        for each in [i for i, r in self._pending.items() if r.checkpoint.job_id == job_id]:
            del self._pending[each]
        shutil.rmtree(self.folder(job_id) / _RECORDS, ignore_errors=True)

    def purge(self, job_id: str) -> int:
        """Remove all that a job has saved; how many bytes that were."""
        freed = manifests.folder_bytes(self.folder(job_id))
        self.forget(job_id)
        shutil.rmtree(self.folder(job_id), ignore_errors=True)
        return freed

    def use(self, job_id: str | None = None) -> StorageUse:
        """What a job's checkpoints take; None: all."""
        place = self._root if job_id is None else self.folder(job_id)
        return StorageUse(manifests.folder_bytes(place), self._quota)

    def _make_room(self) -> None:
        """Remove the oldest checkpoints until the rest is within the quota."""
        if self._quota is None:
            return
        over = self.use().used_bytes - self._quota
        folders = [each for each in self._root.iterdir() if each.is_dir()]
        spare = [each for job in folders for each in manifests.steps(job)[1:]]
        for each in sorted(spare, key=lambda path: path.stat().st_mtime):
            if over <= 0:
                return
            over -= manifests.folder_bytes(each)
            shutil.rmtree(each)
        if over > 0:
            _log.warning(
                "%s: %d bytes more than 'quota_bytes', with one checkpoint a job; purge() jobs "
                "that have ended, or raise it",
                self._root,
                over,
            )

    def _fault(self, record: _Record) -> str | None:
        """What is wrong with what a record goes with; files are read again when they look new."""
        if record.saved is None:
            return None
        folder = self.folder(record.checkpoint.job_id) / record.saved
        look = tuple(
            (path.name, stat.st_mtime_ns, stat.st_size, stat.st_ino)
            for path in sorted(folder.rglob("*"))
            for stat in (path.stat(),)
        )
        known = self._whole.get(folder)
        if known is None or known[0] != look:
            try:
                manifests.verify(folder)
                known = (look, None)
            except CorruptCheckpointError as error:
                known = (look, str(error))
            self._whole[folder] = known
        return known[1]

    def _take(self, checkpoint_id: str) -> _Record:
        try:
            return self._pending.pop(checkpoint_id)
        except KeyError:
            raise UnknownEntityError(
                f"no checkpoint '{checkpoint_id}' is being written; save() begins one"
            ) from None

    def _path(self, checkpoint: Checkpoint) -> Path:
        number = checkpoint.checkpoint_id.rpartition("@")[2]
        return self.folder(checkpoint.job_id) / _RECORDS / f"{int(number):012d}.json"

    def _store(self, record: _Record) -> None:
        """Write a record, so that it stays."""
        path = self._path(record.checkpoint)
        path.parent.mkdir(parents=True, exist_ok=True)
        body = {**vars(record.checkpoint), "order": record.order, "saved": record.saved}
        _write(path, body)

    def _remember(self, path: Path) -> None:
        """Take a record from its file; one that cannot be read is passed over, and said."""
        body = _read(path)
        if body is None:
            return
        names = ("checkpoint_id", "job_id", "progress_ms", "time_ms")
        record = _Record(Checkpoint(*(body[name] for name in names)), body["order"], body["saved"])
        job_id, checkpoint_id = record.checkpoint.job_id, record.checkpoint.checkpoint_id
        self._count = max(self._count, int(checkpoint_id.rpartition("@")[2]))
        if record.order:
            self._committed.setdefault(job_id, []).append(record)
        else:
            self._pending[checkpoint_id] = record

    def _read_count(self) -> int:
        body = _read(self._root / _COUNT) if (self._root / _COUNT).exists() else None
        return 0 if body is None else int(body["count"])


def _write(path: Path, content: dict[str, object]) -> None:
    """Write plain data with its version and checksum."""
    whole = {"schema": _SCHEMA, **content}
    body = {"content": whole, "digest": _digest(whole)}
    manifests.write_atomically(path, json.dumps(body).encode())


def _read(path: Path) -> dict[str, Any] | None:
    """What was written; None, and a warning, if it is damaged or of another version."""
    try:
        body = json.loads(path.read_bytes())
        content: dict[str, Any] = body["content"]
        if body["digest"] == _digest(content) and content["schema"] == _SCHEMA:
            return content
        problem = "it is not what was written, or of another version"
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = str(error)
    _log.warning("%s is passed over: %s", path, problem)
    return None


def _digest(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
