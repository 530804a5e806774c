"""What every policy promises: of all rules, and of policies that break it."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pytest

from orchestrator.engine.snapshot import Snapshot
from orchestrator.errors import ContractError
from orchestrator.messages import Plan, PreemptJob, Wait
from orchestrator.ports import Policy
from orchestrator.scheduling.rules import RULES, RulePolicy
from orchestrator.testing import check_policy, check_rule


@pytest.mark.parametrize("name", RULES)
def test_plans_are_legal_repeatable_and_touch_nothing(name: str) -> None:
    check_rule(name)


class _Fickle(RulePolicy):
    """Decides by lot, differently each time it is made."""

    def __init__(self) -> None:
        super().__init__(RULES["fcfs"])
        self._dice = np.random.default_rng()

    def decide(self, snapshot: Snapshot) -> Plan:
        return super().decide(snapshot) if self._dice.random() < 0.5 else Plan((Wait(),))


class _Meddler(RulePolicy):
    """Reaches for the cluster that it was shown a copy of."""

    def __init__(self) -> None:
        super().__init__(RULES["fcfs"])

    def decide(self, snapshot: Snapshot) -> Plan:
        engine = sys._getframe(1).f_locals["self"].engine
        engine.state.rows[0]["seed"] ^= np.uint64(1)
        return super().decide(snapshot)


class _Idle:
    def decide(self, snapshot: Snapshot) -> Plan:
        return Plan((Wait(),))


class _Impossible:
    def decide(self, snapshot: Snapshot) -> Plan:
        return Plan((PreemptJob("job-0"),))


class _Wordless:
    def decide(self, snapshot: Snapshot) -> Plan:
        return None  # type: ignore[return-value]


class _Broken:
    def decide(self, snapshot: Snapshot) -> Plan:
        return Plan((Wait(),) * (1 // 0))


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (_Fickle, "another plan for the same state"),
        (_Meddler, "changed the cluster"),
        (_Idle, "left 40 of 40 jobs undone"),
        (_Impossible, "actions refused"),
        (_Wordless, "'decide' gave None"),
        (_Broken, r"raised ZeroDivisionError"),
    ],
)
def test_the_check_finds_what_is_wrong(policy: Callable[[], Policy], words: str) -> None:
    with pytest.raises(ContractError, match=words):
        check_policy(policy)
