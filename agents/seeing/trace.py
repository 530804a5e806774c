"""A workload described: what scripts/trace.py shows, writes and draws."""

from __future__ import annotations

import math
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from agents.evaluation.tables import number
from agents.files import markdown_table, write_csv, write_json, write_text
from agents.plots.trace import draw_trace
from agents.program import plain, run_folder
from envs.viewing.summary import QUANTILES, TraceSummary, summarise_trace
from envs.workloads import Trace

__all__ = ["describe_trace"]

_SCRIPT = "scripts/trace.py"
_QUANTILE_NAMES = tuple(f"{100 * share:.0f} %" for share in QUANTILES)


def describe_trace(cfg: DictConfig, console: Console) -> TraceSummary:
    """Describe the workload of a config.

    Parameters
    ----------
    cfg : DictConfig
        Of ``conf/trace.yaml``. ``trace.png``, ``table.md``, ``table.csv`` and ``summary.json`` are
        written to ``output``.
    console : Console

    Returns
    -------
    TraceSummary
    """
    with run_folder(cfg, _SCRIPT) as output:
        trace: Trace = instantiate(cfg.workload)
        summary = summarise_trace(trace)
        console.print(f"[bold]{escape(_headline(summary))}[/]", highlight=False)
        console.print(_table(summary))
        columns, rows = ("", *_QUANTILE_NAMES), _rows(summary)
        write_csv(output / "table.csv", columns, [[name, *values] for name, values in rows])
        cells = [[name, *map(_cell, values)] for name, values in rows]
        text = f"{_headline(summary)}\n\n{markdown_table(columns, cells, text_columns=1)}\n"
        write_text(output / "table.md", text)
        write_json(output / "summary.json", _content(summary, cfg))
        draw_trace(output / "trace.png", summary)
        console.print(f"written to {output}: trace.png, table.md, table.csv, summary.json")
    return summary


def _headline(summary: TraceSummary) -> str:
    """A trace in a sentence."""
    users = len(summary.user_work)
    text = f"{summary.name}: {summary.jobs:,} jobs in {summary.days:,.1f} days, "
    text += f"{users:,} users or tenants" if users > 1 else "one user"
    if summary.capacity > 0:
        text += f", {summary.capacity:,.0f} {summary.resource}, "
        text += f"offered load {summary.offered_load:.2f}"
    return f"{text}."


def _rows(summary: TraceSummary) -> list[tuple[str, list[float | None]]]:
    """Quantiles; empty where there is none, or it is infinite."""
    return [
        (name, [value if math.isfinite(value) else None for value in values.tolist()])
        for name, values in summary.quantiles
    ]


def _cell(value: float | None) -> str:
    return "–" if value is None else number(value)


def _table(summary: TraceSummary) -> Table:
    table = Table(header_style="dim", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("")
    for name in _QUANTILE_NAMES:
        table.add_column(name, justify="right", no_wrap=True)
    for name, values in _rows(summary):
        table.add_row(name, *map(_cell, values))
    return table


def _content(summary: TraceSummary, cfg: DictConfig) -> dict[str, Any]:
    """A trace's numbers, without those of each job."""
    work = summary.user_work / max(float(summary.user_work.sum()), 1e-9)
    return {
        "name": summary.name,
        "jobs": summary.jobs,
        "resource": summary.resource,
        "capacity": summary.capacity,
        "days": summary.days,
        "offered_load": summary.offered_load if math.isfinite(summary.offered_load) else None,
        "users": len(summary.user_work),
        "share_of_work_of_the_busiest_user": float(work[0]),
        "quantiles": dict(_rows(summary)),
        "arrivals_by_hour_of_the_week": summary.arrivals.round(3).tolist(),
        "config": plain(cfg),
    }
