"""What all trainers share: the budget, the validation, what validated best, and the progress."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from agents.problem import BatchPolicy
from agents.tracking import Tracker

__all__ = ["Best", "Course", "Reference", "TrainingResult"]

_Candidate = TypeVar("_Candidate")


@dataclass(frozen=True)
class TrainingResult:
    """What training leaves behind.

    Parameters
    ----------
    policy : BatchPolicy
        The policy that validation chose.
    bundle : Path
        Its bundle directory.
    history : list of dict
        One entry for each validation: ``seconds``, ``steps`` (of the environment, or
        generations), ``validation`` and ``reference`` (mean metric), ``score`` and more.
    """

    policy: BatchPolicy
    bundle: Path
    history: list[dict[str, float]]


@dataclass(frozen=True)
class Reference:
    """What a rule costs on the windows that candidates are judged on: the scale of their costs.

    Parameters
    ----------
    rule : str
    costs : float64 [M]
    """

    rule: str
    costs: NDArray[np.float64]

    def relative(self, costs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Costs [..., M] as a share of the rule's on the window and in the mean, both.

        So hard windows do not drown the others, and no calm window weighs most. Lower is better.
        """
        scale = np.abs(self.costs)  # what is earned costs less than nothing
        shares: NDArray[np.float64] = costs / (scale + scale.mean())
        return shares


@dataclass
class Best(Generic[_Candidate]):
    """The candidate that is kept, of those that were validated one after the other.

    Costs are heavy-tailed, so the lowest mean is often luck. Where later candidates are less noisy
    than earlier ones, they may be kept for being nearly as good.

    Parameters
    ----------
    tolerance : float
        By how many standard errors of the difference over the same windows a candidate may be
        worse than what validated best, and be kept; 0: only what is better is kept.
    kept : optional
    lowest : float64 [M] or None, optional
        Relative costs, window by window, of what validated best.
    """

    tolerance: float = 0.0
    kept: _Candidate | None = None
    lowest: NDArray[np.float64] | None = None

    def offer(self, candidate: _Candidate, relative: NDArray[np.float64]) -> bool:
        """Validate a candidate by its relative costs [M]; whether it is kept."""
        better = self.lowest is None or relative.mean() < self.lowest.mean()
        lowest = relative if self.lowest is None or better else self.lowest
        difference = relative - lowest
        bound = self.tolerance * difference.std() / max(len(difference) - 1, 1) ** 0.5
        nearly = self.tolerance > 0.0 and difference.mean() <= bound
        self.lowest = lowest
        if better or nearly or self.kept is None:
            self.kept = candidate
            return True
        return False


@dataclass
class Course:
    """The course of one training: its clock, its history, and where both are shown.

    Parameters
    ----------
    title : str
        Of the progress bar.
    total : float
        Where the progress bar ends, in the trainer's own unit.
    budget_seconds : float
        Training is over after so long, earlier sittings included.
    tracker : Tracker
    spent : float, optional
        Seconds of earlier sittings.
    history : list of dict, optional
        Validations so far.
    """

    title: str
    total: float
    budget_seconds: float
    tracker: Tracker
    spent: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Make the progress bar."""
        self._begun = time.monotonic()
        self._progress = Progress(
            TextColumn(f"[bold]{self.title}"),
            BarColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._bar = self._progress.add_task("", total=self.total, note="")

    def __enter__(self) -> Self:
        """Start the clock and the progress bar."""
        self._begun = time.monotonic()
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the progress bar."""
        self._progress.stop()

    @property
    def seconds(self) -> float:
        """Training time so far, earlier sittings included."""
        return self.spent + time.monotonic() - self._begun

    @property
    def over(self) -> bool:
        """Whether the budget is spent."""
        return self.seconds >= self.budget_seconds

    def advance(self, completed: float) -> None:
        """Show how far training is, in the unit of ``total``."""
        self._progress.update(self._bar, completed=min(completed, self.total))

    def record(self, step: int, entry: dict[str, float], reference: Reference) -> None:
        """Keep, report and show a validation, with its time among its numbers."""
        entry = {"seconds": self.seconds, **entry}
        self.history.append(entry)
        self.tracker.log(step, entry)
        shown = f"{entry['validation']:.4g} ({reference.rule} {entry['reference']:.4g})"
        self._progress.update(self._bar, note=f"step {step:,}, validation {shown}")
