"""What is to be learned or judged: a trace, its windows, an environment and a scenario."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from enum import Enum
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from envs.checks import check_whole
from envs.config import EnvConfig
from envs.scenario import Scenario, playable, with_accounts
from envs.session import Session
from envs.workloads import Trace, WindowSplit
from envs.workloads.windows import Part
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.see.layout import DEFAULT_NAMES
from orchestrator.own.loading import is_part_name, source_digest
from orchestrator.scheduling.rules import Rule

__all__ = [
    "ActionScores",
    "BatchPolicy",
    "Problem",
    "RowPolicy",
    "ScoringPolicy",
    "Windows",
    "digest_of",
    "require_ordering",
]


class BatchPolicy(Protocol):
    """A policy as evaluation runs it: greedy actions for a batch of observations."""

    name: str

    def actions(
        self, observation: Mapping[str, NDArray[Any]], mask: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """Choose an action for each row.

        Parameters
        ----------
        observation : mapping of str to array
            As ``envs.gym.observation_space`` lays it out, with a leading row axis.
        mask : bool [rows, actions]
            Legal actions.

        Returns
        -------
        int64 [rows]
        """
        ...


@dataclass(frozen=True)
class ActionScores:
    """What a policy thinks of each legal action of one state.

    Parameters
    ----------
    actions : int64 [N]
        Their numbers, in the order in which ties go.
    scores : float [N]
        The action of the highest score is taken; of equals the first.
    """

    actions: NDArray[np.int64]
    scores: NDArray[np.floating[Any]]

    @property
    def best(self) -> int:
        """Number of the action that is taken."""
        return int(self.actions[int(self.scores.argmax())])


@runtime_checkable
class ScoringPolicy(BatchPolicy, Protocol):
    """One that also says what it thinks of the actions that it does not take."""

    def score(
        self, observation: Mapping[str, NDArray[Any]], mask: NDArray[np.bool_]
    ) -> ActionScores:
        """Scores of the legal actions of one state: a batch of one row, as for ``actions``."""
        ...


@runtime_checkable
class RowPolicy(Protocol):
    """A policy that plays rows by itself: observations are not all that it decides by."""

    name: str

    def player_on(self, session: Session) -> Callable[[], Mapping[str, int]]:
        """What plays the first row of a session, which has just begun, to its end.

        It is called once for each window, in one thread, and returns counts of its own. The
        session's rows may lie elsewhere at each call.
        """
        ...


def require_ordering(subject: str, jobs: NDArray[Any], mask: NDArray[np.bool_]) -> None:
    """Refuse what is not of job ordering: an action for each job, described by default features.

    Raises
    ------
    ConfigurationError
    """
    if jobs.shape[:2] != mask.shape or jobs.shape[2] != len(DEFAULT_NAMES):
        raise ConfigurationError(
            f"{subject}: features {jobs.shape} and actions {mask.shape} are not those of job "
            "ordering with default features"
        )


@dataclass(frozen=True)
class Windows:
    """Windows of a trace to be played, in an environment and a scenario.

    Parameters
    ----------
    trace : Trace
    config : EnvConfig
        Semantics, observation and the length of the windows.
    starts : int64 [M]
        First job of each window; where episodes have no jobs, the first tick.
    scenario : Scenario, optional
        What the windows happen in.
    """

    trace: Trace
    config: EnvConfig
    starts: NDArray[np.int64]
    scenario: Scenario = field(default_factory=Scenario)

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.starts)

    @property
    def digest(self) -> str:
        """Of what is played: the trace's digest, the windows, commitment, scenario.

        Sixteen hexadecimal digits. What others published for windows is shown beside these only.
        """
        config = self.config
        text = (
            f"{self.trace.digest} {self.starts.tolist()} {config.length} "
            f"{bool(config.commitment)} {bool(config.backfill)} {self.scenario == Scenario()}"
        )
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def first(self, count: int) -> Windows:
        """The first so many of them, or all."""
        return replace(self, starts=self.starts[:count])

    def played_out(self) -> Windows:
        """The same as policies are judged in them: every window is played to its end."""
        config = replace(self.config, step_limit=0, skip_forced=self.config.commitment)
        return replace(self, config=config)

    def under(self, rule: Rule) -> Windows:
        """The same as a rule is played in them: accounts are kept if it reads them."""
        if not rule.reads_accounts:
            return self
        return replace(self, scenario=with_accounts(self.scenario, self.trace))

    def session(self, rows: int) -> Session:
        """Rows that play them."""
        return Session(self.trace, self.config, rows, self.starts, scenario=self.scenario)


@dataclass(frozen=True)
class Problem:
    """A learning problem, or what policies are compared on.

    Parameters
    ----------
    trace : Trace
        Jobs and cluster; its parts never overlap.
    config : EnvConfig
        The environment as the agent trains in it.
    split : WindowSplit or None, optional
        Training, validation and test parts; None: 60, 20 and 20 % of what can be played.
    evaluation_jobs : int, optional
        Length of validation and test windows: jobs or, where episodes have none, ticks.
    seed : int, optional
    scenario : Scenario, optional
        What training, validation and test windows happen in.
    """

    trace: Trace
    config: EnvConfig
    split: WindowSplit | None = None
    evaluation_jobs: int = 1024
    seed: int = 0
    scenario: Scenario = field(default_factory=Scenario)

    def __post_init__(self) -> None:
        """Size the environment to the trace's cluster, for policies' features and actions."""
        check_whole("problem: 'seed'", self.seed, 0)
        object.__setattr__(self, "config", self.config.for_nodes(len(self.trace.nodes)))

    @property
    def playable(self) -> int:
        """Jobs that windows can be made of or, where episodes have none, ticks."""
        return playable(self.trace, self.config, self.scenario)

    @cached_property
    def parts(self) -> WindowSplit:
        """Training, validation and test parts."""
        return WindowSplit(self.playable) if self.split is None else self.split

    @property
    def judged(self) -> Problem:
        """The same as policies are judged in it: longer windows, rewards unscaled."""
        reward = replace(self.config.reward, reference=None)
        config = replace(self.config, reward=reward).of_length(self.evaluation_jobs)
        return replace(self, config=config)

    @property
    def digests(self) -> dict[str, str]:
        """Of what the problem is made of, by name: what a checkpoint belongs to."""
        return {
            "workload": self.trace.content_digest,
            "env": digest_of(self.config),
            "scenario": digest_of(self.scenario),
            "task": digest_of([self.parts, self.evaluation_jobs]),
            "seed": digest_of(self.seed),
        }

    def training_session(self, envs: int, windows: int = 4096) -> Session:
        """Rows that play training windows."""
        starts = self.parts.starts("train", windows, self.config.length, self.seed)
        return Windows(self.trace, self.config, starts, self.scenario).session(envs)

    def judging_windows(self, part: Part, count: int) -> Windows:
        """Windows of the validation or test part: the same for every seed and policy."""
        starts = self.parts.starts(part, count, self.evaluation_jobs, 0)
        return Windows(self.trace, self.judged.config, starts, self.scenario)


def digest_of(value: Any) -> str:
    """Sixteen hexadecimal digits of what a value says: the same in every process.

    Parameters
    ----------
    value : Any
        Numbers, texts, enumerations, arrays and functions, and dataclasses, mappings and sequences
        of them. A text that names one's own part counts with the file in which that stands.
    """
    return hashlib.sha256(_said(value).encode()).hexdigest()[:16]


def _said(value: Any) -> str:
    """A value as text, arrays whole."""
    if is_dataclass(value) and not isinstance(value, type):
        parts = [f"{part.name}={_said(getattr(value, part.name))}" for part in fields(value)]
        return f"{type(value).__name__}({', '.join(parts)})"
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}"
    if isinstance(value, np.generic):
        return repr(value.item())
    if isinstance(value, Mapping):
        parts = [f"{key}{_source(key)}: {_said(value[key])}" for key in value]
        return f"{{{', '.join(sorted(parts))}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_said, value))}]"
    said = repr(value) + _source(value)
    return type(value).__qualname__ if " at 0x" in said else said  # addresses are of a process


def _source(name: Any) -> str:
    """What one's own part that is named here is made of; nothing of all that is no such name."""
    if not is_part_name(name):
        return ""
    try:
        return f" {source_digest(name.partition('+')[0], 'part')}"
    except ConfigurationError:  # a text that only looks like one
        return ""
