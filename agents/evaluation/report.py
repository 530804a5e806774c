"""The report of an evaluation: what is printed and written, and what bundles' cards say of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from agents.bundle import (
    BundleError,
    CardTable,
    EvaluationCard,
    describe_scenario,
    read_card,
    scenario_text,
    write_card,
)
from agents.evaluation.outcomes import EvaluationResult
from agents.evaluation.statistics import Comparison, Sample, Summary, compare, summarise
from agents.evaluation.suite import Published, Suite, label
from agents.evaluation.tables import (
    comparison_table,
    outcome_tables,
    policy_markdown,
    policy_table,
    write_jobs,
    write_runs,
)
from agents.files import versions, write_csv, write_json, write_text
from agents.problem import Problem
from envs.outcomes import METRICS

__all__ = [
    "SCHEMA_VERSION",
    "Report",
    "add_to_card",
    "card_tables",
    "make_report",
    "print_report",
    "training_card",
    "write_report",
]

SCHEMA_VERSION = 1
"""Version of the layout of ``summary.json``."""


@dataclass(frozen=True)
class Report:
    """An evaluation, ready to be shown.

    Parameters
    ----------
    suite : Suite
    trace_name : str
    trace_jobs : int
    information : str
        What rules and policies knew of run times.
    results : mapping of str to sequence of EvaluationResult
        By variant.
    summaries : mapping of str to mapping of str to Summary
        By policy and metric.
    comparisons : mapping of str to sequence of Comparison
        By variant.
    scenario : mapping
        What the windows happened in; see :func:`agents.bundle.describe_scenario`.
    published : sequence of Published
        What others published for these windows.
    """

    suite: Suite
    trace_name: str
    trace_jobs: int
    information: str
    results: Mapping[str, Sequence[EvaluationResult]]
    summaries: Mapping[str, Mapping[str, Summary]]
    comparisons: Mapping[str, Sequence[Comparison]]
    scenario: Mapping[str, Any]
    published: Sequence[Published] = ()

    def flat(self) -> list[EvaluationResult]:
        """The results of all variants."""
        return [result for results in self.results.values() for result in results]

    @property
    def metrics(self) -> list[str]:
        """Metrics that are known of every result."""
        results = self.flat()
        return [name for name in METRICS if all(name in result.values for result in results)]

    @property
    def partial(self) -> dict[str, int]:
        """Policies that played the first windows only, and how many: not ranked by their means."""
        results = self.flat()
        most = max(len(result.starts) for result in results)
        played = {result.policy: len(result.starts) for result in results}
        return {policy: count for policy, count in played.items() if count < most}


def make_report(
    suite: Suite, problem: Problem, results: Mapping[str, Sequence[EvaluationResult]]
) -> Report:
    """Summarise the results of a suite, and compare every policy with its baselines.

    Parameters
    ----------
    suite : Suite
    problem : Problem
        What the suite was run on.
    results : mapping of str to sequence of EvaluationResult
        As :func:`agents.evaluation.suite.run_suite` returns them.

    Returns
    -------
    Report
    """
    summaries = {
        result.policy: {
            name: summarise(values, suite.seed) for name, values in result.values.items()
        }
        for group in results.values()
        for result in group
    }
    return Report(
        suite=suite,
        trace_name=problem.trace.name,
        trace_jobs=len(problem.trace),
        information=problem.config.information.name.lower(),
        results=results,
        summaries=summaries,
        comparisons={variant: _pairs(suite, variant, group) for variant, group in results.items()},
        scenario=describe_scenario(problem.scenario),
        published=suite.published_for(problem),
    )


def _pairs(suite: Suite, variant: str, group: Sequence[EvaluationResult]) -> list[Comparison]:
    """Every policy against the baselines; the learned ones against the zoo and each other, too.

    Who played the first windows only is compared on these.
    """
    metric, sign = suite.metric, METRICS[suite.metric]
    samples = {result.policy: Sample(result.policy, result.values[metric]) for result in group}
    baselines = [label(name, variant) for name in suite.baselines]
    zoo = [label(name, variant) for name in suite.zoo]
    learned = [result.policy for result in group if result.learned]
    pairs = []
    for result in group:
        mine = samples[result.policy]
        later = learned[learned.index(mine.policy) + 1 :] if result.learned else []
        for name in [*baselines, *(zoo if result.learned else []), *later]:
            if name == mine.policy:
                continue
            other = samples[name]
            count = min(len(mine.values), len(other.values))
            pair = (mine.first(count), other.first(count))
            pairs.append(compare(*pair, metric, sign=sign, seed=suite.seed))
    return pairs


def print_report(report: Report, console: Console) -> None:
    """Show a report on the terminal: per variant, the policies and the paired comparisons."""
    suite = report.suite
    count = len(report.flat()[0].starts)
    console.print(f"[bold]{suite.name}[/]: {_headline(report)}")
    for note in _notes(report):
        console.print(f"[dim]{note}[/]")
    for variant, group in report.results.items():
        title = variant.replace("_", " ")
        means = {result.policy: report.summaries[result.policy] for result in group}
        console.print()
        rows = [row for row in report.published if row.variant == variant]
        table = policy_table(means, suite, title or "policies", report.partial, rows)
        console.print(table)
        for table in outcome_tables(means, suite.columns, console.width):
            console.print(table)
        learned = {result.policy for result in group if result.learned}
        pairs = [pair for pair in report.comparisons[variant] if pair.policy in learned]
        if count > 1 and pairs:
            console.print()
            console.print(comparison_table(pairs, f"{title} paired comparison".strip()))


def write_report(report: Report, folder: Path, config: Mapping[str, Any]) -> None:
    """Write ``jobs.csv``, ``runs.csv``, ``table.*``, ``comparisons.csv`` and ``summary.json``.

    Parameters
    ----------
    report : Report
    folder : Path
        Made if absent.
    config : mapping
        The resolved configuration of the run, for the record.
    """
    write_jobs(folder / "jobs.csv", report.flat())
    write_runs(folder / "runs.csv", report.flat())
    write_csv(folder / "table.csv", *_policy_rows(report))
    write_text(folder / "table.md", _markdown(report))
    write_csv(folder / "comparisons.csv", *_comparison_rows(report))
    write_json(folder / "summary.json", _finite(_summary(report, config)))


def _markdown(report: Report) -> str:
    parts = [f"{_headline(report)}."]
    if report.scenario:
        parts.append(f"Scenario: {scenario_text(report.scenario)}.")
    parts += _notes(report)
    for variant, group in report.results.items():
        if variant:
            parts.append(f"**{variant.replace('_', ' ')}**")
        means = {result.policy: report.summaries[result.policy] for result in group}
        parts.append(policy_markdown(means, report.suite))
    return "\n\n".join(parts) + "\n"


def _headline(report: Report) -> str:
    count = len(report.flat()[0].starts)
    if "completion_time" not in report.flat()[0].values:  # episodes without jobs
        return f"{count} windows of {_length(report)} ticks on the nodes of {report.trace_name}"
    return (
        f"{count} windows of {_length(report)} jobs of {report.trace_name}; run times known: "
        f"{report.information}"
    )


def _notes(report: Report) -> list[str]:
    """What a reader of the tables must know."""
    notes = []
    distinct = _distinct_jobs(report)
    if distinct < 0.5 * len(report.flat()[0].starts) * _length(report):
        notes.append(
            f"The windows share jobs ({distinct:,} different ones in all), so the intervals are "
            "narrower than they should be."
        )
    if report.partial:
        who = ", ".join(f"{policy} {count}" for policy, count in report.partial.items())
        notes.append(
            f"Some played the first windows only ({who}), so their means are not comparable with "
            "the others; the pairs are of the same windows."
        )
    left = {r.policy: int(r.values["unfinished"].sum()) for r in report.flat()}
    if any(left.values()):
        who = ", ".join(f"{policy} {count}" for policy, count in left.items() if count)
        notes.append(
            f"Jobs that were never finished ({who}) count until the end of their window, which "
            "flatters whoever left them."
        )
    missing = {r.policy: int((~r.runs.known).sum()) for r in report.flat()}
    if any(missing.values()):
        who = ", ".join(f"{policy} {count}" for policy, count in missing.items() if count)
        notes.append(
            f"The runs of the jobs of some windows are not in runs.csv ({who}): more happened to "
            "them than there is room for; jobs.csv has their number."
        )
    if len(report.published) < len(report.suite.published):
        notes.append(
            "Published results are left out that belong to other jobs, windows or metrics than "
            "these."
        )
    return notes


def _policy_rows(report: Report) -> tuple[list[str], list[list[Any]]]:
    columns = ["policy", "windows"]
    for name in report.metrics:
        columns += [name, f"{name}_low", f"{name}_high"]
        columns += [f"{name}_iqm", f"{name}_iqm_low", f"{name}_iqm_high", f"{name}_median"]
    rows = []
    for result in report.flat():
        row: list[Any] = [result.policy, len(result.starts)]
        for name in report.metrics:
            summary = report.summaries[result.policy][name]
            for estimate in (summary.mean, summary.iqm):
                row += [estimate.value, estimate.low, estimate.high]
            row.append(summary.median)
        rows.append(row)
    return columns, rows


def _comparison_rows(report: Report) -> tuple[list[str], list[list[Any]]]:
    columns = ["policy", "baseline", "metric", "windows"]
    estimates = ("difference", "ratio", "iqm_ratio", "improvement")
    for name in estimates:
        columns += [name, f"{name}_low", f"{name}_high"]
    columns += ["won", "tied"]
    rows = []
    for pairs in report.comparisons.values():
        for pair in pairs:
            row: list[Any] = [pair.policy, pair.baseline, pair.metric, pair.windows]
            for name in estimates:
                estimate = getattr(pair, name)
                row += [estimate.value, estimate.low, estimate.high]
            rows.append([*row, pair.won, pair.tied])
    return columns, rows


def _summary(report: Report, config: Mapping[str, Any]) -> dict[str, Any]:
    suite = report.suite
    results = report.flat()
    return {
        "schema_version": SCHEMA_VERSION,
        "suite": suite.name,
        "metric": suite.metric,
        "information": report.information,
        "scenario": report.scenario,
        "trace": {"name": report.trace_name, "jobs": report.trace_jobs},
        "windows": {
            "length": _length(report),
            "distinct_jobs": _distinct_jobs(report),
            "starts": results[0].starts.tolist(),
            "in_jobs_csv": len(set(results[0].jobs["sequence"].tolist())),
            "in_runs_csv": {r.policy: np.flatnonzero(r.runs.known).tolist() for r in results},
        },
        "policies": {
            result.policy: {
                name: {**asdict(report.summaries[result.policy][name]), "windows": values.tolist()}
                for name, values in result.values.items()
            }
            for result in results
        },
        "comparisons": [asdict(pair) for pairs in report.comparisons.values() for pair in pairs],
        "published": [asdict(row) for row in report.published],
        "bootstrap_seed": suite.seed,
        "versions": versions(),
        "config": config,
    }


def _length(report: Report) -> int:
    return report.suite.length or report.trace_jobs


def _distinct_jobs(report: Report) -> int:
    """Jobs that are in any window: windows of a short trace overlap."""
    starts = np.unique(report.flat()[0].starts)
    gaps = np.diff(starts, append=starts[-1] + _length(report))
    return int(np.minimum(gaps, _length(report)).sum())


def _finite(content: Any) -> Any:
    """Plain data with None in the place of numbers that JSON does not have."""
    if isinstance(content, Mapping):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content


def training_card(report: Report, title: str, command: str, notes: Sequence[str]) -> EvaluationCard:
    """The first card of a bundle, with the report on the windows that it never saw.

    Parameters
    ----------
    report : Report
    title : str
    command : str
        The one command that regenerates the bundle.
    notes : sequence of str
        What a reader must know, such as the data that was trained on.
    """
    if report.scenario:
        notes = [*notes, f"Scenario: {scenario_text(report.scenario)}."]
    return EvaluationCard(title, command, card_tables(report), tuple(notes))


def add_to_card(bundle: Path, new: Sequence[CardTable]) -> None:
    """Add tables to a bundle's card; tables of the same title are replaced."""
    try:
        card = read_card(bundle)
    except BundleError:
        card = EvaluationCard(f"Policy bundle {bundle.name}", "not recorded")
    titles = {table.title for table in new}
    kept = [table for table in card.tables if table.title not in titles]
    write_card(bundle, EvaluationCard(card.title, card.command, (*kept, *new), card.notes))


def card_tables(report: Report) -> tuple[CardTable, ...]:
    """For every variant, the policies' means; and the pairs with a learned policy."""
    suite = report.suite
    metric = suite.metric
    tables = []
    for variant, group in report.results.items():
        where = f"{suite.name}{', ' + variant.replace('_', ' ') if variant else ''}"
        count, length = len(group[0].starts), suite.length or report.trace_jobs
        title = (
            f"{where}: {metric.replace('_', ' ')}, {count} windows of {length} jobs of "
            f"{report.trace_name}, run times known: {report.information}"
        )
        rows: list[Sequence[str | float | None]] = []
        for result in group:
            summary = report.summaries[result.policy][metric]
            mean = summary.mean
            partial = report.partial.get(result.policy)
            name = result.policy + (f" (first {partial} windows)" if partial else "")
            rows.append((name, mean.value, mean.low, mean.high, summary.iqm.value))
        rows += [_published_row(row) for row in report.published if row.variant == variant]
        tables.append(CardTable(title, ("policy", "mean", "95 % low", "high", "IQM"), rows))
        learned = {result.policy for result in group if result.learned}
        pairs = [
            (
                pair.policy,
                pair.baseline + (f" (first {pair.windows})" if pair.windows < count else ""),
                pair.ratio.value,
                pair.ratio.low,
                pair.ratio.high,
                pair.improvement.value,
                pair.won,
            )
            for pair in report.comparisons[variant]
            if pair.policy in learned
        ]
        if pairs:
            columns = (
                "policy",
                "against",
                "ratio of means",
                "95 % low",
                "high",
                "P(better)",
                "won",
            )
            tables.append(CardTable(f"Paired: {title}", columns, pairs))
    return tuple(tables)


def _published_row(row: Published) -> tuple[str, float, None, None, None]:
    return (f"{row.policy} ({row.source})", row.value, None, None, None)
