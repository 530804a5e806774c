"""A log in a file: nothing acknowledged is lost, and what is wrong is said before it does harm."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.errors import (
    CorruptedError,
    QuartermasterError,
    StorageError,
    UnknownSchemaError,
    ValidationError,
)
from orchestrator.foundations import snapshots
from orchestrator.foundations.sqlite import SQLiteLog
from orchestrator.messages import Entry, NodeFailed
from orchestrator.wire import seals


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    return tmp_path / "log"


def _entry(number: int) -> Entry:
    return Entry(number, NodeFailed(f"node-{number}"))


def _numbers(log: SQLiteLog, start: int = 0) -> list[int]:
    return [entry.time_ms for entry in log.entries(start)]


async def _append(log: SQLiteLog, first: int, count: int) -> None:
    for number in range(first, first + count):
        assert await log.append(_entry(number)) == number


async def _cut_twice(path: Path) -> None:
    """A log of 0 to 9 with snapshots of 4 and 8."""
    with SQLiteLog(path) as log:
        await _append(log, 0, 6)
        await log.cut(4, "four")
        await _append(log, 6, 4)
        await log.cut(8, "eight")


def _snapshots(path: Path) -> list[Path]:
    return sorted(path.parent.glob("*.snapshot"))


def _change(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(statement)
    connection.close()


# --- what lasts ----------------------------------------------------------------------------------


async def test_what_was_acknowledged_is_there_when_it_is_opened_anew(path: Path) -> None:
    with SQLiteLog(path) as log:
        await _append(log, 0, 5)
    with SQLiteLog(path) as log:
        assert list(log.entries()) == [_entry(number) for number in range(5)]
        assert await log.append(_entry(5)) == 5


async def test_the_last_snapshot_and_what_came_since_are_there(path: Path) -> None:
    await _cut_twice(path)
    with SQLiteLog(path) as log:
        assert log.snapshot == (8, "eight")
        assert _numbers(log) == [8, 9]
        await log.cut(10, "ten")
    with SQLiteLog(path) as log:
        assert (log.snapshot, _numbers(log)) == ((10, "ten"), [])
        assert await log.append(_entry(10)) == 10


async def test_what_comes_while_a_commit_is_under_way_is_committed_together(path: Path) -> None:
    commits = []
    for group in (1024, 1):
        with SQLiteLog(path.with_name(f"by {group}"), group=group) as log:
            said: list[str] = []
            log._database._writer.set_trace_callback(said.append)
            await asyncio.gather(*(log.append(_entry(number)) for number in range(64)))
            commits.append(said.count("COMMIT"))
            assert sorted(_numbers(log)) == list(range(64))
    assert commits[0] < 16
    assert commits[1] == 64


async def test_entries_below_the_last_two_snapshots_are_dropped(path: Path) -> None:
    with SQLiteLog(path, cut_every=10) as log:
        for number in range(200):
            if log.cut_due:
                await log.cut(number, number)
            await log.append(_entry(number))
        kept = log._database.read("SELECT count(*) FROM entries")[0][0]
        assert kept <= 20
        assert len(_snapshots(path)) == 2


async def test_a_log_sees_what_another_one_appends_and_cuts(path: Path) -> None:
    with SQLiteLog(path, cut_every=4) as ours, SQLiteLog(path, cut_every=4) as theirs:
        for number in range(6):
            assert await (ours, theirs)[number % 2].append(_entry(number)) == number
        assert _numbers(ours) == _numbers(theirs) == list(range(6))
        await _append(theirs, 6, 1)
        await theirs.cut(3, "three")
        await theirs.cut(7, "seven")
        assert _numbers(ours, 6) == [6]  # it does not need the snapshot
        assert ours.snapshot is None
        await _append(theirs, 7, 2)
        await theirs.cut(8, "eight")
        await theirs.cut(9, "nine")
        assert _numbers(ours, 7) == []  # some that it has not read are gone: begin with a snapshot
        assert ours.snapshot == (9, "nine")
        assert await ours.append(_entry(9)) == 9
        assert _numbers(theirs) == [9]


async def test_a_reader_that_never_cuts_does_not_keep_everything(path: Path) -> None:
    with SQLiteLog(path, cut_every=10) as ours, SQLiteLog(path, cut_every=10) as theirs:
        for number in range(100):
            if theirs.cut_due:
                await theirs.cut(number, number)
            await theirs.append(_entry(number))
            assert _numbers(ours)[-1] == number
            assert len(ours) <= 22


# --- what is damaged -----------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["flip", "tear", "remove"])
async def test_a_damaged_snapshot_falls_back_to_the_one_before_and_says_so(
    path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    await _cut_twice(path)
    newest = _snapshots(path)[-1]
    data = bytearray(newest.read_bytes())
    if damage == "remove":
        newest.unlink()
    else:
        data[len(data) // 2] ^= 1
        newest.write_bytes(data if damage == "flip" else data[:-7])
    with SQLiteLog(path) as log:
        assert log.snapshot == (4, "four")
        assert _numbers(log) == [4, 5, 6, 7, 8, 9]
        assert ("the one before is used" in caplog.text) == (damage != "remove")
        await log.cut(10, "ten")  # the damaged one is not one of the two that are kept
    assert _snapshots(path)[0].name.endswith("00004.snapshot")
    with SQLiteLog(path) as log:
        assert log.snapshot == (10, "ten")


async def test_the_only_snapshot_may_be_damaged(path: Path) -> None:
    with SQLiteLog(path) as log:
        await _append(log, 0, 6)
        await log.cut(4, "four")
    _snapshots(path)[0].write_bytes(b"torn")
    with SQLiteLog(path) as log:
        assert (log.snapshot, _numbers(log)) == (None, [0, 1, 2, 3, 4, 5])


async def test_a_log_without_a_whole_snapshot_is_refused(path: Path) -> None:
    await _cut_twice(path)
    for file in _snapshots(path):
        file.write_bytes(b"torn")
    with pytest.raises(CorruptedError, match=r"begins with entry 4, and no snapshot .* restore"):
        SQLiteLog(path)


async def test_a_log_that_is_older_than_its_snapshot_is_refused(path: Path) -> None:
    await _cut_twice(path)
    _change(path, "UPDATE sqlite_sequence SET seq = 6 WHERE name = 'entries'")
    _change(path, "DELETE FROM entries WHERE number > 6")
    with pytest.raises(CorruptedError, match="ends with entry 6, and there is a snapshot of 8"):
        SQLiteLog(path)


@pytest.mark.parametrize(
    ("statement", "match"),
    [
        ("UPDATE entries SET body = zeroblob(50) WHERE number = 3", "entry 2: entry: begins with"),
        ("UPDATE entries SET body = substr(body, 1, 40) WHERE number = 3", "entry 2: .* digest"),
        ("DELETE FROM entries WHERE number = 3", "entry 2 is missing"),
        ("DELETE FROM entries WHERE number = 5", "entry 4 is missing"),
    ],
)
async def test_a_damaged_entry_is_refused_and_named(path: Path, statement: str, match: str) -> None:
    with SQLiteLog(path) as log:
        await _append(log, 0, 5)
    _change(path, statement)
    with pytest.raises(CorruptedError, match=match):
        SQLiteLog(path)


async def test_an_entry_that_cannot_be_read_is_not_passed_over_the_next_time(path: Path) -> None:
    with SQLiteLog(path) as log:
        await _append(log, 0, 2)
        _change(path, "INSERT INTO entries (body) VALUES (x'00')")
        for _ in range(3):
            with pytest.raises(CorruptedError, match="entry 2: entry: 1 bytes are too few"):
                log.entries()
        _change(path, "DELETE FROM entries WHERE number = 3")
        with pytest.raises(CorruptedError, match="entry 2 is missing"):
            log.entries()


async def test_a_snapshot_that_was_not_finished_is_nothing_and_goes(path: Path) -> None:
    await _cut_twice(path)
    left = path.with_name(_snapshots(path)[0].name.replace(".snapshot", ".77.unfinished"))
    left.write_bytes(b"half of")
    with SQLiteLog(path) as log:
        assert log.snapshot == (8, "eight")
        await log.cut(10, "ten")
    assert not left.exists()


# --- what is something else ----------------------------------------------------------------------


def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path) -> None:
    path.write_bytes(b"a letter to the editor" * 100)
    with pytest.raises(StorageError, match="not a database; give the path of a log"):
        SQLiteLog(path)
    assert path.read_bytes().startswith(b"a letter")


def test_another_programs_database_is_refused_and_left_alone(path: Path) -> None:
    _change(path, "CREATE TABLE mine (x)")
    before = path.read_bytes()
    with pytest.raises(StorageError, match="another program's database; give the path"):
        SQLiteLog(path)
    assert path.read_bytes() == before


def test_a_folder_that_does_not_exist_is_refused(path: Path) -> None:
    with pytest.raises(StorageError, match="give the path of a file in a folder that exists"):
        SQLiteLog(path / "deeper")


async def test_another_schema_is_refused_with_what_to_do(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _cut_twice(path)
    _change(path, "PRAGMA user_version = 9")
    with pytest.raises(UnknownSchemaError, match="version 9, and this program reads 1; run the"):
        SQLiteLog(path)
    _change(path, f"PRAGMA user_version = {seals.SCHEMA}")
    monkeypatch.setattr(seals, "SCHEMA", 2)
    with pytest.raises(UnknownSchemaError, match="version 1, and this program reads 2; run the"):
        SQLiteLog(path)  # of a snapshot


async def test_snapshots_of_another_log_are_not_looked_at(path: Path) -> None:
    await _cut_twice(path)
    for file in path.parent.glob("log*"):
        if file.suffix != ".snapshot":
            file.unlink()
    with SQLiteLog(path) as log:
        assert (log.snapshot, _numbers(log)) == (None, [])


# --- what the disk does --------------------------------------------------------------------------


async def test_a_full_disk_is_told_and_loses_nothing(path: Path) -> None:
    with SQLiteLog(path) as log:
        await _append(log, 0, 3)
        writer = log._database._writer
        pages = writer.execute("PRAGMA page_count").fetchone()[0]
        writer.execute(f"PRAGMA max_page_count = {pages}")
        large = Entry(9, NodeFailed("x" * 20_000))
        with pytest.raises(StorageError, match="full; free some space"):
            await log.append(large)
        assert _numbers(log) == [0, 1, 2]
        writer.execute("PRAGMA max_page_count = 100000")
        assert await log.append(large) == 3
    with SQLiteLog(path) as log:
        assert _numbers(log) == [0, 1, 2, 9]


async def test_one_that_is_too_much_takes_the_others_of_its_group_with_it(path: Path) -> None:
    with SQLiteLog(path) as log:
        await _append(log, 0, 1)
        writer = log._database._writer
        pages = writer.execute("PRAGMA page_count").fetchone()[0]
        writer.execute(f"PRAGMA max_page_count = {pages + 1}")
        wanted = [_entry(1), Entry(2, NodeFailed("x" * 50_000)), _entry(3)]
        answers = await asyncio.gather(*map(log.append, wanted), return_exceptions=True)
        acknowledged = [e for e, a in zip(wanted, answers, strict=True) if isinstance(a, int)]
        assert all(isinstance(answer, int | StorageError) for answer in answers)
        assert list(log.entries()) == [_entry(0), *acknowledged]
        assert len(acknowledged) < 3


async def test_a_file_that_may_not_be_written_is_told(path: Path) -> None:
    with SQLiteLog(path) as log:
        await _append(log, 0, 1)
        log._database._writer.execute("PRAGMA query_only = 1")
        with pytest.raises(StorageError, match="readonly database; let this process write"):
            await log.append(_entry(1))
        log._database._writer.execute("PRAGMA query_only = 0")
        await _append(log, 1, 1)


async def test_a_file_that_another_process_locks_is_told(path: Path) -> None:
    with SQLiteLog(path, busy_s=0.05) as log:
        await _append(log, 0, 1)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="locked; another process holds it"):
            await log.append(_entry(1))
        assert _numbers(log) == [0]  # reading goes on
        other.execute("ROLLBACK")
        other.close()
        await _append(log, 1, 1)


async def test_a_snapshot_that_the_disk_does_not_take_changes_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with SQLiteLog(path, cut_every=10) as log:
        await _append(log, 0, 10)
        monkeypatch.setattr(snapshots.os, "fsync", full)
        with pytest.raises(StorageError, match="No space left on device; see to the disk"):
            await log.cut(10, "ten")
        monkeypatch.undo()
        assert (log.snapshot, _numbers(log)) == (None, list(range(10)))
        assert list(path.parent.glob("*snapshot*")) == []
        assert not log.cut_due  # not again at once
        await _append(log, 10, 1)
        assert log.cut_due
        await log.cut(11, "eleven")
        assert log.snapshot == (11, "eleven")


async def test_what_cannot_be_kept_is_refused_before_anything_is_written(path: Path) -> None:
    with SQLiteLog(path) as log:
        with pytest.raises(ValidationError, match="time_ms"):
            await log.append(Entry(-1, NodeFailed("a")))
        with pytest.raises(ValidationError, match="cannot be kept"):
            await log.cut(0, object())
        with pytest.raises(ValidationError, match="is 3, and the log holds 0 to 0"):
            await log.cut(3, "three")
        assert (log.snapshot, _numbers(log)) == (None, [])


async def test_a_closed_log_says_so(path: Path) -> None:
    log = SQLiteLog(path)
    log.close()
    log.close()
    with pytest.raises(StorageError, match="is closed; open it anew"):
        await log.append(_entry(0))
    with pytest.raises(QuartermasterError, match="closed"):
        log.entries()
