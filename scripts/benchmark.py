"""Measure the speed, beside what this machine can do at best.

Usage:

    python scripts/benchmark.py suite=speed
    python scripts/benchmark.py suite=speed_short
    python scripts/benchmark.py --help
"""

from __future__ import annotations

import sys
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from agents.configs import build_speed_suite, entry_point
from agents.speed import print_speed, run_speed_suite, write_speed


@entry_point("benchmark")
def main(cfg: DictConfig) -> None:
    console = Console()
    suite = build_speed_suite(cfg.suite, cfg.traces)
    outcomes = []
    with console.status("measuring") as status:
        for outcome in run_speed_suite(suite):
            outcomes.append(outcome)
            status.update(f"measuring, {len(outcomes)} of {len(suite.measures)} done")
    holds = print_speed(suite, outcomes, console)
    if cfg.output is not None:
        write_speed(suite, outcomes, Path(cfg.output) / "speed.json")
    if not holds:
        sys.exit(1)


if __name__ == "__main__":
    main()
