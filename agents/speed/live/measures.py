"""Measurements of the live orchestrator: its cycle, its log, its status, and real jobs."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from agents.speed.clock import CLOCKS, Measure, seconds
from agents.speed.door.commands import command_starts
from agents.speed.door.submissions import opened
from agents.speed.live.decisions import LearnedDecisions, SizedTicks, learned_policies
from agents.speed.live.etcd import etcd_per_second, leader_killed_s, local_etcd, why_no_etcd
from agents.speed.live.log import (
    LivedLog,
    LongLife,
    appended_per_second,
    disk_per_second,
    submitted_per_second,
)
from agents.speed.live.questions import AskedCluster, LiveCluster
from agents.speed.live.shards import SharedCluster
from agents.speed.live.training import import_s, lost_nodes, moves_s, save_shares, scaled
from agents.speed.live.workers import RealCluster
from agents.speed.workbench import UnavailableError, Workbench
from orchestrator.twin.futures import TwinConfig

__all__ = ["LIVE"]


_FEW = 8  # nodes, and jobs
_PATIENCE_S, _ERROR = 6.0, 0.1  # of whoever asks the twin of a large cluster by a server


def _cycles(bench: Workbench, nodes: int, rule: str) -> Measure:
    LiveCluster(_FEW, _FEW, rule, bench.now).cycle()  # loads the kernels
    found, placed = list[float](), 0
    for _ in range(min(bench.repeats, 3)):
        spent, placed = LiveCluster(nodes, bench.waiting, rule, bench.now).cycle()
        found.append(1000 * spent / placed)
    note = f"{nodes:,} nodes, {bench.waiting:,} waiting, {placed:,} placed; log in memory"
    return Measure(statistics.median(found), "ms", min(found), max(found), note)


def live_cycle(bench: Workbench) -> Measure:
    """A scheduling cycle of the orchestrator under FCFS, for each job placed."""
    return _cycles(bench, bench.large // 10, "fcfs")


def live_cycle_priority(bench: Workbench) -> Measure:
    """The same under the default rule, which keeps room and preempts."""
    return _cycles(bench, bench.large // 10, "priority")


def live_cycle_large(bench: Workbench) -> Measure:
    """The same under FCFS on ten times as many nodes."""
    return _cycles(bench, bench.large, "fcfs")


def _learned(bench: Workbench, nodes: int) -> Measure:
    cluster, policies = LearnedDecisions(nodes, bench.now), learned_policies()
    count = min(bench.decisions, nodes)
    found = {name: cluster.times(policy, count) for name, policy in policies.items()}
    ppo, linear = found["ppo"], found["linear"]
    deployed = cluster.deployed_ms(policies["ppo"], max(count // 4, 1))
    note = f"{nodes:,} nodes, {count:,} decisions, p99 {ppo.total(99):.2f} ms; snapshot "
    note += (
        f"{statistics.median(ppo.snapshot):.3f} of it; a linear scorer {linear.total(50):.2f} / "
    )
    note += (
        f"{linear.total(99):.2f}; a plan through its deployment {statistics.median(deployed):.2f}"
    )
    return Measure(ppo.total(50), "ms", ppo.total(0), ppo.total(99), f"{note} ms of CPU")


def learned_decision_64(bench: Workbench) -> Measure:
    """A network's decision on 64 live nodes, median: snapshot, description, scores, its action."""
    return _learned(bench, 64)


def learned_decision_1000(bench: Workbench) -> Measure:
    """The same on 1,000 nodes."""
    return _learned(bench, 1000)


def sized_tick_1000(bench: Workbench) -> Measure:
    """A tick at which a bundle sizes four services and the fleet of 1,000 nodes, median."""
    count = min(bench.decisions, 1000)
    cluster = SizedTicks(1000, bench.now)
    times = cluster.times(count)
    note = f"{count:,} ticks of {cluster.choices / count:.1f} choices, "
    note += f"p99 {np.percentile(times, 99):.2f} ms"
    return Measure(statistics.median(times), "ms", min(times), max(times), note)


@cache
def _crowded_of(nodes: int, jobs: int, clock: str) -> LiveCluster:
    now = CLOCKS[clock]
    LiveCluster(_FEW, _FEW, "fcfs", now).cycle()  # loads the kernels
    cluster = LiveCluster(nodes, jobs, "fcfs", now)
    cluster.cycle()
    return cluster


def _crowded(bench: Workbench) -> LiveCluster:
    """The large live cluster, full, and with most of its jobs waiting; one for all that ask it."""
    return _crowded_of(bench.large, bench.known, bench.clock)


def live_construct(bench: Workbench) -> Measure:
    """Constructing an orchestrator with its large cluster's nodes."""
    runs = [LiveCluster(bench.large, 0, "fcfs", bench.now) for _ in range(bench.repeats + 1)]
    times = [run.construction_s for run in runs[1:]]  # the first one loads the kernels
    note = f"{bench.large:,} nodes"
    return Measure(statistics.median(times), "s", min(times), max(times), note)


def live_register(bench: Workbench) -> Measure:
    """Registering one more node in the large cluster."""
    return _asked(bench, _crowded(bench).register)


def live_job_status(bench: Workbench) -> Measure:
    """The status of a job that waits in the large cluster."""
    last = f"job-{bench.known - 1}"
    return _asked(bench, lambda: _timed(bench, _crowded(bench).orchestrator.get_job_status, last))


def live_questions(bench: Workbench) -> Measure:
    """The status of the large cluster."""
    return _asked(bench, lambda: _timed(bench, _crowded(bench).orchestrator.get_cluster_status))


def live_list_jobs(bench: Workbench) -> Measure:
    """A hundred jobs of the large cluster, from the middle of the list."""
    them = _crowded(bench).orchestrator
    page = max(min(bench.known // 2, 10_000), 1)
    _, middle = them.list_jobs(limit=page)
    return _asked(bench, lambda: _timed(bench, lambda: them.list_jobs(before=middle)))


def live_queue(bench: Workbench) -> Measure:
    """The first hundred jobs that wait in the large cluster, and why."""
    return _asked(bench, lambda: _timed(bench, _crowded(bench).orchestrator.queue))


def live_end(bench: Workbench) -> Measure:
    """A job of the large cluster ends: reported, logged in memory, applied."""
    return _asked(bench, _crowded(bench).end)


def _timed(bench: Workbench, ask: Callable[..., object], *given: object) -> float:
    begun = bench.now()
    ask(*given)
    return bench.now() - begun


def _asked(bench: Workbench, spent: Callable[[], float]) -> Measure:
    """Milliseconds, the first time apart: it loads kernels."""
    spent()
    times = [1000 * spent() for _ in range(max(bench.repeats, 3))]
    note = f"{bench.large:,} nodes, {bench.known:,} jobs"
    return Measure(statistics.median(times), "ms", min(times), max(times), note)


def live_memory(bench: Workbench) -> Measure:
    """Memory of an orchestrator through which many jobs have gone, log in a file.

    In a process of its own: what was measured before is not the orchestrator's.
    """
    alone = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
    with tempfile.TemporaryDirectory() as folder, alone:
        life = alone.submit(LongLife, Path(folder), bench.known).result()
    mib, files = life.memory_mib, life.log_mib
    note = f"{bench.known:,} jobs, {life.grown_mib:+.1f} MiB in their second half; "
    note += f"log and snapshots {min(files):.1f} to {max(files):.1f} MiB"
    return Measure(mib[-1], "MiB", min(mib), max(mib), note)


def durable_one(bench: Workbench) -> Measure:
    """Durable commands, SQLite, one at a time."""
    count = max(bench.commands // 64, 1)
    disk = [disk_per_second(count) for _ in range(bench.repeats)]
    times = [appended_per_second(count, 1) for _ in range(bench.repeats)]
    note = f"the disk alone: {statistics.median(disk):,.0f} per s"
    return Measure(statistics.median(times), "commands/s", min(times), max(times), note)


def durable_many(bench: Workbench) -> Measure:
    """Durable commands, SQLite, 64 at once."""
    alone = appended_per_second(max(bench.commands // 64, 1), 64, group=1)
    times = [appended_per_second(bench.commands, 64) for _ in range(bench.repeats)]
    note = f"each with a commit of its own: {alone:,.0f} per s"
    return Measure(statistics.median(times), "commands/s", min(times), max(times), note)


def durable_submits(bench: Workbench) -> Measure:
    """Jobs submitted to journal and engine on SQLite, 64 at once."""
    count = max(bench.commands // 4, 1)
    times = [submitted_per_second(count, 64) for _ in range(bench.repeats)]
    return Measure(statistics.median(times), "jobs/s", min(times), max(times))


def durable_etcd(bench: Workbench) -> Measure:
    """Durable commands, three members of etcd on this machine, 64 at once."""
    _require_etcd()
    with local_etcd() as etcd:
        times = etcd_per_second(etcd, bench.commands, 64, bench.repeats)
        (alone,) = etcd_per_second(etcd, max(bench.commands // 64, 1), 1, 1)
    note = f"one at a time: {alone:,.0f} per s"
    return Measure(statistics.median(times), "commands/s", min(times), max(times), note)


def etcd_leader_killed(bench: Workbench) -> Measure:
    """How long no command is acknowledged when the leader of three members is killed."""
    _require_etcd()
    with local_etcd() as etcd:
        times = leader_killed_s(etcd, bench.repeats)
    note = "elections after 0.2 s, 8 writers; none acknowledged is lost, or there twice"
    return Measure(statistics.median(times), "s", min(times), max(times), note)


def _require_etcd() -> None:
    if reason := why_no_etcd():
        raise UnavailableError(reason)


def restart(bench: Workbench) -> Measure:
    """Restart on SQLite with 10,000 jobs in the history, 1,000 of them alive."""
    with tempfile.TemporaryDirectory() as folder:
        lived = LivedLog(Path(folder), bench.history)
        note = f"{bench.history:,} jobs, {lived.entries:,} entries, {lived.mib:.1f} MiB of files"
        return seconds(lived.restart, bench.repeats, note)


def shards_led_again(bench: Workbench) -> Measure:
    """A member of a sharded cluster is killed: until all its shards are led again, in leases."""
    with tempfile.TemporaryDirectory() as folder:
        cluster = SharedCluster(Path(folder), bench.lease_ms, bench.history // 10)
        times = cluster.led_again(bench.repeats)
    note = f"leases of {bench.lease_ms} ms, 8 shards, {bench.history // 10:,} jobs in their logs"
    return Measure(statistics.median(times), "leases", min(times), max(times), note)


def log_size(bench: Workbench) -> Measure:
    """Size of a log on SQLite and its snapshots after that history."""
    with tempfile.TemporaryDirectory() as folder:
        mib = LivedLog(Path(folder), bench.history).mib
    return Measure(mib, "MiB", mib, mib, f"{bench.history:,} jobs")


def first_instruction(bench: Workbench) -> Measure:
    """From submitting a real job to the first thing that its worker does, median."""
    times = RealCluster(2).first_instruction_ms(bench.real_jobs)
    note = f"{bench.real_jobs} jobs, one after the other, sh and date included"
    return Measure(statistics.median(times), "ms", min(times), max(times), note)


def real_jobs(bench: Workbench) -> Measure:
    """Trivial real jobs that are started and ended in a second, 8 agents."""
    return _real_jobs(bench, durable=False)


def durable_jobs(bench: Workbench) -> Measure:
    """The same, with the log in a file."""
    return _real_jobs(bench, durable=True)


def _real_jobs(bench: Workbench, *, durable: bool) -> Measure:
    cluster = RealCluster(8, durable=durable)
    rates = cluster.jobs_per_second(bench.real_jobs, bench.repeats)
    note = f"{bench.real_jobs} jobs at once, log in {'a file' if durable else 'memory'}; "
    note += f"the orchestrator's own time {statistics.median(cluster.cpu_ms):.2g} ms a job"
    return Measure(statistics.median(rates), "jobs/s", min(rates), max(rates), note)


def preempt_real(bench: Workbench) -> Measure:
    """From draining a real training's node to its first step on another: saved, stopped, queued."""
    times = moves_s(bench.repeats)
    note = f"{len(times)} times, a small model; importing torch is {import_s():.1f} s of it"
    return Measure(statistics.median(times), "s", min(times), max(times), note)


def node_detected(bench: Workbench) -> Measure:
    """From killing an agent until its node is known to be dead."""
    times = [1e3 * loss.found_s for loss in lost_nodes(bench.repeats)]
    note = "SIGKILL to an agent of this machine, whose end who started it sees"
    return Measure(statistics.median(times), "ms", min(times), max(times), note)


def node_lost(bench: Workbench) -> Measure:
    """From killing an agent until its training does a step elsewhere, from its last checkpoint."""
    losses = lost_nodes(bench.repeats)
    times = [loss.resumed_s for loss in losses]
    steps = max(loss.lost_steps for loss in losses)
    note = f"saved every 50 steps, {steps} lost at most; importing torch is {import_s():.1f} s"
    return Measure(statistics.median(times), "s", min(times), max(times), note)


def _stalled(times: Sequence[float], what: str) -> Measure:
    note = f"beyond the usual step; {len(times)} times, {what}, on agents"
    return Measure(statistics.median(times), "ms", min(times), max(times), note)


def elastic_grow(bench: Workbench) -> Measure:
    """How long a real training stands still when it grows."""
    return _stalled(scaled(bench.repeats).grow, "1 -> 3 workers")


def elastic_shrink(bench: Workbench) -> Measure:
    """How long a real training stands still when it shrinks."""
    return _stalled(scaled(bench.repeats).shrink, "3 -> 2 workers")


def elastic_killed(bench: Workbench) -> Measure:
    """How long a real training stands still when one of its workers is killed."""
    return _stalled(scaled(bench.repeats).killed, "one of 2 workers")


def save_stall(bench: Workbench) -> Measure:
    """How long a save stops a training step, as a share of the save's length: the worst size."""
    shares = save_shares(bench.repeats)
    worst = max(shares.values(), key=statistics.median)
    note = ", ".join(f"{mb} MB: {statistics.median(found):.1f} %" for mb, found in shares.items())
    return Measure(statistics.median(worst), "%", min(worst), max(worst), note)


def cli_cold_start(bench: Workbench) -> Measure:
    """A command of the command line, `ls --json`, from its start to its end."""
    starts = command_starts(bench.repeats, bench.clock)
    times = [1e3 * each for each in starts.listing_s]
    note = f"a server's empty answer included; `version` {1e3 * starts.version_s:.0f} ms, the "
    note += f"interpreter alone {1e3 * starts.python_s:.0f} ms"
    return Measure(statistics.median(times), "ms", min(times), max(times), note)


@cache
def _submitted(jobs: int, repeats: int) -> tuple[list[list[float]], float, float]:
    """Latencies, ms, of jobs submitted by REST, by repeat; jobs a second flat out; ms of CPU."""
    span_s = max(jobs / _REST_RATE, 0.5)
    with opened() as door:
        door.paced(_CLIENTS, _REST_RATE, 1.0)  # loads what is loaded late
        spent_s = door.cpu_s()
        found = [door.paced(_CLIENTS, _REST_RATE, span_s) for _ in range(repeats)]
        cpu_ms = 1e3 * (door.cpu_s() - spent_s) / sum(len(times) for times in found)
        most = door.closed(_CLIENTS, span_s)
    return found, most, cpu_ms


_CLIENTS, _REST_RATE = 50, 100.0


def _rest(bench: Workbench, percent: float) -> Measure:
    found, most, cpu_ms = _submitted(bench.real_jobs, bench.repeats)
    times = [float(np.percentile(one, percent)) for one in found]
    note = f"{_CLIENTS} clients, {_REST_RATE:.0f} jobs/s, log in a file, as many jobs wait; the "
    note += f"server's own time {cpu_ms:.2g} ms a job; {most:,.0f} jobs/s flat out"
    return Measure(statistics.median(times), "ms", min(times), max(times), note)


def rest_submit(bench: Workbench) -> Measure:
    """A job submitted by REST, by 50 clients, median."""
    return _rest(bench, 50)


def rest_submit_late(bench: Workbench) -> Measure:
    """The same, 99th percentile."""
    return _rest(bench, 99)


def _when(bench: Workbench, nodes: int, jobs: int, config: TwinConfig) -> Measure:
    times, futures = AskedCluster(nodes, jobs).answers_s(config, min(bench.repeats, 3))
    note = f"{nodes:,} nodes, {jobs:,} jobs, {futures} futures; rule priority"
    return Measure(statistics.median(times), "s", min(times), max(times), note)


def twin_when(bench: Workbench) -> Measure:
    """When a job starts: 64 nodes, 500 jobs, as many futures as are played by default."""
    return _when(bench, 64, 500, TwinConfig(futures=bench.futures))


def twin_when_large(bench: Workbench) -> Measure:
    """The same on a large cluster, in as many futures as a server plays."""
    config = TwinConfig(futures=bench.futures, seconds=_PATIENCE_S, error=_ERROR)
    return _when(bench, bench.large // 10, bench.large, config)


def twin_beside(bench: Workbench) -> Measure:
    """A job's end and the decision after it while questions are thought over, 99th percentile."""
    found = AskedCluster(64, 500).beside(TwinConfig(futures=bench.futures), bench.decisions)
    asked, quiet = (np.percentile(x, (1, 50, 99)).tolist() for x in (found.asked, found.quiet))
    low, middle, high = asked
    note = f"{len(found.asked)} decisions, median {middle:.2f} ms; without questions "
    note += f"{quiet[1]:.2f}, 99th percentile {quiet[2]:.2f} ms"
    return Measure(high, "ms", low, high, note)


LIVE: tuple[Callable[[Workbench], Measure], ...] = (
    live_cycle,
    live_cycle_priority,
    live_cycle_large,
    live_construct,
    live_register,
    live_job_status,
    live_questions,
    live_list_jobs,
    live_queue,
    live_end,
    live_memory,
    twin_when,
    twin_when_large,
    twin_beside,
    learned_decision_64,
    learned_decision_1000,
    sized_tick_1000,
    durable_one,
    durable_many,
    durable_submits,
    durable_etcd,
    etcd_leader_killed,
    restart,
    log_size,
    shards_led_again,
    first_instruction,
    real_jobs,
    durable_jobs,
    preempt_real,
    node_detected,
    node_lost,
    elastic_grow,
    elastic_shrink,
    elastic_killed,
    save_stall,
    cli_cold_start,
    rest_submit,
    rest_submit_late,
)
"""All of them, as they are listed."""
