"""Measurements by name: each takes a :class:`Workbench` and returns a :class:`Measure`."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from agents.problem import Problem
from agents.speed.clock import (
    CLOCKS,
    Measure,
    bytes_per_step,
    copy_seconds,
    python_event_loop,
    rate,
    seconds,
)
from agents.speed.cluster import CrowdedClusters, Cycle, pack_openb, placed_per_second
from agents.speed.etcd import etcd_per_second, leader_killed_s, local_etcd, why_no_etcd
from agents.speed.live import LiveCluster
from agents.speed.log import (
    LivedLog,
    LongLife,
    appended_per_second,
    disk_per_second,
    submitted_per_second,
)
from agents.speed.mesh import ServedCluster
from agents.speed.shards import SharedCluster
from agents.speed.training import import_s, lost_nodes, moves_s, save_shares, scaled
from agents.speed.workers import RealCluster
from envs.config import CLUSTER, JOB_ORDERING
from envs.session import Session
from envs.workloads import Trace, lublin_feitelson, read_philly, read_swf
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.see.queue import Encoding
from orchestrator.kernels.state.codes import Placement
from orchestrator.scheduling.rules import Rule, rule_named

__all__ = ["MEASURES", "UnavailableError", "Workbench"]

_ENV = "envs:quartermaster/JobOrdering-v0"
_FIRST_STEP = (
    "import gymnasium; env = gymnasium.make('envs:quartermaster/JobOrdering-v0'); "
    "env.reset(seed=0); env.step(0)"
)
_MEMORY_ROWS = 1024
_FEW = 8  # nodes, and jobs


class UnavailableError(Exception):
    """A measurement that cannot be made here; its text says why."""


@dataclass(frozen=True)
class Workbench:
    """What measurements work on.

    Parameters
    ----------
    rows : int
        Rows of vector environments.
    steps : int
        Steps of a vector environment in one repeat.
    single_steps : int
        Steps of a single environment in one repeat.
    windows, length : int
        Windows that rules and rankers replay, and their jobs.
    train_seconds : float
        Training time of the end-to-end measurement.
    requests : int
        Requests whose routing is measured in one repeat.
    waiting : int
        Jobs that wait in the measurements of the live orchestrator.
    large : int
        Nodes of its large cluster; the other one has a tenth of them.
    commands : int
        Commands that a log makes durable in one repeat, 64 of them under way at once.
    history : int
        Jobs in the history of the log that a restart reads.
    known : int
        Jobs that the large live cluster is asked about, and that go through one that forgets them.
    real_jobs : int
        Real jobs in one repeat.
    lease_ms : int
        Leases of the measured sharded cluster.
    repeats : int
    clock : {"wall", "cpu"}
        What measurements on a single thread read: the time of day, or the time that the thread
        was given. Without other load the two agree; with it, only the second can be compared.
    traces : str or None
        Folder of public traces.
    """

    rows: int = 256
    steps: int = 300
    single_steps: int = 20_000
    windows: int = 10
    length: int = 1024
    train_seconds: float = 20.0
    requests: int = 5000
    waiting: int = 20_000
    large: int = 10_000
    commands: int = 20_000
    history: int = 10_000
    known: int = 100_000
    real_jobs: int = 200
    lease_ms: int = 2000
    repeats: int = 5
    clock: str = "wall"
    traces: str | None = None

    def __post_init__(self) -> None:
        """Reject unknown names."""
        if self.clock not in CLOCKS:
            known = ", ".join(CLOCKS)
            raise ConfigurationError(f"suite: unknown clock '{self.clock}'; known: {known}")

    @property
    def now(self) -> Callable[[], float]:
        """The clock that measurements on a single thread read."""
        return CLOCKS[self.clock]

    @cached_property
    def trace(self) -> Trace:
        """Lublin-1 where the public traces are, else generated jobs."""
        if self.traces:
            return read_swf(Path(self.traces) / "swf" / "lublin_256.swf.gz")
        return lublin_feitelson(20_000, 1)

    @cached_property
    def crowded(self) -> LiveCluster:
        """The large live cluster, full, and with most of its jobs waiting."""
        LiveCluster(_FEW, _FEW, "fcfs", self.now).cycle()  # loads the kernels
        cluster = LiveCluster(self.large, self.known, "fcfs", self.now)
        cluster.cycle()
        return cluster


def copy_bound(bench: Workbench) -> Measure:
    """Copying the bytes that a step writes, default features."""
    return _copy_bound(bench, Encoding.DEFAULT)


def copy_bound_published(bench: Workbench) -> Measure:
    """Copying the bytes that a step writes, the eight published features."""
    return _copy_bound(bench, Encoding.PUBLISHED)


def _copy_bound(bench: Workbench, encoding: Encoding) -> Measure:
    session = Session(bench.trace, replace(JOB_ORDERING, encoding=encoding), bench.rows)
    size, copies = bytes_per_step(session), 2000
    work = copies * bench.rows
    note = f"{size / 2**20:.1f} MiB for {bench.rows} rows"
    return rate(lambda: copy_seconds(size, copies, bench.now), work, "steps/s", bench.repeats, note)


def python_loop(bench: Workbench) -> Measure:
    """A plain Python event loop that simulates FCFS."""
    jobs = bench.trace.requests[:10_000]
    capacity = bench.trace.cpu_cores * 1000
    return rate(
        lambda: python_event_loop(jobs, capacity, bench.now), len(jobs), "jobs/s", bench.repeats
    )


def _vector(bench: Workbench, encoding: Encoding, copy: bool) -> Measure:
    """Time inside ``step()`` under random legal actions, in Gymnasium's default autoreset mode."""
    env = gymnasium.make_vec(
        _ENV,
        num_envs=bench.rows,
        vectorization_mode="vector_entry_point",
        trace=bench.trace,
        part="all",
        encoding=encoding,
        copy=copy,
    )
    observation, _ = env.reset(seed=0)
    rng = np.random.default_rng(0)

    def run(steps: int = bench.steps) -> float:
        nonlocal observation
        spent = 0.0
        for _ in range(steps):
            # In job ordering the legal actions are the first ones.
            legal = observation["action_mask"].sum(axis=1)
            actions = (rng.random(bench.rows) * legal).astype(np.int64)
            begun = bench.now()
            observation = env.step(actions)[0]
            spent += bench.now() - begun
        return spent

    run(50)
    return rate(run, bench.steps * bench.rows, "steps/s", bench.repeats)


def vector_published(bench: Workbench) -> Measure:
    """Vector environment, the eight published features."""
    return _vector(bench, Encoding.PUBLISHED, copy=False)


def vector_default(bench: Workbench) -> Measure:
    """Vector environment, default features."""
    return _vector(bench, Encoding.DEFAULT, copy=False)


def vector_copied(bench: Workbench) -> Measure:
    """Vector environment, default features, observations copied (Gymnasium's default)."""
    return _vector(bench, Encoding.DEFAULT, copy=True)


def vector_cluster(bench: Workbench) -> Measure:
    """Whole clusters with everything on, two threads: 64 nodes, 32 queued jobs shown."""
    # The time of a single thread says nothing of two.
    return _crowded(bench, 2, CLOCKS["wall"])


def vector_cluster_one(bench: Workbench) -> Measure:
    """The same on one thread."""
    return _crowded(bench, 1, bench.now)


def _crowded(bench: Workbench, threads: int, now: Callable[[], float]) -> Measure:
    clusters = CrowdedClusters(bench.rows, threads)
    note = f"{clusters.queued:.0f} jobs queued in the mean, 32 x 4 candidates"
    work = bench.steps * bench.rows
    measured = rate(lambda: clusters.step(bench.steps, now), work, "steps/s", bench.repeats, note)
    clusters.session.close()
    return measured


def single(bench: Workbench) -> Measure:
    """Single environment through gymnasium.make."""
    env = gymnasium.make(_ENV, trace=bench.trace, part="all")
    observation, _ = env.reset(seed=0)
    rng = np.random.default_rng(0)

    def run(steps: int = bench.single_steps) -> float:
        nonlocal observation
        spent = 0.0
        for draw in rng.random(steps).tolist():
            action = int(draw * np.count_nonzero(observation["action_mask"]))
            begun = bench.now()
            observation, _, terminated, _, _ = env.step(action)
            spent += bench.now() - begun
            if terminated:
                observation, _ = env.reset()
        return spent

    run(500)
    return rate(run, bench.single_steps, "steps/s", bench.repeats)


def _replay(bench: Workbench, name: str) -> Measure:
    config = replace(JOB_ORDERING, episode_jobs=bench.length)
    starts = np.linspace(0, len(bench.trace) - bench.length, bench.windows).astype(np.int64)
    session = Session(bench.trace, config, bench.windows, starts)
    rule = rule_named(name)
    again = 5

    def run() -> float:
        begun = bench.now()
        for _ in range(again):
            session.replay(rule)
        return bench.now() - begun

    run()
    work = again * bench.windows * bench.length
    return rate(run, work, "jobs/s", bench.repeats, bench.trace.name)


def replay_sjf(bench: Workbench) -> Measure:
    """Replay of windows under SJF."""
    return _replay(bench, "sjf")


def replay_wfp3(bench: Workbench) -> Measure:
    """Replay of windows under WFP3."""
    return _replay(bench, "wfp3")


def philly(bench: Workbench) -> Measure:
    """Philly under FIFO with best fit, loading included."""
    folder = Path(bench.traces) / "philly" if bench.traces else None
    if folder is None or not folder.is_dir():
        raise UnavailableError("needs the Philly trace: set TRACES_DIR")
    rule = replace(rule_named("fifo"), placement=Placement.BEST_FIT)
    _replay_philly(folder, rule)
    trace = read_philly(folder)
    note = f"{len(trace):,} jobs, {len(trace.nodes)} machines"
    return seconds(lambda: _replay_philly(folder, rule), min(bench.repeats, 3), note)


def _replay_philly(folder: Path, rule: Rule) -> None:
    trace = read_philly(folder)
    config = replace(CLUSTER, episode_jobs=len(trace), placements=(Placement.BEST_FIT,), victims=0)
    Session(trace, config, 1, part="all").replay(rule)


def openb(bench: Workbench) -> Measure:
    """Pods of openb in one order under FGD, reading included."""
    folder = Path(bench.traces) / "alibaba_openb_2023" if bench.traces else None
    if folder is None or not folder.is_dir():
        raise UnavailableError("needs Alibaba's openb trace: set TRACES_DIR")
    pack_openb(folder)
    return seconds(lambda: pack_openb(folder), min(bench.repeats, 3), "1,213 machines")


def placements(bench: Workbench) -> Measure:
    """A scheduling cycle on 10,000 nodes of 8 GPUs with 1,000 gangs waiting."""
    curve = [placed_per_second(nodes, bench.now) for nodes in (100, 300, 1000, 3000)]
    run = Cycle(10_000, bench.now)
    placed = run.placed
    per_decision = [1e6 / speed for speed in curve]
    found = rate(run.seconds, placed, "placements/s", bench.repeats)
    per_decision.append(1e6 / found.value)
    growth = ", ".join(f"{cost:.1f}" for cost in per_decision)
    return replace(found, note=f"µs per decision at 100, 300, 1,000, 3,000, 10,000: {growth}")


def memory(bench: Workbench) -> Measure:
    """Memory of all arrays of a session."""
    session = Session(bench.trace, JOB_ORDERING, _MEMORY_ROWS)
    size = session.state.nbytes
    for group in (session.buffers, session.bench):
        size += sum(part.nbytes for part in _arrays(group))
    mib = size / 2**20
    return Measure(
        mib, "MiB", mib, mib, f"{_MEMORY_ROWS:,} rows of {JOB_ORDERING.episode_jobs} jobs"
    )


def _arrays(group: Any) -> list[np.ndarray]:
    found: list[np.ndarray] = []
    for part in group:
        found += [part] if isinstance(part, np.ndarray) else _arrays(part)
    return found


def warm_start(bench: Workbench) -> Measure:
    """A fresh interpreter with kernels compiled before: import, make, first step."""
    _first_step({})
    return seconds(lambda: _first_step({}), bench.repeats)


def cold_compile(bench: Workbench) -> Measure:
    """A fresh interpreter with nothing compiled: import, make, first step."""
    del bench
    with tempfile.TemporaryDirectory() as folder:
        return seconds(lambda: _first_step({"NUMBA_CACHE_DIR": folder}), 1)


def _first_step(environment: Mapping[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FIRST_STEP],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise ConfigurationError(f"the first step failed in a fresh interpreter: {done.stderr}")


def cma(bench: Workbench) -> Measure:
    """CMA-ES, evaluation of rankers."""
    from agents.linear.evaluate import RankerEvaluator
    from agents.linear.policy import named_weights

    threads = 2
    config = replace(JOB_ORDERING, episode_jobs=bench.length)
    evaluator = RankerEvaluator(bench.trace, config, threads)
    starts = np.linspace(0, len(bench.trace) - bench.length, 4 * bench.windows).astype(np.int64)
    rng = np.random.default_rng(0)
    prior = named_weights({"log_request": -1.0})
    population = prior + 0.15 * rng.standard_normal((8, len(prior)))

    def run() -> float:
        begun = time.perf_counter()
        evaluator.costs(population, starts)
        return time.perf_counter() - begun

    run()
    work = len(population) * len(starts) * bench.length
    measured = rate(run, work, "jobs/s", bench.repeats, f"{threads} threads, {bench.trace.name}")
    evaluator.close()
    return measured


def ppo(bench: Workbench) -> Measure:
    """MaskablePPO, rollouts and updates."""
    from agents.ppo.train import PPOTrainer
    from agents.tracking import NullTracker

    trace = lublin_feitelson(50_000, 1)
    problem = Problem(trace, replace(JOB_ORDERING, skip_forced=True))
    never = 1_000_000
    trainer = PPOTrainer(
        budget_seconds=bench.train_seconds, validate_every=never, validation_windows=1
    )
    with tempfile.TemporaryDirectory() as folder:
        # What is imported and compiled on the way is not training.
        replace(trainer, budget_seconds=1.0).train(problem, NullTracker(), Path(folder) / "warm")
        history = trainer.train(problem, NullTracker(), Path(folder)).history
    first, last = history[0], history[-1]
    speed = last["steps"] / (last["seconds"] - first["seconds"])
    return Measure(speed, "steps/s", speed, speed, f"one run of {last['seconds']:.0f} s, 2 threads")


def routing(bench: Workbench) -> Measure:
    """Latency that routing adds, 99th percentile, 64 replicas beside 47 other services."""
    served = ServedCluster(48, 64)
    times = [served.added_ms(bench.requests) for _ in range(bench.repeats)]
    note = f"{bench.requests} requests, wall clock, in process"
    return Measure(statistics.median(times), "ms", min(times), max(times), note)


def shut_out(bench: Workbench) -> Measure:
    """A replica fails, one request every 100 ms: until it gets none, default rules."""
    served = ServedCluster(1, 8)
    times = [served.shut_out_ms(100) for _ in range(bench.repeats)]
    return Measure(statistics.median(times), "ms", min(times), max(times), "wall clock")


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


def live_construct(bench: Workbench) -> Measure:
    """Constructing an orchestrator with its large cluster's nodes."""
    runs = [LiveCluster(bench.large, 0, "fcfs", bench.now) for _ in range(bench.repeats + 1)]
    times = [run.construction_s for run in runs[1:]]  # the first one loads the kernels
    note = f"{bench.large:,} nodes"
    return Measure(statistics.median(times), "s", min(times), max(times), note)


def live_register(bench: Workbench) -> Measure:
    """Registering one more node in the large cluster."""
    return _asked(bench, bench.crowded.register)


def live_job_status(bench: Workbench) -> Measure:
    """The status of a job that waits in the large cluster."""
    last = f"job-{bench.known - 1}"
    return _asked(bench, lambda: _timed(bench, bench.crowded.orchestrator.get_job_status, last))


def live_questions(bench: Workbench) -> Measure:
    """The status of the large cluster."""
    return _asked(bench, lambda: _timed(bench, bench.crowded.orchestrator.get_cluster_status))


def live_end(bench: Workbench) -> Measure:
    """A job of the large cluster ends: reported, logged in memory, applied."""
    return _asked(bench, bench.crowded.end)


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
    """Memory of an orchestrator through which many jobs have gone, log in a file."""
    with tempfile.TemporaryDirectory() as folder:
        life = LongLife(Path(folder), bench.known)
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


MEASURES: Mapping[str, Callable[[Workbench], Measure]] = {
    measure.__name__: measure
    for measure in (
        copy_bound_published,
        copy_bound,
        python_loop,
        vector_published,
        vector_default,
        vector_copied,
        vector_cluster,
        vector_cluster_one,
        single,
        replay_sjf,
        replay_wfp3,
        philly,
        openb,
        placements,
        cma,
        ppo,
        routing,
        shut_out,
        live_cycle,
        live_cycle_priority,
        live_cycle_large,
        live_construct,
        live_register,
        live_job_status,
        live_questions,
        live_end,
        live_memory,
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
        memory,
        warm_start,
        cold_compile,
    )
}
"""Measurements by name."""
