"""Life of a job: admit, start, pace, preempt, interrupt, complete, fail."""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.change.hold import (
    charge_service,
    free_storage,
    gang_spread,
    hold_storage,
    release_gang,
    release_traffic,
    release_worker,
    reserve_gang,
    reserve_traffic,
)
from orchestrator.kernels.change.log import job_effect, record
from orchestrator.kernels.change.queue import (
    assume_waiting_duration,
    dequeue,
    enqueue,
    list_running,
    unlist_running,
)
from orchestrator.kernels.change.timeline import cancel_event, push_event
from orchestrator.kernels.lang.jit import kernel, small_kernel
from orchestrator.kernels.lang.memory import copy_record
from orchestrator.kernels.place.slots import units_of
from orchestrator.kernels.place.throughput import speed_milli
from orchestrator.kernels.state.access import heap, job, node, queue, request, worker
from orchestrator.kernels.state.codes import (
    LEGAL_TRANSITIONS,
    EffectKind,
    EventKind,
    JobCode,
    JobKind,
    LogKind,
)

__all__ = [
    "accrue_service",
    "admit_job",
    "assume_duration",
    "begin_change",
    "begin_preemption",
    "complete_job",
    "drop_worker",
    "drop_workers_on",
    "end_change",
    "fail_waiting_job",
    "finish_preemption",
    "interrupt_job",
    "interruption_cost",
    "progress_now",
    "record_placement",
    "saved_progress",
    "set_pace",
    "set_state",
    "settle_progress",
    "start_job",
    "turn_away",
    "work_of",
]


@kernel
def progress_now(row, j):
    """Work that a running job has done by now, ms at nominal speed."""
    run = job(row, j)
    elapsed = max(row.now_ms - run.work_start_ms, np.int64(0))
    done = run.progress_ms + run.unsaved_ms + elapsed * run.speed_milli // 1000
    return min(done, request(row, j).duration_ms)


@small_kernel
def work_of(row, j):
    """Work that a job has done by now, ms at nominal speed, however long it was to take."""
    run = job(row, j)
    done = run.progress_ms + run.unsaved_ms
    if run.state == JobCode.RUNNING:
        done += max(row.now_ms - run.work_start_ms, np.int64(0)) * run.speed_milli // 1000
    return done


@kernel
def saved_progress(row, j):
    """Work of a running job that its last periodic checkpoint holds, ms."""
    interval = request(row, j).checkpoint_interval_ms
    base = job(row, j).progress_ms
    if interval <= 0:
        return base
    return base + (progress_now(row, j) - base) // interval * interval


@small_kernel
def interruption_cost(row, v):
    """What preempting running job ``v`` costs, capacity units x ms: work done again, and stalls.

    Work since the last periodic checkpoint counts even though a planned preemption saves it:
    saving takes the longer the more there is, and a failure meanwhile would lose it.
    """
    ask = request(row, v)
    unsaved = progress_now(row, v) - saved_progress(row, v)
    return np.float64(unsaved + ask.checkpoint_ms + ask.restart_ms) * job(row, v).units


@kernel
def _slowest_model(row, j):
    """The GPU model of the worker that all others wait for: the slowest of the gang's."""
    slowest = np.int64(node(row, worker(row, j, 0).node).model)
    spread = np.int64(job(row, j).spread)
    workers = np.int64(job(row, j).workers_now)
    for w in range(1, workers):
        model = np.int64(node(row, worker(row, j, w).node).model)
        if model == slowest:
            continue
        mine = speed_milli(row, j, workers, spread, model)
        if mine < speed_milli(row, j, workers, spread, slowest):
            slowest = model
    return slowest


@small_kernel
def _time_for(work_ms, speed):
    """Time that work takes at a speed in thousandths, rounded up."""
    return (max(work_ms, np.int64(0)) * 1000 + speed - 1) // speed


@small_kernel
def _project_end(row, j):
    """When a job whose pace is set will be done; its projected slowdown follows."""
    ask = request(row, j)
    left = ask.duration_ms - job(row, j).progress_ms - job(row, j).unsaved_ms
    end = job(row, j).work_start_ms + _time_for(left, job(row, j).speed_milli)
    scale = max(ask.duration_ms, row.slowdown_bound_ms)
    excess = max((end - ask.submit_ms) / scale - 1.0, 0.0)
    row.settled_excess += excess - job(row, j).excess
    job(row, j).excess = excess
    return end


@kernel
def set_pace(row, j, resume_ms):
    """From ``resume_ms`` on a placed job works at the speed that its workers and places give.

    Sets what follows from that: its demand, expected end and projected slowdown, and puts it into
    the running list and the event queue.
    """
    ask = request(row, j)
    job(row, j).units = units_of(row, j, job(row, j).workers_now)
    job(row, j).spread = np.uint8(gang_spread(row, j, job(row, j).workers_now))
    speed = np.int64(1000)
    if ask.kind != JobKind.SERVICE:  # a service lasts as long as it lasts
        workers = np.int64(job(row, j).workers_now)
        spread = np.int64(job(row, j).spread)
        speed = speed_milli(row, j, workers, spread, _slowest_model(row, j))
    job(row, j).speed_milli = np.int64(speed)
    job(row, j).work_start_ms = resume_ms
    done = job(row, j).progress_ms + job(row, j).unsaved_ms
    end = _project_end(row, j)
    job(row, j).expected_end_ms = resume_ms + _time_for(ask.requested_ms - done, speed)
    list_running(row, j)
    push_event(row, end, EventKind.COMPLETION, j)


@kernel
def assume_duration(row, j, duration_ms):
    """Let a job that has not ended take so long in all, ms at nominal speed: for what-ifs.

    It takes at least as long as it has worked. An end that stays where it is keeps its place among
    others at the same time.
    """
    state = job(row, j).state
    if duration_ms != request(row, j).duration_ms:
        duration_ms = max(np.int64(duration_ms), work_of(row, j))
    if state == JobCode.PENDING or state == JobCode.PREEMPTED:
        assume_waiting_duration(row, j, duration_ms)
        return
    request(row, j).duration_ms = np.int64(duration_ms)
    if state != JobCode.RUNNING:
        return
    end = max(_project_end(row, j), row.now_ms)
    slot = job(row, j).heap_slot
    if slot < 0 or heap(row, slot).time_ms != end:
        cancel_event(row, j)
        push_event(row, end, EventKind.COMPLETION, j)


@small_kernel
def accrue_service(row, j):
    """Count the capacity that a placed job, and its tenant, have held since its last change."""
    served = (row.now_ms - job(row, j).resized_ms) * job(row, j).units
    job(row, j).attained_unit_ms += served
    charge_service(row, j, served)
    job(row, j).resized_ms = row.now_ms


@kernel
def settle_progress(row, j):
    """Note what a running job has done, and stop its clock; :func:`set_pace` starts it again.

    Work that no checkpoint holds yet stays unsaved.
    """
    done = progress_now(row, j)
    job(row, j).unsaved_ms = done - job(row, j).progress_ms
    job(row, j).work_start_ms = row.now_ms
    accrue_service(row, j)
    cancel_event(row, j)
    unlist_running(row, j)


_HASH_STEP = np.uint64(0x9E3779B97F4A7C15)


@kernel
def set_state(row, j, state):
    """Move a job to another state; an illegal move is a bug and raises."""
    if LEGAL_TRANSITIONS[job(row, j).state, state] == 0:
        raise RuntimeError("illegal transition of a job's state")
    job(row, j).state = np.uint8(state)
    record(row, LogKind.JOB_STATE, j, state)


@kernel
def admit_job(row, j):
    """A submitted job joins the queue."""
    row.active_jobs += 1
    row.active_services += np.int64(request(row, j).kind == JobKind.SERVICE)
    set_state(row, j, JobCode.PENDING)
    enqueue(row, j)


@kernel
def record_placement(row, j):
    """Record where a gang is now: its nodes and devices, folded into one word."""
    word = np.uint64(job(row, j).workers_now)
    for w in range(job(row, j).workers_now):
        word = (word ^ np.uint64(worker(row, j, w).node + 1)) * _HASH_STEP
        word = (word ^ worker(row, j, w).devices) * _HASH_STEP
    record(row, LogKind.PLACEMENT, j, np.int64(word & np.uint64(0xFFFFFF)))


@kernel
def start_job(row, position, nodes, workers, generator):
    """Start the job at a queue position with ``workers`` workers on ``nodes``, or not at all.

    ``generator``, which chose the nodes, chooses the devices, too. False, and nothing changed, if
    the gang could not be reserved.
    """
    j = queue(row, position).job
    if not reserve_gang(row, j, nodes, workers, generator):
        return False
    dequeue(row, position)
    now = row.now_ms
    restart = np.int64(0)
    if job(row, j).first_start_ms < 0:
        job(row, j).first_start_ms = now
        hold_storage(row, j)
    else:
        restart = request(row, j).restart_ms
        if request(row, j).kind != JobKind.SERVICE:
            row.lost_unit_ms += restart * units_of(row, j, workers)
    job(row, j).runs = np.uint32(job(row, j).runs + 1)
    job(row, j).start_ms = now
    job(row, j).resized_ms = now
    set_state(row, j, JobCode.SCHEDULED)
    record_placement(row, j)
    set_state(row, j, JobCode.RUNNING)
    set_pace(row, j, now + restart)
    job_effect(row, EffectKind.START, j, restart)
    return True


@kernel
def _stop_running(row, j):
    """Take a job off its resources, the running list and the event queue."""
    cancel_event(row, j)
    unlist_running(row, j)
    release_gang(row, j)
    accrue_service(row, j)


@kernel
def complete_job(row, j):
    """A running job has done all its work."""
    _stop_running(row, j)
    job(row, j).progress_ms = request(row, j).duration_ms
    job(row, j).unsaved_ms = 0
    job(row, j).units = units_of(row, j, request(row, j).workers)
    job(row, j).end_ms = row.now_ms
    free_storage(row, j)
    row.active_jobs -= 1
    row.active_services -= np.int64(request(row, j).kind == JobKind.SERVICE)
    row.completed_jobs += 1
    set_state(row, j, JobCode.COMPLETED)


@kernel
def _requeue(row, j, progress_ms, state):
    """Put a job that stopped early back into the queue with what was saved of its work."""
    row.settled_excess -= job(row, j).excess
    job(row, j).excess = 0.0
    job(row, j).progress_ms = progress_ms
    job(row, j).unsaved_ms = 0
    job(row, j).units = units_of(row, j, request(row, j).workers)
    job(row, j).expected_end_ms = 0
    set_state(row, j, state)
    enqueue(row, j)


@kernel
def begin_preemption(row, j):
    """Stop a running job and save it; with a free checkpoint it leaves at once."""
    job(row, j).preemptions += 1
    job(row, j).blocked_point = row.point
    row.preemptions += 1
    row.preemptions_here += 1
    cost = request(row, j).checkpoint_ms
    saved, done = saved_progress(row, j), progress_now(row, j)
    job(row, j).unsaved_ms = done - saved
    job(row, j).progress_ms = saved
    job(row, j).work_start_ms = row.now_ms
    job(row, j).speed_milli = 0
    set_state(row, j, JobCode.CHECKPOINTING)
    if cost <= 0:
        finish_preemption(row, j)
        return
    unlist_running(row, j)
    job(row, j).expected_end_ms = row.now_ms + cost
    list_running(row, j)
    cancel_event(row, j)
    push_event(row, row.now_ms + cost, EventKind.CHECKPOINTED, j)
    job_effect(row, EffectKind.SAVE, j, cost)


@kernel
def finish_preemption(row, j):
    """The checkpoint is committed: all work is saved, the resources are free."""
    _stop_running(row, j)
    progress = job(row, j).progress_ms + job(row, j).unsaved_ms
    _requeue(row, j, progress, JobCode.PREEMPTED)
    waited = request(row, j).checkpoint_ms > 0
    kind = EffectKind.STOP if waited else EffectKind.SAVE_AND_STOP
    job_effect(row, kind, j, np.int64(0))


@kernel
def interrupt_job(row, j):
    """A node failed under a job: it falls back to its last committed checkpoint."""
    if job(row, j).state == JobCode.CHECKPOINTING:
        saved = job(row, j).progress_ms
        lost = job(row, j).unsaved_ms
    else:
        saved = saved_progress(row, j)
        lost = progress_now(row, j) - saved
    if request(row, j).kind == JobKind.SERVICE:
        lost = np.int64(0)  # replicas hold no work that could be lost
    job(row, j).lost_ms += lost
    job(row, j).interruptions += 1
    row.interruptions += 1
    row.lost_unit_ms += lost * units_of(row, j, request(row, j).workers)
    _stop_running(row, j)
    _requeue(row, j, saved, JobCode.PENDING)
    job_effect(row, EffectKind.INTERRUPT, j, lost)


@kernel
def fail_waiting_job(row, position):
    """Give up on a queued job (cancelled, or never placeable)."""
    j = dequeue(row, position)
    job(row, j).end_ms = row.now_ms
    if job(row, j).first_start_ms >= 0:
        free_storage(row, j)
    row.active_jobs -= 1
    row.active_services -= np.int64(request(row, j).kind == JobKind.SERVICE)
    row.failed_jobs += 1
    set_state(row, j, JobCode.FAILED)


@kernel
def turn_away(row):
    """Give up on all that wait: nobody placed them at the decision point that has closed."""
    while row.queue_len > 0:
        fail_waiting_job(row, row.queue_len - 1)


@small_kernel
def begin_change(row, j):
    """Stop the clock of a running job; how long the stall it is in still lasts, ms.

    What is left of that stall was counted as lost when it began; :func:`end_change` counts anew.
    """
    stall = max(job(row, j).work_start_ms - row.now_ms, np.int64(0))
    if request(row, j).kind != JobKind.SERVICE:
        row.lost_unit_ms -= stall * job(row, j).units
    settle_progress(row, j)
    release_traffic(row, j, job(row, j).workers_now)
    set_state(row, j, JobCode.SCALING)
    return stall


@small_kernel
def end_change(row, j, stall_ms, kind):
    """A job goes on with other workers after a stall; ``kind`` is REGROUP or MOVE."""
    if not reserve_traffic(row, j, job(row, j).workers_now):
        raise RuntimeError("a gang was spread over links that cannot carry it")
    if request(row, j).kind != JobKind.SERVICE:  # its other replicas go on, and no work is lost
        row.lost_unit_ms += stall_ms * units_of(row, j, job(row, j).workers_now)
    record_placement(row, j)
    set_state(row, j, JobCode.RUNNING)
    set_pace(row, j, row.now_ms + stall_ms)
    job_effect(row, kind, j, stall_ms)


@small_kernel
def drop_worker(row, j, w):
    """Release worker ``w``; the gang's last one takes its number, and its record the last place."""
    release_worker(row, j, w)
    last = np.int64(job(row, j).workers_now - 1)
    job(row, j).workers_now = np.int64(last)
    devices, n = worker(row, j, w).devices, worker(row, j, w).node
    copy_record(worker(row, j, w), worker(row, j, last))
    worker(row, j, last).devices = devices
    worker(row, j, last).node = n


@kernel
def drop_workers_on(row, j, n):
    """A node goes under replicas that do not need each other: only those on it are gone.

    At least one must be on another node.
    """
    stall = begin_change(row, j)
    w = np.int64(0)
    while w < job(row, j).workers_now:
        if worker(row, j, w).node == n:
            drop_worker(row, j, w)
        else:
            w += 1
    end_change(row, j, stall, EffectKind.REGROUP)
