"""A learned policy in charge of a live cluster: beside a rule, at a share of points, or alone."""

from __future__ import annotations

from orchestrator.deployment.deployment import PolicyDeployment, PolicyEvent
from orchestrator.deployment.guards import Guards
from orchestrator.deployment.log import DecisionLog, LoggedDecision, read_decisions
from orchestrator.deployment.records import (
    Choice,
    Considered,
    DecisionRecord,
    LearnedPolicy,
    Mode,
    Verdict,
)

__all__ = [
    "Choice",
    "Considered",
    "DecisionLog",
    "DecisionRecord",
    "Guards",
    "LearnedPolicy",
    "LoggedDecision",
    "Mode",
    "PolicyDeployment",
    "PolicyEvent",
    "Verdict",
    "read_decisions",
]
