"""The event log in words: record for record what its hash has seen."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray

from envs import Session
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.state.codes import JobCode, LogKind
from orchestrator.scheduling.log import LogReader, decode_log
from orchestrator.scheduling.runs import RunReader
from tests.envs.cases import CASES, pick_legal, play
from tests.envs.scaling_cases import SCALING_CASES

_CASES = {**CASES, **SCALING_CASES}
_ALL = 2**64 - 1
_KEPT = 8192


def _mixed(value: int) -> int:
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _ALL
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _ALL
    return value ^ (value >> 31)


def _hash(records: NDArray[np.void]) -> int:
    """The hash of a log, from its records."""
    prime, found = 0x100000001B3, 0
    for record in records:
        time, kind, subject, value = (
            int(record[name]) & _ALL for name in ("time_ms", "kind", "subject", "value")
        )
        word = (time << 20 & _ALL) ^ (kind << 16) ^ (subject * prime & _ALL) ^ (value << 40 & _ALL)
        found = _mixed((found ^ word) * prime & _ALL)
    return found


def _placed(nodes: NDArray[np.int32], devices: NDArray[np.uint64]) -> int:
    """What a placement's record says of its workers."""
    word = len(nodes)
    for n, mask in zip(nodes.tolist(), devices.tolist(), strict=True):
        word = (word ^ (n + 1)) * 0x9E3779B97F4A7C15 & _ALL
        word = (word ^ mask) * 0x9E3779B97F4A7C15 & _ALL
    return word & 0xFFFFFF


def _played(name: str) -> Session:
    session = _CASES[name].session(1)
    session.keep_effects(_KEPT)
    session.keep_log(_KEPT)
    session.reseed(np.array([3], np.uint64))
    play(session, np.random.default_rng(3))
    return session


@pytest.mark.parametrize("name", ["ordering-incidents", "cluster-incidents", *SCALING_CASES])
def test_the_table_is_what_the_hash_has_seen(name: str) -> None:
    session = _played(name)
    state = session.state
    records = LogReader(1).finish(state, 0)
    found = RunReader(1, services=True).finish(state, 0)
    assert records is not None
    assert found is not None
    assert len(records) == state.rows[0]["log_count"] > 20
    assert _hash(records) == state.rows[0]["log_hash"]
    jobs = [f"j{k}" for k in range(state.shape.jobs)]
    nodes = [f"n{k}" for k in range(state.shape.nodes)]
    places = found.places_by_job()
    events = decode_log(records, jobs, nodes, places)
    assert len(events) == len(records)
    # Where each gang was put is not in its record but for a hash: it is told from the runs.
    at = Counter[int]()
    of_job = found.of_job()
    for event, record in zip(events, records, strict=True):
        subject = int(record["subject"])
        assert event.time_ms == record["time_ms"]
        if record["kind"] == LogKind.NODE_STATE:
            assert (event.job, event.node) == ("", f"n{subject}")
            continue
        assert event.job == f"j{subject}"
        if record["kind"] == LogKind.PLACEMENT:
            mine = of_job[subject][at[subject]]
            at[subject] += 1
            assert record["value"] == _placed(*mine)
            assert event.node == ";".join(f"n{n}" for n in mine[0].tolist())
    ended = sum(event.what in ("completed", "failed") for event in events)
    row = state.rows[0]
    assert ended == row["completed_jobs"] + row["failed_jobs"]
    if row["num_services"] == 0:  # one that loses some of its replicas goes on
        assert sum(event.what == "interrupted" for event in events) == row["interruptions"]
    submitted = {event.job for event in events if event.what == "submitted"}
    known = state.job[0]["state"] != JobCode.ABSENT
    assert submitted == {f"j{k}" for k in np.flatnonzero(known)}


def test_a_small_ring_is_read_before_it_is_overwritten() -> None:
    case = CASES["cluster-incidents"]
    small, large = case.session(1), case.session(1)
    small.keep_log(64)
    large.keep_log(_KEPT)
    reader, rng = LogReader(1), np.random.default_rng(1)
    for session in (small, large):
        session.reseed(np.array([1], np.uint64))
        session.reset()
    for _ in range(60):
        action = pick_legal(small.buffers.mask, rng)
        small.step(action)
        large.step(action)
        reader.keep_up(small.state)
    assert small.state.rows[0]["log_count"] > 64
    assert LogReader(1).finish(small.state, 0) is None
    mine, whole = reader.finish(small.state, 0), LogReader(1).finish(large.state, 0)
    assert mine is not None
    assert whole is not None
    np.testing.assert_array_equal(mine, whole)


def test_keeping_records_changes_nothing() -> None:
    bare, kept = (CASES["cluster"].session(2) for _ in range(2))
    kept.keep_log(64)
    paid = [play(session, np.random.default_rng(2)) for session in (bare, kept)]
    np.testing.assert_array_equal(*paid)
    assert (bare.state.rows["log_hash"] == kept.state.rows["log_hash"]).all()
    assert bare.state.rows["keep_log"].tolist() == [0, 0]
    assert kept.state.rows["keep_log"].tolist() == [1, 1]
    with pytest.raises(ConfigurationError, match="records"):
        kept.keep_log(-1)
    with pytest.raises(TypeError, match="LOG_DTYPE"):
        decode_log(np.zeros(1, [("time_ms", "i8")]), [], [])


def test_names_that_are_not_known_are_not_made_up() -> None:
    session = _played("cluster")
    records = LogReader(1).finish(session.state, 0)
    assert records is not None
    names = [str(k) for k in range(64)]
    placed = [one for one in decode_log(records, names, names) if one.what == "placed"]
    assert {(one.node, one.detail) for one in placed} == {("", "")}
