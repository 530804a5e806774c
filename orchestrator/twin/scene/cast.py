"""Who plays futures: a rule, or a learned policy that the compiled engine knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from orchestrator.kernels.run.roll import Player
from orchestrator.kernels.state.row import ClusterShape, ClusterState
from orchestrator.ports import Policy
from orchestrator.scheduling.rules import RULES, Rule, placing_rule

__all__ = ["Cast", "Foreseen", "Understudy", "cast_of"]


class Understudy(Protocol):
    """Plays in the place of a learned policy, without leaving compiled code; can be pickled."""

    @property
    def name(self) -> str:
        """Of the policy."""

    @property
    def unlike(self) -> tuple[str, ...]:
        """What the policy does and this does not, in words."""

    def player(self, state: ClusterState, shape: ClusterShape) -> Player:
        """Who plays rows of a shape, and what it is to be shown said in the row of a state."""


@runtime_checkable
class Foreseen(Protocol):
    """A policy that knows who plays in its place."""

    @property
    def stand_in(self) -> Rule | None:
        """The rule that does if nobody else can."""

    @property
    def understudy(self) -> Understudy | None:
        """Who does; None: the compiled engine does not know such policies."""

    def understudy_of(self, bundle: str) -> Understudy | None:
        """Who plays in the place of a bundle that is tried, or in charge."""


@dataclass(frozen=True)
class Cast:
    """Who plays.

    Parameters
    ----------
    rule : Rule
        In charge, or in the place of whoever is.
    learned : Understudy or None, optional
        Plays instead of the rule.
    missing : tuple of str, optional
        What is not as it is in truth.
    """

    rule: Rule
    learned: Understudy | None = None
    missing: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of who plays."""
        return self.rule.name if self.learned is None else self.learned.name


def cast_of(policy: Policy) -> Cast:
    """Who plays in the place of a policy that is in charge."""
    rule = placing_rule(policy)
    if rule is not None:
        return Cast(rule)
    rule, learned = RULES["priority"], None
    if isinstance(policy, Foreseen):
        rule, learned = policy.stand_in or rule, policy.understudy
    if learned is not None:
        return Cast(rule, learned, learned.unlike)
    return Cast(rule, None, (f"the policy in charge: rule '{rule.name}' plays in its place",))
