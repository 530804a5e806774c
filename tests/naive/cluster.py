"""Cluster state in plain Python: nodes, devices, jobs, and what every transition does to them.

Nothing is kept that can be recomputed: what is free, who waits, the capacity and what tenants hold
are worked out anew from the jobs whenever they are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from orchestrator.kernels.state.codes import (
    LEGAL_TRANSITIONS,
    NO_JOB,
    EventKind,
    Information,
    JobCode,
    JobKind,
    LogKind,
    NodeCode,
    Topology,
)
from tests.naive.placing import Host, least, take_devices
from tests.naive.random import placement_word

__all__ = ["PAID", "WAITING", "Job", "NaiveState", "hold", "plain"]


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
    progress: int = 0  # work that the last run began with, or, while saving, that is saved
    unsaved: int = 0  # work beyond it that was done before work_start
    speed: int = 1000
    changed: int = 0  # when it started or its workers last changed
    lost: int = 0
    attained: int = 0
    blocked_point: int = -1
    preemptions: int = 0
    interruptions: int = 0
    resizes: int = 0
    migrations: int = 0
    runs: int = 0
    excess: float = 0.0
    spots: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)

    def is_on(self, n: int) -> bool:
        return any(node == n for node, _ in self.spots)

    def mates_on(self, n: int) -> int:
        return sum(node == n for node, _ in self.spots)


class NaiveState:
    """One cluster and its jobs.

    Parameters
    ----------
    nodes, requests, incidents, tenants : arrays of NODE_DTYPE, REQUEST_DTYPE, ...
        Incident times are counted from the first submission.
    config : namespace
        The fields of CONFIG_FIELDS.
    seed : int
    max_workers : int
        Most workers of any job.
    """

    def __init__(
        self,
        nodes: Any,
        requests: Any,
        incidents: Any,
        config: SimpleNamespace,
        seed: int,
        tenants: Any = (),
        max_workers: int = 4,
    ) -> None:
        self.config, self.seed, self.max_workers = config, seed, max_workers
        self.nodes = [plain(node) for node in nodes]
        self.tenants = [plain(tenant) for tenant in tenants]
        self.jobs = [Job(j, plain(ask)) for j, ask in enumerate(requests)]
        self.running: list[Job] = []
        self.log: list[tuple[int, int, int, int]] = []
        self.gittins: list[tuple[float, float]] = []
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
            if job.ask.kind == JobKind.SERVICE:
                continue  # nobody expects it to end
            if config.information == Information.ORACLE:
                job.ask.requested_ms = job.ask.duration_ms
            elif config.information == Information.NONE:
                job.ask.requested_ms = _UNKNOWN_MS

    # --- capacity -------------------------------------------------------------------------------

    def by_gpu(self) -> bool:
        return any(node.gpus for node in self.nodes)

    def units_of(self, job: Job, workers: int) -> int:
        ask = job.ask
        each = ask.gpus_per_worker * ask.gpu_milli if self.by_gpu() else ask.cpu_milli
        return int(workers * each)

    def demand(self, job: Job) -> int:
        """Capacity that a job asks for."""
        return self.units_of(job, job.ask.workers)

    def units(self, job: Job) -> int:
        """Capacity that a placed job holds, or that another one asks for."""
        return self.units_of(job, len(job.spots) or job.ask.workers)

    def least_units(self, job: Job) -> int:
        return self.units_of(job, least(job.ask))

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

    def room_of(self, host: Host) -> int:
        """What is free on a node, in capacity units."""
        return sum(host.devices) if self.by_gpu() else host.cpu

    def capacity(self) -> int:
        up = [node for node in self.nodes if node.state == NodeCode.UP]
        if self.by_gpu():
            return sum(1000 * node.gpus for node in up)
        return sum(node.cpu_cap_milli for node in up)

    def free(self) -> int:
        return sum(self.room_of(host) for host in self.hosts() if host.up)

    def cost_rate(self) -> int:
        return sum(node.price_milli for node in self.nodes if node.state in PAID)

    # --- jobs -----------------------------------------------------------------------------------

    def queue(self) -> list[Job]:
        waiting = [job for job in self.jobs if job.state in WAITING]
        return sorted(waiting, key=lambda job: (job.ask.submit_ms, job.index))

    def leaving(self) -> list[Job]:
        return [job for job in self.running if job.state == JobCode.CHECKPOINTING]

    def progress(self, job: Job) -> int:
        """Work done; of a job that is being saved, only what was saved before."""
        if job.state != JobCode.RUNNING:
            return job.progress
        work = max(self.now - job.work_start, 0) * job.speed // 1000
        return min(job.progress + job.unsaved + work, int(job.ask.duration_ms))

    def saved(self, job: Job) -> int:
        interval = job.ask.checkpoint_interval_ms
        done = self.progress(job) - job.progress
        return job.progress + (done // interval * interval if interval else 0)

    def interruption_cost(self, job: Job) -> int:
        """What preempting a running job costs, units x ms."""
        stall = job.ask.checkpoint_ms + job.ask.restart_ms
        return (self.progress(job) - self.saved(job) + stall) * self.units(job)

    def speed_of(self, job: Job, workers: int) -> int:
        """Thousandths of the nominal speed."""
        if job.ask.kind == JobKind.SERVICE:
            return 1000
        return max(1000 * workers // job.ask.workers, 1)

    def spread(self, job: Job) -> Topology:
        hosts = [self.nodes[n] for n, _ in job.spots]
        if len({n for n, _ in job.spots}) == 1:
            return Topology.NODE
        if len({host.spine for host in hosts}) > 1:
            return Topology.ANY
        return Topology.RACK if len({host.rack for host in hosts}) == 1 else Topology.SPINE

    # --- tenants --------------------------------------------------------------------------------

    def has_account(self, job: Job) -> bool:
        return bool(job.ask.tenant < len(self.tenants))

    def used(self, t: int, without: list[Job] | None = None) -> int:
        """Capacity that a tenant holds, or would hold without some jobs."""
        gone = [job.index for job in without or []]
        mine = [job for job in self.jobs if job.ask.tenant == t and job.index not in gone]
        return sum(self.units_of(job, len(job.spots)) for job in mine)

    def stored(self, t: int) -> int:
        ended = (JobCode.COMPLETED, JobCode.FAILED)
        mine = [job for job in self.jobs if job.ask.tenant == t and job.first_start >= 0]
        return sum(job.ask.storage_mib for job in mine if job.state not in ended)

    def account(self, t: int) -> dict[str, int]:
        """All that is counted of a tenant."""
        mine = [job for job in self.jobs if job.ask.tenant == t]
        workers = [(job.ask, len(job.spots)) for job in mine]
        return {
            "used_units": self.used(t),
            "used_gpu_milli": sum(k * ask.gpus_per_worker * ask.gpu_milli for ask, k in workers),
            "used_cpu_milli": sum(k * ask.cpu_milli for ask, k in workers),
            "used_memory_mib": sum(k * ask.memory_mib for ask, k in workers),
            "storage_mib": self.stored(t),
            "attained_unit_ms": sum(job.attained for job in mine),
        }


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


class NaiveCluster(NaiveState):
    """A cluster to which things happen."""

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

    # --- starting and stopping ------------------------------------------------------------------

    def seat(self, job: Job, nodes: list[int]) -> bool:
        """Give a job more workers, one on each of ``nodes``, or none."""
        hosts, spots = self.hosts(), []
        for n in nodes:
            devices = take_devices(job.ask, hosts[n])
            if devices is None or not hold(job.ask, hosts[n], devices):
                return False
            spots.append((n, devices))
        job.spots = job.spots + spots
        return True

    def go_on(self, job: Job, stall: int) -> None:
        """A placed job works from now on, after a stall."""
        ask = job.ask
        self.record(LogKind.PLACEMENT, job.index, placement_word(job.spots))
        self.set_state(job, JobCode.RUNNING)
        if ask.kind != JobKind.SERVICE:
            self.lost_units += stall * self.units(job)
        job.work_start, job.changed = self.now + stall, self.now
        job.speed = self.speed_of(job, len(job.spots))

        def ends(work: int) -> int:
            left = max(work - job.progress - job.unsaved, 0)
            return int(job.work_start + -(-left * 1000 // job.speed))

        scale = max(ask.duration_ms, self.config.slowdown_bound_ms)
        end = ends(ask.duration_ms)
        job.excess = max((end - ask.submit_ms) / scale - 1.0, 0.0)
        self.list_running(job, ends(ask.requested_ms))
        self.schedule(end, EventKind.COMPLETION, job)

    def start(self, job: Job, nodes: list[int]) -> bool:
        if not self.seat(job, nodes):
            return False
        restart = job.ask.restart_ms if job.first_start >= 0 else 0
        if job.first_start < 0:
            job.first_start = self.now
        job.start = self.now
        job.runs += 1
        self.set_state(job, JobCode.SCHEDULED)
        self.go_on(job, restart)
        return True

    def count_service(self, job: Job) -> None:
        job.attained += (self.now - job.changed) * self.units(job)
        job.changed = self.now

    def stop(self, job: Job) -> None:
        self.unschedule(job)
        self.running.remove(job)
        self.count_service(job)
        job.spots = []

    def complete(self, job: Job) -> None:
        nodes = [n for n, _ in job.spots]
        self.stop(job)
        job.progress, job.unsaved, job.end = job.ask.duration_ms, 0, self.now
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
        if job.ask.kind == JobKind.SERVICE:
            lost = 0
        job.lost += lost
        job.interruptions += 1
        self.lost_units += lost * self.demand(job)
        nodes = [n for n, _ in job.spots]
        self.stop(job)
        self.requeue(job, saved, JobCode.PENDING)
        self.retire(nodes)

    def requeue(self, job: Job, progress: int, state: JobCode) -> None:
        job.progress, job.unsaved, job.expected_end, job.excess = progress, 0, 0, 0.0
        self.set_state(job, state)

    # --- other workers, no restart --------------------------------------------------------------

    def pause(self, job: Job) -> int:
        """Stop a running job's clock; how long the stall it is in still lasts."""
        stall = max(job.work_start - self.now, 0)
        if job.ask.kind != JobKind.SERVICE:
            self.lost_units -= stall * self.units(job)  # go_on counts it anew
        job.unsaved = self.progress(job) - job.progress
        self.count_service(job)
        self.set_state(job, JobCode.SCALING)
        return stall

    def grow(self, job: Job, nodes: list[int]) -> bool:
        before = list(job.spots)
        if not self.seat(job, nodes):
            return False
        after, job.spots = job.spots, before  # until now it held the others only
        stall = self.pause(job)
        job.spots = after
        job.resizes += 1
        self.go_on(job, max(stall, job.ask.regroup_ms))
        return True

    def shrink(self, job: Job, count: int) -> None:
        stall = self.pause(job)
        for _ in range(count):
            loneliest = min(
                range(len(job.spots)), key=lambda w: (job.mates_on(job.spots[w][0]), -w)
            )
            self.drop(job, loneliest)
        job.resizes += 1
        self.go_on(job, max(stall, job.ask.regroup_ms))

    def drop(self, job: Job, w: int) -> None:
        """Take a worker away; the last one gets its number."""
        job.spots[w] = job.spots[-1]
        job.spots.pop()

    def drop_on(self, job: Job, n: int) -> None:
        stall = self.pause(job)
        w = 0
        while w < len(job.spots):
            if job.spots[w][0] == n:
                self.drop(job, w)
            else:
                w += 1
        self.go_on(job, stall)

    def migrate(self, job: Job, nodes: list[int]) -> None:
        stall = self.pause(job)
        job.progress, job.unsaved = job.progress + job.unsaved, 0
        job.spots = []
        assert self.seat(job, nodes)
        job.migrations += 1
        self.go_on(job, stall + job.ask.checkpoint_ms + job.ask.restart_ms)

    def survives(self, job: Job, n: int) -> bool:
        """Whether a service goes on without node ``n``."""
        serves = job.ask.kind == JobKind.SERVICE and job.state == JobCode.RUNNING
        return bool(serves and len(job.spots) - job.mates_on(n) >= least(job.ask))

    # --- nodes ----------------------------------------------------------------------------------

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
            if job.is_on(n) and self.survives(job, n):
                job.interruptions += 1
                self.drop_on(job, n)
            elif job.is_on(n):
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
                if self.survives(job, n):
                    self.drop_on(job, n)
                else:
                    self.preempt(job)
        self.retire([n])

    # --- time -----------------------------------------------------------------------------------

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
        services = sum(job.ask.kind == JobKind.SERVICE for job in [*self.queue(), *self.running])
        self.job_ms += elapsed * (waiting + len(self.running) - services)
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
