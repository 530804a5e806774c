"""Rules as data: a sort key, a placement, and whether running jobs may be preempted."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import ConfigurationError
from orchestrator.kernels.codes import Placement, Preemption, RuleKey, Scaling
from orchestrator.kernels.rules import RULE_DTYPE

__all__ = ["RULES", "Rule", "rule_named"]


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
        How a gang is placed.
    preemption : Preemption
        Whom it preempts.
    blocking : bool
        Whether the first job of the queue holds up all others when it does not fit.
    scaling : Scaling
        How it changes nodes and replicas, where the environment leaves that to policies.
    elastic : bool
        Whether running elastic jobs get idle capacity, and give it back when somebody waits.
    """

    name: str
    key: RuleKey
    placement: Placement = Placement.BEST_FIT
    preemption: Preemption = Preemption.NONE
    blocking: bool = False
    elastic: bool = False
    scaling: Scaling = Scaling.NONE

    def to_record(self) -> NDArray[np.void]:
        """The rule as kernels take it: an array of one RULE_DTYPE record."""
        record = np.zeros(1, RULE_DTYPE)
        record["key"] = self.key
        record["placement"] = self.placement
        record["preemption"] = self.preemption
        record["blocking"] = self.blocking
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
        Rule("priority", RuleKey.PRIORITY, preemption=Preemption.PRIORITY),
        Rule("reclaim", RuleKey.PRIORITY, preemption=Preemption.RECLAIM),
        Rule("elastic_fcfs", RuleKey.FCFS, elastic=True),
        Rule("elastic_srtf", RuleKey.SRTF, preemption=Preemption.SCORE, elastic=True),
        Rule("las", RuleKey.LAS, preemption=Preemption.SCORE),
        Rule("tiresias", RuleKey.TIRESIAS, preemption=Preemption.SCORE),
        Rule("gittins", RuleKey.GITTINS, preemption=Preemption.SCORE),
        Rule("qssf", RuleKey.QSSF),
        Rule("drf", RuleKey.DRF),
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

``fgd`` needs typical pods: environments that name it (or its placement) load their trace's.

The ``_compat`` rules reproduce a quirk of published numbers and serve the golden tests.
"""


_SCALING = {"reactive": Scaling.REACTIVE, "predictive": Scaling.PREDICTIVE}


def rule_named(name: str) -> Rule:
    """Look a rule up.

    Parameters
    ----------
    name : str
        One of :data:`RULES`, or that followed by ``+reactive`` or ``+predictive`` for a rule that
        scales the fleet and the services as well.

    Raises
    ------
    ConfigurationError
        If there is none of that name.
    """
    base, plus, scaling = name.partition("+")
    if base not in RULES:
        raise ConfigurationError(f"unknown rule '{base}'; known: {', '.join(RULES)}")
    if not plus:
        return RULES[base]
    if scaling not in _SCALING:
        raise ConfigurationError(
            f"rule '{name}': unknown scaling '{scaling}'; known: {', '.join(_SCALING)}"
        )
    return replace(RULES[base], name=name, scaling=_SCALING[scaling])
