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

from agents.configs import build_task, entry_point
from agents.judging import build_judge


@entry_point("train")
def main(cfg: DictConfig) -> None:
    console = Console()
    output = Path(cfg.output)
    task = build_task(cfg)
    judge = build_judge(cfg, task)
    jobs = f"{task.trace.name}, {len(task.trace):,} jobs"
    console.print(f"[bold]{cfg.name}[/]: {jobs}, seed {cfg.seed}, results in {output}")
    tracker = instantiate(cfg.tracker)
    try:
        result = instantiate(cfg.agent).train(task, tracker, output)
    finally:
        tracker.close()

    judge(result, output, console)
    console.print(f"written to {output}: the bundle, tables (.csv, .json), pictures (.png)")


if __name__ == "__main__":
    main()
