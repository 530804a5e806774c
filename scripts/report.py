"""Compare runs: one table, curves with bands over seeds, who is better than whom.

Usage:

    python scripts/report.py results/runs/lublin_ppo results/runs/lublin_cma/*
    python scripts/report.py results/runs/train/* output=results/study
    python scripts/report.py --help
"""

from __future__ import annotations

from omegaconf import DictConfig
from rich.console import Console

from agents.program import entry_point
from agents.studies.report import report


@entry_point("report", rest="runs")
def main(cfg: DictConfig) -> None:
    report(cfg, Console())


if __name__ == "__main__":
    main()
