"""What an environment is: one dataclass, of which every registered environment is an instance."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from envs.checks import check_finite, check_flag, check_type, check_whole
from envs.own.parts import NamedFeature, feature_named
from envs.reward import RewardConfig
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.run.buffers import Sampling
from orchestrator.kernels.see.layout import Resizing, SizeChoice
from orchestrator.kernels.see.queue import Encoding
from orchestrator.kernels.state.codes import NODE_CHOICE, Placement, RuleKey, Scaling
from orchestrator.own.loading import part_name
from orchestrator.scheduling.rules import Rule, rule_named
from orchestrator.scheduling.schema import ActionLayout, FeatureSchema
from orchestrator.semantics import Semantics

__all__ = ["AUTOSCALING", "CLUSTER", "JOB_ORDERING", "PLACEMENT", "EnvConfig", "Illegal"]

_COUNTS = (
    "window",
    "episode_jobs",
    "episode_ticks",
    "services",
    "capacity_steps",
    "tenants",
    "racks",
    "victims",
    "elastics",
    "illegal_limit",
    "nodes",
)
# Sets that observations have room for: beyond this they fit into no memory.
_SETS = ("window", "victims", "elastics", "services", "capacity_steps", "tenants", "racks")
_MOST_SHOWN, _MOST_COUNT = 1 << 16, (1 << 31) - 1
_FLAGS = ("commitment", "backfill", "migrate", "fleet", "skip_forced", "choose_node", "turn_away")
_SECONDS = ("min_run_seconds", "ageing_seconds", "slowdown_bound_seconds", "resize_lock_seconds")
_STEPS_EACH = 100  # per job, or tick


class Illegal(IntEnum):
    """What becomes of an action that is not legal; it is counted and reported in any case."""

    NOOP = 0
    """Nothing: the same decision is asked for again."""
    PENALTY = 1
    """Nothing, and the step's reward is ``-illegal_penalty``."""
    FALLBACK = 2
    """Another action is carried out: the advised one, or else the first that is legal."""
    RAISE = 3
    """``IllegalActionError``."""


@dataclass(frozen=True)
class EnvConfig(Semantics):
    """Rules, observation, episodes and reward of an environment.

    The rules are those of :class:`orchestrator.semantics.Semantics`, whose fields come first.
    Enumerations may be given by name.

    Parameters
    ----------
    commitment, backfill, preemption_limit, min_run_seconds, migrate, ...
        See :class:`orchestrator.semantics.Semantics`. ``resize`` follows from ``elastics``, and
        sessions take ``quota_mode`` from their scenario.
    window : int
        Queued jobs that a policy sees, Q.
    window_order : RuleKey
        Which ones: the first under this key.
    placements : tuple of Placement
        Generators of the K candidates (without commitment).
    victims : int
        Running jobs that may be preempted or, with ``migrate``, moved, V.
    elastics : int
        Running elastic jobs that may be resized, E.
    resizing : Resizing
        By how much: step by step, or to one of a few sizes at once.
    services : int
        Services whose replicas may be changed, one at a time, S: as many as the scenario has.
    capacity_steps : int
        Most nodes that may be ordered or given up in one action; 0: the fleet is not changed by
        the policy.
    autoscale : Scaling
        How nodes and replicas are changed without asking the policy.
    tenants, racks : int
        Tenants and racks that are described.
    fleet : bool
        Whether the global vector also tells the time of day, what is on order, cost and more.
    advice : str or None
        A rule whose choice is marked among the actions: a policy that follows it starts at that
        rule's level.
    episode_jobs : int
        Jobs of an episode; 0: it has services only.
    episode_ticks : int
        Length of an episode without jobs, in ticks of the services.
    encoding : Encoding
        Features of a queued job.
    skip_forced : bool
        With commitment: take the only queued job without asking.
    step_limit : int or None
        Steps after which an episode is truncated; 0: never. None: 100 for each job of an episode
        or, without jobs, for each tick, which only a policy meets that preempts or moves jobs for
        ever; with commitment, where each step places a job, there is no need of one.
    illegal_limit : int
        Illegal actions after which an episode is truncated, since none of them lets time pass: a
        policy that chooses nothing else would never see an end. 0: never.
    illegal : Illegal
        What becomes of an illegal action: ``noop``, ``penalty``, ``fallback`` or ``raise``.
    illegal_penalty : float
        With ``penalty``: what such a step costs. It comes on top of what ``reward`` charges for.
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
        Or a mapping: its fields by name, or just the weights of its terms.
    features : tuple of str
        One's own features (:class:`envs.own.parts.Feature`), as ``package.module:Name``, or the
        classes themselves, which are kept as their names. Each becomes the last column of its set.
    """

    subject: ClassVar[str] = "environment"

    # Rules of which an environment's defaults are not a live cluster's.
    commitment: bool = True
    preemption_limit: int = 0
    min_run_costs: int = 0
    resize: bool = False
    migrate: bool = False

    window: int = 128
    window_order: RuleKey = RuleKey.FCFS
    placements: tuple[Placement, ...] = (Placement.FIRST_FIT,)
    victims: int = 0
    elastics: int = 0
    services: int = 0
    capacity_steps: int = 0
    autoscale: Scaling = Scaling.NONE
    tenants: int = 0
    racks: int = 0
    fleet: bool = False
    advice: str | None = None
    episode_jobs: int = 256
    episode_ticks: int = 0
    encoding: Encoding = Encoding.DEFAULT
    skip_forced: bool = False
    step_limit: int | None = None
    illegal_limit: int = 1000
    illegal: Illegal = Illegal.NOOP
    illegal_penalty: float = 1.0
    choose_node: bool = False
    nodes: int = 0
    turn_away: bool = False
    sampling: Sampling = Sampling.RANDOM
    resizing: Resizing = Resizing.STEPS
    reward: RewardConfig = field(default_factory=RewardConfig)
    features: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Reject what makes no sense."""
        self._check_types()
        super().__post_init__()
        object.__setattr__(self, "reward", RewardConfig.of(self.reward))
        if self.advice is not None:
            rule_named(self.advice)
        if not self.placements:
            raise ConfigurationError("environment: 'placements' is empty; name at least one")
        object.__setattr__(self, "resize", self.elastics > 0)
        self._check_heads()
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
        if self.fleet and self.encoding == Encoding.PLACEMENT:
            raise ConfigurationError(
                "environment: 'fleet' is not described in the placement encoding; set it to false, "
                "or take another 'encoding'"
            )
        if self.backfill and not self.commitment:
            raise ConfigurationError("environment: 'backfill' needs 'commitment'")
        if self.encoding == Encoding.PUBLISHED and not self.commitment:
            raise ConfigurationError("environment: the published encoding needs 'commitment'")
        self._check_features()

    def _check_features(self) -> None:
        """Keep one's own features by name, and refuse what is none, or has no place here."""
        if isinstance(self.features, str) or not isinstance(self.features, Iterable):
            raise ConfigurationError(
                f"environment: 'features' is {self.features!r}; give a tuple of names, "
                "package.module:Name"
            )
        names = tuple(part_name(feature, "feature") for feature in self.features)
        object.__setattr__(self, "features", names)
        bare = replace(self, features=()).schema if names else None
        taken = set[tuple[str, str]]()
        for feature in self.own_features:
            known = getattr(bare, "globals" if feature.of == "global" else feature.of)
            if not known:
                raise ConfigurationError(
                    f"feature '{feature.source}': it describes '{feature.of}', which this "
                    "environment does not show; choose another set, or switch that one on"
                )
            if feature.name in known or (feature.of, feature.name) in taken:
                raise ConfigurationError(
                    f"feature '{feature.source}': '{feature.of}' has a '{feature.name}' already; "
                    "give it another 'name'"
                )
            taken.add((feature.of, feature.name))

    def _check_types(self) -> None:
        """Reject fields of other types than theirs."""
        for name in _FLAGS:
            check_flag(f"environment: '{name}'", getattr(self, name))
            object.__setattr__(self, name, bool(getattr(self, name)))
        for name in _COUNTS:
            most = _MOST_SHOWN if name in _SETS else _MOST_COUNT
            number = check_whole(f"environment: '{name}'", getattr(self, name), 0, most)
            object.__setattr__(self, name, number)  # NumPy's small ones would overflow
        if self.step_limit is not None:
            limit = check_whole("environment: 'step_limit'", self.step_limit, 0, _MOST_COUNT)
            object.__setattr__(self, "step_limit", limit)
        penalty = check_finite("environment: 'illegal_penalty'", self.illegal_penalty, 0)
        object.__setattr__(self, "illegal_penalty", penalty)
        for name in _SECONDS:
            if name == "resize_lock_seconds" and getattr(self, name) is None:
                continue
            seconds = check_finite(f"environment: '{name}'", getattr(self, name))
            object.__setattr__(self, name, seconds)
        if isinstance(self.placements, str) or not isinstance(self.placements, Iterable):
            raise ConfigurationError(
                f"environment: 'placements' is {self.placements!r}; give a tuple of them"
            )
        if self.advice is not None:
            check_type("environment: 'advice'", self.advice, str, "the name of a rule, or None")

    @property
    def own_features(self) -> tuple[NamedFeature, ...]:
        """One's own features, found by their names."""
        return tuple(feature_named(name) for name in self.features)

    @property
    def shows_surroundings(self) -> bool:
        """Whether fleet, tenants or racks are described, or the tenants of jobs."""
        return self.fleet or self.tenants > 0 or self.racks > 0 or self.encoding == Encoding.FULL

    @property
    def length(self) -> int:
        """Jobs of an episode or, without jobs, ticks."""
        return self.episode_jobs or self.episode_ticks

    @property
    def most_steps(self) -> int:
        """Steps after which an episode is truncated; 0: never."""
        if self.step_limit is not None:
            return self.step_limit
        return 0 if self.commitment else min(_STEPS_EACH * self.length, _MOST_COUNT)

    def of_length(self, length: int) -> EnvConfig:
        """The same with longer or shorter episodes, jobs or ticks."""
        if self.episode_jobs == 0:
            return replace(self, episode_ticks=length)
        return replace(self, episode_jobs=length)

    def _check_heads(self) -> None:
        """Reject heads that contradict each other."""
        scales = self.services > 0 or self.capacity_steps > 0 or self.autoscale != Scaling.NONE
        if self.commitment and (len(self.placements) > 1 or self.victims > 0 or self.elastics > 0):
            raise ConfigurationError(
                "environment: 'commitment' leaves no choice of placement, no preemption and no "
                "resizing; give one placement, no victims and no elastics, or turn it off"
            )
        if self.commitment and (scales or self.tenants > 0 or self.racks > 0 or self.fleet):
            raise ConfigurationError(
                "environment: 'commitment' knows no services, no changing fleet and no sets of "
                "tenants and racks; turn it off, or leave them out"
            )
        if self.autoscale != Scaling.NONE and (self.services > 0 or self.capacity_steps > 0):
            raise ConfigurationError(
                "environment: 'autoscale' changes nodes and replicas without asking; set "
                "'services' and 'capacity_steps' to 0, or 'autoscale' to none"
            )
        if (self.episode_jobs == 0) != (self.episode_ticks > 0):
            raise ConfigurationError(
                "environment: an episode without jobs ('episode_jobs' 0) lasts for "
                "'episode_ticks', and no other does; give one of them"
            )
        if self.window == 0 and (self.episode_jobs > 0 or self.commitment):
            raise ConfigurationError(
                "environment: 'window' is 0, and somebody has to place the jobs; show at least one"
            )
        if self.window == 0 and self.window_order != RuleKey.FCFS:
            raise ConfigurationError("environment: without a 'window', 'window_order' is fcfs")

    @property
    def schema(self) -> FeatureSchema:
        """Features and actions of this environment."""
        layout = ActionLayout(
            self.window,
            max(self.nodes, 1) if self.choose_node else len(self.placements),
            self.victims,
            self.elastics,
            self.migrate,
            self.capacity_steps,
            self.services,
            can_wait=not self.commitment,
            choose_node=self.choose_node,
            sizes=len(SizeChoice) if self.resizing == Resizing.SIZES and self.elastics > 0 else 0,
        )
        own = tuple((feature.of, feature.name) for feature in self.own_features)
        return FeatureSchema(
            self.encoding, layout, self.advice, self.fleet, self.tenants, self.racks, own
        )

    @property
    def generators(self) -> NDArray[np.int32]:
        """What proposes each of the K candidates, as kernels take it."""
        if self.choose_node:
            return np.arange(NODE_CHOICE, NODE_CHOICE + max(self.nodes, 1), dtype=np.int32)
        return np.array(self.placements, np.int32)

    @property
    def generated_by(self) -> tuple[Placement, ...]:
        """All that this environment places by; choosing nodes measures fragmentation, too."""
        chosen = (Placement.FGD,) if self.choose_node else ()
        return (*self.placements, *(rule.placement for rule in self.rules), *chosen)

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules that this environment asks by itself: for its reward, and for advice."""
        return self.reward.reference_rule, rule_named(self.advice or "fcfs")

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

AUTOSCALING = EnvConfig(
    commitment=False,
    window=0,
    services=4,
    capacity_steps=2,
    fleet=True,
    episode_jobs=0,
    episode_ticks=240,
    encoding=Encoding.CLUSTER,
    reward=RewardConfig(terms={"node_cost": 1.0, "service_violations": 0.01}),
)
"""Order nodes or give them up, and change the number of services' replicas, tick by tick."""

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
