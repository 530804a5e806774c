"""Evaluation cards of policy bundles, made from reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agents.bundle import (
    BundleError,
    CardTable,
    EvaluationCard,
    read_card,
    scenario_text,
    write_card,
)
from agents.evaluation.report import Report
from agents.evaluation.suite import Published

__all__ = ["add_to_card", "card_tables", "training_card"]


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


def add_to_card(bundle: Path, report: Report) -> None:
    """Add the tables of a report to a bundle's card; tables of the same title are replaced."""
    try:
        card = read_card(bundle)
    except BundleError:
        card = EvaluationCard(f"Policy bundle {bundle.name}", "not recorded")
    new = card_tables(report)
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
        rows += [_published_row(row) for row in suite.published if row.variant == variant]
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
