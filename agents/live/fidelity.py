"""How well the simulator foretells a live run: completion times, job by job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from agents.deploy import BundlePolicy
from agents.files import write_csv, write_json
from agents.live.fit import FittedCosts, fit_costs, read_costs, write_costs
from agents.live.record import JobRecord, LiveRecord, read_log
from agents.live.replay import replay
from agents.plots.paired import PairedJob, draw_paired
from orchestrator.errors import ConfigurationError
from orchestrator.ports import Policy
from orchestrator.scheduling.rules import Rule, rule_named

__all__ = ["ComparedJob", "Fidelity", "FidelityRun", "compare", "run_fidelity"]


_FAR = 0.05  # an error that is pointed out
_COLUMNS = (
    *("job", "priority", "workers", "live_wait_s", "live_s", "live_runs", "simulated_wait_s"),
    *("simulated_s", "simulated_runs", "error"),
)


@dataclass(frozen=True)
class ComparedJob:
    """A job, live and simulated."""

    live: JobRecord
    simulated: JobRecord

    @property
    def error(self) -> float:
        """Of the simulated completion time, as a share of the live one; below 0: it is shorter."""
        return _took_s(self.simulated) / _took_s(self.live) - 1.0

    def row(self) -> tuple[Any, ...]:
        """As the table has it; see ``_COLUMNS``."""
        cells: list[Any] = [
            self.live.spec.job_id,
            self.live.spec.priority.name.lower(),
            self.live.spec.num_workers,
        ]
        for job in (self.live, self.simulated):
            cells += [_waited_s(job), _took_s(job), len(job.runs)]
        return (*cells, self.error)


def _took_s(job: JobRecord) -> float:
    return ((job.end_ms or job.submit_ms) - job.submit_ms) / 1000


def _waited_s(job: JobRecord) -> float:
    start_ms = job.runs[0].begin_ms if job.runs else job.submit_ms
    return (start_ms - job.submit_ms) / 1000


@dataclass(frozen=True)
class Fidelity:
    """How well a live run was foretold.

    Parameters
    ----------
    jobs : tuple of ComparedJob
        In the order of their submission.
    same_starts : bool
        Whether all runs of all jobs started in the same order.
    swapped : float
        Share of the pairs of jobs that were first started in the other order.
    """

    jobs: tuple[ComparedJob, ...]
    same_starts: bool
    swapped: float

    def summary(self) -> dict[str, Any]:
        """Relative errors of completion times, without their signs, and the order of the starts."""
        errors = np.abs([job.error for job in self.jobs])
        low, high = np.percentile(errors, (50, 95))
        return {
            "jobs": len(self.jobs),
            "mean": float(errors.mean()),
            "median": float(low),
            "p95": float(high),
            "largest": float(errors.max()),
            "bias": float(np.mean([job.error for job in self.jobs])),
            "same_starts": self.same_starts,
            "swapped": self.swapped,
        }


def compare(live: LiveRecord, simulated: LiveRecord) -> Fidelity:
    """Compare the jobs of a live run that have ended with the same ones, simulated.

    Raises
    ------
    ConfigurationError
        If one did not end in the simulation.
    """
    ended = {name: job for name, job in live.jobs.items() if job.end_ms is not None}
    endless = [
        name for name in ended if name not in simulated.jobs or simulated.jobs[name].end_ms is None
    ]
    if endless:
        raise ConfigurationError(
            f"simulated, {', '.join(endless)} did not end in four times the time of the live run; "
            "give the rule or bundle that decided there"
        )
    starts = [_first_starts(record, list(ended)) for record in (live, simulated)]
    pairs = list(combinations(range(len(ended)), 2))
    swaps = [
        a for a, b in pairs if (starts[0][a] - starts[0][b]) * (starts[1][a] - starts[1][b]) < 0
    ]
    return Fidelity(
        tuple(ComparedJob(job, simulated.jobs[name]) for name, job in ended.items()),
        [start for start in live.starts() if start[0] in ended] == simulated.starts(),
        len(swaps) / max(len(pairs), 1),
    )


def _first_starts(record: LiveRecord, names: Sequence[str]) -> list[int]:
    return [runs[0].begin_ms if (runs := record.jobs[name].runs) else -1 for name in names]


def _table(found: Fidelity) -> Table:
    table = Table(box=SIMPLE_HEAD, header_style="dim", padding=(0, 1, 0, 0))
    heads = ("job", "workers", "live: wait s", "end s", "sim: wait s", "end s", "runs", "error")
    for column in heads:
        justify: Literal["left", "right"] = "left" if column == "job" else "right"
        table.add_column(column, justify=justify, no_wrap=True)
    for job in found.jobs:
        name, _, workers, wait_s, end_s, runs, sim_wait_s, sim_end_s, sim_runs, error = job.row()
        times = [f"{seconds:.2f}" for seconds in (wait_s, end_s, sim_wait_s, sim_end_s)]
        counts = f"{runs}, {sim_runs}" if runs != sim_runs else str(runs)
        style = "bold red" if abs(error) > _FAR else ""
        told = f"{100 * error:+.2f} %"
        table.add_row(escape(name), str(workers), *times, counts, told, style=style)
    return table


def _tell_costs(fitted: FittedCosts, console: Console) -> None:
    table = Table(box=SIMPLE_HEAD, header_style="dim", padding=(0, 1, 0, 0))
    for column in ("cost", "median ms", "10 %", "90 %", "seen"):
        table.add_column(column, justify="left" if column == "cost" else "right")
    rows = list(fitted.measured.items())
    rows += [(f"start_ms, program {n}", one) for n, one in enumerate(fitted.programs.values(), 1)]
    for name, one in rows:
        told = [f"{value:.1f}" for value in (one.median, one.p10, one.p90)]
        table.add_row(name, *(told if one.count else ["-"] * 3), str(one.count))
    console.print(table)


def _tell(summary: dict[str, Any], what: str, console: Console) -> None:
    mean, median, p95, largest = (
        f"{100 * summary[name]:.2f} %" for name in ("mean", "median", "p95", "largest")
    )
    order = "in the same order"
    if not summary["same_starts"]:
        order = f"not all in the same order ({summary['swapped']:.1%} of the pairs swapped)"
    console.print(
        f"[bold]{what}[/]: completion times of {summary['jobs']} jobs are off by {mean} in the "
        f"mean, {median} at the median, {p95} at the 95th percentile, {largest} at most; "
        f"starts {order}",
        soft_wrap=True,
        highlight=False,
    )


def _spans(job: JobRecord, begin_ms: int) -> list[tuple[float, float]]:
    return [
        ((run.begin_ms - begin_ms) / 1000, ((run.end_ms or run.begin_ms) - begin_ms) / 1000)
        for run in job.runs
    ]


def _draw(path: Path, found: Fidelity, summary: dict[str, Any]) -> None:
    begin_ms = min(job.live.submit_ms for job in found.jobs)
    pairs = [
        PairedJob(
            job.live.spec.job_id,
            (job.live.submit_ms - begin_ms) / 1000,
            (_spans(job.live, begin_ms), _spans(job.simulated, begin_ms)),
        )
        for job in found.jobs
        if job.live.runs and job.simulated.runs
    ]
    errors = f"error: mean {summary['mean']:.2%}, 95th percentile {summary['p95']:.2%}"
    draw_paired(path, pairs, ("live", "simulated"), errors)


@dataclass(frozen=True)
class FidelityRun:
    """Which live run is simulated again, and how.

    Parameters
    ----------
    log : Path
        Of the live run.
    fit : sequence of Path, optional
        Logs of other live runs, to which costs are fitted; none: to this one, which then says
        how well it describes itself, and not what it foretells.
    costs : Path or None, optional
        Costs that were fitted before, in the place of ``fit``.
    rule, bundle : str or None
        Who decides: a rule, or a trained policy; neither: who did, by the log, or else the default.
    declared : bool, optional
        See :func:`agents.live.replay.replay`.
    """

    log: Path
    fit: Sequence[Path] = ()
    costs: Path | None = None
    rule: str | None = None
    bundle: str | None = None
    declared: bool = False

    def __post_init__(self) -> None:
        """Refuse two answers to one question."""
        for one, other in (("rule", "bundle"), ("fit", "costs")):
            if getattr(self, one) and getattr(self, other):
                problem = f"both '{one}' and '{other}' are given"
                raise ConfigurationError(f"fidelity: {problem}; give one of them")

    def policy(self) -> Policy | Rule | None:
        """Who decides, if that was said."""
        if self.bundle is not None:
            return BundlePolicy.load(self.bundle)
        return None if self.rule is None else rule_named(self.rule)

    def elsewhere(self) -> FittedCosts | None:
        """Costs that were not fitted to this run, if there are any."""
        if self.costs is not None:
            return read_costs(self.costs)
        return fit_costs(*(read_log(path) for path in self.fit)) if self.fit else None


def run_fidelity(asked: FidelityRun, output: Path, console: Console) -> Fidelity:
    """Simulate a live run again, tell how well that went, and write it down.

    Parameters
    ----------
    asked : FidelityRun
    output : Path
        Folder for ``fidelity.csv``, ``summary.json``, ``costs.yaml`` and ``fidelity.png``.
    console : Console
    """
    policy, elsewhere, live = asked.policy(), asked.elsewhere(), read_log(asked.log)
    own = fit_costs(live)

    def judged(fitted: FittedCosts, **options: bool) -> Fidelity:
        options = {"declared": asked.declared, **options}
        return compare(live, replay(live, fitted, policy, **options))

    fitted = own if elsewhere is None else elsewhere
    whose = "its own" if elsewhere is None else "other runs"
    found = judged(fitted)
    beside = {
        "other_work": judged(fitted, declared=not asked.declared),
        "in_specifications": judged(fitted, in_specifications=True),
        "own_costs": judged(own),
    }
    works = ("as they say", "as they have") if asked.declared else ("as they have", "as they say")
    _tell_costs(fitted, console)
    console.print(_table(found))
    _tell(found.summary(), f"costs of {whose}, jobs work {works[0]}", console)
    _tell(beside["other_work"].summary(), f"jobs work {works[1]}", console)
    _tell(beside["in_specifications"].summary(), "costs in specifications, as in training", console)
    if elsewhere is not None:
        _tell(beside["own_costs"].summary(), "its own costs", console)
    summary = {"costs": whose, "declared": asked.declared, **found.summary()}
    summary |= {name: one.summary() for name, one in beside.items()}
    write_csv(output / "fidelity.csv", _COLUMNS, (job.row() for job in found.jobs))
    write_json(output / "summary.json", summary)
    write_costs(output / "costs.yaml", fitted)
    _draw(output / "fidelity.png", found, summary)
    console.print(f"written to {output}", highlight=False, soft_wrap=True)
    return found
