"""What a folder of checkpoints keeps over restarts, damage and a quota."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import ValidationError
from orchestrator.foundations import FolderCheckpoints, InMemoryCheckpoints
from orchestrator.worker import manifests


def _work(store: FolderCheckpoints, job_id: str, step: int, size: int = 1000) -> Path:
    """What the job's workers do: a checkpoint of their own."""
    root = store.folder(job_id)
    folder = manifests.begin(root)
    (folder / "weights").write_bytes(bytes([step]) * size)
    manifests.seal(folder, step, 1)
    return manifests.commit(folder, root, step)


def _spoil(folder: Path) -> None:
    body = bytearray((folder / "weights").read_bytes())
    body[10] ^= 0xFF
    (folder / "weights").write_bytes(body)


def test_a_restart_finds_what_was_committed_and_what_is_being_written(tmp_path: Path) -> None:
    store = FolderCheckpoints(tmp_path)
    store.commit(store.save("a/b", 100, 1))
    pending = store.save("a/b", 200, 2)
    again = FolderCheckpoints(tmp_path)
    latest = again.latest("a/b")
    assert latest is not None
    assert latest.progress_ms == 100
    again.commit(pending)
    latest = FolderCheckpoints(tmp_path).latest("a/b")
    assert latest is not None
    assert (latest.checkpoint_id, latest.job_id, latest.progress_ms) == (pending, "a/b", 200)
    assert again.save("a/b", 300, 3) not in (pending, "a/b@1")


@pytest.mark.property
@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(st.sampled_from(["save", "commit", "discard", "forget"]), st.integers(0, 2)),
        max_size=25,
    )
)
def test_restarted_at_every_step_it_is_the_one_in_memory(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    folder = tmp_path_factory.mktemp("checkpoints")
    memory = InMemoryCheckpoints()
    ids: list[tuple[str, str, str]] = []
    for number, (what, which) in enumerate(steps):
        store = FolderCheckpoints(folder)
        job = "abc"[which]
        if what == "save":
            one, other = memory.save(job, number, number), store.save(job, number, number)
            ids.append((job, one, other))
        elif what == "forget":
            memory.forget(job)
            store.forget(job)
            ids = [each for each in ids if each[0] != job]
        elif ids:
            _, one, other = ids.pop(which % len(ids))
            getattr(memory, what)(one)
            getattr(store, what)(other)
        for each in "abc":
            expected, found = memory.latest(each), FolderCheckpoints(folder).latest(each)
            assert (expected and expected.time_ms) == (found and found.time_ms)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = FolderCheckpoints(tmp_path)
    folders = []
    for step in (1, 2, 3):
        folders.append(_work(store, "a", step))
        store.commit(store.save("a", step * 100, step))
    _spoil(folders[2])
    with caplog.at_level(logging.WARNING):
        latest = store.latest("a")
    assert latest is not None
    assert latest.progress_ms == 200
    assert "another checksum of 'weights'" in caplog.text
    (folders[1] / "weights").unlink()
    latest = FolderCheckpoints(tmp_path).latest("a")
    assert latest is not None
    assert latest.progress_ms == 100
    (folders[0] / "manifest.json").unlink()
    assert FolderCheckpoints(tmp_path).latest("a") is None


def test_a_record_that_is_damaged_is_passed_over_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = FolderCheckpoints(tmp_path)
    for step in (1, 2):
        store.commit(store.save("a", step * 100, step))
    newest = max((store.folder("a") / "records").iterdir())
    newest.write_text(newest.read_text().replace("200", "999"))
    with caplog.at_level(logging.WARNING):
        latest = FolderCheckpoints(tmp_path).latest("a")
    assert latest is not None
    assert latest.progress_ms == 100
    assert "is not what was written" in caplog.text


def test_the_last_records_are_kept(tmp_path: Path) -> None:
    store = FolderCheckpoints(tmp_path, keep=2)
    for step in range(5):
        store.commit(store.save("a", step, step))
    assert len(list((store.folder("a") / "records").iterdir())) == 2


def test_above_the_quota_the_oldest_go_but_for_each_job_s_last(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = FolderCheckpoints(tmp_path, quota_bytes=5000)
    for step in (1, 2, 3):
        for job_id in ("a", "b"):
            _work(store, job_id, step)
            store.commit(store.save(job_id, step, step))
    left = {job_id: len(manifests.steps(store.folder(job_id))) for job_id in ("a", "b")}
    assert min(left.values()) == 1
    assert sum(left.values()) < 6
    assert not store.use().over
    assert store.use("a").used_bytes < store.use().used_bytes
    for job_id in ("a", "b"):
        latest = store.latest(job_id)
        assert latest is not None
        assert latest.progress_ms == 3
    _work(store, "c", 1, size=9000)
    with caplog.at_level(logging.WARNING):
        store.commit(store.save("c", 1, 1))
    assert store.use().over
    assert "more than 'quota_bytes'" in caplog.text
    assert store.purge("c") > 9000
    assert not store.use().over


@pytest.mark.parametrize("job_id", ["..", ".", "a/../../b", "/etc", "ü b", "%2E"])
def test_no_name_of_a_job_leads_out_of_the_folder(tmp_path: Path, job_id: str) -> None:
    store = FolderCheckpoints(tmp_path / "root")
    store.commit(store.save(job_id, 1, 1))
    assert store.folder(job_id).resolve().parent == (tmp_path / "root").resolve()
    assert FolderCheckpoints(tmp_path / "root").latest(job_id) is not None


def test_bad_settings_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="field 'keep' is 0; give at least 1"):
        FolderCheckpoints(tmp_path, keep=0)
    with pytest.raises(ValidationError, match="field 'quota_bytes' is 0"):
        FolderCheckpoints(tmp_path, quota_bytes=0)
