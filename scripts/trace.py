"""Describe a workload: a picture and a table of its arrivals, sizes, run times, load and users.

Usage:

    python scripts/trace.py workload=philly
    python scripts/trace.py workload=lublin workload.jobs=10000 output=DIR
    python scripts/trace.py --help
"""

from __future__ import annotations

from omegaconf import DictConfig
from rich.console import Console

from agents.program import entry_point
from agents.seeing.trace import describe_trace


@entry_point("trace")
def main(cfg: DictConfig) -> None:
    describe_trace(cfg, Console())


if __name__ == "__main__":
    main()
