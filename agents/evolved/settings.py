"""The parameters of genetic programming, stated once: ``conf/agent`` takes them from here."""

from __future__ import annotations

from dataclasses import dataclass

from agents.settings import check_bounds, check_budget, check_metric, check_types
from orchestrator.scheduling.rules import rule_named

__all__ = ["EvolvedSettings"]

_LEAST = {
    "budget_seconds": 0,
    "total_steps": 0,
    "generations": 1,
    "population": 4,
    "symbols": 3,
    "tournament": 1,
    "elite": 0,
    "crossover": 0,
    "parsimony": 0,
    "windows": 1,
    "window_jobs": 1,
    "validate_every": 1,
    "finalists": 1,
    "validation_windows": 1,
}


@dataclass(frozen=True)
class EvolvedSettings:
    """Genetic programming over short formulas of a job's features.

    Parameters
    ----------
    budget_seconds : float or None
        Training stops after so long, earlier sittings included; compilation does not count. None:
        no limit, so that what is learned does not depend on the machine's speed.
    total_steps : int or None
        It stops when so many jobs have been replayed. None: no limit.
    generations : int or None
        It stops after so many generations; None: no limit. At least one of the three is needed.
    population : int
        Formulas of a generation; those that are equal are played once.
    symbols : int
        A formula has at most so many.
    tournament : int
        Parents are the best of so many that are drawn.
    elite : int
        So many of the best live on as they are.
    crossover : float
        Share of children with two parents; the others change a part or a constant of one.
    parsimony : float
        What a symbol costs, in units of the relative cost: of equals the shorter one wins.
    windows : int
        Windows of a generation, the same for all of its formulas.
    window_jobs : int or None
        Their length; None: that of the problem's evaluation windows.
    reference : str
        The rule whose costs scale those of formulas.
    metric : str
        Metric of ``agents.evaluation`` that they are judged by; lower is better.
    validate_every : int
        Generations between validations.
    finalists : int
        So many of the best of a generation are validated.
    validation_windows : int
        Windows that choose what is kept.
    resume : bool
        Go on from the output folder's checkpoint, if there is one.
    """

    budget_seconds: float | None = 300.0
    total_steps: int | None = None
    generations: int | None = 10_000
    population: int = 64
    symbols: int = 25
    tournament: int = 4
    elite: int = 4
    crossover: float = 0.6
    parsimony: float = 2e-4
    windows: int = 32
    window_jobs: int | None = 256
    reference: str = "sjf"
    metric: str = "bounded_slowdown"
    validate_every: int = 5
    finalists: int = 3
    validation_windows: int = 64
    resume: bool = False

    def __post_init__(self) -> None:
        """Reject what makes no sense."""
        check_types("agent", self)
        check_bounds("agent", self, _LEAST, {"crossover": 1, "elite": self.population - 1})
        check_budget("agent", self)
        check_metric("agent", self.metric)
        rule_named(self.reference)
