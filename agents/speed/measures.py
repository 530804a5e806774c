"""Measurements by name: each takes a :class:`Workbench` and returns a :class:`Measure`."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
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
from agents.speed.live.measures import LIVE
from agents.speed.live.requests import REQUESTS
from agents.speed.mesh import ServedCluster
from agents.speed.rolls import FullCluster
from agents.speed.workbench import UnavailableError, Workbench
from envs.config import CLUSTER, JOB_ORDERING
from envs.session import Session
from envs.workloads import lublin_feitelson, read_philly
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.run.network import weight_count
from orchestrator.kernels.see.queue import Encoding
from orchestrator.kernels.state.codes import Placement
from orchestrator.scheduling.rules import Rule, rule_named

__all__ = ["MEASURES"]

_ENV = "envs:quartermaster/JobOrdering-v0"
_FIRST_STEP = (
    "import gymnasium; env = gymnasium.make('envs:quartermaster/JobOrdering-v0'); "
    "env.reset(seed=0); env.step(0)"
)
_MEMORY_ROWS = 1024
_FEW = 8  # nodes, and jobs


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


def branches(bench: Workbench) -> Measure:
    """Going back to a state of a single environment, and keeping it again, as searches do."""
    env: Any = gymnasium.make(_ENV, trace=bench.trace, part="all").unwrapped
    observation, _ = env.reset(seed=0)
    for _ in range(32):
        observation = env.step(int(observation["action_mask"].argmax()))[0]
    state = env.get_state()

    def run(times: int = bench.single_steps) -> float:
        begun = bench.now()
        for _ in range(times):
            env.set_state(state)
            env.get_state()
        return bench.now() - begun

    run(100)
    note = f"{state.nbytes / 1024:.0f} KiB, {env.config.episode_jobs} jobs"
    return rate(run, bench.single_steps, "states/s", bench.repeats, note)


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


_ROLLED = ("fcfs", "srtf", "srsf", "las", "tiresias", "priority")


def roll_preemptive(bench: Workbench) -> Measure:
    """A full cluster rolled to its end under SRTF: times what FCFS takes in the same run."""
    nodes, jobs = max(bench.large // 10, 1), bench.large
    FullCluster(_FEW, 10 * _FEW, bench.now).compare(_ROLLED, 1)  # loads the kernels
    found = FullCluster(nodes, jobs, bench.now).compare(_ROLLED, min(bench.repeats, 3))
    ratios = [srtf / fcfs for srtf, fcfs in zip(found["srtf"], found["fcfs"], strict=True)]
    each = ", ".join(f"{name} {statistics.median(spent):.2f}" for name, spent in found.items())
    note = f"{nodes:,} nodes, {jobs:,} jobs at once; s: {each}"
    return Measure(statistics.median(ratios), "times", min(ratios), max(ratios), note)


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
    return _rankers(bench, 2, 0, time.perf_counter)


def network_rolls(bench: Workbench) -> Measure:
    """Windows played by set networks of 16 units inside the engine, one thread."""
    return _rankers(bench, 1, 16, time.process_time)  # not of this thread


def _rankers(bench: Workbench, threads: int, hidden: int, now: Callable[[], float]) -> Measure:
    """Windows under rankers, every job of which is a decision."""
    from agents.linear.evaluate import RankerEvaluator
    from agents.linear.policy import named_weights

    config = replace(JOB_ORDERING, episode_jobs=bench.length)
    evaluator = RankerEvaluator(bench.trace, config, threads, hidden=hidden)
    starts = np.linspace(0, len(bench.trace) - bench.length, 4 * bench.windows).astype(np.int64)
    rng = np.random.default_rng(0)
    prior = np.zeros(weight_count(hidden))
    linear = named_weights({"log_request": -1.0})
    prior[: len(linear)] = linear
    population = prior + 0.15 * rng.standard_normal((8, len(prior)))

    def run() -> float:
        begun = now()
        evaluator.costs(population, starts)
        return now() - begun

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
        branches,
        replay_sjf,
        replay_wfp3,
        philly,
        openb,
        placements,
        roll_preemptive,
        cma,
        network_rolls,
        ppo,
        routing,
        shut_out,
        *REQUESTS,
        *LIVE,
        memory,
        warm_start,
        cold_compile,
    )
}
"""Measurements by name."""
