"""Make forecast tables of demand series, and judge predictive scaling with them.

Usage:

    python scripts/forecast.py
    python scripts/forecast.py forecaster=naive judge=false tables=DIR
    python scripts/forecast.py --help
"""

from __future__ import annotations

from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console

from agents.autoscaling import make_bases, print_study, read_series, study_series, write_study
from agents.configs import entry_point, plain


@entry_point("forecast")
def main(cfg: DictConfig) -> None:
    console = Console()
    study, forecasters = instantiate(cfg.study), instantiate(cfg.forecaster)
    series = read_series(cfg.traces, plain(cfg.demand))
    first = [study.first(one) for one in series]
    horizon = max(max(study.delays_of(one)) for one in series)
    options = {"first": first, "horizon": horizon, "folder": Path(cfg.cache)}
    made = make_bases(series, forecasters, **options, workers=cfg.workers, console=console)
    outcomes, errors = [], []
    for one, bases in zip(series, made, strict=True):
        found, missed, table = study_series(study, one, forecasters, bases, judge=cfg.judge)
        outcomes += found
        errors += missed
        table.save(Path(cfg.tables) / f"{one.name.replace(' ', '_')}.npz")
    console.print(f"{len(series)} tables written to {cfg.tables}")
    if cfg.judge:
        print_study(outcomes, console)
        write_study(study, outcomes, errors, Path(cfg.output), {"demand": plain(cfg.demand)})
        console.print(f"written to {cfg.output}: summary.json, table.md")


if __name__ == "__main__":
    main()
