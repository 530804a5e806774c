"""Play a suite's windows under every rule, and under trained policies if any are given.

Usage:

    python scripts/evaluate.py suite=rlscheduler workload.path=FILE output=DIR
    python scripts/evaluate.py suite=rlscheduler bundle=results/runs/lublin_cma/0/bundle
    python scripts/evaluate.py --help
"""

from __future__ import annotations

from omegaconf import DictConfig
from rich.console import Console

from agents.program import entry_point
from agents.run import evaluate


@entry_point("evaluate")
def main(cfg: DictConfig) -> None:
    evaluate(cfg, Console())


if __name__ == "__main__":
    main()
