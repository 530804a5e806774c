"""The report on a study: one table, curves, and who is better than whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from agents.evaluation.statistics import Interval, group_improvement, group_ratio, mean_ratio
from agents.files import markdown_table, write_csv, write_text
from agents.program import plain, run_folder
from agents.settings import check_kind
from agents.studies.folders import Run, check_comparable, find_folders, read_run
from agents.studies.groups import Group, group_runs
from agents.studies.pictures import draw_curves, draw_pairs
from orchestrator.errors import ConfigurationError

__all__ = ["Pair", "Study", "make_study", "report"]

_SCRIPT = "scripts/report.py"
_TEXTS = 1  # columns that hold no numbers, in tables for people


@dataclass(frozen=True)
class Pair:
    """A group of runs against another, on the same windows.

    Parameters
    ----------
    mine, other : str
        Their names.
    ratio : Interval
        Of mean costs; less than 1: the first is better.
    improvement : Interval
        Probability that a run of the first costs less on a window than a run of the other.
    """

    mine: str
    other: str
    ratio: Interval
    improvement: Interval


@dataclass(frozen=True)
class Study:
    """Runs, grouped and compared.

    Parameters
    ----------
    groups : sequence of Group
        Best first, by the mean cost of all their runs.
    best : str
        The rule of the lowest mean cost on these windows.
    rule : float64 [M]
        Its cost on each.
    pairs : sequence of Pair
        Every two groups once, the better one first.
    """

    groups: Sequence[Group]
    best: str
    rule: NDArray[np.float64]
    pairs: Sequence[Pair]

    @property
    def metric(self) -> str:
        """What all runs were judged by."""
        return self.groups[0].runs[0].metric

    @property
    def windows(self) -> int:
        """How many they were judged on."""
        return len(self.rule)

    def ratio(self, run: Run) -> Interval:
        """Mean cost of a run over that of the best rule; the interval is over windows."""
        return mean_ratio(run.policy, self.rule)

    def group_ratio(self, group: Group) -> Interval:
        """The same of all runs of a group; the interval is over windows and seeds."""
        return group_ratio(group.costs, self.rule[np.newaxis])


def make_study(runs: Sequence[Run]) -> Study:
    """Group runs and compare the groups.

    Raises
    ------
    ConfigurationError
        When they were not judged on the same windows.
    """
    shared = check_comparable(runs)
    rules = runs[0].rules
    best = min(shared, key=lambda name: float(rules[name].mean()))
    groups = sorted(group_runs(runs), key=lambda group: float(group.costs.mean()))
    pairs = [
        Pair(
            mine.name,
            other.name,
            group_ratio(mine.costs, other.costs),
            group_improvement(mine.costs, other.costs),
        )
        for mine, other in combinations(groups, 2)
    ]
    return Study(groups, best, rules[best], pairs)


def report(cfg: DictConfig, console: Console) -> None:
    """Compare the runs of folders: tables and pictures.

    Parameters
    ----------
    cfg : DictConfig
        Of ``conf/report.yaml``.
    console : Console

    Raises
    ------
    ConfigurationError
        When there is nothing to compare, or the runs were judged on different windows.
    """
    patterns = plain(cfg.runs)
    patterns = [patterns] if isinstance(patterns, str) else list(patterns or [])
    for pattern in patterns:
        check_kind("report", "runs", pattern, str)
    if not patterns:
        raise ConfigurationError("report: no runs are named; give folders, or patterns of them")
    read = {folder: read_run(folder) for folder in find_folders(patterns)}
    runs = [run for run in read.values() if run is not None]
    for folder in (folder for folder, run in read.items() if run is None):
        console.print(f"[dim]{folder} is left out: it has not ended, or was not judged[/]")
    if not runs:
        raise ConfigurationError("report: none of the runs has ended and was judged")
    study = make_study(runs)
    with run_folder(cfg, _SCRIPT) as folder:
        _show(study, console)
        _write(study, folder)
        draw_curves(folder / "curves.png", study.groups, study.metric, study.best, study.rule)
        draw_pairs(folder / "improvement.png", [group.name for group in study.groups], {
            (pair.mine, pair.other): pair.improvement for pair in study.pairs
        })  # fmt: skip
        console.print(f"written to {folder}: table.md, runs.csv, groups.csv, pairs.csv, pictures")


# --- Tables --------------------------------------------------------------------------------------


def _head(study: Study) -> str:
    counted = f"{sum(len(group.runs) for group in study.groups)} runs"
    return (
        f"{counted} in {len(study.groups)} groups, judged on {study.windows} windows by "
        f"{study.metric.replace('_', ' ')}; best rule: {study.best}, {study.rule.mean():.4g}"
    )


_GROUPS = ("group", "seeds", "mean", "to best rule", "worst seed", "best seed")
_RUNS = ("group", "seed", "validation", "mean", "to best rule", "trained, s", "folder")
_PAIRS = ("group", "against", "ratio", "P(improvement)", "")


def _group_rows(study: Study) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for group in study.groups:
        ratios = [study.ratio(run).value for run in group.runs]
        rows.append(
            (
                group.name,
                str(len(group.runs)),
                f"{group.costs.mean():.4g}",
                _interval(study.group_ratio(group)),
                f"{max(ratios):.3f}",
                f"{min(ratios):.3f}",
            )
        )
    return rows


def _run_rows(study: Study) -> list[tuple[str, ...]]:
    return [
        (
            group.name,
            str(run.seed),
            f"{run.result['score']:.4f}",
            f"{run.policy.mean():.4g}",
            _interval(study.ratio(run)),
            f"{run.result['seconds']:.0f}",
            run.folder.as_posix(),
        )
        for group in study.groups
        for run in group.runs
    ]


def _pair_rows(study: Study) -> list[tuple[str, ...]]:
    return [
        (
            pair.mine,
            pair.other,
            _interval(pair.ratio),
            _interval(pair.improvement),
            "clear" if pair.improvement.low > 0.5 or pair.improvement.high < 0.5 else "not clear",
        )
        for pair in study.pairs
    ]


def _interval(found: Interval) -> str:
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def _show(study: Study, console: Console) -> None:
    console.print(f"[bold]{_head(study)}[/]")
    for title, columns, rows in (
        ("groups", _GROUPS, _group_rows(study)),
        ("runs", _RUNS[:-1], [row[:-1] for row in _run_rows(study)]),
        ("pairs", _PAIRS, _pair_rows(study)),
    ):
        if not rows:
            continue
        table = Table(box=SIMPLE_HEAD, title=title, title_justify="left")
        for number, column in enumerate(columns):
            if number < _TEXTS:
                table.add_column(column)
            else:
                table.add_column(column, justify="right", no_wrap=True)
        for row in rows:
            table.add_row(*row)
        console.print(table)


def _write(study: Study, folder: Path) -> None:
    """Tables for people, and the same numbers in full for programs."""
    parts = [f"{_head(study)}.", markdown_table(_GROUPS, _group_rows(study), 1)]
    parts.append(
        "Intervals are 95 % bootstraps: of groups over windows and seeds (with few seeds they are "
        "too narrow), of runs over windows."
    )
    parts += ["![Curves](curves.png)", markdown_table(_RUNS, _run_rows(study), 1)]
    if study.pairs:
        parts.append(
            "Ratio of mean costs (less than 1: the first is better), and the probability that a "
            "run of the first costs less on a window than a run of the other:"
        )
        parts.append(markdown_table(_PAIRS, _pair_rows(study), 2))
        parts.append("![Probability of improvement](improvement.png)")
    write_text(folder / "table.md", "\n\n".join(parts) + "\n")
    names = ("ratio", "low", "high")
    groups: list[list[Any]] = [
        [group.name, len(group.runs), group.costs.mean(), *_numbers(study.group_ratio(group))]
        for group in study.groups
    ]
    write_csv(folder / "groups.csv", ("group", "seeds", "mean", *names), groups)
    runs: list[list[Any]] = [
        [
            *(group.name, run.seed, run.result["score"], run.policy.mean()),
            *_numbers(study.ratio(run)),
            *(run.result["seconds"], run.result["updates"], run.folder.as_posix()),
        ]
        for group in study.groups
        for run in group.runs
    ]
    columns = ("group", "seed", "score", "mean", *names, "seconds", "updates", "folder")
    write_csv(folder / "runs.csv", columns, runs)
    pairs: list[list[Any]] = [
        [pair.mine, pair.other, *_numbers(pair.ratio), *_numbers(pair.improvement)]
        for pair in study.pairs
    ]
    more = ("improvement", "improvement_low", "improvement_high")
    write_csv(folder / "pairs.csv", ("group", "against", *names, *more), pairs)


def _numbers(found: Interval) -> tuple[float, float, float]:
    return found.value, found.low, found.high
