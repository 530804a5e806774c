"""The event queue against a sorted list."""

from __future__ import annotations

import heapq

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.state.codes import NEVER, EventKind
from orchestrator.kernels.state.records import INCIDENT_DTYPE, NODE_DTYPE, REQUEST_DTYPE
from orchestrator.kernels.state.row import ClusterShape, ClusterState, allocate
from tests.twins.kernel_calls import cancel_event, load_incidents, push_event, take_next

pytestmark = pytest.mark.property
_JOBS = 24
_TIME = st.integers(0, 12)
_OWN = st.sampled_from([EventKind.COMPLETION, EventKind.CHECKPOINTED]).map(int)
_PUSH = st.tuples(st.just("push"), st.integers(0, _JOBS - 1), _TIME, _OWN)
_CANCEL = st.tuples(st.just("cancel"), st.integers(0, _JOBS - 1), _TIME, _OWN)
_POP = st.tuples(st.just("pop"), st.just(0), _TIME, _OWN)


def _empty_row(incidents: list[tuple[int, int, int]], submits: list[int]) -> ClusterState:
    state = allocate(ClusterShape(1, _JOBS, incidents=max(len(incidents), 1)))
    requests = np.zeros(len(submits), REQUEST_DTYPE)
    requests["submit_ms"] = submits
    entry.begin_episode(state.rows, 0, 0, np.zeros(1, NODE_DTYPE), requests)
    load_incidents(state.rows, 0, np.array(incidents, INCIDENT_DTYPE))
    return state


@given(st.lists(st.one_of(_PUSH, _PUSH, _CANCEL, _POP), max_size=120))
def test_event_queue_equals_a_sorted_list(operations: list[tuple[str, int, int, int]]) -> None:
    state = _empty_row([], [])
    pending: dict[int, tuple[int, int, int]] = {}  # job -> (time, kind, sequence)
    sequence = 0
    for name, j, time_ms, kind in operations:
        if name == "push" and j not in pending:
            push_event(state.rows, 0, time_ms, kind, j)
            pending[j] = (time_ms, kind, sequence)
            sequence += 1
        elif name == "cancel":
            cancel_event(state.rows, 0, j)
            pending.pop(j, None)
        elif name == "pop" and pending:
            first = min(pending, key=lambda job: pending[job])
            assert take_next(state.rows, 0) == (*pending.pop(first)[:2], first)
        _check_slots(state, pending)
    for first in sorted(pending, key=lambda job: pending[job]):
        assert take_next(state.rows, 0) == (*pending[first][:2], first)
    assert take_next(state.rows, 0) == (NEVER, EventKind.NONE, -1)


def _check_slots(state: ClusterState, pending: dict[int, tuple[int, int, int]]) -> None:
    length = int(state.rows[0]["heap_len"])
    entries = [
        (int(x["time_ms"]), int(x["kind"]), int(x["seq"]), int(x["entity"]))
        for x in state.heap[0, :length]
    ]
    assert sorted(entries) == sorted((*key, job) for job, key in pending.items())
    for slot, found in enumerate(entries):
        assert state.job[0, found[3]]["heap_slot"] == slot
        assert slot == 0 or entries[(slot - 1) // 2] < found
    assert (state.job[0]["heap_slot"] >= 0).sum() == length


@given(
    submits=st.lists(_TIME, min_size=1, max_size=8).map(sorted),
    incidents=st.lists(st.tuples(_TIME, st.integers(3, 5), st.integers(0, 3)), max_size=8).map(
        sorted
    ),
    own=st.lists(st.tuples(_TIME, _OWN), max_size=8),
)
def test_all_sources_merge_by_time_and_kind(
    submits: list[int], incidents: list[tuple[int, int, int]], own: list[tuple[int, int]]
) -> None:
    state = _empty_row(incidents, submits)
    begin = submits[0]
    events: list[tuple[int, int, int, int]] = []  # (time, kind, order within its source, subject)
    for j, submit in enumerate(submits):
        heapq.heappush(events, (submit, int(EventKind.ARRIVAL), j, j))
    for k, (time_ms, kind, node) in enumerate(incidents):
        heapq.heappush(events, (time_ms + begin, kind, k, node))
    for k, (time_ms, kind) in enumerate(own):
        push_event(state.rows, 0, time_ms, kind, _JOBS - 1 - k)
        heapq.heappush(events, (time_ms, kind, k, _JOBS - 1 - k))
    while events:
        time_ms, kind, _, subject = heapq.heappop(events)
        assert take_next(state.rows, 0) == (time_ms, kind, subject)
    assert take_next(state.rows, 0)[1] == EventKind.NONE
