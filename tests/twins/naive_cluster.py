"""What happens to a cluster, in plain Python: the twin of the transitions."""

from __future__ import annotations

from orchestrator.kernels.state.codes import (
    LEGAL_TRANSITIONS,
    EventKind,
    JobCode,
    JobKind,
    LogKind,
    NodeCode,
)
from tests.twins.naive_placement import least, take_devices
from tests.twins.naive_random import placement_word
from tests.twins.naive_state import Job, NaiveState, hold


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
