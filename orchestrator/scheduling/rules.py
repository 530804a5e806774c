"""Rules by name, from YAML, as policies, and as the scheduler's components.

    name: packing
    sort: sjf
    filters: [resources, topology, bandwidth]
    score: {fgd: 1}
    preemption: none

The words are those of the Kubernetes scheduling framework. A profile becomes a :class:`Rule`, which
kernels carry out; it holds no code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from orchestrator.engine.plans import no_preference
from orchestrator.engine.snapshot import JobView, Snapshot
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.decide.rules import RULE_DTYPE
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.run.cycle import OPEN_PLACE, play_rule, rank_queue
from orchestrator.kernels.state.codes import (
    ActionKind,
    Elasticity,
    Placement,
    Preemption,
    RuleKey,
    Scaling,
    Topology,
)
from orchestrator.kernels.state.row import ClusterState
from orchestrator.messages import Action, PlaceJob, Plan, PreemptJob
from orchestrator.own.loading import is_part_name, load_part
from orchestrator.ports import Policy
from orchestrator.semantics import enum_member
from orchestrator.types import JobSpec

__all__ = [
    "FILTERS",
    "RULES",
    "BinPacker",
    "FairShareScheduler",
    "GangScheduler",
    "PlacesByRule",
    "PriorityQueue",
    "Rule",
    "RulePolicy",
    "Scheduler",
    "TopologyAwareScheduler",
    "parse_profile",
    "placing_rule",
    "policy_of",
    "read_profile",
    "rule_named",
]


@dataclass(frozen=True)
class Rule:
    """A scheduling rule.

    Parameters
    ----------
    name : str
        For tables and configs.
    key : RuleKey
        Waiting jobs are served by ascending score under this key.
    placement : Placement
        How a gang is placed. Best fit, the default, leaves it to ``topology_aware`` jobs of a live
        cluster to be kept close together.
    preemption : Preemption
        Whom it preempts.
    blocking : bool
        Whether the first job of the queue holds up all others when it does not fit.
    reservation : bool
        Whether room is kept for the first job that does not fit: others may start only if they do
        not delay it, by what is expected of run times (EASY backfilling; Lifka, JSSPP 1995), or
        could be preempted for it. Not for rules that preempt by score.
    scaling : Scaling
        How it changes nodes and replicas, where the environment leaves that to policies.
    elastic : Elasticity
        How running elastic jobs are lent what nobody else uses, and give it back.
    """

    name: str
    key: RuleKey
    placement: Placement = Placement.BEST_FIT
    preemption: Preemption = Preemption.NONE
    blocking: bool = False
    elastic: Elasticity = Elasticity.NONE
    scaling: Scaling = Scaling.NONE
    reservation: bool = False

    @property
    def reads_accounts(self) -> bool:
        """Whether it needs to know what tenants hold: without accounts it is another rule."""
        return self.key == RuleKey.DRF or self.preemption == Preemption.RECLAIM

    def to_record(self) -> NDArray[np.void]:
        """The rule as kernels take it: an array of one RULE_DTYPE record."""
        record = np.zeros(1, RULE_DTYPE)
        record["key"] = self.key
        record["placement"] = self.placement
        record["preemption"] = self.preemption
        record["blocking"] = self.blocking
        record["reservation"] = self.reservation
        record["elastic"] = self.elastic
        record["scaling"] = self.scaling
        return record


RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule("fcfs", RuleKey.FCFS),
        Rule("fifo", RuleKey.FCFS, blocking=True),
        Rule("sjf", RuleKey.SJF),
        Rule("srtf", RuleKey.SRTF, preemption=Preemption.SCORE),
        Rule("srsf", RuleKey.SRSF, preemption=Preemption.SCORE),
        Rule("priority", RuleKey.PRIORITY, preemption=Preemption.PRIORITY, reservation=True),
        Rule("reclaim", RuleKey.PRIORITY, preemption=Preemption.RECLAIM, reservation=True),
        Rule("elastic_fcfs", RuleKey.FCFS, elastic=Elasticity.IDLE),
        Rule(
            "elastic_srtf",
            RuleKey.SRTF,
            Placement.BEST_FIT,
            Preemption.SCORE,
            elastic=Elasticity.IDLE,
        ),
        Rule("elastic_srsf", RuleKey.SRSF, preemption=Preemption.SCORE, elastic=Elasticity.IDLE),
        Rule(
            "shortest_srsf", RuleKey.SRSF, preemption=Preemption.SCORE, elastic=Elasticity.SHORTEST
        ),
        Rule("keep_srsf", RuleKey.SRSF, preemption=Preemption.SCORE, elastic=Elasticity.KEEP),
        Rule("fill_srsf", RuleKey.SRSF, preemption=Preemption.SCORE, elastic=Elasticity.FILL),
        Rule("las", RuleKey.LAS, preemption=Preemption.SCORE),
        Rule("tiresias", RuleKey.TIRESIAS, preemption=Preemption.SCORE),
        Rule("gittins", RuleKey.GITTINS, preemption=Preemption.SCORE),
        Rule("qssf", RuleKey.QSSF),
        Rule("drf", RuleKey.DRF, reservation=True),
        Rule("f1", RuleKey.F1),
        Rule("wfp3", RuleKey.WFP3),
        Rule("unicep", RuleKey.UNICEP),
        Rule("wfp3_compat", RuleKey.WFP3_COMPAT),
        Rule("unicep_compat", RuleKey.UNICEP_COMPAT),
        Rule("largest", RuleKey.LARGEST),
        Rule("random", RuleKey.RANDOM, Placement.RANDOM),
        Rule("fgd", RuleKey.FCFS, Placement.FGD),
    )
}
"""The rules by name. ``fcfs`` lets later jobs overtake a first one that does not fit; ``fifo`` not.

Those by class and by share keep room for it: who is entitled to capacity is not overtaken for ever
by what is smaller.

``fgd`` needs typical pods: environments that name it (or its placement) load their trace's.

The ``_compat`` rules reproduce a quirk of published numbers and serve the golden tests.
"""


_SCALING = {"reactive": Scaling.REACTIVE, "predictive": Scaling.PREDICTIVE}


def rule_named(name: str) -> Rule:
    """Look a rule up.

    Parameters
    ----------
    name : str
        One of :data:`RULES`, or one's own as ``package.module:NAME``: a :class:`Rule`, or a
        function that makes one. Followed by ``+reactive`` or ``+predictive``, it is a rule that
        scales the fleet and the services as well.

    Raises
    ------
    ConfigurationError
        If there is none of that name.
    """
    base, plus, scaling = name.partition("+")
    if base not in RULES and not is_part_name(base):
        raise ConfigurationError(
            f"unknown rule '{base}'; known: {', '.join(RULES)}, and one's own as "
            "package.module:NAME"
        )
    found = RULES[base] if base in RULES else _own_rule(base)
    if not plus:
        return found
    if scaling not in _SCALING:
        raise ConfigurationError(
            f"rule '{name}': unknown scaling '{scaling}'; known: {', '.join(_SCALING)}"
        )
    return replace(found, name=f"{found.name}+{scaling}", scaling=_SCALING[scaling])


def _own_rule(name: str) -> Rule:
    """Somebody's own rule, or what makes it."""
    found = load_part(name, "rule")
    if callable(found) and not hasattr(found, "decide"):
        found = found()
    if not isinstance(found, Rule):
        raise ConfigurationError(
            f"rule '{name}': is {found!r}; give a Rule, or a function without arguments that makes "
            "one (a class with 'decide' is a policy: rules are data, which kernels carry out)"
        )
    return found


FILTERS = ("resources", "gpu_model", "gpu_memory", "topology", "bandwidth")
"""What every placement is checked for, whether a profile lists it or not."""


_PREEMPTION = {
    "none": Preemption.NONE,
    "higher_score": Preemption.SCORE,
    "priority": Preemption.PRIORITY,
    "reclaim": Preemption.RECLAIM,
}


_FIELDS = (
    "name",
    "sort",
    "filters",
    "score",
    "preemption",
    "strict_order",
    "reservation",
    "elastic",
)


def read_profile(path: str | Path) -> Rule:
    """Read a policy from a YAML file.

    Raises
    ------
    ConfigurationError
        Naming the file, the field and what to do.
    """
    import yaml

    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: is not YAML: {error}") from None
    return parse_profile(content, str(path))


def parse_profile(content: Any, source: str = "profile") -> Rule:
    """Make a rule of a policy's plain values.

    Parameters
    ----------
    content : mapping
        ``name``; ``sort``, a :class:`RuleKey`; ``score``, one :class:`Placement` by name or as a
        mapping with a weight; optionally ``filters``, some of :data:`FILTERS`; ``preemption``,
        ``none``, ``higher_score``, ``priority`` or ``reclaim``; ``strict_order``, whether the first
        job of the queue holds up all others; ``reservation``, whether nobody delays the first one
        that does not fit (not with ``higher_score``); ``elastic``, an :class:`Elasticity`: how
        running elastic jobs are lent what nobody else uses.
    source : str, optional
        For messages.

    Returns
    -------
    Rule

    Raises
    ------
    ConfigurationError
        Naming the field, its value and what is allowed.
    """
    if not isinstance(content, Mapping):
        raise ConfigurationError(f"{source}: is no mapping; give the fields {', '.join(_FIELDS)}")
    for field in content:
        if field not in _FIELDS:
            known = ", ".join(_FIELDS)
            raise ConfigurationError(f"{source}: unknown field '{field}'; known: {known}")
    for field in ("name", "sort"):
        if field not in content:
            raise ConfigurationError(f"{source}: field '{field}' is missing")
    name = content["name"]
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f"{source}: 'name' is {name!r}; give a text")
    _check_filters(source, content.get("filters", ()))
    preemption = content.get("preemption", "none")
    if preemption not in _PREEMPTION:
        known = ", ".join(_PREEMPTION)
        raise ConfigurationError(f"{source}: 'preemption' is {preemption!r}; choose from {known}")
    for field in ("strict_order", "reservation"):
        switch = content.get(field, False)
        if not isinstance(switch, bool):
            raise ConfigurationError(f"{source}: '{field}' is {switch!r}; give true or false")
    if content.get("reservation") and preemption == "higher_score":
        raise ConfigurationError(
            f"{source}: 'reservation' is true, but rules that preempt by score keep no room; leave "
            "it out, or choose another 'preemption'"
        )
    return Rule(
        name,
        enum_member(RuleKey, source, "sort", str(content["sort"])),
        _placement(source, content.get("score", "best_fit")),
        preemption=_PREEMPTION[preemption],
        blocking=content.get("strict_order", False),
        reservation=content.get("reservation", False),
        elastic=_elasticity(source, content.get("elastic", "none")),
    )


def _elasticity(source: str, value: Any) -> Elasticity:
    """How a profile lends; once it said only whether, which is not enough."""
    if isinstance(value, bool):
        name = "idle" if value else "none"
        raise ConfigurationError(f"{source}: 'elastic' is {value!r}; say how: {name} as before")
    return enum_member(Elasticity, source, "elastic", str(value))


def _check_filters(source: str, filters: Any) -> None:
    if isinstance(filters, str) or not hasattr(filters, "__iter__"):
        raise ConfigurationError(f"{source}: 'filters' is {filters!r}; give a list")
    for item in filters:
        if item not in FILTERS:
            known = ", ".join(FILTERS)
            raise ConfigurationError(f"{source}: unknown filter {item!r}; known: {known}")


def _placement(source: str, score: Any) -> Placement:
    """The one generator that a profile scores nodes by."""
    if isinstance(score, Mapping):
        for name, weight in score.items():
            if isinstance(weight, bool) or not isinstance(weight, int | float) or weight < 0:
                raise ConfigurationError(
                    f"{source}: 'score' weighs {name} by {weight!r}; give a number from 0 on"
                )
        used = [name for name, weight in score.items() if weight > 0]
        if len(used) != 1:
            raise ConfigurationError(
                f"{source}: 'score' gives {len(used)} placements a weight above 0; scores are not "
                "mixed: give exactly one"
            )
        score = used[0]
    return enum_member(Placement, source, "score", str(score))


_PACKING = (
    Placement.FIRST_FIT,
    Placement.BEST_FIT,
    Placement.BEST_FIT_FGD,
    Placement.DOT_PRODUCT,
    Placement.GPU_PACKING,
    Placement.GPU_CLUSTERING,
    Placement.FGD,
    Placement.BUDDY,
)


@dataclass(frozen=True)
class BinPacker:
    """Packs workloads onto few nodes, so that large ones still find room.

    Parameters
    ----------
    strategy : Placement, optional
        A generator that packs: not one that spreads or draws lots.
    """

    strategy: Placement = Placement.BEST_FIT

    def __post_init__(self) -> None:
        """Reject strategies that do not pack."""
        if self.strategy not in _PACKING:
            known = ", ".join(placement.name.lower() for placement in _PACKING)
            raise ConfigurationError(
                f"BinPacker: 'strategy' is {Placement(self.strategy).name.lower()}, which does "
                f"not pack; choose from {known}"
            )

    def configure(self, rule: Rule) -> Rule:
        """The rule, placing by this strategy."""
        return replace(rule, placement=self.strategy)


def _in_order(snapshot: Snapshot, key: RuleKey) -> tuple[JobView, ...]:
    """Waiting jobs by ascending score under a key; ties in submit order."""
    rows, jobs = snapshot.state.rows, snapshot.state.queue[0]["job"]
    waiting = snapshot.waiting()
    scores = [entry.job_score(rows, 0, int(jobs[q]), int(key)) for q in range(len(waiting))]
    return tuple(waiting[q] for q in np.argsort(scores, kind="stable"))


@dataclass(frozen=True)
class PriorityQueue:
    """Serves waiting jobs by priority class, and within a class in submit order (Borg).

    Parameters
    ----------
    preemption : Preemption, optional
        Whom a waiting job may preempt: ``PRIORITY`` (jobs of lower classes), ``RECLAIM`` (those
        that borrow beyond their tenant's quota as well) or ``NONE``.
    """

    preemption: Preemption = Preemption.PRIORITY

    def __post_init__(self) -> None:
        """Reject preemption that does not go by class."""
        if self.preemption == Preemption.SCORE:
            raise ConfigurationError(
                "PriorityQueue: 'preemption' by score knows no classes; choose priority, reclaim "
                "or none"
            )

    def configure(self, rule: Rule) -> Rule:
        """The rule, in this order and with this preemption."""
        return replace(rule, key=RuleKey.PRIORITY, preemption=self.preemption)

    def order(self, snapshot: Snapshot) -> tuple[JobView, ...]:
        """Waiting jobs in the order in which they are served; ageing counts."""
        return _in_order(snapshot, RuleKey.PRIORITY)


@dataclass(frozen=True)
class FairShareScheduler:
    """Serves first whose tenant holds least: weighted dominant shares (Ghodsi et al., NSDI 2011).

    Parameters
    ----------
    preemption : Preemption, optional
        ``NONE``, or ``RECLAIM``: whoever waits within its quota is served before whoever does
        not, and takes back what others borrow.
    """

    preemption: Preemption = Preemption.NONE

    def __post_init__(self) -> None:
        """Reject preemption that does not go by shares."""
        if self.preemption not in (Preemption.NONE, Preemption.RECLAIM):
            raise ConfigurationError(
                f"FairShareScheduler: 'preemption' is {self.preemption.name.lower()}, which does "
                f"not go by shares; choose none or reclaim"
            )

    def configure(self, rule: Rule) -> Rule:
        """The rule, in this order and with this preemption."""
        return replace(rule, key=RuleKey.DRF, preemption=self.preemption)

    def order(self, snapshot: Snapshot) -> tuple[JobView, ...]:
        """Waiting jobs by their tenants' shares now; each placement changes the shares."""
        return _in_order(snapshot, RuleKey.DRF)


@dataclass(frozen=True)
class GangScheduler:
    """All workers of a job start together, or none does: every placement here is of that kind.

    Parameters
    ----------
    strict_order : bool, optional
        Whether a gang that does not fit holds up all behind it.
    reservation : bool, optional
        Whether room is kept for it, so that it is not starved by small jobs that do fit: they
        start if they do not delay it. Where jobs are preempted by score it is not.
    """

    strict_order: bool = False
    reservation: bool = True

    def configure(self, rule: Rule) -> Rule:
        """The rule, in strict order or not, with or without a reservation."""
        keeps = self.reservation and rule.preemption != Preemption.SCORE
        return replace(rule, blocking=self.strict_order, reservation=keeps)

    @staticmethod
    def whole(requests: NDArray[np.void]) -> NDArray[np.bool_]:
        """Which jobs start with all of their workers, bool [jobs]; elastic ones need not."""
        return np.asarray(
            (requests["elastic"] == 0) | (requests["min_workers"] >= requests["workers"])
        )


@dataclass(frozen=True)
class TopologyAwareScheduler:
    """Keeps gangs close together.

    Parameters
    ----------
    required : Topology, optional
        Domain within which every gang must stay that does not ask for a narrower one itself;
        ANY leaves it to the jobs.
    prefer_close : bool, optional
        Whether gangs go into the narrowest domain that holds them.
    """

    required: Topology = Topology.ANY
    prefer_close: bool = True

    def configure(self, rule: Rule) -> Rule:
        """The rule, placing gangs into tight domains if that is preferred."""
        return replace(rule, placement=Placement.TIGHTEST) if self.prefer_close else rule

    def admit(self, spec: JobSpec) -> JobSpec:
        """A job as it is submitted: with the required domain, if it is a gang with a wider one."""
        if spec.num_workers == 1 or spec.topology >= self.required:
            return spec
        return replace(spec, topology=self.required)

    def require(self, requests: NDArray[np.void]) -> NDArray[np.void]:
        """Copy requests, with the required domain on gangs that asked for a wider one."""
        bound: NDArray[Any] = requests.copy()
        gangs = bound["workers"] > 1
        bound["topology"][gangs] = np.maximum(bound["topology"][gangs], int(self.required))
        return bound


@dataclass(frozen=True)
class Scheduler:
    """The five components of scheduling, put together: the rule that they make is what runs.

    Parameters
    ----------
    queue : PriorityQueue or FairShareScheduler, optional
        Who is served first, and whom it preempts.
    packer : BinPacker, optional
        Which nodes workers get.
    gangs : GangScheduler, optional
        Whether a gang that does not fit holds up all others.
    topology : TopologyAwareScheduler, optional
        Whether all gangs are kept close together, and in which domain they must be. By default
        that is each job's own to say.
    name : str, optional
        Of the rule.
    """

    queue: PriorityQueue | FairShareScheduler = PriorityQueue()
    packer: BinPacker = BinPacker()
    gangs: GangScheduler = GangScheduler()
    topology: TopologyAwareScheduler = TopologyAwareScheduler(prefer_close=False)
    name: str = "priority"

    @property
    def rule(self) -> Rule:
        """What kernels carry out."""
        rule = self.packer.configure(Rule(self.name, RuleKey.FCFS))
        return self.topology.configure(self.gangs.configure(self.queue.configure(rule)))


_MOST_ACTIONS = 4096  # of a plan


class RulePolicy:
    """Asks the kernels what a rule does: one action at a time, or a whole cycle in one call.

    Parameters
    ----------
    rule : Rule
        The rule.
    topology : TopologyAwareScheduler or None, optional
        The domain in which gangs that are submitted must be; None: each job's own.
    """

    def __init__(self, rule: Rule, topology: TopologyAwareScheduler | None = None) -> None:
        self.rule = rule
        self._topology = topology or TopologyAwareScheduler()
        self._record = rule.to_record()

    def admit(self, spec: JobSpec) -> JobSpec:
        """A job as it is submitted while this policy is in charge."""
        return self._topology.admit(spec)

    def decide(self, snapshot: Snapshot) -> Plan:
        """What the rule does at this decision point."""
        state = snapshot.state
        scratch = np.empty(max(state.shape.jobs, state.shape.workers), np.int32)
        kind, j, value = entry.rule_action(state.rows, 0, self._record, scratch)
        if kind == ActionKind.PLACE and value == Placement.BEST_FIT:
            # It has no wishes of its own, unless the job's own would take room kept for another.
            wish = snapshot.preferred_place(j)
            value = OPEN_PLACE
            if wish != Placement.BEST_FIT and self.rule.reservation:
                record = self._record.copy()
                record["placement"] = wish
                if entry.rule_action(state.rows, 0, record, scratch)[:2] != (kind, j):
                    value = int(Placement.BEST_FIT)
        return Plan((self._action(snapshot, kind, j, value),))

    def plan(self, snapshot: Snapshot) -> Plan:
        """What the rule does from this decision point on, until it waits.

        What :meth:`decide` would say again and again, found by playing it on the snapshot's state.
        """
        state = snapshot.state
        if state.rows[0]["commitment"] or type(self).decide is not RulePolicy.decide:
            return self.decide(snapshot)  # one after the other, or as a subclass has it
        preference = snapshot.prefer or no_preference(state.shape)
        actions = np.empty((_MOST_ACTIONS, 3), np.int64)
        rules, desk = np.concatenate([self._record, self._record]), preference.desk(state.shape)
        count = play_rule(state.rows, 0, rules, self._order(state), actions, desk)
        found: list[Action] = []
        for kind, j, value in actions[:count].tolist():
            found.append(self._action(snapshot, kind, j, value))
        return Plan(tuple(found))

    def _order(self, state: ClusterState) -> NDArray[np.int64]:
        """Waiting jobs in the order in which the rule serves them, as far as that is settled."""
        jobs = state.queue[0, : int(state.rows[0]["queue_len"])]["job"].copy()  # it is played on
        if self.rule.preemption != Preemption.NONE:
            return jobs  # it is lined up as it is played
        tiers, scores = np.empty((2, len(jobs)))
        if rank_queue(state.rows, 0, self._record, tiers, scores):
            return jobs
        return jobs[np.lexsort((scores, tiers))]

    def _action(self, snapshot: Snapshot, kind: int, j: int, value: int) -> Action:
        """An action as kernels put it."""
        if kind == ActionKind.PLACE:
            chosen = None if value == OPEN_PLACE else Placement(value)
            return PlaceJob(snapshot.job_ids[j], chosen)
        if kind == ActionKind.PREEMPT:
            said = f"rule '{self.rule.name}' makes room for another job"
            return PreemptJob(snapshot.job_ids[j], said)
        return snapshot.action(kind, j, value)


@runtime_checkable
class PlacesByRule(Protocol):
    """A policy that leaves its decisions to a rule, for now."""

    @property
    def placing_rule(self) -> Rule | None:
        """Which one; None: to none."""


def placing_rule(policy: Policy) -> Rule | None:
    """The rule by which a policy places jobs now; None: it is known of none."""
    if isinstance(policy, RulePolicy):
        return policy.rule
    return policy.placing_rule if isinstance(policy, PlacesByRule) else None


def policy_of(policy: Policy | Rule | Scheduler | None) -> Policy:
    """A policy as it is, a rule or a scheduler as a policy; None: the default scheduler."""
    if isinstance(policy, Rule):
        return RulePolicy(policy)
    chosen = Scheduler() if policy is None else policy
    return RulePolicy(chosen.rule, chosen.topology) if isinstance(chosen, Scheduler) else chosen
