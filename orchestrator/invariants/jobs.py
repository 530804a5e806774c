"""Invariants of jobs: states, times, gangs, progress, counters, services, effects."""

from __future__ import annotations

import numpy as np

from orchestrator.invariants.view import ENDED, PASSING, PLACED, WAITING, View
from orchestrator.kernels.state.codes import NO_JOB, EffectKind, JobCode, JobKind

__all__ = ["check_counters", "check_effects", "check_jobs", "check_progress", "check_services"]


_HOLDS = (EffectKind.START, EffectKind.REGROUP, EffectKind.MOVE)


_ENDS = (EffectKind.STOP, EffectKind.SAVE_AND_STOP, EffectKind.INTERRUPT)


_TOLD_LAST = {
    JobCode.RUNNING: _HOLDS,
    JobCode.COMPLETED: _HOLDS,
    JobCode.CHECKPOINTING: (EffectKind.SAVE,),
    JobCode.PENDING: _ENDS,
    JobCode.PREEMPTED: _ENDS,
    JobCode.FAILED: _ENDS,
}
"""Effects of which a job's last one is, once it has started."""


def check_jobs(v: View) -> None:
    """Every job is in one legal resting state, whole or absent, with times in order."""
    now = v.row["now_ms"]
    for j, (ask, run) in enumerate(zip(v.request, v.job, strict=True)):
        code = int(run["state"])
        v.require(code in tuple(JobCode), f"job {j} has the unknown state {code}")
        state = JobCode(code)
        v.require(state not in PASSING, f"job {j} rests in the passing state {state.name}")
        placed = state in PLACED
        _check_gang(v, j, state, placed=placed)
        started = run["first_start_ms"] >= 0
        v.require_equal(bool(run["runs"] > 0), bool(started), f"whether job {j} has runs")
        if state == JobCode.ABSENT:
            v.require(not started, f"job {j} has started before it was submitted")
            continue
        v.require(ask["submit_ms"] <= now, f"job {j} is here before its submission")
        if placed or state == JobCode.COMPLETED:
            v.require(bool(started), f"the {state.name} job {j} never started")
        if started:
            times = (ask["submit_ms"], run["first_start_ms"], run["start_ms"], now)
            v.require(times == tuple(sorted(times)), f"job {j}: times out of order: {times}")
        if state in ENDED:
            v.require(
                run["start_ms"] <= run["end_ms"] <= now,
                f"job {j} ended at {run['end_ms']}, not between its start and now",
            )
        else:
            v.require_equal(int(run["end_ms"]), -1, f"end of the {state.name} job {j}")


def _check_gang(v: View, j: int, state: JobCode, *, placed: bool) -> None:
    """A gang is whole or absent; an elastic one is within its bounds or absent."""
    ask, now = v.request[j], int(v.job[j]["workers_now"])
    if placed and ask["elastic"]:
        low, high = int(ask["min_workers"]), int(ask["max_workers"])
        v.require(
            low <= now <= high,
            f"the {state.name} elastic job {j} has {now} workers, outside {low}..{high}",
        )
        return
    what = f"workers placed of the {state.name} job {j} (a gang is whole or absent)"
    v.require_equal(now, int(ask["workers"]) if placed else 0, what)


def check_progress(v: View) -> None:
    """Work is never made up, and an interruption costs less than one checkpoint interval."""
    for j, (ask, run) in enumerate(zip(v.request, v.job, strict=True)):
        duration, progress = int(ask["duration_ms"]), int(run["progress_ms"])
        saved = progress + int(run["unsaved_ms"])
        v.require(
            0 <= progress <= saved <= duration,
            f"job {j} of {duration} ms has done {progress} ms and {run['unsaved_ms']} ms unsaved",
        )
        if run["state"] not in PLACED:
            v.require_equal(int(run["unsaved_ms"]), 0, f"unsaved work of job {j}")
        if run["state"] == JobCode.COMPLETED:
            v.require_equal(progress, duration, f"work done of the completed job {j}")
        lost, interval = int(run["lost_ms"]), int(ask["checkpoint_interval_ms"])
        interruptions = int(run["interruptions"])
        bound = interruptions * (interval if interval > 0 else duration)
        v.require(
            0 <= lost <= bound,
            f"job {j} lost {lost} ms in {interruptions} interruptions, more than {bound}",
        )


def check_counters(v: View) -> None:
    """Counters of the row agree with the jobs that they count."""
    row = v.row
    ended = {code: len(v.jobs_in((code,))) for code in ENDED}
    here = len(v.jobs_in(WAITING + PLACED))
    v.require_equal(int(row["active_jobs"]), here, "active_jobs")
    services = sum(v.request[j]["kind"] == JobKind.SERVICE for j in v.jobs_in(WAITING + PLACED))
    v.require_equal(int(row["active_services"]), int(services), "active_services")
    v.require_equal(int(row["completed_jobs"]), ended[JobCode.COMPLETED], "completed_jobs")
    v.require_equal(int(row["failed_jobs"]), ended[JobCode.FAILED], "failed_jobs")
    for name in ("preemptions", "interruptions", "resizes", "migrations"):
        v.require_equal(int(row[name]), int(v.job[name].sum()), name)
    committed = int(row["committed"])
    if committed != NO_JOB:
        waiting = 0 <= committed < len(v.job) and v.job[committed]["state"] in WAITING
        v.require(waiting, f"the row is committed to job {committed}, which does not wait")


def check_services(v: View) -> None:
    """No request is lost or made up, and nothing that counts is negative."""
    for s, own in enumerate(v.service):
        came = float(own["offered"] + own["retried"])
        went = float(own["shed"] + own["failed"] + own["served"] + own["backlog"])
        v.require(
            abs(came - went) <= 1e-9 * came + 1e-3,
            f"service {s} had {came} attempts, and {went} of them are accounted for",
        )
        for name in ("backlog", "tokens", "retry_balance", "violations", "ready"):
            v.require(own[name] >= 0, f"{name} of service {s} is {own[name]}")
        v.require(0 <= own["sick"] <= own["ready"], f"service {s} has {own['sick']} sick replicas")
        v.require(0 <= own["job"] < len(v.job), f"service {s} belongs to job {own['job']}")


def check_effects(v: View) -> None:
    """What a runtime was told last of a job, as far as that is kept, is what the job does."""
    of_jobs = np.flatnonzero(v.effect["kind"] != EffectKind.RELEASE)
    for j, at in {int(v.effect[at]["subject"]): at for at in of_jobs}.items():
        told, run = v.effect[at], v.job[j]
        if run["runs"] == 0:
            continue  # another job has the row now
        v.require_equal(int(told["run"]), int(run["runs"]), f"run last told of job {j}")
        kind, state = EffectKind(told["kind"]), JobCode(run["state"])
        v.require(
            kind in _TOLD_LAST[state], f"last told of the {state.name} job {j} is {kind.name}"
        )
        if state == JobCode.RUNNING:
            count = int(run["workers_now"])
            v.require_equal(int(told["workers"]), count, f"workers last told of job {j}")
            same = np.array_equal(v.effect_worker[at, :count], v.worker[j, :count])
            v.require(same, f"the workers of job {j} are elsewhere than was last told")
