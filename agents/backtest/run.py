"""A backtest of the twin as a run: cells of traces, rules and loads, and what is asked in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from rich.console import Console

from agents.backtest.changes import ask_what_if
from agents.backtest.moves import ask_for_moves
from agents.backtest.newcomers import ask_about_newcomers
from agents.backtest.replay import Backtest, ask_on_the_way, loaded
from agents.backtest.report import Findings, said_of, said_of_all, write_report
from agents.files import write_json
from envs.workloads import Enrichment, Trace, enrich, of_tenants
from orchestrator.errors import ConfigurationError
from orchestrator.twin.futures import TwinConfig

__all__ = ["QUESTIONS", "BacktestRun", "Cell", "build_backtest", "run_backtest"]


QUESTIONS = ("starts", "ends", "newcomers", "changes", "moves")
"""What the twin may be asked."""


_ASKED = ("moments", "asked", "known", "questions", "seed", "estimates")


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
    questions : sequence of str or None
        What is asked in it; None: what the run asks.
    costs : bool
        Whether checkpoints and restarts are drawn for traces that have none, and who may be
        preempted or moved: see :class:`envs.workloads.Enrichment`.
    """

    workload: str
    tenants: Sequence[str] | None = None
    rule: str = "fcfs"
    load: float = 0.8
    jobs: int = 0
    questions: Sequence[str] | None = None
    costs: bool = False


@dataclass(frozen=True)
class BacktestRun:
    """What is replayed, and how it is asked.

    Parameters
    ----------
    workloads : mapping of str to Trace
    cells : mapping of str to Cell
    twin : TwinConfig
    moments, asked, known, seed
        See :class:`agents.backtest.replay.Backtest`.
    questions : sequence of str
        Of :data:`QUESTIONS`: what is asked where a cell does not say.
    estimates : int or None
        Seed of users' estimates where traces have none; None: those of the traces.
    """

    workloads: Mapping[str, Trace]
    cells: Mapping[str, Cell]
    twin: TwinConfig
    moments: int = 20
    asked: int = 20
    known: float = 0.4
    questions: Sequence[str] = ("starts",)
    seed: int = 0
    estimates: int | None = 0

    def __post_init__(self) -> None:
        """Refuse cells of traces that are not given, and questions that nobody answers."""
        if not self.cells:
            raise ConfigurationError("backtest: 'cells' is empty; give at least one")
        for name, cell in self.cells.items():
            if cell.workload not in self.workloads:
                known = ", ".join(self.workloads)
                raise ConfigurationError(
                    f"backtest: cell '{name}' names workload '{cell.workload}'; known: {known}"
                )
            for question in self.questions_of(cell):
                if question not in QUESTIONS:
                    raise ConfigurationError(
                        f"backtest: question '{question}'; choose from {', '.join(QUESTIONS)}"
                    )

    def questions_of(self, cell: Cell) -> Sequence[str]:
        """What is asked in a cell."""
        return self.questions if cell.questions is None else cell.questions

    def backtest(self, cell: Cell) -> Backtest:
        """One cell."""
        trace = self.workloads[cell.workload]
        if cell.tenants is not None:
            trace = of_tenants(trace, list(cell.tenants))
        if cell.costs:
            trace = enrich(trace, Enrichment(self.seed, estimates=False, elastic_share=0.0))
        trace = loaded(trace, cell.load, estimates=self.estimates)
        ends = "ends" in self.questions_of(cell)
        return Backtest(
            trace, cell.rule, cell.jobs, self.moments, self.known, self.asked, ends, self.seed
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


def run_backtest(run: BacktestRun, output: Path, console: Console) -> Findings:
    """Replay all cells, ask in each what is to be asked, and write what came of it.

    ``table.md`` and pictures for people; ``answers.csv``, ``changes.csv`` and ``moves.csv`` for
    programs.
    """
    found = Findings()
    for number, (name, cell) in enumerate(run.cells.items()):
        backtest, asked = run.backtest(cell), run.questions_of(cell)
        first = number * run.moments  # moments are numbered through all cells
        if "starts" in asked or "ends" in asked:
            found.add(name, ask_on_the_way(backtest, run.twin), first)
        if "newcomers" in asked:
            found.add(name, ask_about_newcomers(backtest, run.twin), first)
        if "changes" in asked:
            told = ask_what_if(backtest, run.twin)
            found.changes[name] = [replace(one, moment=one.moment + first) for one in told]
        if "moves" in asked:
            gangs = ask_for_moves(backtest, run.twin)
            found.moves[name] = [replace(one, moment=one.moment + first) for one in gangs]
        console.print(f"{name}: {said_of(found, name)}", highlight=False, soft_wrap=True)
    write_report(found, output)
    write_json(output / "result.json", {"cells": {n: asdict(c) for n, c in run.cells.items()}})
    for line in said_of_all(found):
        console.print(line, highlight=False, soft_wrap=True)
    return found
