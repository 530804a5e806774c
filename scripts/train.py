"""Train an agent, then judge it on test windows that it never saw.

    python scripts/train.py experiment=demo
    python scripts/train.py experiment=lublin_cma seed=1
    python scripts/train.py --help
"""

from __future__ import annotations

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console

from agents.configs import build_task, entry_point


@entry_point("train")
def main(cfg: DictConfig) -> None:
    console = Console()
    output = Path(cfg.output)
    task = build_task(cfg)
    console.print(f"[bold]{cfg.name}[/]: {task.trace.name}, {len(task.trace):,} jobs, seed {task.seed}")
    tracker = instantiate(cfg.tracker)
    try:
        result = instantiate(cfg.agent).train(task, tracker, output)
    finally:
        tracker.close()
    console.print(f"bundle: {result.bundle}")
    judge(cfg, task, result, output, console)


if __name__ == "__main__":
    main()
