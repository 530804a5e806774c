"""Replay traces, ask the twin on the way, and score its answers.

Usage:

    python scripts/backtest.py
    python scripts/backtest.py part=test output=results/twin
"""

from __future__ import annotations

from omegaconf import DictConfig
from rich.console import Console

from agents.backtest.run import build_backtest, run_backtest
from agents.program import entry_point, plain, run_folder


@entry_point("backtest")
def main(cfg: DictConfig) -> None:
    asked = build_backtest(plain(cfg))
    with run_folder(cfg, "scripts/backtest.py") as output:
        run_backtest(asked, output, Console())


if __name__ == "__main__":
    main()
