"""Tables of an evaluation: per job, per policy and per pair of policies."""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.table import Table

from agents.evaluation.outcomes import EvaluationResult
from agents.evaluation.statistics import Comparison, Interval, Summary
from agents.evaluation.suite import Published, Suite
from agents.files import markdown_table, replacing
from envs.outcomes import METRICS
from orchestrator.scheduling.runs import RunEnd

__all__ = [
    "JOB_COLUMNS",
    "RUN_COLUMNS",
    "comparison_table",
    "heading",
    "number",
    "outcome_tables",
    "policy_markdown",
    "policy_table",
    "readable",
    "telling",
    "write_jobs",
    "write_runs",
]

_COUNTS = ("preemptions", "runs", "interruptions", "resizes", "migrations")

JOB_COLUMNS = ("policy", "sequence", "job_id", "submit", "start", "end", "nodes", *_COUNTS)
"""Columns of ``jobs.csv``: one line for each job, times in seconds.

``start`` is that of its first run, and ``nodes`` has the node of each worker at the end of the
last one; every run is in ``runs.csv``. What did not happen is empty: the ``start`` of a job that
never ran, the ``end`` of one that did not complete.
"""

RUN_COLUMNS = (
    *("policy", "sequence", "job_id", "run", "start", "end", "ended", "workers"),
    *("capacity", "nodes"),
)
"""Columns of ``runs.csv``: one line for each stretch of a run with the same workers.

``run`` counts a job's starts from 1; ``ended`` is a :class:`orchestrator.scheduling.runs.RunEnd`:
after ``resized`` or ``moved`` the same run goes on in the next line, after ``preempted`` or
``interrupted`` the job waits for another one. ``capacity`` is what it held: GPUs, or processors.
"""

_Number = TypeVar("_Number", float, NDArray[np.float64])

_HEADINGS = {
    "bounded_slowdown": ("slowdown", 1.0),
    "wait": ("wait, h", 1 / 3600),
    "completion_time": ("complete, h", 1 / 3600),
    "makespan": ("makespan, h", 1 / 3600),
    "utilisation": ("in use", 1.0),
    "preemptions": ("preempted", 1.0),
    "interruptions": ("interrupted", 1.0),
    "lost_hours": ("lost, h", 1.0),
    "resizes": ("resized", 1.0),
    "migrations": ("moved", 1.0),
    "finish_time_fairness": ("rho", 1.0),
    "worst_finish_time": ("worst rho", 1.0),
    "unfinished": ("unfinished", 1.0),
    "tenant_fairness": ("fairness", 1.0),
    "violations": ("violated, %", 100.0),
    "replica_hours": ("replicas, h", 1.0),
    "node_cost": ("node cost", 1.0),
    "objective": ("charged", 1.0),
}
"""Headings on the terminal, and the factors that their units need; files are in seconds."""

_BESIDE = ("bounded_slowdown", "wait", "utilisation", "preemptions", "unfinished")
"""Metrics that the terminal shows beside a suite's own."""


def write_jobs(path: Path, results: Iterable[EvaluationResult]) -> None:
    """Write the per-job table of several policies.

    Parameters
    ----------
    path : Path
    results : iterable of EvaluationResult
    """
    _write_rows(path, JOB_COLUMNS, map(_job_rows, results))


def write_runs(path: Path, results: Iterable[EvaluationResult]) -> None:
    """Write every run of those jobs whose runs are known.

    Parameters
    ----------
    path : Path
    results : iterable of EvaluationResult
    """
    _write_rows(path, RUN_COLUMNS, map(_run_rows, results))


def _write_rows(
    path: Path, columns: Sequence[str], parts: Iterable[Iterable[Sequence[Any]]]
) -> None:
    """Write a table part after part: it may be large."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        for part in parts:
            writer.writerows(part)


def _job_rows(result: EvaluationResult) -> Iterable[Sequence[Any]]:
    jobs = result.jobs
    return zip(
        [result.policy] * len(jobs),
        jobs["sequence"].tolist(),
        jobs["job_id"].tolist(),
        _seconds(jobs["submit_ms"]),
        _where(jobs["start_ms"] >= 0, _seconds(jobs["start_ms"])),
        _where(jobs["completed"] != 0, _seconds(jobs["end_ms"])),
        _places(result),
        *(jobs[name].tolist() for name in _COUNTS),
        strict=True,
    )


def _run_rows(result: EvaluationResult) -> Iterable[Sequence[Any]]:
    runs, names = result.runs.runs, result.node_names
    ends = [end.name.lower() for end in RunEnd]
    return zip(
        [result.policy] * len(runs),
        runs["sequence"].tolist(),
        runs["job_id"].tolist(),
        runs["run"].tolist(),
        _seconds(runs["start_ms"]),
        _seconds(runs["end_ms"]),
        [ends[end] for end in runs["end"].tolist()],
        runs["workers"].tolist(),
        _seconds(runs["units"]),  # thousandths, too
        (";".join(names[n] for n in places.tolist()) for places in result.runs.places()),
        strict=True,
    )


def _where(happened: NDArray[np.bool_], cells: Sequence[int | float]) -> list[int | float | str]:
    """Cells, empty where nothing happened."""
    return [cell if so else "" for so, cell in zip(happened.tolist(), cells, strict=True)]


def _seconds(times_ms: NDArray[np.int64]) -> list[int | float]:
    """Milliseconds as seconds, integers where they are whole."""
    if not (times_ms % 1000).any():
        return (times_ms // 1000).tolist()
    return [t // 1000 if t % 1000 == 0 else t / 1000 for t in times_ms.tolist()]


def _places(result: EvaluationResult) -> list[str]:
    """For each job the node of each of its workers, separated by semicolons."""
    names = (*result.node_names, "")  # -1 is the empty name
    if result.nodes.shape[1] == 1:
        return [names[n] for n in result.nodes[:, 0].tolist()]
    return [";".join(names[n] for n in places if n >= 0) for places in result.nodes.tolist()]


def policy_table(
    summaries: Mapping[str, Mapping[str, Summary]],
    suite: Suite,
    title: str,
    unranked: Collection[str] = (),
    published: Sequence[Published] = (),
) -> Table:
    """Policies of a variant, for the terminal; the best by the suite's metric is bold.

    The ``unranked`` ones played other windows, and come in grey, as do those ``published``.
    """
    metric, sign = suite.metric, METRICS[suite.metric]
    heading, factor = _HEADINGS[metric]
    beside = () if suite.columns else _BESIDE  # what a suite names has tables of its own
    others = [name for name in beside if name != metric and _varies(summaries, name)]
    if metric == "completion_time" and "wait" in others:
        others.remove("wait")  # the same but for the run times
    table = _table(title)
    table.add_column("policy", no_wrap=True)
    for column in (heading, "95 %", "IQM", *(_HEADINGS[name][0] for name in others)):
        table.add_column(column, justify="right", no_wrap=True)
    ranked = [found for policy, found in summaries.items() if policy not in unranked]
    best = max(sign * found[metric].mean.value for found in ranked)
    for policy, found in summaries.items():
        mean = found[metric].mean
        table.add_row(
            policy,
            number(mean.value * factor),
            _range(mean, factor),
            number(found[metric].iqm.value * factor),
            *(number(found[name].mean.value * _HEADINGS[name][1]) for name in others),
            style=_style(policy in unranked, sign * mean.value == best),
        )
    for row in published:
        table.add_row(
            row.policy, number(row.value * factor), *[""] * (2 + len(others)), style="dim"
        )
    return table


def _style(unranked: bool, best: bool) -> str:
    return "dim" if unranked else "bold" if best else ""


def _varies(summaries: Mapping[str, Mapping[str, Summary]], name: str) -> bool:
    """Whether a column says anything: preemptions, for one, are often all zero."""
    return len({found[name].mean.value for found in summaries.values() if name in found}) > 1


def telling(summaries: Mapping[str, Mapping[str, Summary]], columns: Sequence[str]) -> list[str]:
    """Those of the columns that are known of all policies, and not zero of all."""
    return [
        name
        for name in columns
        if all(name in found for found in summaries.values())
        and any(found[name].mean.value != 0 for found in summaries.values())
    ]


def heading(name: str) -> str:
    """A metric's heading, with the unit in which people read it."""
    return _HEADINGS[name][0]


def readable(name: str, value: _Number) -> _Number:
    """A metric's value, or several, in that unit."""
    return value * _HEADINGS[name][1]


def outcome_tables(
    summaries: Mapping[str, Mapping[str, Summary]], columns: Sequence[str], width: int
) -> list[Table]:
    """Means of further metrics, for the terminal: as many tables as its width makes necessary.

    Columns that say nothing here, all of them zero or not known, are left out.
    """
    names = max(len(policy) for policy in summaries)
    groups: list[list[str]] = []
    room = 0
    for name in telling(summaries, columns):
        cells = [_mean(found, name) for found in summaries.values()]
        wide = max(len(heading(name)), *(len(cell) for cell in cells)) + 1
        if room < wide:
            groups.append([])
            room = width - names - 4
        groups[-1].append(name)
        room -= wide
    tables = []
    for group in groups:
        table = _table("")
        table.add_column("policy", no_wrap=True)
        for name in group:
            table.add_column(heading(name), justify="right", no_wrap=True)
        for policy, found in summaries.items():
            table.add_row(policy, *(_mean(found, name) for name in group))
        tables.append(table)
    return tables


def policy_markdown(summaries: Mapping[str, Mapping[str, Summary]], suite: Suite) -> str:
    """Policies as a table in Markdown: the suite's metric with its interval, means of others."""
    metric = suite.metric
    others = [name for name in suite.columns or _BESIDE if name != metric]
    shown = telling(summaries, others)
    head = ["policy", heading(metric), "95 %", "IQM", *(heading(name) for name in shown)]
    rows = []
    factor = readable(metric, 1.0)
    for policy, found in summaries.items():
        mean = found[metric].mean
        cells = [number(mean.value * factor), _range(mean, factor)]
        cells.append(number(found[metric].iqm.value * factor))
        rows.append([policy, *cells, *(_mean(found, name) for name in shown)])
    return markdown_table(head, rows, text_columns=1)


def _mean(found: Mapping[str, Summary], name: str) -> str:
    return number(readable(name, found[name].mean.value))


def comparison_table(comparisons: Sequence[Comparison], title: str) -> Table:
    """Pairs of policies, for the terminal; ratios that are clear of 1 are bold.

    Where a pair shares the first windows only, their number stands beside the name.
    """
    most = max(pair.windows for pair in comparisons)
    table = _table(title)
    for column in ("policy", "against"):
        table.add_column(column, no_wrap=True)
    for column in ("mean ratio", "95 %", "IQM", "P(better)", "won"):
        table.add_column(column, justify="right", no_wrap=True)
    for pair in comparisons:
        table.add_row(
            pair.policy,
            pair.baseline if pair.windows == most else f"{pair.baseline} ({pair.windows})",
            _clear(pair.ratio),
            _range(pair.ratio),
            _clear(pair.iqm_ratio),
            f"{pair.improvement.value:.2f}",
            f"{pair.won:.0%}",
        )
    return table


def number(value: float) -> str:
    """A number for people: four significant digits, thousands separated."""
    if value == 0:
        return "0"
    digits = max(3 - math.floor(math.log10(abs(value))), 0)
    return f"{value:,.{min(digits, 3)}f}"


def _table(title: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        header_style="dim",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )


def _range(estimate: Interval, factor: float = 1.0) -> str:
    return f"{number(estimate.low * factor)}–{number(estimate.high * factor)}"


def _clear(ratio: Interval) -> str:
    text = number(ratio.value)
    return f"[bold]{text}[/]" if ratio.high < 1.0 or ratio.low > 1.0 else text
