"""Run small real jobs on agents of this machine for a long time, and see whether anything grows.

Usage:

    python scripts/soak.py
    python scripts/soak.py soak.minutes=15 soak.jobs_per_s=0.5
"""

from __future__ import annotations

import sys

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console

from agents.live import run_soak
from agents.program import entry_point, run_folder


@entry_point("soak")
def main(cfg: DictConfig) -> None:
    run = instantiate(cfg.soak)
    with run_folder(cfg, "scripts/soak.py") as output:
        if not run_soak(run, output, Console()):
            sys.exit(1)


if __name__ == "__main__":
    main()
