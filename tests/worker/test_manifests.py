"""A checkpoint is whole, or it is not one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.errors import CheckpointError, CorruptCheckpointError
from orchestrator.worker import manifests


def _make(root: Path, step: int, body: bytes = b"weights" * 1000) -> Path:
    folder = manifests.begin(root)
    (folder / "part").mkdir()
    (folder / "a.bin").write_bytes(body + str(step).encode())
    (folder / "part" / "b.bin").write_bytes(b"b" * step)
    manifests.seal(folder, step, 2, 0.5)
    return manifests.commit(folder, root, step)


def _flip(path: Path) -> None:
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 0x01
    path.write_bytes(body)


def test_what_was_committed_verifies(tmp_path: Path) -> None:
    folder = _make(tmp_path, 7)
    manifest = manifests.verify(folder)
    assert (manifest.step, manifest.world_size, manifest.fraction) == (7, 2, 0.5)
    assert [file.name for file in manifest.files] == ["a.bin", "part/b.bin"]
    assert manifest.size == 7001 + 7
    assert manifests.folder_bytes(folder) > manifest.size
    found = manifests.newest(tmp_path)
    assert found is not None
    assert (found.folder, found.skipped) == (folder, ())


_DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped bit": (lambda f: _flip(f / "a.bin"), "another checksum of 'a.bin'"),
    "a truncated file": (lambda f: os.truncate(f / "a.bin", 100), "has 100 of 7001 bytes"),
    "a missing file": (lambda f: (f / "part" / "b.bin").unlink(), "lacks 'part/b.bin'"),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "has no manifest"),
    "a flipped bit in the manifest": (lambda f: _flip(f / "manifest.json"), "manifest"),
    "half a manifest": (lambda f: os.truncate(f / "manifest.json", 50), "unreadable manifest"),
    "a manifest that is a list": (
        lambda f: (f / "manifest.json").write_text("[]"),
        "unreadable manifest",
    ),
}


@pytest.mark.parametrize("kind", _DAMAGE)
def test_a_damaged_one_is_passed_over_for_the_one_before(tmp_path: Path, kind: str) -> None:
    damage, problem = _DAMAGE[kind]
    before, newest = _make(tmp_path, 1), _make(tmp_path, 2)
    damage(newest)
    with pytest.raises(CorruptCheckpointError, match=problem):
        manifests.verify(newest)
    found = manifests.newest(tmp_path)
    assert found is not None
    assert found.folder == before
    assert [folder for folder, _ in found.skipped] == [newest]
    damage(before)
    assert manifests.newest(tmp_path) is None


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    folder = _make(tmp_path, 1, b"short")
    for path in (folder / "a.bin", folder / "manifest.json"):
        whole = path.read_bytes()
        for at in range(len(whole)):
            body = bytearray(whole)
            body[at] ^= 0x04
            path.write_bytes(body)
            try:
                manifest = manifests.verify(folder)
            except CorruptCheckpointError:
                continue
            # White space in the manifest may change: what it says may not.
            assert path.name == "manifest.json"
            assert json.loads(body) == json.loads(whole)
            assert manifest.step == 1
        path.write_bytes(whole)


def test_another_version_is_refused_and_named(tmp_path: Path) -> None:
    folder = _make(tmp_path, 1)
    body = json.loads((folder / "manifest.json").read_bytes())
    body["manifest"]["schema"] = 99
    body["digest"] = manifests._checksum(body["manifest"])
    (folder / "manifest.json").write_text(json.dumps(body))
    with pytest.raises(CorruptCheckpointError, match="version 99, and this code reads 1"):
        manifests.verify(folder)


def test_the_last_ones_are_kept_and_damaged_ones_do_not_count(tmp_path: Path) -> None:
    folders = [_make(tmp_path, step) for step in range(1, 6)]
    (folders[4] / "manifest.json").unlink()
    assert manifests.prune(tmp_path, 2) == [folders[1], folders[0]]
    assert manifests.steps(tmp_path) == [folders[4], folders[3], folders[2]]


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    _make(tmp_path, 3, b"first")
    folder = _make(tmp_path, 3, b"second")
    assert (folder / "a.bin").read_bytes() == b"second3"
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    manifests.verify(folder)


def test_what_was_interrupted_is_no_checkpoint_and_is_swept_up_when_old(tmp_path: Path) -> None:
    half = manifests.begin(tmp_path)
    (half / "a.bin").write_bytes(b"half")
    assert manifests.newest(tmp_path) is None
    assert manifests.sweep(tmp_path, older_than_s=60.0) == []
    os.utime(half, (0, 0))
    assert manifests.sweep(tmp_path, older_than_s=60.0) == [half]
    assert list(tmp_path.iterdir()) == []


def test_an_empty_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing was written"):
        manifests.seal(manifests.begin(tmp_path), 1, 1)


def test_there_may_be_no_folder(tmp_path: Path) -> None:
    shutil.rmtree(tmp_path)
    assert manifests.newest(tmp_path) is None
    assert manifests.steps(tmp_path) == []
