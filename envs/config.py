"""What an environment is: one dataclass, of which every registered environment is an instance."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.reward import RewardConfig
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.codes import NODE_CHOICE, Information, Placement, RuleKey
from orchestrator.kernels.features import Encoding
from orchestrator.kernels.session import Sampling
from orchestrator.scheduler.rules import rule_named
from orchestrator.scheduler.schema import ActionLayout, FeatureSchema

__all__ = ["CLUSTER", "JOB_ORDERING", "PLACEMENT", "EnvConfig"]

_KINDS: Mapping[str, type[IntEnum]] = {
    "window_order": RuleKey,
    "information": Information,
    "encoding": Encoding,
    "sampling": Sampling,
}
_LEAST = {
    "window": 1,
    "episode_jobs": 1,
    "victims": 0,
    "elastics": 0,
    "preemption_limit": 0,
    "step_limit": 0,
    "nodes": 0,
}


def _member(kind: type[IntEnum], field: str, value: Any) -> IntEnum:
    """A member of an enumeration from itself, its value or its name."""
    try:
        return kind[value.upper()] if isinstance(value, str) else kind(value)
    except (KeyError, ValueError):
        known = ", ".join(member.name.lower() for member in kind)
        raise ConfigurationError(
            f"environment: '{field}' is {value!r}; choose from {known}"
        ) from None


@dataclass(frozen=True)
class EnvConfig:
    """Semantics, observation and reward of an environment.

    Enumerations may be given by name.

    Parameters
    ----------
    commitment : bool
        A chosen job is waited for until it fits (RLScheduler's semantics); there is no *wait*
        action, and jobs are placed first fit. Otherwise a job is placed by a chosen candidate
        or the policy waits.
    backfill : bool
        EASY backfilling around the job that is waited for.
    window : int
        Queued jobs that a policy sees, Q.
    window_order : RuleKey
        Which ones: the first under this key.
    placements : tuple of Placement
        Generators of the K candidates (without commitment).
    victims : int
        Running jobs that may be preempted, V.
    preemption_limit : int
        Preemptions per decision point.
    min_run_seconds : float
        A job may not be preempted, resized or moved before it has run so long.
    elastics : int
        Running elastic jobs that may be resized, E.
    migrate : bool
        Whether the V jobs may also be moved to a better place.
    advice : str or None
        A rule whose choice is marked among the actions: a policy that follows it starts at that
        rule's level.
    ageing_seconds : float
        Waiting time that is worth one priority class, for rules by priority; 0: none.
    episode_jobs : int
        Jobs of an episode.
    information : Information
        What rules and policies may know of run times.
    encoding : Encoding
        Features of a queued job.
    skip_forced : bool
        With commitment: take the only queued job without asking.
    step_limit : int
        Steps after which an episode is truncated; 0: never.
    choose_node : bool
        The K candidates are the nodes of the cluster: all of a job's workers go to the chosen
        one. ``placements`` then serves rules only.
    nodes : int
        With ``choose_node``, K. Sessions and tasks set it from their trace, see
        :meth:`for_nodes`.
    turn_away : bool
        Every event is decided by itself, and a job that is not placed at its decision point (it
        does not fit, or the policy waits) fails: nobody queues.
    sampling : Sampling
        How episodes pick their window.
    reward : RewardConfig
    """

    commitment: bool = True
    backfill: bool = False
    window: int = 128
    window_order: RuleKey = RuleKey.FCFS
    placements: tuple[Placement, ...] = (Placement.FIRST_FIT,)
    victims: int = 0
    preemption_limit: int = 0
    min_run_seconds: float = 0.0
    elastics: int = 0
    migrate: bool = False
    advice: str | None = None
    ageing_seconds: float = 0.0
    episode_jobs: int = 256
    information: Information = Information.ESTIMATE
    encoding: Encoding = Encoding.DEFAULT
    skip_forced: bool = False
    step_limit: int = 0
    choose_node: bool = False
    nodes: int = 0
    turn_away: bool = False
    sampling: Sampling = Sampling.RANDOM
    reward: RewardConfig = field(default_factory=RewardConfig)

    def __post_init__(self) -> None:
        """Reject what makes no sense."""
        for name, kind in _KINDS.items():
            object.__setattr__(self, name, _member(kind, name, getattr(self, name)))
        placements = tuple(_member(Placement, "placements", item) for item in self.placements)
        object.__setattr__(self, "placements", placements)
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
                raise ConfigurationError(
                    f"environment: '{name}' is {value!r}; give an integer of at least {least}"
                )
        for name in ("min_run_seconds", "ageing_seconds"):
            seconds = getattr(self, name)
            if not (math.isfinite(seconds) and seconds >= 0):
                raise ConfigurationError(f"environment: '{name}' is {seconds}; at least 0")
        if not isinstance(self.reward, RewardConfig):
            raise ConfigurationError(
                f"environment: 'reward' is {self.reward!r}; give a RewardConfig"
            )
        if self.advice is not None:
            rule_named(self.advice)
        if not self.placements:
            raise ConfigurationError("environment: 'placements' is empty; name at least one")
        if self.commitment and (len(self.placements) > 1 or self.victims > 0 or self.elastics > 0):
            raise ConfigurationError(
                "environment: 'commitment' leaves no choice of placement, no preemption and no "
                "resizing; give one placement, no victims and no elastics, or turn it off"
            )
        if self.migrate and self.victims == 0:
            raise ConfigurationError("environment: 'migrate' needs 'victims': it moves them")
        if self.commitment and (self.choose_node or self.turn_away):
            raise ConfigurationError(
                "environment: 'choose_node' and 'turn_away' contradict 'commitment'; turn it off"
            )
        if self.choose_node and self.migrate:
            raise ConfigurationError("environment: 'migrate' has no candidates to choose nodes by")
        if self.turn_away and self.victims > 0:
            raise ConfigurationError(
                "environment: with 'turn_away' preempted jobs would fail; set 'victims' to 0"
            )
        if self.backfill and not self.commitment:
            raise ConfigurationError("environment: 'backfill' needs 'commitment'")
        if self.encoding == Encoding.PUBLISHED and not self.commitment:
            raise ConfigurationError("environment: the published encoding needs 'commitment'")

    @property
    def schema(self) -> FeatureSchema:
        """Features and actions of this environment."""
        layout = ActionLayout(
            self.window,
            max(self.nodes, 1) if self.choose_node else len(self.placements),
            self.victims,
            self.elastics,
            self.migrate,
            can_wait=not self.commitment,
            choose_node=self.choose_node,
        )
        return FeatureSchema(self.encoding, layout, self.advice)

    @property
    def generators(self) -> NDArray[np.int32]:
        """What proposes each of the K candidates, as kernels take it."""
        if self.choose_node:
            return np.arange(NODE_CHOICE, NODE_CHOICE + max(self.nodes, 1), dtype=np.int32)
        return np.array(self.placements, np.int32)

    def for_nodes(self, nodes: int) -> EnvConfig:
        """The same environment on a cluster of so many nodes."""
        return replace(self, nodes=nodes) if self.choose_node else self


JOB_ORDERING = EnvConfig()
"""Choose one of up to 128 queued jobs: RLScheduler's problem."""

CLUSTER = EnvConfig(
    commitment=False,
    window=32,
    placements=(Placement.BEST_FIT, Placement.FIRST_FIT, Placement.SPREAD, Placement.RANDOM),
    victims=16,
    preemption_limit=4,
    min_run_seconds=60.0,
    encoding=Encoding.CLUSTER,
    reward=RewardConfig(terms={"completion_time": 1.0}),
)
"""Place a queued job by one of four candidates, preempt a running job, or wait."""

PLACEMENT = EnvConfig(
    commitment=False,
    window=1,
    placements=(Placement.FGD,),
    choose_node=True,
    turn_away=True,
    episode_jobs=72,
    encoding=Encoding.PLACEMENT,
    reward=RewardConfig(terms={"allocation": 1.0}),
)
"""Choose a node for one pod after the other; nobody queues."""
