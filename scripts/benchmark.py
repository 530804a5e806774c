"""Run a suite: play windows under rules and policies, pack a cluster, or measure the speed.

Usage: python scripts/benchmark.py suite=NAME output=DIR
"""

from __future__ import annotations

import sys

from omegaconf import DictConfig
from rich.console import Console

from agents.program import entry_point
from agents.run import run_benchmark


@entry_point("benchmark")
def main(cfg: DictConfig) -> None:
    if not run_benchmark(cfg, Console()):
        sys.exit(1)


if __name__ == "__main__":
    main()
