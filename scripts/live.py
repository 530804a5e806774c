"""Run a dozen small real jobs on agents of this machine, and lose one agent on the way.

Usage:

    python scripts/live.py
    python scripts/live.py rule=sjf live.lose=null
    python scripts/live.py bundle=DIR
"""

from __future__ import annotations

import sys

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console

from agents.live import run_live
from agents.program import entry_point, run_folder


@entry_point("live")
def main(cfg: DictConfig) -> None:
    run = instantiate(cfg.live)
    with run_folder(cfg, "scripts/live.py") as output:
        if not run_live(run, output, Console(), rule=cfg.rule, bundle=cfg.bundle):
            sys.exit(1)


if __name__ == "__main__":
    main()
