"""Rules: data that compiled kernels carry out, as fast as the built-in ones."""

from __future__ import annotations

from orchestrator import Placement, Rule, RuleKey
from orchestrator.testing import check_rule

SHORT_AND_TIGHT = Rule("short_and_tight", RuleKey.SJF, Placement.TIGHTEST, reservation=True)


def widest_first() -> Rule:
    """The largest job first, and nobody overtakes it."""
    return Rule("widest_first", RuleKey.LARGEST, blocking=True)


if __name__ == "__main__":
    check_rule(SHORT_AND_TIGHT)
    check_rule(widest_first())
    print("both are rules")
