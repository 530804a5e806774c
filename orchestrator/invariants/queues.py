"""Invariants of the queue, the running list and the event queue."""

from __future__ import annotations

from orchestrator.invariants.view import PLACED, WAITING, View
from orchestrator.kernels.state.codes import EventKind, JobCode

__all__ = ["check_heap", "check_queue", "check_queue_sums", "check_running"]


REL = 1e-9


DRIFT = 1e-12  # of the largest term: rounding that terms long gone leave behind


_KINDS = {
    int(JobCode.RUNNING): int(EventKind.COMPLETION),
    int(JobCode.CHECKPOINTING): int(EventKind.CHECKPOINTED),
}


def check_queue(v: View) -> None:
    """The queue holds exactly the waiting jobs, in the order of (submit time, index)."""
    waiting = v.jobs_in(WAITING)
    waiting.sort(key=lambda j: (int(v.request[j]["submit_ms"]), j))
    v.require_equal([int(j) for j in v.queue], waiting, "the queue")


def check_queue_sums(v: View) -> None:
    """The running sums over the queue equal the sums that they stand for."""
    bound = int(v.row["slowdown_bound_ms"])
    rate = onset = request_rate = onset_size = 0.0
    work = 0
    for j in v.queue:
        ask, run = v.request[j], v.job[j]
        left = int(ask["duration_ms"]) - int(run["progress_ms"])
        if run["first_start_ms"] >= 0:
            left += int(ask["restart_ms"])
        scale = max(int(ask["duration_ms"]), bound)
        starts_ms = int(ask["submit_ms"]) + scale - left
        v.require_equal(int(run["onset_ms"]), starts_ms, f"onset_ms of job {j}")
        rate += 1000.0 / scale
        onset += starts_ms / scale
        onset_size += abs(starts_ms / scale)
        request_rate += 1000.0 / max(int(ask["requested_ms"]), bound)
        work += int(run["units"]) * int(ask["requested_ms"])
    largest_onset = int(v.row["now_ms"]) / bound + 1.0
    _require_close(v, "queue_rate", rate, rate, 1000.0 / bound)
    _require_close(v, "queue_onset", onset, onset_size, largest_onset)
    _require_close(v, "request_rate", request_rate, request_rate, 1000.0 / bound)
    v.require_equal(int(v.row["queued_unit_ms"]), work, "queued_unit_ms")
    settled = sum(float(v.job[j]["excess"]) for j in v.jobs_in((*PLACED, JobCode.COMPLETED)))
    _require_close(v, "settled_excess", settled, settled, largest_onset)


def _require_close(v: View, name: str, expected: float, size: float, largest: float) -> None:
    """Compare a sum kept by additions and subtractions, within rounding of its terms."""
    found = float(v.row[name])
    tolerance = REL * size + DRIFT * largest
    v.require(abs(found - expected) <= tolerance, f"{name} is {found}, should be {expected}")


def check_running(v: View) -> None:
    """The running list holds exactly the placed jobs, by ascending expected end."""
    ends = v.running["expected_end_ms"]
    v.require(bool((ends[1:] >= ends[:-1]).all()), f"the running list is not sorted: {ends}")
    jobs = v.running["job"]
    v.require_equal(sorted(jobs.tolist()), v.jobs_in(PLACED), "jobs of the running list")
    for name in ("expected_end_ms", "units"):
        found, expected = v.running[name], v.job[name][jobs]
        for k in (found != expected).nonzero()[0]:
            v.require_equal(int(found[k]), int(expected[k]), f"listed {name} of job {jobs[k]}")


def check_heap(v: View) -> None:
    """Each placed job has one pending event, found where ``heap_slot`` says; parents go first."""
    pending = sorted(int(j) for j in v.heap["entity"])
    v.require_equal(pending, v.jobs_in(PLACED), "jobs with a pending event")
    keys = [(int(x["time_ms"]), int(x["kind"]), int(x["seq"])) for x in v.heap]
    for at, entry in enumerate(v.heap):
        j = int(entry["entity"])
        v.require_equal(int(v.job[j]["heap_slot"]), at, f"heap_slot of job {j}")
        v.require_equal(
            int(entry["kind"]), _KINDS[int(v.job[j]["state"])], f"kind of job {j}'s event"
        )
        if at > 0:
            parent = (at - 1) // 2
            v.require(keys[parent] < keys[at], f"event {at} goes before its parent {parent}")
    for stray in (v.job["heap_slot"] >= 0).nonzero()[0]:
        v.require(int(stray) in pending, f"job {stray} has a heap_slot but no event")
