"""What is to be learned: an environment, a trace, and which of its windows serve for what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from envs.config import EnvConfig
from envs.scenario import Scenario
from envs.session import Session
from envs.workloads import Trace, WindowSplit

__all__ = ["BatchPolicy", "Task", "TrainingResult"]


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
class Task:
    """A learning task.

    Parameters
    ----------
    trace : Trace
        Jobs and cluster; its parts (by ``split``) never overlap.
    config : EnvConfig
        The environment as the agent trains in it.
    split : WindowSplit
        Training, validation and test parts.
    evaluation_jobs : int
        Length of validation and test windows: jobs or, where episodes have none, ticks.
    seed : int
    scenario : Scenario, optional
        What training, validation and test windows happen in.
    """

    trace: Trace
    config: EnvConfig
    split: WindowSplit
    evaluation_jobs: int = 1024
    seed: int = 0
    scenario: Scenario = field(default_factory=Scenario)

    def __post_init__(self) -> None:
        """Size the environment to the trace's cluster, for policies' features and actions."""
        object.__setattr__(self, "config", self.config.for_nodes(len(self.trace.nodes)))

    def training_session(self, envs: int, windows: int = 4096) -> Session:
        """Rows that play training windows."""
        length = self.config.length
        starts = self.split.starts("train", windows, length, self.seed)
        return Session(self.trace, self.config, envs, starts, scenario=self.scenario)

    def evaluation_starts(self, part: str, windows: int) -> NDArray[np.int64]:
        """Windows of the ``validation`` or ``test`` part: the same for every seed and policy."""
        return self.split.starts(part, windows, self.evaluation_jobs, 0)

    @property
    def evaluation_config(self) -> EnvConfig:
        """The environment as policies are judged in it: longer windows, rewards unscaled."""
        reward = replace(self.config.reward, reference=None)
        return replace(self.config, reward=reward).of_length(self.evaluation_jobs)


@dataclass(frozen=True)
class TrainingResult:
    """What training leaves behind.

    Parameters
    ----------
    policy : BatchPolicy
        The policy that validation chose.
    bundle : Path
        Its bundle directory.
    history : list of dict
        One entry for each validation: ``seconds``, ``steps`` (of the environment, or
        generations), ``validation`` and ``reference`` (mean metric), ``score`` and more.
    """

    policy: BatchPolicy
    bundle: Path
    history: list[dict[str, float]]
