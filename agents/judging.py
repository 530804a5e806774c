"""What a training ends with: its policy judged on what it never saw, and a card."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Protocol

from omegaconf import DictConfig
from rich.console import Console

from agents.bundle import CardTable, EvaluationCard, write_card
from agents.configs import build_packing_suite, command_line, judging_suite, plain
from agents.evaluation import make_report, print_report, run_suite, training_card, write_report
from agents.evaluation.packing import PackingSuite, print_packing, run_packing, write_packing
from agents.evaluation.suite import Suite
from agents.plots import draw_pictures
from agents.task import Task, TrainingResult
from envs.workloads import Trace

__all__ = ["Judge", "build_judge"]

_SCRIPT = "scripts/train.py"


class Judge(Protocol):
    """Judges a trained policy; writes what it finds to ``output``, and the bundle's card."""

    def __call__(self, result: TrainingResult, output: Path, console: Console) -> None:
        """Judge."""
        ...


def build_judge(cfg: DictConfig, task: Task) -> Judge:
    """Make the judge of a training, before it begins: what is wrong in a suite is said then.

    Parameters
    ----------
    cfg : DictConfig
        Of the training. With a ``suite`` of packing it is that suite's orders that count, else
        the test windows of the task.
    task : Task
    """
    if cfg.get("suite") is not None:
        suite, trace = build_packing_suite(cfg.suite)
        return partial(_judge_packing, cfg, task, suite, trace)
    return partial(_judge_windows, cfg, task, judging_suite(cfg, task))


def _judge_windows(
    cfg: DictConfig,
    task: Task,
    suite: Suite,
    result: TrainingResult,
    output: Path,
    console: Console,
) -> None:
    config = task.evaluation_config
    outcomes = run_suite(suite, task.trace, config, [result.policy], console, task.scenario)
    report = make_report(suite, task.trace, config, outcomes, task.scenario)
    print_report(report, console)
    write_report(report, output, plain(cfg))
    draw_pictures(output, report, result.history, f"{cfg.name}, seed {cfg.seed}")
    card = training_card(report, cfg.name, command_line(_SCRIPT), [_origin(cfg, task)])
    write_card(result.bundle, card)


def _judge_packing(
    cfg: DictConfig,
    task: Task,
    suite: PackingSuite,
    trace: Trace,
    result: TrainingResult,
    output: Path,
    console: Console,
) -> None:
    with console.status("packing"):
        results = run_packing(suite, trace, None, [result.policy], task.config)
    print_packing(suite, results, console)
    write_packing(suite, trace, results, output)
    rows = [(one.policy, one.mean, one.deviation) for one in results]
    table = CardTable(
        f"{suite.name}: GPUs allocated when {suite.ratio:.0%} are asked for, "
        f"{len(suite.seeds)} orders of {trace.name}",
        ("policy", "mean, %", "standard deviation"),
        rows,
    )
    notes = (_origin(cfg, task),)
    write_card(result.bundle, EvaluationCard(cfg.name, command_line(_SCRIPT), (table,), notes))


def _origin(cfg: DictConfig, task: Task) -> str:
    """What a policy was trained on, for its card."""
    jobs = f"{task.trace.name}, {len(task.trace):,} jobs"
    return f"Trained on the first {cfg.task.train:.0%} of {jobs}."
