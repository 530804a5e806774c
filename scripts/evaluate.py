"""Play a suite's windows under every rule, and under trained policies if any are given.

Usage:

    python scripts/evaluate.py suite=rlscheduler workload.path=FILE output=DIR
    python scripts/evaluate.py suite=rlscheduler bundle=results/runs/lublin_cma/0/bundle
    python scripts/evaluate.py --help
"""

from __future__ import annotations

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console

from agents.bundle import load_bundle
from agents.configs import build_suite, entry_point, plain
from agents.evaluation import add_to_card, make_report, print_report, run_suite, write_report


@entry_point("evaluate")
def main(cfg: DictConfig) -> None:
    console = Console()
    suite = build_suite(cfg.suite)
    config = instantiate(cfg.env)
    bundles = plain(cfg.bundle) or []
    bundles = [bundles] if isinstance(bundles, str) else bundles
    policies = [load_bundle(path, config.schema) for path in bundles]
    trace = instantiate(cfg.workload)
    scenario = instantiate(cfg.scenario)
    history = instantiate(cfg.history) if cfg.get("history") else None
    results = run_suite(
        suite, trace, config, policies, console, scenario, history, processes=cfg.processes
    )
    report = make_report(suite, trace, config, results, scenario)
    print_report(report, console)
    write_report(report, Path(cfg.output), plain(cfg))
    if cfg.card:
        for path in bundles:
            add_to_card(Path(path), report)
    console.print(f"written to {cfg.output}: jobs.csv, table.csv, comparisons.csv, summary.json")


if __name__ == "__main__":
    main()
