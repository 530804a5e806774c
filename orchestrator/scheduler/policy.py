"""Rules as policies: what decides in training and replays decides live."""

from __future__ import annotations

import numpy as np

from orchestrator.kernels import entry
from orchestrator.messages import Plan
from orchestrator.ports import Policy
from orchestrator.scheduler.rules import RULES, Rule
from orchestrator.scheduler.snapshot import Snapshot

__all__ = ["RulePolicy", "policy_of"]


class RulePolicy:
    """Asks the kernels what a rule does, one action at a time.

    Parameters
    ----------
    rule : Rule
        The rule.
    """

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self._record = rule.to_record()

    def decide(self, snapshot: Snapshot) -> Plan:
        """What the rule does at this decision point."""
        state = snapshot.state
        scratch = np.empty(max(state.shape.jobs, state.shape.workers), np.int32)
        kind, j, value = entry.rule_action(state.rows, 0, self._record, scratch)
        return Plan((snapshot.action(kind, j, value),))


def policy_of(policy: Policy | Rule | None) -> Policy:
    """A policy as it is, a rule as a policy; None: first come, first served."""
    rule = RULES["fcfs"] if policy is None else policy
    return RulePolicy(rule) if isinstance(rule, Rule) else rule
