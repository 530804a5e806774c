"""Measure the speed, beside what this machine can do at best; or how well placements pack.

Usage: python scripts/benchmark.py suite=speed, or suite=openb output=results/openb
"""

from __future__ import annotations

import sys
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from agents.configs import build_packing_suite, build_speed_suite, entry_point
from agents.evaluation.packing import print_packing, run_packing, write_packing
from agents.speed import print_speed, run_speed_suite, write_speed


def pack(cfg: DictConfig, console: Console) -> None:
    suite, trace = build_packing_suite(cfg.suite)
    with console.status("packing") as status:
        results = run_packing(suite, trace, lambda policy: status.update(f"packing by {policy}"))
    print_packing(suite, results, console)
    if cfg.output is not None:
        write_packing(suite, trace, results, Path(cfg.output))


@entry_point("benchmark")
def main(cfg: DictConfig) -> None:
    console = Console()
    if cfg.suite.get("kind") == "packing":
        pack(cfg, console)
        return
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
