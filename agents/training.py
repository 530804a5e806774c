"""What all trainers share: the budget, the validation, what validated best, and the progress."""

from __future__ import annotations

import csv
import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import FrameType
from typing import Any, Generic, Self, TypeVar

import numpy as np
from numba.core import event
from numpy.typing import NDArray
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from agents.files import write_csv
from agents.problem import BatchPolicy, Problem, digest_of
from agents.tracking import Tracker
from orchestrator.errors import ConfigurationError

__all__ = [
    "HISTORY_COLUMNS",
    "Best",
    "Budget",
    "Compilation",
    "Course",
    "Reference",
    "Stopped",
    "TableTracker",
    "TrainingResult",
    "check_made_of",
    "compilation",
    "made_of",
    "stoppable",
]

HISTORY_COLUMNS = ("seconds", "steps", "validation", "reference", "score")
"""What every validation says; trainers add to it."""


_Candidate = TypeVar("_Candidate")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_COMPILE = "numba:compile"
# Settings that say how far and how fast, and how often it is looked at: another sitting may differ.
_PER_SITTING = (
    *("budget_seconds", "generations", "total_steps", "validate_every", "threads", "resume"),
    "made_for",
)


class Stopped(KeyboardInterrupt):
    """The process was asked to end.

    Parameters
    ----------
    number : int
        The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise :class:`Stopped` where SIGINT or SIGTERM arrives: nothing ends in silence."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    with _handling(stop):
        yield


@contextmanager
def _handling(handler: Any) -> Iterator[None]:
    """Answer signals by a handler; those that are ignored stay so, as do those of other threads."""
    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {name: signal.getsignal(name) for name in _SIGNALS}
    kept = {name: old for name, old in before.items() if old not in (signal.SIG_IGN, None)}
    try:
        for name in kept:
            signal.signal(name, handler)
        yield
    finally:
        for name, old in kept.items():
            signal.signal(name, old)


class Compilation(event.Listener):
    """How long kernels have been compiled so far, in this process."""

    def __init__(self) -> None:
        self._depth, self._begun, self._total = 0, 0.0, 0.0

    @property
    def seconds(self) -> float:
        """What is going on is part of it."""
        return self._total + (time.monotonic() - self._begun if self._depth > 0 else 0.0)

    def on_start(self, event: Any) -> None:
        """A function is about to be compiled, perhaps for the sake of another one."""
        if self._depth == 0:
            self._begun = time.monotonic()
        self._depth += 1

    def on_end(self, event: Any) -> None:
        """A function has been compiled."""
        self._depth -= 1
        if self._depth == 0:
            self._total += time.monotonic() - self._begun


@contextmanager
def compilation() -> Iterator[Compilation]:
    """Measure how long kernels are compiled meanwhile, by whichever thread."""
    measured = Compilation()
    with event.install_listener(_COMPILE, measured):
        yield measured


def made_of(problem: Problem, settings: Any) -> dict[str, str]:
    """What a checkpoint belongs to, by name and digest: the problem and the agent's settings.

    Parameters
    ----------
    problem : Problem
    settings : dataclass
        Of the trainer. How long it goes on may change from one sitting to the next.
    """
    agent = {
        f"agent.{part.name}": digest_of(getattr(settings, part.name))
        for part in fields(settings)
        if part.name not in _PER_SITTING
    }
    return {**problem.digests, **agent}


def check_made_of(checkpoint: Path, saved: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Refuse to go on from a checkpoint of another problem, or of other settings.

    Raises
    ------
    ConfigurationError
        Naming what differs.
    """
    other = [f"'{name}'" for name in now if saved.get(name) != now[name]]
    if other:
        raise ConfigurationError(
            f"checkpoint {checkpoint}: was made with other values of {', '.join(other)}; give "
            "those again, delete it to begin anew, or choose another output folder"
        )


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
    score : float, optional
        What the policy scored in validation: its relative cost; lower is better.
    stopped : int or None, optional
        The signal that ended training before its time.
    updates : int or None, optional
        How often the policy was changed, earlier sittings included: 0 says that it is as it began.
    """

    policy: BatchPolicy
    bundle: Path
    history: list[dict[str, float]]
    score: float = math.nan
    stopped: int | None = None
    updates: int | None = None


class TableTracker:
    """Keeps the numbers of a training run in a CSV file, and passes them on to another tracker.

    Parameters
    ----------
    path : Path
        Written anew, whole, each time.
    other : Tracker
    resume : bool, optional
        Whether rows that the file has are kept.
    """

    def __init__(self, path: Path, other: Tracker, resume: bool = False) -> None:
        self._path, self._other = path, other
        self._rows: list[dict[str, Any]] = []
        if resume and path.is_file():
            with path.open(newline="", encoding="utf-8") as stream:
                self._rows = list(csv.DictReader(stream))

    def describe(self, config: Mapping[str, Any], tags: Sequence[str]) -> None:
        """Tell the other one."""
        self._other.describe(config, tags)

    def publish(self, folder: Path) -> None:
        """Let the other one have the tables and pictures."""
        self._other.publish(folder)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add a row."""
        self._rows.append(dict(metrics))
        found = (name for row in self._rows for name in row)
        columns = list(dict.fromkeys((*HISTORY_COLUMNS, *found)))
        rows = [[row.get(name) for name in columns] for row in self._rows]
        write_csv(self._path, columns, rows)
        self._other.log(step, metrics)

    def close(self) -> None:
        """Close the other one."""
        self._other.close()


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
    score : float, optional
        Mean relative cost of what is kept.
    """

    tolerance: float = 0.0
    kept: _Candidate | None = None
    lowest: NDArray[np.float64] | None = None
    score: float = math.nan

    def offer(self, candidate: _Candidate, relative: NDArray[np.float64]) -> bool:
        """Validate a candidate by its relative costs [M]; whether it is kept."""
        better = self.lowest is None or relative.mean() < self.lowest.mean()
        lowest = relative if self.lowest is None or better else self.lowest
        difference = relative - lowest
        bound = self.tolerance * difference.std() / max(len(difference) - 1, 1) ** 0.5
        nearly = self.tolerance > 0.0 and difference.mean() <= bound
        self.lowest = lowest
        if better or nearly or self.kept is None:
            self.kept, self.score = candidate, float(relative.mean())
            return True
        return False


@dataclass(frozen=True)
class Budget:
    """How long training goes on: the limit that is reached first ends it.

    Parameters
    ----------
    seconds : float or None
        Training time, compilation not counted; None: no limit.
    steps : int or None, optional
        Of the environment.
    generations : int or None, optional
        Changes of the policy.
    """

    seconds: float | None
    steps: int | None = None
    generations: int | None = None

    def spent(self, seconds: float, steps: float, generations: float) -> float:
        """How much of it is spent: 0 at the beginning, 1 (or more) at the end."""
        pairs = (
            (seconds, self.seconds),
            (steps, self.steps),
            (generations, self.generations),
        )
        return max(
            (done / limit if limit > 0 else 1.0 for done, limit in pairs if limit is not None),
            default=0.0,
        )


@dataclass
class Course:
    """The course of one training: its clock, its history, and where both are shown.

    Parameters
    ----------
    title : str
        Of the progress bar.
    budget : Budget
        Training is over after so much, earlier sittings included.
    tracker : Tracker
    seconds_before : float, optional
        Of earlier sittings.
    history : list of dict, optional
        Validations so far.

    Notes
    -----
    The clock stands still while kernels are compiled: a machine's first run gets its whole budget.
    SIGINT and SIGTERM end the training as a spent budget does; a second one ends the process.
    """

    title: str
    budget: Budget
    tracker: Tracker
    seconds_before: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Make the progress bar."""
        self.stopped: int | None = None
        self._done = (0.0, 0.0)
        self._begun = time.monotonic()
        self._compiling, self._open = Compilation(), ExitStack()
        self._progress = Progress(
            TextColumn(f"[bold]{self.title}"),
            BarColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._bar = self._progress.add_task("", total=1.0, note="")

    def __enter__(self) -> Self:
        """Start the clock and the progress bar."""
        self._open.enter_context(_handling(self._stop))
        self._compiling = self._open.enter_context(compilation())
        self._begun = time.monotonic()
        self._progress.start()
        self._open.callback(self._progress.stop)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the progress bar."""
        self._open.close()

    def _stop(self, number: int, frame: FrameType | None) -> None:
        """End the training where it can go on later; at once if that is asked for again."""
        if self.stopped is not None:
            raise Stopped(number)
        self.stopped = number

    @property
    def seconds(self) -> float:
        """Training time so far, earlier sittings included, compilation not."""
        return self.seconds_before + time.monotonic() - self._begun - self._compiling.seconds

    @property
    def spent(self) -> float:
        """How much of the budget is spent, 1 at the end; of steps and generations as told last."""
        return self.budget.spent(self.seconds, *self._done)

    @property
    def over(self) -> bool:
        """Whether there is no time left, or the process was asked to end."""
        limit = self.budget.seconds
        return self.stopped is not None or (limit is not None and self.seconds >= limit)

    @property
    def ended(self) -> bool:
        """Whether any limit is reached, or the process was asked to end."""
        return self.over or self.spent >= 1.0

    def advance(self, steps: float, generations: float) -> None:
        """Say how far training is, in all sittings."""
        self._done = (steps, generations)
        self._progress.update(self._bar, completed=min(self.spent, 1.0))

    def record(self, step: int, entry: dict[str, float], reference: Reference) -> None:
        """Keep, report and show a validation, with its time among its numbers."""
        entry = {"seconds": self.seconds, **entry}
        self.history.append(entry)
        self.tracker.log(step, entry)
        shown = f"{entry['validation']:.4g} ({reference.rule} {entry['reference']:.4g})"
        self._progress.update(self._bar, note=f"step {step:,}, validation {shown}")
