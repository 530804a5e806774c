"""Small workloads and environment configurations that the tests of environments share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from envs import (
    AUTOSCALING,
    CLUSTER,
    JOB_ORDERING,
    RewardConfig,
    SchedulingEnv,
    SchedulingVectorEnv,
    Session,
)
from envs.gym import make_session, override
from envs.workloads import Trace, gpu_cluster, lublin_feitelson
from orchestrator.kernels.see.queue import Encoding
from orchestrator.kernels.state.codes import EventKind, Information, RuleKey
from orchestrator.kernels.state.records import INCIDENT_DTYPE, JOB_MEMO_FIELDS, MEMO_TABLES, TABLES
from orchestrator.kernels.state.row import CONFIG_FIELDS, MEMO_FIELDS, allocate

__all__ = [
    "CASES",
    "MEMO",
    "EnvCase",
    "all_terms",
    "case_named",
    "gpu_trace",
    "incidents",
    "keep_log",
    "lublin_trace",
    "pick_legal",
    "play",
    "table_bytes",
    "without_memo",
]

MEMO = (*MEMO_TABLES, *MEMO_FIELDS, "touched")
"""Tables and scalars of a row that only save time: what they hold changes nothing."""
_BASES = {"Cluster": CLUSTER, "JobOrdering": JOB_ORDERING, "Autoscaling": AUTOSCALING}
Actions = NDArray[np.int64]


@functools.cache
def lublin_trace() -> Trace:
    """Jobs for 64 processors, more than they can do."""
    return lublin_feitelson(400, 3, processors=64, load=1.2)


@functools.cache
def gpu_trace() -> Trace:
    """Jobs for four machines of four GPUs, more than they can do."""
    return gpu_cluster(400, 4, nodes=4, gpus_per_node=4, load=1.3)


@functools.cache
def incidents() -> NDArray[np.void]:
    """What befalls the four machines: two fail for a while, one of them twice, one drains."""
    down, up, drain = EventKind.NODE_FAILURE, EventKind.NODE_RECOVERY, EventKind.NODE_DRAIN
    hours = [(0.2, down, 0), (1, up, 0), (2, down, 1), (5, up, 1), (6, drain, 3), (8, down, 0)]
    hours += [(9, up, 0), (20, down, 1), (30, up, 1)]
    return np.array([(int(3.6e6 * h), kind, n) for h, kind, n in hours], INCIDENT_DTYPE)


def all_terms(form: str = "dense", reference: str | None = None) -> RewardConfig:
    """Every cost at once, with weights that tell them apart."""
    terms = {
        "bounded_slowdown": 1.0,
        "completion_time": 0.01,
        "wait": 0.003,
        "utilisation": 0.5,
        "preemption": 7.0,
        "lost_work": 0.25,
    }
    return RewardConfig(terms, form, reference)


@dataclass(frozen=True)
class EnvCase:
    """An environment to test: a registered one, its workload, and what is changed about it."""

    name: str
    env: str
    trace: Callable[[], Trace]
    changes: Mapping[str, Any] = field(default_factory=dict)
    befalls: bool = False

    @property
    def id(self) -> str:
        return f"quartermaster/{self.env}-v0"

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of the environment."""
        small = {} if self.env == "Autoscaling" else {"window": 8, "episode_jobs": 24}
        if self.env == "Cluster":
            small |= {"window": 6, "victims": 4, "min_run_seconds": 30.0}
        given = {"trace": self.trace(), "part": "all"}
        if self.befalls:
            given["incidents"] = incidents()
        return {**small, **given, **self.changes}

    def make(self, **more: Any) -> SchedulingEnv:
        env = gymnasium.make(self.id, **{**self.options, **more}).unwrapped
        assert isinstance(env, SchedulingEnv)
        return env

    def make_vec(self, num_envs: int, **more: Any) -> SchedulingVectorEnv:
        env = gymnasium.make_vec(
            self.id, num_envs, "vector_entry_point", **{**self.options, **more}
        )
        assert isinstance(env, SchedulingVectorEnv)
        return env

    def session(self, rows: int = 1, **more: Any) -> Session:
        base = _BASES[self.env]
        changes = {**self.options, **more}
        names = ("trace", "part", "incidents", "starts", "scenario")
        fixed = {name: changes.pop(name, None) for name in names}
        windows = fixed["part"] if fixed["starts"] is None else fixed["starts"]
        config = override(base, changes)
        trace, scenario = fixed["trace"], fixed["scenario"]
        return make_session(config, rows, trace, windows, fixed["incidents"], scenario)


def _ordering(name: str, **changes: Any) -> EnvCase:
    return EnvCase(name, "JobOrdering", lublin_trace, changes)


def _cluster(name: str, befalls: bool = False, **changes: Any) -> EnvCase:
    return EnvCase(name, "Cluster", gpu_trace, changes, befalls)


_ALL = (
    _ordering("ordering"),
    _ordering("ordering-backfill", backfill=True),
    _ordering("ordering-published", encoding=Encoding.PUBLISHED),
    _ordering("ordering-terminal", reward=RewardConfig(form="terminal")),
    _ordering("ordering-scaled", reward=RewardConfig(reference="sjf"), backfill=True),
    _ordering("ordering-skip-forced", skip_forced=True),
    _ordering("ordering-sjf-window", window_order=RuleKey.SJF, window=4),
    _ordering("ordering-oracle", information=Information.ORACLE, window_order=RuleKey.UNICEP),
    EnvCase("ordering-incidents", "JobOrdering", gpu_trace, {"backfill": True, "window": 5}, True),
    _cluster("cluster", reward=all_terms()),
    _cluster("cluster-terminal", reward=all_terms("terminal")),
    _cluster("cluster-scaled", reward=all_terms(reference="sjf")),
    _cluster("cluster-sjf-window", window_order=RuleKey.SJF, window=3),
    _cluster("cluster-without-victims", victims=0, preemption_limit=0, encoding="default"),
    _cluster("cluster-incidents", True, reward=all_terms()),
    _cluster("cluster-step-limit", True, step_limit=30, reward=all_terms()),
)
CASES: Mapping[str, EnvCase] = {case.name: case for case in _ALL}


def case_named(name: str) -> EnvCase:
    return CASES[name]


def pick_legal(mask: NDArray[Any], rng: np.random.Generator) -> Actions:
    """A random legal action of each row of ``mask`` [B, A]; 0 where there is none."""
    noise = rng.random(mask.shape) + 1.0
    picked: Actions = np.where(mask != 0, noise, 0.0).argmax(axis=1)
    return picked


def play(session: Session, rng: np.random.Generator, stop: int = 10_000) -> NDArray[np.float64]:
    """Random legal actions from a reset on until every row is over; rewards [steps, E]."""
    session.reset()
    paid: list[NDArray[np.float64]] = []
    over = session.buffers.terminated.copy()
    while not over.all():
        session.step(pick_legal(session.buffers.mask, rng))
        # Rows that are over stay as they are, and are paid nothing; truncated ones would go on.
        paid.append(np.where(over, 0.0, session.buffers.reward))
        over |= session.buffers.terminated | session.buffers.truncated
        assert len(paid) < stop
    return np.array(paid)


def keep_log(session: Session, records: int = 4096) -> None:
    """Let a session that has not begun keep its event logs."""
    state = allocate(replace(session.state.shape, log=records))
    scenario = ("series_at", "forecast_at", "series_len")
    for name in (*(name for name, _ in CONFIG_FIELDS), *scenario):
        state.rows[name] = session.state.rows[name]
    state.rows["keep_log"] = 1
    session.state = state


def without_memo(jobs: NDArray[np.void]) -> NDArray[np.void]:
    """A copy of job records, with what they remember of tries blanked out."""
    blank = np.frombuffer(bytearray(jobs.tobytes()), jobs.dtype)  # unused bytes and all
    for name in JOB_MEMO_FIELDS:
        blank[name] = 0
    return blank


def table_bytes(session: Session, e: int) -> dict[str, bytes]:
    """Every table of a row as it is in memory, and the row's scalars by name."""
    state = session.state
    tables = {name: getattr(state, name)[e].tobytes() for name in TABLES}
    row = state.rows[e]
    return tables | {str(name): row[name].tobytes() for name in row.dtype.names}
