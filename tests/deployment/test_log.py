"""The log of decisions: bounded, in order, read while it is written, and bytes that are none."""

from __future__ import annotations

import sqlite3
import threading
import zlib
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from orchestrator.deployment import Choice, DecisionLog, DecisionRecord, read_decisions
from orchestrator.deployment.records import pack_choices, unpack_choices
from orchestrator.errors import ConfigurationError, CorruptedError, StorageError


def _choice(seed: int, size: int = 8) -> Choice:
    rng = np.random.default_rng(seed)
    seen = {"queue": rng.random((3, size), np.float32), "mask": rng.random(5) < 0.5}
    scores = rng.random(4).astype(np.float32)
    return Choice(seen, np.arange(4), scores, int(scores.argmax()), [("place job-1", 0.5)])


def _record(entry: int, size: int = 8) -> DecisionRecord:
    names = ("state", "active", "ppo", "digest", "taken")
    return DecisionRecord(
        *(entry, 10 * entry, entry, *names, 123),
        agreed=bool(entry % 2),
        plan=("place job-1", "wait"),
        choices=(_choice(entry, size), _choice(entry + 1, size)),
    )


def test_what_was_added_is_read_again(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path / "decisions" / "decisions.sqlite")
    for entry in range(250):
        log.add(_record(entry))
    assert log.flush()
    page = log.last(100)
    assert [one.record.entry for one in page] == list(range(249, 149, -1))
    assert [one.record for one in log.last(3, page[-1].number)] == [
        _record(k) for k in (149, 148, 147)
    ]
    log.close()
    log.close()
    found = [one.record for one in read_decisions(log.path)]
    assert found == [_record(entry) for entry in range(250)]
    for one in (found[0], found[-1]):
        for told, wanted in zip(one.choices, _record(one.entry).choices, strict=True):
            assert told.digest == wanted.digest
            assert told.same_scores(wanted)
            assert told.chosen == wanted.chosen
    plain = page[0].as_dict()
    assert plain["alternatives"] == [{"action": "place job-1", "score": 0.5}]
    assert msgspec.json.decode(msgspec.json.encode(plain)) == plain
    again = DecisionLog(log.path)
    assert again.bytes == log.bytes
    again.close()


def test_it_stays_small(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path / "decisions.sqlite", most_mib=0.25)
    for entry in range(600):
        log.add(_record(entry, 400))
        if entry % 100 == 99:
            assert log.flush()
    log.close()
    found = [one.record.entry for one in read_decisions(log.path)]
    assert found[-1] == 599
    assert found == list(range(found[0], 600))
    assert 5 < len(found) < 300
    assert log.bytes <= 1 << 18
    assert log.path.stat().st_size < 1 << 20


def test_a_disk_that_does_not_follow_costs_records_and_no_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = DecisionLog(tmp_path / "decisions.sqlite")

    def full(database: object, records: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(log, "_keep", full)
    for entry in range(10):
        log.add(_record(entry))
    assert log.flush()
    assert log.dropped >= 10
    log.close()


def test_a_record_that_cannot_be_written_costs_its_batch_and_no_more(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path / "decisions.sqlite")
    log.add(replace(_record(0), plan=(object(),)))  # json refuses it
    assert log.flush()
    log.add(replace(_record(1), detail=[]))  # SQLite refuses it
    assert log.flush()
    assert (log.dropped, log.bytes) == (2, 0)
    log.add(_record(2))
    assert log.flush()
    log.close()
    assert [one.record for one in read_decisions(log.path)] == [_record(2)]
    assert log.dropped == 2


def test_a_log_whose_writer_hangs_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = DecisionLog(tmp_path / "decisions.sqlite")
    gate, begun = threading.Event(), threading.Event()

    def hang(database: object, records: object) -> None:
        begun.set()
        gate.wait(10.0)

    monkeypatch.setattr(log, "_keep", hang)
    log.add(_record(0))
    assert begun.wait(10.0)
    while not log.dropped:
        log.add(_record(0))
    assert not log.flush(0.01)
    log.close(0.01)
    gate.set()


def test_bytes_that_are_none_are_refused() -> None:
    good = pack_choices((_choice(0),))
    objects = msgspec.msgpack.decode(zlib.decompress(good))
    objects[0][1][0] = "|O"
    altered = zlib.compress(msgspec.msgpack.encode(objects))
    for data in (b"", b"x" * 40, good[:-9], zlib.compress(b"\x00"), altered):
        with pytest.raises(CorruptedError, match="cannot be read"):
            unpack_choices(data)


def test_files_that_are_none_are_said(tmp_path: Path) -> None:
    other = tmp_path / "decisions.sqlite"
    other.write_bytes(b"this is a diary, and no database at all" * 40)
    with pytest.raises(StorageError, match="is no log of decisions"):
        DecisionLog(other)
    later = tmp_path / "later.sqlite"
    with sqlite3.connect(later) as database:
        database.execute("PRAGMA user_version = 9")
    with pytest.raises(StorageError, match="has format 9"):
        DecisionLog(later)
    with pytest.raises(ConfigurationError, match="there is no file"):
        list(read_decisions(tmp_path / "nothing.sqlite"))
    with pytest.raises(ConfigurationError, match="'most_mib' is 0"):
        DecisionLog(tmp_path / "new.sqlite", most_mib=0)
