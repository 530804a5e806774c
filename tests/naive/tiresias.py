"""Tiresias' simulator, schedule ``dlas-gpu``, on a pool of GPUs: slow and obvious, in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass
class Job:
    """A job, and where it stands."""

    gpus: int
    submit: int
    duration: int
    queue: int = 0
    ran: int = 0
    running: bool = False
    start: int = -1
    end: int = -1
    preemptions: int = 0


def simulate(jobs: Sequence[Job], gpus: int, limits: Sequence[int]) -> None:
    """Play jobs, by submission, to their ends; each must fit."""
    queues: list[list[Job]] = [[] for _ in range(len(limits) + 1)]
    coming, now = list(jobs), 0
    while coming or any(queues):
        after = _next(coming, queues, limits, now)
        for job in (job for queue in queues for job in queue if job.running):
            job.ran += after - now
        now = after
        for queue in queues:
            for job in queue:
                if job.running and job.ran == job.duration:
                    job.end = now
            queue[:] = [job for job in queue if job.end < 0]
        while coming and coming[0].submit == now:
            queues[0].append(coming.pop(0))
        _go_down(jobs, queues, limits)
        _share(queues, gpus, now)


def _next(coming: list[Job], queues: list[list[Job]], limits: Sequence[int], now: int) -> int:
    """The next arrival, end, or look at a job that may leave its queue."""
    times = [job.submit for job in coming[:1]]
    for job in (job for queue in queues for job in queue if job.running):
        times.append(now + job.duration - job.ran)
        if job.queue < len(limits):
            # Of time, not of service: what the simulator has.
            times.append(now + max((limits[job.queue] - job.ran) // job.gpus, 1))
    return min(times)


def _go_down(jobs: Sequence[Job], queues: list[list[Job]], limits: Sequence[int]) -> None:
    """Of several since the last look, whoever reached its limit first (theirs: arrived first)."""

    def too_long(job: Job) -> float:
        return job.ran - limits[job.queue] / job.gpus

    running = [job for job in jobs if job.running and job.end < 0 and job.queue < len(limits)]
    due = [job for job in running if job.ran * job.gpus >= limits[job.queue]]
    for job in sorted(due, key=too_long, reverse=True):
        queues[job.queue].remove(job)
        job.queue += 1
        queues[job.queue].append(job)


def _share(queues: list[list[Job]], gpus: int, now: int) -> None:
    """Serve the queues in turn; who does not fit is passed over."""
    for queue in queues:
        for job in queue:
            serve = job.gpus <= gpus
            gpus -= job.gpus if serve else 0
            job.preemptions += job.running and not serve
            job.start = now if serve and job.start < 0 else job.start
            job.running = serve
        queue.sort(key=lambda job: not job.running)
