"""Simulate a live run again, with costs fitted to live logs, and compare completion times.

Usage:

    python scripts/fidelity.py log=results/live/log.sqlite
    python scripts/fidelity.py log=results/live/log.sqlite fit=[OTHER.sqlite]
    python scripts/fidelity.py log=results/live/log.sqlite costs=costs.yaml
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from agents.live import FidelityRun, run_fidelity
from agents.program import entry_point, plain, run_folder


@entry_point("fidelity")
def main(cfg: DictConfig) -> None:
    fit = plain(cfg.fit) or []
    asked = FidelityRun(
        log=Path(cfg.log),
        fit=[Path(path) for path in ([fit] if isinstance(fit, str) else fit)],
        costs=None if cfg.costs is None else Path(cfg.costs),
        rule=cfg.rule,
        bundle=cfg.bundle,
        declared=cfg.declared,
    )
    with run_folder(cfg, "scripts/fidelity.py") as output:
        run_fidelity(asked, output, Console())


if __name__ == "__main__":
    main()
