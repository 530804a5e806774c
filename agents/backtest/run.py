"""A backtest of the twin as a run: cells of traces, rules and loads; tables, answers, a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from hydra.utils import instantiate
from numpy.typing import NDArray
from rich.console import Console

from agents.backtest.replay import ANSWER_DTYPE, Backtest, ask_on_the_way, loaded
from agents.backtest.score import HORIZONS, Score, calibration, scores
from agents.files import markdown_table, write_csv, write_json, write_text
from agents.plots.style import ACCENT, GREY, SECOND, figure_file
from envs.workloads import Trace, of_tenants
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.state.codes import NEVER
from orchestrator.twin.answers import LEVELS
from orchestrator.twin.futures import TwinConfig

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["BacktestRun", "Cell", "build_backtest", "run_backtest"]


_HEAD = ("cell", "kind", "horizon", *Score.__dataclass_fields__)
_KINDS = ("start", "end")
_ASKED = ("moments", "asked", "known", "ends", "seed", "estimates")
_NOMINAL = LEVELS[-1] - LEVELS[0]


@dataclass(frozen=True)
class Cell:
    """A trace, or a tenant of it, under a rule at a load.

    Parameters
    ----------
    workload : str
        Which of the run's traces.
    tenants : sequence of str or None
        Whose jobs; None: all.
    rule : str
    load : float
        Offered to the nodes that are left.
    jobs : int
        The first so many; 0: all.
    """

    workload: str
    tenants: Sequence[str] | None = None
    rule: str = "fcfs"
    load: float = 0.8
    jobs: int = 0


@dataclass(frozen=True)
class BacktestRun:
    """What is replayed, and how it is asked.

    Parameters
    ----------
    workloads : mapping of str to Trace
    cells : mapping of str to Cell
    twin : TwinConfig
    moments, asked, known, ends, seed
        See :class:`agents.backtest.replay.Backtest`.
    estimates : int or None
        Seed of users' estimates where traces have none; None: those of the traces.
    """

    workloads: Mapping[str, Trace]
    cells: Mapping[str, Cell]
    twin: TwinConfig
    moments: int = 20
    asked: int = 20
    known: float = 0.4
    ends: bool = False
    seed: int = 0
    estimates: int | None = 0

    def __post_init__(self) -> None:
        """Refuse cells of traces that are not given."""
        if not self.cells:
            raise ConfigurationError("backtest: 'cells' is empty; give at least one")
        for name, cell in self.cells.items():
            if cell.workload not in self.workloads:
                known = ", ".join(self.workloads)
                raise ConfigurationError(
                    f"backtest: cell '{name}' names workload '{cell.workload}'; known: {known}"
                )

    def backtest(self, cell: Cell) -> Backtest:
        """One cell."""
        trace = self.workloads[cell.workload]
        if cell.tenants is not None:
            trace = of_tenants(trace, list(cell.tenants))
        trace = loaded(trace, cell.load, estimates=self.estimates)
        return Backtest(
            trace, cell.rule, cell.jobs, self.moments, self.known, self.asked, self.ends, self.seed
        )


def build_backtest(cfg: Mapping[str, Any]) -> BacktestRun:
    """A run of a config: its workloads, the cells of its part, and how it is asked.

    Raises
    ------
    ConfigurationError
        If there is no such part, or a value makes no sense.
    """
    parts = cfg["cells"]
    if cfg["part"] not in parts:
        raise ConfigurationError(
            f"backtest: 'part' is {cfg['part']!r}; choose from {', '.join(parts)}"
        )
    cells = {str(name): Cell(**cell) for name, cell in parts[cfg["part"]].items()}
    named = {cell.workload for cell in cells.values()} & set(cfg["workloads"])
    workloads = {name: instantiate(cfg["workloads"][name]) for name in sorted(named)}
    asked = {name: cfg[name] for name in _ASKED}
    return BacktestRun(workloads, cells, TwinConfig(**cfg["twin"]), **asked)


def run_backtest(run: BacktestRun, output: Path, console: Console) -> dict[str, Score]:
    """Replay all cells; write ``scores.csv``, ``scores.md``, ``answers.csv``, ``calibration.png``.

    Returns
    -------
    dict of str to Score
        Of starts, by horizon, over all cells.
    """
    found = dict[str, NDArray[np.void]]()
    for number, (name, cell) in enumerate(run.cells.items()):
        answers = ask_on_the_way(run.backtest(cell), run.twin)
        answers["moment"] += number * run.moments  # of all cells together
        found[name] = answers
        told = scores(_of_kind(answers, 0)).get("all")
        line = "nobody waits" if told is None else _in_words(told)
        console.print(f"{name}: {line}", highlight=False, soft_wrap=True)
    everything = np.concatenate([*found.values(), np.zeros(0, ANSWER_DTYPE)])
    rows = _rows({**found, "all cells": everything})
    write_csv(output / "scores.csv", _HEAD, rows)
    write_text(output / "scores.md", _table(rows) + "\n")
    _write_answers(output / "answers.csv", found)
    write_json(output / "result.json", {"cells": {n: asdict(c) for n, c in run.cells.items()}})
    starts = _of_kind(everything, 0)
    total = scores(starts)
    if len(starts):
        _draw(output / "calibration.png", found, everything)
    for horizon, one in total.items():
        console.print(f"all cells, {horizon}: {_in_words(one)}", highlight=False, soft_wrap=True)
    return total


def _of_kind(answers: NDArray[np.void], kind: int) -> NDArray[np.void]:
    return answers[answers["kind"] == kind]


def _in_words(one: Score) -> str:
    return (
        f"{one.answers} answers at {one.moments} moments; 80 % interval holds {one.coverage:.1%} "
        f"({one.coverage_low:.1%} to {one.coverage_high:.1%}); median error {one.error_h:.2f} h, "
        f"by estimates {one.reserved_error_h:.2f} h; pinball {one.pinball_h:.3f} h"
    )


def _rows(found: Mapping[str, NDArray[np.void]]) -> list[tuple[object, ...]]:
    return [
        (name, said, horizon, *asdict(one).values())
        for name, answers in found.items()
        for kind, said in enumerate(_KINDS)
        for horizon, one in scores(_of_kind(answers, kind)).items()
    ]


def _table(rows: Sequence[Sequence[object]]) -> str:
    head = (
        *("cell", "of", "horizon", "answers", "coverage of 80 %", "95 %", "pinball h"),
        *("median error h", "by estimates h", "width h"),
    )
    lines = []
    for row in rows:
        cell, kind, horizon, answers, _, held, low, high, pinball, error, reserved, width = row
        told = f"{held:.1%}", f"{low:.1%} to {high:.1%}", f"{pinball:.3f}", f"{error:.2f}"
        named = str(cell), str(kind), str(horizon), str(answers)
        lines.append((*named, *told, f"{reserved:.2f}", f"{width:.2f}"))
    return markdown_table(head, lines)


def _write_answers(path: Path, found: Mapping[str, NDArray[np.void]]) -> None:
    named = [f"p{round(100 * level)}_ms" for level in LEVELS]
    head = ("cell", "moment", "now_ms", "job", "tenant", "of", "true_ms", *named, "reserved_ms")
    rows = []
    for name, answers in found.items():
        for one in answers:
            times = [*one["quantiles_ms"].tolist(), int(one["reserved_ms"])]
            told = [None if time >= NEVER else time for time in times]
            said = _KINDS[int(one["kind"])]
            first = (name, int(one["moment"]), int(one["now_ms"]), int(one["job"]))
            rows.append((*first, int(one["tenant"]), said, int(one["true_ms"]), *told))
    write_csv(path, head, rows)


def _draw(path: Path, found: Mapping[str, NDArray[np.void]], everything: NDArray[np.void]) -> None:
    """Calibration of all levels, and coverage by horizon with what Slurm's method errs by."""
    with figure_file(path, (10.0, 4.2), ncols=2) as (_, grid):
        _draw_levels(grid[0], found, everything)
        _draw_horizons(grid[1], _of_kind(everything, 0))


def _draw_levels(
    axes: Axes, found: Mapping[str, NDArray[np.void]], everything: NDArray[np.void]
) -> None:
    axes.plot([0, 1], [0, 1], color=GREY, lw=0.8)
    for answers in found.values():
        starts = _of_kind(answers, 0)
        if len(starts):
            axes.plot(LEVELS, calibration(starts), color=GREY, lw=0.5, alpha=0.7)
    for kind, colour in zip(range(len(_KINDS)), (ACCENT, SECOND), strict=True):
        mine = _of_kind(everything, kind)
        if len(mine):
            label = f"{_KINDS[kind]}s, all cells"
            axes.plot(LEVELS, calibration(mine), color=colour, marker="o", ms=4, label=label)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="quantile that was told", ylabel="share not later")
    axes.set_title("What is told comes true so often")
    axes.legend(loc="upper left")


def _draw_horizons(axes: Axes, starts: NDArray[np.void]) -> None:
    told = scores(starts)
    names = [name for name in HORIZONS if name in told]
    middle = [told[name].coverage for name in names]
    low = [told[name].coverage - told[name].coverage_low for name in names]
    high = [told[name].coverage_high - told[name].coverage for name in names]
    axes.axhline(_NOMINAL, color=GREY, lw=0.8)
    axes.errorbar(names, middle, yerr=[low, high], fmt="o", color=ACCENT, capsize=3)
    for k, name in enumerate(names):
        errors = told[name].error_h, told[name].reserved_error_h
        note = f"{errors[0]:.1f} h\nby estimates\n{errors[1]:.1f} h"
        axes.annotate(note, (k, 0.03), ha="center", fontsize=7)
    axes.set(ylim=(0, 1), ylabel="share of 80 % intervals that hold the start")
    axes.set_title("Coverage by horizon; median error below")
