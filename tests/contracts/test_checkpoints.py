"""What every checkpoint manager promises."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.errors import UnknownEntityError
from orchestrator.foundations import FolderCheckpoints, InMemoryCheckpoints
from orchestrator.ports import CheckpointManager

_MAKERS: dict[str, Callable[[Path], CheckpointManager]] = {
    "in memory": lambda folder: InMemoryCheckpoints(),
    "in a folder": FolderCheckpoints,
}


@pytest.fixture(params=_MAKERS)
def checkpoints(request: pytest.FixtureRequest, tmp_path: Path) -> CheckpointManager:
    return _MAKERS[request.param](tmp_path)


def test_a_checkpoint_counts_from_its_commit(checkpoints: CheckpointManager) -> None:
    checkpoint_id = checkpoints.save("a", 500, 1000)
    assert checkpoints.latest("a") is None
    checkpoints.commit(checkpoint_id)
    latest = checkpoints.latest("a")
    assert latest is not None
    assert (latest.checkpoint_id, latest.job_id) == (checkpoint_id, "a")
    assert (latest.progress_ms, latest.time_ms) == (500, 1000)


def test_the_last_commit_is_the_latest(checkpoints: CheckpointManager) -> None:
    for progress_ms in (100, 200, 300):
        checkpoints.commit(checkpoints.save("a", progress_ms, progress_ms))
    latest = checkpoints.latest("a")
    assert latest is not None
    assert latest.progress_ms == 300


def test_jobs_do_not_share_checkpoints(checkpoints: CheckpointManager) -> None:
    checkpoints.commit(checkpoints.save("a", 100, 0))
    assert checkpoints.latest("b") is None
    checkpoints.forget("b")
    assert checkpoints.latest("a") is not None


def test_a_discarded_checkpoint_leaves_the_former_one(checkpoints: CheckpointManager) -> None:
    checkpoints.commit(checkpoints.save("a", 100, 0))
    checkpoints.discard(checkpoints.save("a", 200, 0))
    latest = checkpoints.latest("a")
    assert latest is not None
    assert latest.progress_ms == 100


def test_a_checkpoint_ends_once(checkpoints: CheckpointManager) -> None:
    checkpoint_id = checkpoints.save("a", 100, 0)
    checkpoints.commit(checkpoint_id)
    with pytest.raises(UnknownEntityError, match=f"no checkpoint '{checkpoint_id}'"):
        checkpoints.commit(checkpoint_id)
    with pytest.raises(UnknownEntityError):
        checkpoints.discard(checkpoint_id)


def test_a_forgotten_job_has_none(checkpoints: CheckpointManager) -> None:
    checkpoints.commit(checkpoints.save("a", 100, 0))
    pending = checkpoints.save("a", 200, 0)
    checkpoints.forget("a")
    assert checkpoints.latest("a") is None
    with pytest.raises(UnknownEntityError):
        checkpoints.commit(pending)


def test_identities_are_unique(checkpoints: CheckpointManager) -> None:
    ids = [checkpoints.save(job_id, 0, 0) for job_id in ("a", "b") for _ in range(10)]
    assert len(set(ids)) == 20
