"""What a training ends with: its policy judged on what it never saw, and a card."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from agents.bundle import CardTable, EvaluationCard, write_card
from agents.configs import build_packing_suite, command_line, judging_suite, plain
from agents.evaluation import make_report, print_report, run_suite, training_card, write_report
from agents.evaluation.packing import print_packing, run_packing, write_packing
from agents.plots import draw_pictures
from agents.task import Task, TrainingResult

__all__ = ["judge"]

_SCRIPT = "scripts/train.py"


def judge(
    cfg: DictConfig, task: Task, result: TrainingResult, output: Path, console: Console
) -> None:
    """Judge a trained policy, write what was found beside its bundle, and the bundle's card.

    Parameters
    ----------
    cfg : DictConfig
        Of the training. With a ``suite`` of packing it is that suite's orders that count, else
        the test windows of the task.
    task : Task
    result : TrainingResult
    output : Path
    console : Console
    """
    jobs = f"{task.trace.name}, {len(task.trace):,} jobs"
    note = f"Trained on the first {cfg.task.train:.0%} of {jobs}."
    if cfg.get("suite") is not None:
        _judge_packing(cfg, task, result, note, output, console)
        return
    suite, config = judging_suite(cfg, task), task.evaluation_config
    outcomes = run_suite(suite, task.trace, config, [result.policy], console, task.scenario)
    report = make_report(suite, task.trace, config, outcomes, task.scenario)
    print_report(report, console)
    write_report(report, output, plain(cfg))
    draw_pictures(output, report, result.history, f"{cfg.name}, seed {cfg.seed}")
    card = training_card(report, cfg.name, command_line(_SCRIPT), [note])
    write_card(result.bundle, card)


def _judge_packing(
    cfg: DictConfig,
    task: Task,
    result: TrainingResult,
    note: str,
    output: Path,
    console: Console,
) -> None:
    suite, trace = build_packing_suite(cfg.suite)
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
    write_card(result.bundle, EvaluationCard(cfg.name, command_line(_SCRIPT), (table,), (note,)))
