"""Sessions: bad input, which windows are played, and memory."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
from numba import njit
from numba.core.runtime import _nrt_python, rtsys
from numpy.typing import NDArray

from envs import CLUSTER, JOB_ORDERING, EnvConfig, Scenario, SchedulingEnv, Session, part_starts
from envs.scenario import with_accounts
from envs.workloads import Trace, gpu_cluster, lublin_feitelson
from orchestrator.errors import ConfigurationError, ValidationError
from orchestrator.kernels.run.buffers import Sampling
from orchestrator.kernels.state.codes import EventKind
from orchestrator.kernels.state.records import INCIDENT_DTYPE
from orchestrator.scheduling.rules import rule_named
from tests.envs.cases import CASES, gpu_trace, lublin_trace, pick_legal


def test_traces_shorter_than_an_episode_are_refused() -> None:
    trace = lublin_feitelson(20, 1)
    with pytest.raises(ConfigurationError, match=r"has 20 jobs, less than 'episode_jobs' \(21\)"):
        Session(trace, replace(JOB_ORDERING, episode_jobs=21), 1, part="all")
    with pytest.raises(ConfigurationError, match="train part has 12 of the trace's 20 jobs"):
        gymnasium.make("quartermaster/JobOrdering-v0", trace=trace, episode_jobs=13)
    assert Session(
        trace, replace(JOB_ORDERING, episode_jobs=20), 1, part="all"
    ).source.episode.starts.tolist() == [0]


def test_empty_traces_are_refused() -> None:
    trace = lublin_trace()
    with pytest.raises(ValidationError, match="'requests' hold no jobs"):
        replace(trace, requests=trace.requests[:0])
    with pytest.raises(ConfigurationError, match="names no cluster; give its 'nodes'"):
        Session(replace(trace, nodes=()), replace(JOB_ORDERING, episode_jobs=8), 1, part="all")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("workers", 40),
        ("gpus_per_worker", 5),
        ("cpu_milli", 10_000_000),
        ("memory_mib", 1 << 30),
        ("gpu_memory_mib", 1 << 30),
        ("model_mask", 1 << 5),
    ],
)
def test_jobs_that_can_never_fit_are_named_with_the_field_to_blame(field: str, value: int) -> None:
    requests = gpu_trace().requests.copy()
    requests["workers"] = requests["gpus_per_worker"] = 1
    requests[field][7] = value
    trace = replace(gpu_trace(), requests=requests)
    job = requests["source_id"][7]
    with pytest.raises(
        ConfigurationError, match=rf"job {job} can never fit .*'{field}' is {value}"
    ):
        Session(trace, replace(CLUSTER, episode_jobs=8), 1, part="all")


@pytest.mark.parametrize(
    ("starts", "words"),
    [([], "'starts' is empty"), ([-1], "reach beyond"), ([0, 393], "reach beyond the 400 jobs")],
)
def test_windows_outside_the_trace_are_refused(starts: list[int], words: str) -> None:
    config = replace(JOB_ORDERING, episode_jobs=8)
    with pytest.raises(ConfigurationError, match=words):
        Session(lublin_trace(), config, 1, np.array(starts, np.int64))
    Session(lublin_trace(), config, 1, np.array([0, 392]))


def test_indices_and_shapes_out_of_range_are_refused() -> None:
    session = CASES["ordering"].session(2, starts=np.array([0, 50, 100]))
    for windows in ([0, 3], [-2, 0]):
        with pytest.raises(ConfigurationError, match="of 3; give an index below 3"):
            session.reset(windows=np.array(windows))
    with pytest.raises(ConfigurationError, match="window -1 of 3"):
        session.replay(CASES["ordering"].make().config.reward.reference_rule, np.array([0, -1]))
    with pytest.raises(ConfigurationError, match=r"'windows' has shape \(1,\)"):
        session.reset(windows=np.array([0]))
    with pytest.raises(ConfigurationError, match=r"'which' has shape \(3,\)"):
        session.reset(np.ones(3, bool))
    session.reset()
    with pytest.raises(ConfigurationError, match=r"'actions' has shape \(3,\)"):
        session.step(np.zeros(3, np.int64))
    with pytest.raises(ValueError, match="'envs' is 0; give a whole number that is at least 1"):
        CASES["ordering"].session(0)


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([(0, EventKind.NODE_FAILURE, 4)], "incident 0: 'node' is 4; give 0 to 3"),
        ([(0, EventKind.NODE_FAILURE, -1)], "incident 0: 'node' is -1"),
        ([(0, EventKind.ARRIVAL, 0)], "incident 0: 'kind' is 0"),
        ([(-5, EventKind.NODE_DRAIN, 0)], "incident 0: 'time_ms' is -5"),
        (
            [(9, EventKind.NODE_DRAIN, 0), (8, EventKind.NODE_DRAIN, 1)],
            "incident 1: 'time_ms' is 8",
        ),
    ],
)
def test_incidents_that_cannot_be_are_refused(events: list[Any], words: str) -> None:
    befalls = np.array(events, INCIDENT_DTYPE)
    with pytest.raises(ConfigurationError, match=words):
        CASES["cluster"].session(incidents=befalls)
    with pytest.raises(ConfigurationError, match="INCIDENT_DTYPE"):
        CASES["cluster"].session(incidents=np.zeros(2))


@pytest.mark.parametrize("seed", [-1, 1 << 64, 1.5, True, "1"])
def test_seeds_of_rows_have_64_bits(seed: Any) -> None:
    session = CASES["ordering"].session(2)
    with pytest.raises(ConfigurationError, match=r"'seed' is .*; give a whole number from 0 to"):
        session.reseed_row(0, seed)
    with pytest.raises(ConfigurationError, match=r"'seeds' is .*; give a whole number from 0 to"):
        session.reseed(np.array([0, seed], dtype=object))
    session.reseed(np.array([0, (1 << 64) - 1], np.uint64))
    session.reseed_row(0, np.uint64((1 << 64) - 1))
    assert session.seeds[0] == session.seeds[1]


# --- which windows are played --------------------------------------------------------------------


def test_sequential_sampling_plays_every_window_in_turn() -> None:
    session = CASES["ordering"].session(
        3, starts=np.arange(0, 80, 10), sampling=Sampling.SEQUENTIAL, episode_jobs=4
    )
    played = []
    for _ in range(6):
        session.reset()
        played.append(session.buffers.start_index.tolist())
    turns = [[(e + 3 * k) % 8 for e in range(3)] for k in range(6)]
    assert played == turns
    session.reset(np.array([False, True, False]))  # only that row's turn has come
    assert session.buffers.start_index.tolist() == [turns[5][0], (1 + 18) % 8, turns[5][2]]
    session.reseed(np.zeros(3, np.uint64))
    session.reset()
    assert session.buffers.start_index.tolist() == turns[0]


def test_random_sampling_reaches_every_window() -> None:
    session = CASES["ordering"].session(8, starts=np.arange(0, 80, 10), episode_jobs=4)
    session.reseed(np.arange(8, dtype=np.uint64))
    seen = np.zeros(8, int)
    for _ in range(60):
        session.reset()
        seen += np.bincount(session.buffers.start_index, minlength=8)
    assert seen.sum() == 480
    assert (seen > 25).all()


def test_an_episode_holds_the_jobs_of_its_window() -> None:
    session = CASES["cluster"].session(2, starts=np.array([3, 40]))
    session.reset(windows=np.array([1, 0]))
    for e, start in ((0, 40), (1, 3)):
        jobs = session.window_jobs(e)
        assert jobs.tolist() == list(range(start, start + 24))
        np.testing.assert_array_equal(session.state.request[e], gpu_trace().requests[jobs])


# --- episodes without a choice -------------------------------------------------------------------


def test_an_episode_of_forced_moves_only_still_asks_once() -> None:
    """With forced moves skipped, a calm window would otherwise be over before it began."""
    calm = lublin_trace().requests.copy()
    calm["submit_ms"] = np.arange(len(calm)) * 10**9
    trace = replace(lublin_trace(), requests=calm)
    env = gymnasium.make(
        "quartermaster/JobOrdering-v0", trace=trace, episode_jobs=6, skip_forced=True, part="all"
    ).unwrapped
    seen, _ = env.reset(seed=0)
    assert seen["action_mask"].sum() == 1
    seen, _, terminated, _, _ = env.step(0)
    assert terminated
    assert env.session.state.rows[0]["completed_jobs"] == 6


def _two_jobs(first: dict[str, int], second: dict[str, int]) -> Trace:
    requests = gpu_trace().requests[:2].copy()
    requests["submit_ms"] = 0
    requests["workers"] = requests["gpus_per_worker"] = 1
    requests["gpu_milli"], requests["cpu_milli"], requests["memory_mib"] = 1000, 0, 0
    for j, fields in enumerate((first, second)):
        for name, value in fields.items():
            requests[name][j] = value
    return replace(gpu_trace(), requests=requests)


def test_an_episode_ends_when_only_jobs_beyond_the_window_could_start() -> None:
    """The first job needs a machine that is gone for good, the second is not shown."""
    trace = _two_jobs({"workers": 4, "gpus_per_worker": 4}, {})
    befalls = np.array([(0, EventKind.NODE_FAILURE, 0)], INCIDENT_DTYPE)
    session = CASES["cluster"].session(trace=trace, episode_jobs=2, window=1, incidents=befalls)
    session.reset()
    assert session.buffers.terminated[0]
    assert session.state.rows[0]["queue_len"] == 2
    wider = CASES["cluster"].session(trace=trace, episode_jobs=2, window=2, incidents=befalls)
    wider.reset()
    assert not wider.buffers.terminated[0]
    assert wider.buffers.mask[0].sum() == 4  # the second job, four ways


def test_points_at_which_nothing_shown_can_be_chosen_are_passed_over() -> None:
    """The first job fits once the machine is back; until then waiting is all one could do."""
    trace = _two_jobs({"workers": 4, "gpus_per_worker": 4}, {})
    befalls = np.array(
        [(0, EventKind.NODE_FAILURE, 0), (9000, EventKind.NODE_RECOVERY, 0)], INCIDENT_DTYPE
    )
    session = CASES["cluster"].session(trace=trace, episode_jobs=2, window=1, incidents=befalls)
    session.reset()
    assert session.state.rows[0]["now_ms"] == 9000
    assert session.buffers.mask[0, :4].any()


# --- memory --------------------------------------------------------------------------------------


def test_a_thousand_rows_of_job_ordering_take_less_than_a_gibibyte() -> None:
    trace = lublin_feitelson(2000, 1)
    session = Session(trace, JOB_ORDERING, envs=1024, part="all")
    *plain, memo = session.buffers
    buffers = sum(array.nbytes for array in (*plain, *memo))
    bench = sum(array.nbytes for array in session.bench)
    assert session.state.nbytes + buffers + bench < 1 << 30


@pytest.fixture
def counted() -> Iterator[None]:
    """Count what compiled code allocates."""
    was = _nrt_python.memsys_stats_enabled()
    _nrt_python.memsys_enable_stats()
    yield
    if not was:
        _nrt_python.memsys_disable_stats()


def _recorded(session: Session) -> list[NDArray[np.int64]]:
    """Legal actions of an episode."""
    rng, actions = np.random.default_rng(0), []
    session.reset()
    while not session.buffers.terminated.all() and len(actions) < 200:
        actions.append(pick_legal(session.buffers.mask, rng))
        session.step(actions[-1])
    return actions


@pytest.mark.parametrize("name", CASES)
@pytest.mark.usefixtures("counted")
def test_compiled_steps_allocate_nothing(name: str) -> None:
    session = CASES[name].session(4, step_limit=0)
    actions = _recorded(session)
    over = _allocations(session, [np.zeros(4, np.int64)])
    session.reseed(session.seeds)
    session.reset()
    going = _allocations(session, actions)
    assert session.buffers.steps.min() > 5
    # A call hands its arrays over, whatever it does with them; beyond that there is nothing.
    assert going == over * len(actions)


def _allocations(session: Session, actions: list[NDArray[np.int64]]) -> int:
    """Allocations of compiled code during some steps, none of which is left over."""
    before = rtsys.get_allocation_stats()
    for each in actions:
        session.step(each)
    after = rtsys.get_allocation_stats()
    assert after.alloc - before.alloc == after.free - before.free
    return int(after.alloc - before.alloc)


@pytest.mark.parametrize("name", ["ordering-backfill", "ordering-scaled", "cluster-incidents"])
def test_memory_does_not_grow(name: str) -> None:
    session = CASES[name].session(4)
    actions = _recorded(session)

    def play() -> None:
        for _ in range(6000 // len(actions)):
            session.reset()
            for each in actions:
                session.step(each)
        gc.collect()

    tracemalloc.start()
    play()  # what is made once for good is made now
    grown = []
    for _ in range(2):
        before, _ = tracemalloc.get_traced_memory()
        play()
        grown.append(tracemalloc.get_traced_memory()[0] - before)
    tracemalloc.stop()
    # Python keeps some small objects for later use, some of them once only, as late as in the first
    # of these plays; an object a step would be ten times as much in each.
    assert min(grown) < 32_768


@pytest.mark.usefixtures("counted")
def test_allocations_would_be_noticed() -> None:
    before = rtsys.get_allocation_stats()
    kept = _make_array(3)
    assert rtsys.get_allocation_stats().alloc > before.alloc
    assert len(kept) == 3


@njit
def _make_array(size):
    return np.zeros(size)


@pytest.mark.parametrize("part", ["train", "validation", "test", "all"])
@pytest.mark.parametrize("base", [JOB_ORDERING, CLUSTER])
def test_sessions_play_the_parts_that_environments_play(part: str, base: EnvConfig) -> None:
    """Nobody plays windows that policies are judged on unless they are named."""
    trace = lublin_feitelson(2000, 1)
    config = replace(base, episode_jobs=50)
    made = SchedulingEnv(config, trace=trace, part=part).session.source.episode.starts
    starts = Session(trace, config, 2, part=part).source.episode.starts
    assert starts.tolist() == made.tolist() == part_starts(trace, config, part).tolist()
    low, high = {"train": (0, 1200), "validation": (1200, 1600), "test": (1600, 2000)}.get(
        part, (0, 2000)
    )
    assert (starts.min(), starts.max()) == (low, high - 50)
    if part == "train":
        assert Session(trace, config, 2).source.episode.starts.tolist() == starts.tolist()
    given = Session(trace, config, 1, np.array([1990 - 50]), part=part)
    assert given.source.episode.starts.tolist() == [1940]


@pytest.mark.parametrize("part", ["Train", "tset", "", 1, None])
def test_parts_that_are_none_are_refused(part: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"unknown part .*; use one of .*'all'"):
        Session(lublin_trace(), replace(JOB_ORDERING, episode_jobs=8), 1, part=part)


def test_rules_that_read_accounts_find_some() -> None:
    """Without a scenario ``drf`` was ``fcfs``."""
    trace = gpu_cluster(1500, 0, nodes=4, load=1.3)
    config, starts = replace(CLUSTER, episode_jobs=256), np.array([0, 600, 1200])
    bare = Session(trace, config, 3, starts)
    informed = Session(trace, config, 3, starts, scenario=with_accounts(Scenario(), trace))
    hashes = {}
    for name in ("fcfs", "drf", "reclaim", "fcfs", "drf"):
        bare.replay(name)
        again = hashes.setdefault(name, bare.state.rows["log_hash"].copy())
        np.testing.assert_array_equal(bare.state.rows["log_hash"], again)
    assert (hashes["drf"] != hashes["fcfs"]).any()
    for name in ("drf", "reclaim"):
        informed.replay(rule_named(name))
        np.testing.assert_array_equal(informed.state.rows["log_hash"], hashes[name])
        copied = deepcopy(bare)
        copied.replay(name)
        np.testing.assert_array_equal(copied.state.rows["log_hash"], hashes[name])
    bare.reset()
    assert (bare.state.rows["num_tenants"] == 0).all()  # only the replay needed them


@pytest.mark.parametrize("rule", [3, None, ["drf"]])
def test_a_replay_is_under_a_rule(rule: Any) -> None:
    session = CASES["ordering"].session(1)
    with pytest.raises(ConfigurationError, match=r"'rule' is a \w+; give a Rule, or the name of"):
        session.replay(rule)
    with pytest.raises(ConfigurationError, match="unknown rule 'longest'; known: fcfs"):
        session.replay("longest")
