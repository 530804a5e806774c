"""Rewards: named costs, each the growth of a metric, weighted in config.

The reward of a step is minus the weighted growth of the metrics over the step, so that its sum
over an episode equals minus the metric's total. The terminal form pays all of it at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.checks import check_finite, check_type
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.run.buffers import RewardForm
from orchestrator.kernels.see.metrics import Metric
from orchestrator.own.loading import is_part_name, load_part, part_name
from orchestrator.scheduling.rules import Rule, rule_named
from orchestrator.semantics import resolve_enums

__all__ = ["POTENTIALS", "TERMS", "RewardConfig"]

TERMS: Mapping[str, tuple[Metric, float]] = {
    "bounded_slowdown": (Metric.SLOWDOWN_EXCESS, 1.0),
    "completion_time": (Metric.JOB_SECONDS, 1.0),
    "wait": (Metric.WAIT_SECONDS, 1.0),
    "utilisation": (Metric.BUSY_SHARE_SECONDS, -1.0),
    "preemption": (Metric.PREEMPTIONS, 1.0),
    "lost_work": (Metric.LOST_SHARE_SECONDS, 1.0),
    "service_violations": (Metric.SERVICE_VIOLATIONS, 1.0),
    "shed": (Metric.SERVICE_SHED, 1.0),
    "node_cost": (Metric.NODE_COST, 1.0),
    "allocation": (Metric.ALLOCATED_SHARE, -1.0),
    "fragmentation": (Metric.FRAGMENTED_SHARE, 1.0),
}
"""Terms by name: the metric whose growth they charge for, and its sign as a cost.

bounded_slowdown
    Sum over jobs of (bounded slowdown - 1).
completion_time
    Jobs in the system, integrated over time, s: the sum of completion times (Little's law).
wait
    Waiting jobs, integrated over time, s.
utilisation
    Allocated share of the capacity, integrated over time, s: earned, not charged.
preemption
    Preemptions.
lost_work
    Work lost to interruptions and restarts, in seconds of the whole cluster.
service_violations
    Requests of services that were not answered within their objective.
shed
    Requests that rate limiters turned away; they are violations, too.
node_cost
    Price of all nodes that are paid for, integrated over time.
allocation
    Allocated share of the capacity: earned. It is a potential: an episode sums up to its end.
fragmentation
    Expected share of all GPUs that typical pods could not use, a potential as well; the first
    step is charged what the empty cluster has. 0 where no typical pods are loaded.
"""

POTENTIALS = frozenset({"allocation", "fragmentation"})
"""Terms that depend on the state alone: an episode's rewards sum up to what it ends with."""


@dataclass(frozen=True)
class RewardConfig:
    """Which costs count, and how they are paid.

    Parameters
    ----------
    terms : mapping of str to float
        Weight of each of :data:`TERMS`; at least one. One's own terms
        (:class:`envs.own.parts.RewardTerm`) are named as ``package.module:Name``, or given as the
        function or class itself, which is kept as its name.
    form : RewardForm
        By name, too. Pay as the metrics grow, or once at the end.
    reference : str or None
        Scale an episode's rewards by 1 / (cost of this rule on the same window + its jobs), so
        that easy and hard windows weigh alike. None: no scaling. Its cost is that of the terms
        of :data:`TERMS`; one's own are scaled by the same factor.
    """

    terms: Mapping[str, float] = field(default_factory=lambda: {"bounded_slowdown": 1.0})
    form: RewardForm = RewardForm.DENSE
    reference: str | None = None

    def __post_init__(self) -> None:
        """Reject unknown names."""
        resolve_enums(self, "reward")
        remedy = "weights by name, for example {'wait': 1.0}"
        check_type("reward: 'terms'", self.terms, Mapping, remedy)
        if not self.terms:
            raise ConfigurationError(f"reward: 'terms' is empty; choose from {', '.join(TERMS)}")
        terms = {part_name(term, "reward term"): weight for term, weight in self.terms.items()}
        object.__setattr__(self, "terms", terms)
        for name, weight in terms.items():
            if is_part_name(name):
                load_part(name, "reward term")
            elif name not in TERMS:
                raise ConfigurationError(
                    f"reward: unknown term '{name}'; known: {', '.join(TERMS)}, and one's own as "
                    "package.module:Name"
                )
            check_finite(f"reward: the weight of '{name}'", weight)
        if self.reference is not None:
            check_type("reward: 'reference'", self.reference, str, "the name of a rule, or None")
            rule_named(self.reference)
            if not self.weights.any():
                raise ConfigurationError(
                    "reward: 'reference' scales by what a rule pays of the built-in terms, and "
                    "there are none; leave it out, or add one of them"
                )

    @classmethod
    def of(cls, given: Any) -> RewardConfig:
        """A reward from plain values.

        Parameters
        ----------
        given : RewardConfig or mapping
            Itself; its fields by name, ``{"terms": {"wait": 1.0}, "form": "terminal"}``; or just
            the weights of its terms, ``{"wait": 1.0}``.

        Raises
        ------
        ConfigurationError
            Naming the term or field that makes no sense.
        """
        if isinstance(given, cls):
            return given
        remedy = "a RewardConfig, or weights of its terms, for example {'wait': 1.0}"
        check_type("environment: 'reward'", given, Mapping, remedy)
        known = [each.name for each in fields(cls)]
        if "terms" not in given and not (given and all(name in known for name in given)):
            return cls(dict(given))
        for name in given:
            if name not in known:
                raise ConfigurationError(
                    f"reward: unknown field '{name}'; known: {', '.join(known)}"
                )
        return cls(**given)

    @property
    def weights(self) -> NDArray[np.float64]:
        """Cost of one unit of each metric, [len(Metric)]."""
        weights = np.zeros(len(Metric))
        for name, weight in self.terms.items():
            if name in TERMS:
                metric, sign = TERMS[name]
                weights[metric] += sign * float(weight)
        return weights

    @property
    def own_terms(self) -> dict[str, float]:
        """Weight of each of one's own terms, by its name."""
        return {name: float(w) for name, w in self.terms.items() if name not in TERMS}

    @property
    def reference_rule(self) -> Rule:
        """The rule that episodes are scaled by (any, if they are not)."""
        return rule_named(self.reference or "fcfs")
