"""Train an agent, then judge it on test windows that it never saw.

Usage:

    python scripts/train.py experiment=demo
    python scripts/train.py --help
"""

from __future__ import annotations

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console

from agents.bundle import write_card
from agents.configs import build_task, command_line, entry_point, judging_suite, plain
from agents.evaluation import make_report, print_report, run_suite, training_card, write_report
from agents.plots import draw_pictures


@entry_point("train")
def main(cfg: DictConfig) -> None:
    console = Console()
    output = Path(cfg.output)
    task = build_task(cfg)
    suite = judging_suite(cfg, task)
    jobs = f"{task.trace.name}, {len(task.trace):,} jobs"
    console.print(f"[bold]{cfg.name}[/]: {jobs}, seed {cfg.seed}, results in {output}")
    tracker = instantiate(cfg.tracker)
    try:
        result = instantiate(cfg.agent).train(task, tracker, output)
    finally:
        tracker.close()

    config = task.evaluation_config
    outcomes = run_suite(suite, task.trace, config, [result.policy], console, task.scenario)
    report = make_report(suite, task.trace, config, outcomes, task.scenario)
    print_report(report, console)
    write_report(report, output, plain(cfg))
    draw_pictures(output, report, result.history, f"{cfg.name}, seed {cfg.seed}")
    notes = [f"Trained on the first {cfg.task.train:.0%} of {jobs}."]
    card = training_card(report, cfg.name, command_line("scripts/train.py"), notes)
    write_card(result.bundle, card)
    console.print(f"written to {output}: the bundle, tables (.csv, .json), pictures (.png)")


if __name__ == "__main__":
    main()
