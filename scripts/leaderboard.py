"""Play a policy on the suites of the leaderboard, and say how it did against everybody on it.

Usage:

    python scripts/leaderboard.py policy=examples/leaderboard/policy.py:SmallWork
    python scripts/leaderboard.py bundle=results/lublin/cma enter=true
    python scripts/leaderboard.py --help
"""

from __future__ import annotations

from omegaconf import DictConfig
from rich.console import Console

from agents.leaderboard.run import run_leaderboard
from agents.program import entry_point


@entry_point("leaderboard")
def main(cfg: DictConfig) -> None:
    run_leaderboard(cfg, Console())


if __name__ == "__main__":
    main()
