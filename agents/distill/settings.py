"""The parameters of distillation, stated once: ``conf/agent`` takes keys and defaults from here."""

from __future__ import annotations

from dataclasses import dataclass

from agents.settings import check_bounds, check_budget, check_types
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.run.network import LANES
from orchestrator.scheduling.rules import rule_named

__all__ = ["DistillSettings"]

_LEAST = {
    "budget_seconds": 0,
    "total_steps": 0,
    "generations": 0,
    "lessons": 1,
    "actions": 2,
    "futures": 2,
    "arrivals": 0,
    "follow": 0,
    "epochs": 1,
    "batch": 1,
    "noise": 0,
    "pull": 0,
    "validation_windows": 1,
    "threads": 1,
}


@dataclass(frozen=True)
class DistillSettings:
    """A set network learns what lookahead finds, round after round.

    Parameters
    ----------
    base : str
        Folder of the bundle of a ranker, linear or a set network: where training begins.
    budget_seconds : float or None
        Training stops after the round in which so long is over; compilation does not count.
    total_steps : int or None
        It stops when so many decisions have been thought about. None: no limit.
    generations : int or None
        Rounds of play and learning. At least one of the three is needed.
    hidden : int
        Units of both layers, a multiple of 16.
    lessons : int
        Decisions of a round.
    actions, futures, arrivals : int
        Of lookahead, see :class:`orchestrator.scheduling.ahead.LookaheadConfig`.
    follow : float
        Probability that lookahead's choice is played, and not the student's.
    epochs, batch : int
        Passes over all lessons so far after each round, and lessons of a step.
    learning_rate : float
        Of Adam, at its highest.
    sharpness : float
        Factor of scores in the softmax that gains are weighted by.
    noise : float
        Gains are divided by their standard error and this, in units of the cost.
    pull : float
        Weight of staying with the base's choice.
    reference : str
        The rule whose costs scale those of rankers in validation.
    validation_windows : int
        Windows that choose the round.
    threads : int
    """

    base: str = ""
    budget_seconds: float | None = 600.0
    total_steps: int | None = None
    generations: int | None = 4
    hidden: int = LANES
    lessons: int = 20_000
    actions: int = 5
    futures: int = 16
    arrivals: int = 48
    follow: float = 0.2
    epochs: int = 8
    batch: int = 256
    learning_rate: float = 3e-3
    sharpness: float = 20.0
    noise: float = 0.5
    pull: float = 0.02
    reference: str = "sjf"
    validation_windows: int = 192
    threads: int = 2

    def __post_init__(self) -> None:
        """Reject what makes no sense."""
        check_types("agent", self)
        check_bounds(
            "agent", self, _LEAST, {"follow": 1}, above={"learning_rate": 0, "sharpness": 0}
        )
        check_budget("agent", self)
        rule_named(self.reference)
        if self.hidden < LANES or self.hidden % LANES != 0:
            raise ConfigurationError(
                f"agent: 'hidden' is {self.hidden}; give a multiple of {LANES}"
            )
