"""Make a live cluster's learned decisions again, write its jobs as a trace, try other rules.

Usage:

    python scripts/replay.py log=DIR/log.sqlite
    python scripts/replay.py log=DIR/log.sqlite bundles=[results/demo/bundle] trace=false
    python scripts/replay.py log=DIR/log.sqlite under=[sjf,elastic_srtf] trace=false
    python scripts/train.py workload=live_log workload.path=results/replay/trace.csv
"""

from __future__ import annotations

import sys
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from agents.live import ReplayRun, run_replay
from agents.program import entry_point, plain, run_folder


@entry_point("replay")
def main(cfg: DictConfig) -> None:
    given = plain(cfg.bundles) or []
    asked = ReplayRun(
        log=Path(cfg.log),
        decisions=None if cfg.decisions is None else Path(cfg.decisions),
        bundles=(given,) if isinstance(given, str) else tuple(given),
        trace=cfg.trace,
        rules=tuple(plain(cfg.under) or ()),
        at_most=cfg.at_most,
    )
    with run_folder(cfg, "scripts/replay.py") as output:
        if not run_replay(asked, output, Console()):
            sys.exit(1)


if __name__ == "__main__":
    main()
