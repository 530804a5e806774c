"""What must hold after any schedule, judged by the log, the workers' files and the promises.

It asks no orchestrator. A worker counts as there from the first line of its file to the last time
that it, or somebody who looked at its process, has noted that it is: what overlaps by that has
overlapped. Overlaps of less than a look, 50 ms, may be missed.
"""

from __future__ import annotations

import itertools
import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from orchestrator.messages import (
    CheckpointCommitted,
    Decide,
    Entry,
    Lead,
    NodeFailed,
    PlaceJob,
    Preempt,
    PreemptJob,
    Scale,
    Submit,
    WorkerExited,
    WorkersLost,
)
from orchestrator.wire.entries import decode_entry
from tests.chaos.live.plan import Plan
from tests.chaos.live.worker import Life
from tests.chaos.live.world import GRACE_S, SAVE_GRACE_S, World

_MARGIN_S = 1.0  # of the hub, and of a runtime that was opened anew
_AGAIN_S = 1.0  # what could not be said or done is said or done again, at first
_BACKOFF_S = (0.0, 0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 16.0)  # by losses in a row
_START_S = 1.0  # of a worker's interpreter, on a machine with other work

_FAULTS = re.compile(r"Traceback|InvariantError|fault of its own")
_KNOWN = re.compile(r"StorageError|OSError|disk|File too large|NotLeaderError")


def violations(world: World) -> list[str]:
    """All that does not hold, for people."""
    entries = entries_of(world.folder / "log")
    lives = world.lives()
    return [
        *world.problems,
        *_gaps(entries),
        *_unkept_promises(world, entries),
        *_lost_jobs(world, entries, lives),
        *_two_runs_at_once(lives),
        *_shared_gpus(lives),
        *_torn_gangs(world, entries, lives),
        *_lost_work(world, entries, lives),
        *_late(world, entries, lives),
        *_faults(world.folder),
    ]


# --- the log -------------------------------------------------------------------------------------


def entries_of(path: Path) -> dict[int, Entry]:
    """All entries that there have been, by their indices."""
    connection = sqlite3.connect(path)
    try:
        rows = connection.execute(
            "SELECT number, body FROM entries UNION SELECT number, body FROM dropped ORDER BY 1"
        ).fetchall()
    finally:
        connection.close()
    return {number - 1: decode_entry(body) for number, body in rows}


def _gaps(entries: dict[int, Entry]) -> Iterator[str]:
    if list(entries) != list(range(len(entries))):
        yield f"the log has {len(entries)} entries, and the last is {max(entries, default=-1)}"


def valid(entries: dict[int, Entry]) -> Iterator[tuple[int, Entry]]:
    """Entries of who led when they were written."""
    term = -1
    for at, entry in entries.items():
        if isinstance(entry.body, Lead):
            term = at
        elif entry.term != term:
            continue
        yield at, entry


def _ends(entries: dict[int, Entry]) -> dict[str, list[WorkerExited]]:
    """Ends of jobs, by the last one that each has.

    Whoever ends while it gives up its place is only not saved, and who ends with its node may
    be taken for lost; another end follows then.
    """
    found: dict[str, list[WorkerExited]] = {}
    gives_up: dict[str, bool] = {}
    last: dict[str, WorkerExited] = {}
    for _, entry in valid(entries):
        body = entry.body
        if isinstance(body, Preempt | WorkersLost):
            gives_up[body.job_id] = True
        elif isinstance(body, NodeFailed):
            gives_up |= dict.fromkeys(gives_up, True)
        elif isinstance(body, Decide):
            for action in body.plan.actions:
                if isinstance(action, PreemptJob | PlaceJob):
                    gives_up[action.job_id] = isinstance(action, PreemptJob)
        elif isinstance(body, WorkerExited):
            last[body.job_id] = body
            if not gives_up.get(body.job_id):
                found.setdefault(body.job_id, []).append(body)
    for name, body in last.items():
        ends = found.setdefault(name, [])
        if body not in ends:
            ends.append(body)
    return found


# --- promises and jobs ---------------------------------------------------------------------------


def _unkept_promises(world: World, entries: dict[int, Entry]) -> Iterator[str]:
    """What was acknowledged is in the log.

    A submission may be there twice, if a client asked twice at once: the second one is refused.
    """
    bodies = [entry.body for _, entry in valid(entries)]
    submitted = Counter(body.spec.job_id for body in bodies if isinstance(body, Submit))
    for name in world.acknowledged:
        if submitted[name] == 0:
            yield f"job {name} was acknowledged and is not in the log"
    kinds = {"preempt": Preempt, "scale": Scale}
    there = Counter((type(body), getattr(body, "job_id", "")) for body in bodies)
    for (what, name), count in Counter(world.done).items():
        if there[kinds[what], name] < count:
            yield f"{what} of {name} was acknowledged {count} times, and the log does not say so"


def _lost_jobs(world: World, entries: dict[int, Entry], lives: list[Life]) -> Iterator[str]:
    """Every job has ended, once, as its workers did."""
    missing = {job.name for job in world.plan.jobs} - set(world.acknowledged)
    if missing:
        yield f"nobody has acknowledged {sorted(missing)}"
    ends = _ends(entries)
    for name, job in world.acknowledged.items():
        if len(ends.get(name, [])) != 1:
            yield f"job {name} has ended {len(ends.get(name, []))} times by the log"
            continue
        (end,) = ends[name]
        own = [life for life in lives if life.job == name]
        last = max((life.run for life in own), default=0)
        if last != end.run:
            yield f"job {name} ended with run {end.run}, and run {last} has had workers"
        wanted = 3 if job.kind == "fails" else 0
        crashed = end.exit_code == 1 and "times within minutes" in end.reason
        if end.exit_code != wanted and not crashed:
            yield f"job {name} ended with code {end.exit_code}: {end.reason[:300]}"
        by_itself = [life for life in own if life.run == end.run and life.end_us is not None]
        if end.exit_code == wanted and not by_itself:
            yield f"job {name} is said to have ended, and no worker of run {end.run} has"


# --- what may not be at one time -----------------------------------------------------------------


def _overlaps(lives: Iterable[Life]) -> Iterator[tuple[Life, Life]]:
    """Pairs of which one begins while the other one is there."""
    there: list[Life] = []
    for life in sorted(lives, key=lambda life: life.begin_us):
        there = [old for old in there if old.seen_us > life.begin_us]
        yield from ((old, life) for old in there)
        there.append(life)


def _two_runs_at_once(lives: list[Life]) -> Iterator[str]:
    for name in {life.job for life in lives}:
        for old, new in _overlaps(life for life in lives if life.job == name):
            if old.run != new.run:
                yield f"a job runs twice: {old}; {new}"


def _shared_gpus(lives: list[Life]) -> Iterator[str]:
    spots = {(life.node, gpu) for life in lives for gpu in life.gpus}
    for node, gpu in sorted(spots):
        for old, new in _overlaps(x for x in lives if x.node == node and gpu in x.gpus):
            yield f"GPU {gpu} of {node} is held twice: {old}; {new}"


def _torn_gangs(world: World, entries: dict[int, Entry], lives: list[Life]) -> Iterator[str]:
    """A run that counts has had all of its workers, each once; none has more than it may.

    Who kills an agent and its orchestrator at once leaves nobody who knows that a run had begun: it
    begins again, as a whole.
    """
    ends = {name: found[0] for name, found in _ends(entries).items()}
    for name, job in world.acknowledged.items():
        if "elastic" in job.fields:
            continue
        wanted = list(range(job.fields["num_workers"]))
        for run in {life.run for life in lives if life.job == name}:
            own = [life for life in lives if life.job == name and life.run == run]
            ranks = sorted(life.rank for life in own)
            if len(set(ranks)) < len(ranks) and not world.lost_agents:
                yield f"run {run} of {name} has had ranks {ranks}: one was started again"
            if {life.size for life in own} != {len(wanted)} or not set(ranks) <= set(wanted):
                yield f"run {run} of {name} is none of {len(wanted)}: {[str(x) for x in own]}"
            end = ends.get(name)
            if end is None or end.run != run or end.exit_code:
                continue
            if sorted({life.rank for life in own if life.end_us}) != wanted:
                yield f"run {run} of {name} counts, and of {wanted} only {ranks} have ended"


# --- what an interruption costs ------------------------------------------------------------------


def _lost_work(world: World, entries: dict[int, Entry], lives: list[Life]) -> Iterator[str]:
    """What the log says is saved is what the next run begins with."""
    saved = {
        (entry.body.job_id, entry.body.run)
        for _, entry in valid(entries)
        if isinstance(entry.body, CheckpointCommitted)
    }
    for name, job in world.acknowledged.items():
        if job.kind != "saver" or name in world.corrupted:
            continue
        own = [life for life in lives if life.job == name and life.rank == 0]
        held = 0
        for life in sorted(own, key=lambda life: life.run):
            if life.loaded is not None and life.loaded < held:
                yield f"{life} begins with step {life.loaded}, and step {held} was saved"
            if (name, life.run) in saved:
                held = max((held, *life.saved))


def bound_s(plan: Plan, losses: int) -> float:
    """Seconds from a run's end to the next one's begin, when nothing else goes wrong.

    A lease has to be over, for certain also for who has just begun to lead; a save may take its
    grace, and workers theirs; a report or an order that fails is tried again; a job that was lost
    again and again waits.
    """
    detected = plan.lease_s + 2 * _MARGIN_S + GRACE_S + SAVE_GRACE_S
    return detected + _AGAIN_S + _START_S + _BACKOFF_S[min(losses, len(_BACKOFF_S) - 1)]


def _late(world: World, entries: dict[int, Entry], lives: list[Life]) -> Iterator[str]:
    """Every interruption is over within its bound, and everything within those of all jobs."""
    for gap in gaps(world, lives):
        if gap[2] > gap[3]:
            name, run, took_s, most_s = gap
            yield f"run {run} of {name} began {took_s:.2f} s after the one before (> {most_s:.2f})"
    took_s = (world.quiet_us - world.calm_us) / 1e6
    most_s = most_calm_s(world, lives)
    if took_s > most_s:
        yield f"it took {took_s:.2f} s until all was over (> {most_s:.2f})"


def gaps(world: World, lives: list[Life]) -> list[tuple[str, int, float, float]]:
    """Of every further run: job, run, how long nobody ran, and how long that may be.

    Time during which something else went wrong, or others came first, does not count.
    """
    found = []
    for name in world.acknowledged:
        own = [life for life in lives if life.job == name]
        runs = sorted({life.run for life in own})
        for losses, (run, following) in enumerate(itertools.pairwise(runs), 1):
            end_us = max(life.seen_us for life in own if life.run == run)
            begin_us = min(life.begin_us for life in own if life.run == following)
            excused = [*world.hindered, *_others(world, lives, name)]
            excused += [(a, b + round(2e6 * world.plan.lease_s)) for a, b in world.hindered]
            took_us = _outside(end_us, begin_us, excused)
            most_s = bound_s(world.plan, losses) + world.lag_us / 1e6
            found.append((name, following, took_us / 1e6, most_s))
    return found


def _others(world: World, lives: list[Life], name: str) -> Iterator[tuple[int, int]]:
    """When a job's place may have been taken, or kept, for others."""
    jobs = world.acknowledged
    for other in set(jobs) - {name}:
        own = [life for life in lives if life.job == other]
        yield from ((life.begin_us, life.seen_us) for life in own)
        if own and jobs[other].fields["priority"] <= jobs[name].fields["priority"]:
            yield min(x.begin_us for x in own), max(x.seen_us for x in own)


def most_calm_s(world: World, lives: list[Life]) -> float:
    """How long it may take, from when nothing goes wrong any more, until all is over.

    On a machine that is so slow that leases end by themselves things go on going wrong.
    """
    losses = Counter(life.job for life in {(x.job, x.run): x for x in lives}.values())
    waits_s = max((bound_s(world.plan, count) for count in losses.values()), default=0.0)
    work_s = sum(job.seconds + _START_S for job in world.plan.jobs)
    return 2 * waits_s + work_s + (world.lag_us + 2 * world.slow_us) / 1e6


def _outside(begin_us: int, end_us: int, excused: list[tuple[int, int]]) -> int:
    """How much of a time is in none of some others."""
    left, at = 0, begin_us
    for begin, end in sorted(excused):
        if begin > at:
            left += max(min(begin, end_us) - at, 0)
        at = max(at, end)
        if at >= end_us:
            return left
    return left + max(end_us - at, 0)


# --- what processes have said --------------------------------------------------------------------


def _faults(folder: Path) -> Iterator[str]:
    """Nobody has failed but by a full disk, or because another one leads."""
    for path in sorted(folder.glob("*.log")):
        lines = path.read_text(errors="replace").splitlines()
        for at, line in enumerate(lines):
            if _FAULTS.search(line):
                around = lines[max(at - 1, 0) : at + 30]
                if not any(_KNOWN.search(text) for text in around):
                    yield f"{path.name}: " + " | ".join(around[:1] + around[-3:])
                    break
