"""A cluster in plain Python, as obvious as can be: the twin of the state and its transitions.

Nothing is kept that can be recomputed: what is free, who waits and the capacity are worked out
anew from the jobs whenever they are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from orchestrator.kernels.codes import (
    LEGAL_TRANSITIONS,
    NO_JOB,
    EventKind,
    Information,
    JobCode,
    LogKind,
    NodeCode,
)
from tests.twins.naive_placement import Host, take_devices
from tests.twins.naive_random import placement_word

WAITING = (JobCode.PENDING, JobCode.PREEMPTED)
PAID = (NodeCode.UP, NodeCode.DRAINING, NodeCode.PROVISIONING)
_UNKNOWN_MS = 3_600_000


def plain(record: Any) -> SimpleNamespace:
    """A NumPy record as attributes that are Python numbers."""
    return SimpleNamespace(**{name: record[name].item() for name in record.dtype.names})


@dataclass
class Job:
    index: int
    ask: SimpleNamespace
    state: JobCode = JobCode.ABSENT
    start: int = -1
    first_start: int = -1
    end: int = -1
    work_start: int = 0
    expected_end: int = 0
    progress: int = 0
    unsaved: int = 0
    lost: int = 0
    attained: int = 0
    blocked_point: int = -1
    preemptions: int = 0
    interruptions: int = 0
    excess: float = 0.0
    spots: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)

    def is_on(self, n: int) -> bool:
        return any(node == n for node, _ in self.spots)


class NaiveCluster:
    """One cluster and its jobs.

    Parameters
    ----------
    nodes, requests, incidents : arrays of NODE_DTYPE, REQUEST_DTYPE, INCIDENT_DTYPE
        Incident times are counted from the first submission.
    config : namespace
        The fields of CONFIG_FIELDS.
    seed : int
    """

    def __init__(
        self, nodes: Any, requests: Any, incidents: Any, config: SimpleNamespace, seed: int
    ) -> None:
        self.config, self.seed = config, seed
        self.nodes = [plain(node) for node in nodes]
        self.jobs = [Job(j, plain(ask)) for j, ask in enumerate(requests)]
        self.running: list[Job] = []
        self.log: list[tuple[int, int, int, int]] = []
        self.now = self.jobs[0].ask.submit_ms if self.jobs else 0
        self.point = self.preemptions_here = 0
        self.open = self.done = False
        self.committed, self.reservation = NO_JOB, 0
        self.decisions = self.illegal = self.sequence = 0
        self.job_ms = self.wait_ms = self.busy = self.capacity_time = self.lost_units = 0
        self.cost = 0
        self.pending = [
            (job.ask.submit_ms, EventKind.ARRIVAL, job.index, job.index) for job in self.jobs
        ]
        for k, incident in enumerate(incidents):
            time_ms = int(incident["time_ms"]) + self.now
            self.pending.append((time_ms, int(incident["kind"]), k, int(incident["node"])))
        for job in self.jobs:
            if config.information == Information.ORACLE:
                job.ask.requested_ms = job.ask.duration_ms
            elif config.information == Information.NONE:
                job.ask.requested_ms = _UNKNOWN_MS

    # --- what there is --------------------------------------------------------------------------

    def by_gpu(self) -> bool:
        return any(node.gpus for node in self.nodes)

    def units(self, job: Job) -> int:
        ask = job.ask
        if self.by_gpu():
            return int(ask.workers * ask.gpus_per_worker * ask.gpu_milli)
        return int(ask.workers * ask.cpu_milli)

    def hosts(self, without: list[Job] | None = None) -> list[Host]:
        """What is free on every node, or would be without some jobs."""
        hosts = [
            Host(
                node.state == NodeCode.UP,
                node.model,
                node.cpu_cap_milli,
                node.memory_cap_mib,
                [1000] * node.gpus,
                node.gpu_memory_mib,
            )
            for node in self.nodes
        ]
        for job in self.jobs:
            if without and any(job is other for other in without):
                continue
            for n, devices in job.spots:
                hold(job.ask, hosts[n], devices)
        return hosts

    def capacity(self) -> int:
        up = [node for node in self.nodes if node.state == NodeCode.UP]
        if self.by_gpu():
            return sum(1000 * node.gpus for node in up)
        return sum(node.cpu_cap_milli for node in up)

    def free(self) -> int:
        up = [host for host in self.hosts() if host.up]
        return sum(sum(host.devices) if self.by_gpu() else host.cpu for host in up)

    def cost_rate(self) -> int:
        return sum(node.price_milli for node in self.nodes if node.state in PAID)

    def queue(self) -> list[Job]:
        waiting = [job for job in self.jobs if job.state in WAITING]
        return sorted(waiting, key=lambda job: (job.ask.submit_ms, job.index))

    def leaving(self) -> list[Job]:
        return [job for job in self.running if job.state == JobCode.CHECKPOINTING]

    def progress(self, job: Job) -> int:
        if job.state != JobCode.RUNNING:
            return job.progress
        elapsed = max(self.now - job.work_start, 0)
        return min(job.progress + elapsed, int(job.ask.duration_ms))

    def saved(self, job: Job) -> int:
        interval = job.ask.checkpoint_interval_ms
        done = self.progress(job) - job.progress
        return job.progress + (done // interval * interval if interval else 0)

    # --- what happens ---------------------------------------------------------------------------

    def record(self, kind: int, subject: int, value: int) -> None:
        self.log.append((self.now, int(kind), subject, int(value)))

    def set_state(self, job: Job, state: JobCode) -> None:
        assert LEGAL_TRANSITIONS[job.state, state]
        job.state = state
        self.record(LogKind.JOB_STATE, job.index, state)

    def set_node_state(self, n: int, state: NodeCode) -> None:
        self.nodes[n].state = state
        self.record(LogKind.NODE_STATE, n, state)

    def list_running(self, job: Job, expected_end: int) -> None:
        job.expected_end = expected_end
        self.running = [other for other in self.running if other is not job]
        self.running.append(job)
        self.running.sort(key=lambda other: other.expected_end)

    def schedule(self, time_ms: int, kind: EventKind, job: Job) -> None:
        self.unschedule(job)
        self.pending.append((time_ms, kind, self.sequence, job.index))
        self.sequence += 1

    def unschedule(self, job: Job) -> None:
        own = (EventKind.COMPLETION, EventKind.CHECKPOINTED)
        self.pending = [x for x in self.pending if not (x[1] in own and x[3] == job.index)]

    def start(self, job: Job, nodes: list[int]) -> bool:
        hosts, spots = self.hosts(), []
        for n in nodes:
            devices = take_devices(job.ask, hosts[n])
            if devices is None or not hold(job.ask, hosts[n], devices):
                return False
            spots.append((n, devices))
        job.spots = spots
        ask, restart = job.ask, 0
        if job.first_start < 0:
            job.first_start = self.now
        else:
            restart = ask.restart_ms
            self.lost_units += restart * self.units(job)
        job.start, job.work_start = self.now, self.now + restart
        end = job.work_start + ask.duration_ms - job.progress
        scale = max(ask.duration_ms, self.config.slowdown_bound_ms)
        job.excess = max((end - ask.submit_ms) / scale - 1.0, 0.0)
        self.set_state(job, JobCode.SCHEDULED)
        self.record(LogKind.PLACEMENT, job.index, placement_word(spots))
        self.set_state(job, JobCode.RUNNING)
        self.list_running(job, job.work_start + max(ask.requested_ms - job.progress, 0))
        self.schedule(end, EventKind.COMPLETION, job)
        return True

    def stop(self, job: Job) -> None:
        self.unschedule(job)
        self.running.remove(job)
        job.attained += (self.now - job.start) * self.units(job)
        job.spots = []

    def complete(self, job: Job) -> None:
        nodes = [n for n, _ in job.spots]
        self.stop(job)
        job.progress, job.end = job.ask.duration_ms, self.now
        self.set_state(job, JobCode.COMPLETED)
        self.retire(nodes)

    def preempt(self, job: Job) -> None:
        job.preemptions += 1
        job.blocked_point = self.point
        self.preemptions_here += 1
        saved, done = self.saved(job), self.progress(job)
        job.progress, job.unsaved = saved, done - saved
        self.set_state(job, JobCode.CHECKPOINTING)
        if job.ask.checkpoint_ms == 0:
            self.checkpointed(job)
            return
        ready = self.now + job.ask.checkpoint_ms
        self.list_running(job, ready)
        self.schedule(ready, EventKind.CHECKPOINTED, job)

    def checkpointed(self, job: Job) -> None:
        nodes = [n for n, _ in job.spots]
        self.stop(job)
        self.requeue(job, job.progress + job.unsaved, JobCode.PREEMPTED)
        self.retire(nodes)

    def interrupt(self, job: Job) -> None:
        saved, lost = job.progress, job.unsaved
        if job.state == JobCode.RUNNING:
            saved = self.saved(job)
            lost = self.progress(job) - saved
        job.lost += lost
        job.interruptions += 1
        self.lost_units += lost * self.units(job)
        nodes = [n for n, _ in job.spots]
        self.stop(job)
        self.requeue(job, saved, JobCode.PENDING)
        self.retire(nodes)

    def requeue(self, job: Job, progress: int, state: JobCode) -> None:
        job.progress, job.unsaved, job.expected_end, job.excess = progress, 0, 0, 0.0
        self.set_state(job, state)

    def retire(self, nodes: list[int]) -> None:
        for n in nodes:
            empty = not any(job.is_on(n) for job in self.jobs)
            if self.nodes[n].state == NodeCode.DRAINING and empty:
                self.set_node_state(n, NodeCode.ABSENT)

    def fail_node(self, n: int) -> None:
        if self.nodes[n].state not in (NodeCode.UP, NodeCode.DRAINING):
            return
        self.nodes[n].failures += 1
        for job in list(self.running):
            if job.is_on(n):
                self.interrupt(job)
        if self.nodes[n].state == NodeCode.UP:
            self.set_node_state(n, NodeCode.DOWN)

    def drain_node(self, n: int) -> None:
        if self.nodes[n].state == NodeCode.DOWN:
            self.set_node_state(n, NodeCode.ABSENT)
        if self.nodes[n].state != NodeCode.UP:
            return
        self.set_node_state(n, NodeCode.DRAINING)
        for job in list(self.running):
            if job.state == JobCode.RUNNING and job.is_on(n):
                self.preempt(job)
        self.retire([n])

    def apply(self, kind: int, subject: int) -> None:
        if kind == EventKind.ARRIVAL:
            self.set_state(self.jobs[subject], JobCode.PENDING)
        elif kind == EventKind.COMPLETION:
            self.complete(self.jobs[subject])
        elif kind == EventKind.CHECKPOINTED:
            self.checkpointed(self.jobs[subject])
        elif kind == EventKind.NODE_FAILURE:
            self.fail_node(subject)
        elif kind == EventKind.NODE_DRAIN:
            self.drain_node(subject)
        elif kind == EventKind.NODE_ARRIVAL or self.nodes[subject].state == NodeCode.DOWN:
            self.set_node_state(subject, NodeCode.UP)

    def move_clock(self, time_ms: int) -> None:
        elapsed = max(time_ms - self.now, 0)
        waiting = len(self.queue())
        self.job_ms += elapsed * (waiting + len(self.running))
        self.wait_ms += elapsed * waiting
        self.busy += elapsed * (self.capacity() - self.free())
        self.capacity_time += elapsed * self.capacity()
        self.cost += elapsed * self.cost_rate()
        self.now += elapsed

    def step(self) -> None:
        event = min(self.pending)
        self.pending.remove(event)
        self.move_clock(event[0])
        self.apply(event[1], event[3])


def hold(ask: SimpleNamespace, host: Host, devices: tuple[int, ...]) -> bool:
    """Take what a worker asks for; False, and nothing taken, if it is not there."""
    if host.cpu < ask.cpu_milli or host.memory < ask.memory_mib:
        return False
    host.cpu -= ask.cpu_milli
    host.memory -= ask.memory_mib
    for g in devices:
        host.devices[g] -= ask.gpu_milli
        host.memories[g] -= ask.gpu_memory_mib
    return True
