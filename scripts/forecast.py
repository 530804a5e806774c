"""Make forecast tables of demand series, and judge predictive scaling with them.

Usage:

    python scripts/forecast.py
    python scripts/forecast.py forecaster=naive judge=false tables=DIR
    python scripts/forecast.py --help
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console

from agents.autoscaling.run import make_tables, publish_study, read_series, study_tables
from agents.program import entry_point, plain, run_folder


@entry_point("forecast")
def main(cfg: DictConfig) -> None:
    taken = run_folder(cfg, "scripts/forecast.py") if cfg.judge else nullcontext(Path(cfg.output))
    with taken as output:
        _forecast(cfg, output, Console())


def _forecast(cfg: DictConfig, output: Path, console: Console) -> None:
    """Make the tables, and judge with them if that is wanted."""
    study, forecasters = instantiate(cfg.study), instantiate(cfg.forecaster)
    series = read_series(cfg.traces, plain(cfg.demand))
    options = {"folder": Path(cfg.cache), "workers": cfg.workers, "console": console}
    tables, bases = make_tables(study, series, forecasters, **options)
    for table in tables:
        table.save(Path(cfg.tables) / f"{table.series.replace(' ', '_')}.npz")
    console.print(f"{len(tables)} tables written to {cfg.tables}")
    if cfg.judge:
        found = study_tables(study, series, tables, bases)
        publish_study(study, found, series, tables, output, console, plain(cfg.demand))


if __name__ == "__main__":
    main()
