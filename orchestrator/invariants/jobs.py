"""Invariants of jobs: states, times, gangs, progress, counters, services, effects."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from orchestrator.invariants.view import ENDED, PASSING, PLACED, WAITING, View, among
from orchestrator.kernels.state.codes import NO_JOB, EffectKind, JobCode, JobKind

__all__ = ["check_counters", "check_effects", "check_jobs", "check_progress", "check_services"]


_JOB_CODES = tuple(JobCode)


# Names of an enumeration are looked up in Python, slowly.
_RUNNING, _ABSENT, _COMPLETED = (
    int(code) for code in (JobCode.RUNNING, JobCode.ABSENT, JobCode.COMPLETED)
)


_HOLDS = (EffectKind.START, EffectKind.REGROUP, EffectKind.MOVE)


_ENDS = (EffectKind.STOP, EffectKind.SAVE_AND_STOP, EffectKind.INTERRUPT)


_TOLD_LAST: dict[int, tuple[EffectKind, ...]] = {
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
    now, run, submit_ms = v.row["now_ms"], v.job, v.request["submit_ms"]
    codes = run["state"]

    def job(j: int) -> str:
        return f"the {JobCode(codes[j]).name} job {j}"

    v.require_all(among(codes, _JOB_CODES), lambda j: f"job {j} has the unknown state {codes[j]}")
    v.require_all(
        ~among(codes, PASSING),
        lambda j: f"job {j} rests in the passing state {JobCode(codes[j]).name}",
    )
    placed, ended = among(codes, PLACED), among(codes, ENDED)
    here = codes != _ABSENT
    first_ms, start_ms, end_ms = run["first_start_ms"], run["start_ms"], run["end_ms"]
    started = first_ms >= 0
    _check_gangs(v, placed, job)
    v.require_all(started == (run["runs"] > 0), lambda j: f"{job(j)} has {run['runs'][j]} runs")
    v.require_all(here | ~started, lambda j: f"job {j} has started before it was submitted")
    v.require_all(~here | (submit_ms <= now), lambda j: f"{job(j)} is here before its submission")
    must = placed | (codes == _COMPLETED)
    v.require_all(~must | started, lambda j: f"{job(j)} never started")
    v.require_all(
        ~started | ((submit_ms <= first_ms) & (first_ms <= start_ms) & (start_ms <= now)),
        lambda j: (
            f"{job(j)}: times out of order: {submit_ms[j]}, {first_ms[j]}, {start_ms[j]}, {now}"
        ),
    )
    v.require_all(
        ~ended | ((start_ms <= end_ms) & (end_ms <= now)),
        lambda j: f"{job(j)} ended at {end_ms[j]}, not between its start and now",
    )
    v.require_all(~here | ended | (end_ms == -1), lambda j: f"end of {job(j)} is {end_ms[j]}")


def _check_gangs(v: View, placed: NDArray[np.bool_], job: Callable[[int], str]) -> None:
    """A gang is whole or absent; an elastic one is within its bounds or absent."""
    ask, now = v.request, v.job["workers_now"]
    low, high = ask["min_workers"], ask["max_workers"]
    elastic = placed & (ask["elastic"] != 0)
    v.require_all(
        ~elastic | ((low <= now) & (now <= high)),
        lambda j: f"{job(j)} is elastic and has {now[j]} workers, outside {low[j]}..{high[j]}",
    )
    whole = np.where(placed, ask["workers"], 0)
    v.require_all(
        elastic | (now == whole),
        lambda j: (
            f"{job(j)} has {now[j]} workers, should have {whole[j]} (a gang is whole or absent)"
        ),
    )


def check_progress(v: View) -> None:
    """Work is never made up, and an interruption costs less than one checkpoint interval."""
    ask, run, codes = v.request, v.job, v.job["state"]
    duration, progress, unsaved = ask["duration_ms"], run["progress_ms"], run["unsaved_ms"]
    saved = progress + unsaved
    v.require_all(
        (progress >= 0) & (progress <= saved) & (saved <= duration),
        lambda j: (
            f"job {j} of {duration[j]} ms has done {progress[j]} ms and {unsaved[j]} ms unsaved"
        ),
    )
    v.require_all(
        among(codes, PLACED) | (unsaved == 0),
        lambda j: f"job {j} has {unsaved[j]} ms of unsaved work and does not run",
    )
    v.require_all(
        (codes != _COMPLETED) | (progress == duration),
        lambda j: f"the completed job {j} has done {progress[j]} ms of {duration[j]}",
    )
    interval, times, lost = ask["checkpoint_interval_ms"], run["interruptions"], run["lost_ms"]
    bound = times.astype(np.int64) * np.where(interval > 0, interval, duration)
    v.require_all(
        (lost >= 0) & (lost <= bound),
        lambda j: f"job {j} lost {lost[j]} ms in {times[j]} interruptions, more than {bound[j]}",
    )


def check_counters(v: View) -> None:
    """Counters of the row agree with the jobs that they count."""
    row = v.row
    ended = {code: len(v.jobs_in((code,))) for code in ENDED}
    here = v.jobs_in(WAITING + PLACED)
    v.require_equal(int(row["active_jobs"]), len(here), "active_jobs")
    services = (v.request["kind"][here] == JobKind.SERVICE).sum()
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
    of_jobs = (v.effect["kind"] != EffectKind.RELEASE).nonzero()[0]
    subjects = v.effect["subject"][of_jobs].tolist()
    for j, at in dict(zip(subjects, of_jobs.tolist(), strict=True)).items():
        told, run = v.effect[at], v.job[j]
        if run["runs"] == 0:
            continue  # another job has the row now
        if told["run"] != run["runs"]:
            v.require_equal(int(told["run"]), int(run["runs"]), f"run last told of job {j}")
        kind, state = int(told["kind"]), int(run["state"])
        if kind not in _TOLD_LAST[state]:
            name, said = JobCode(state).name, EffectKind(kind).name
            v.require(False, f"last told of the {name} job {j} is {said}")
        if state == _RUNNING:
            count = int(run["workers_now"])
            v.require_equal(int(told["workers"]), count, f"workers last told of job {j}")
            same = v.effect_worker[at, :count].tobytes() == v.worker[j, :count].tobytes()
            same = same or np.array_equal(v.effect_worker[at, :count], v.worker[j, :count])
            v.require(same, f"the workers of job {j} are elsewhere than was last told")
