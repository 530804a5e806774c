"""The picture of a study: reactive events by series, and a stretch of one series."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from agents.autoscaling.study import Outcome, Study, played
from agents.plots import ACCENT, GREY, PALE, SECOND, figure_file
from orchestrator.autoscaler import DemandSeries, ForecastTable

__all__ = ["draw_study"]

_SHOWN = (("reactive", GREY), ("reactive, same budget", SECOND), ("predictive", ACCENT))


def draw_study(
    path: Path,
    study: Study,
    outcomes: Sequence[Outcome],
    series: DemandSeries,
    table: ForecastTable,
    *,
    days: int = 3,
) -> None:
    """Draw the reactive events of each series, and how two scalers follow one of them.

    Parameters
    ----------
    path : Path
    study : Study
    outcomes : sequence of Outcome
        Of all series.
    series : DemandSeries
        The one whose last days are shown, at the shortest provisioning delay.
    table : ForecastTable
        Of that series.
    days : int, optional
    """
    with figure_file(path, (10.0, 5.2), ncols=2, width_ratios=(1.0, 1.25)) as (_, (left, right)):
        names = list(dict.fromkeys(outcome.series for outcome in outcomes))[::-1]
        for k, (scaler, colour) in enumerate(_SHOWN):
            sums = [
                sum(x.reactive_events for x in outcomes if (x.series, x.scaler) == (name, scaler))
                for name in names
            ]
            left.barh(
                np.arange(len(names)) + 0.26 * (1 - k), sums, 0.26, color=colour, label=scaler
            )
        left.set_yticks(np.arange(len(names)), names)
        left.grid(axis="x")
        left.set(xlabel="reactive scaling events, all delays", title="test part of each series")
        left.legend(loc="upper center", bbox_to_anchor=(0.3, -0.1), ncols=3)
        delay = study.delays_of(series)[0]
        ticks = slice(-days * series.day, None)
        hours = np.arange(days * series.day) * series.tick_s / 3600.0
        right.fill_between(hours, series.values[ticks], color=PALE, label="demand")
        unit, accounts = played(study, series, table, delay, outcomes)
        for scaler, colour in (_SHOWN[0], _SHOWN[2]):
            capacity = accounts[scaler].here[ticks] * unit
            right.step(
                hours, capacity, where="post", color=colour, lw=1.3, label=f"{scaler}: capacity"
            )
        right.set(xlabel="hours", ylabel=series.unit, xlim=(0.0, hours[-1]), ylim=(0.0, None))
        right.set_title(f"{series.name}, nodes arrive after {delay * series.tick_s // 60} min")
        right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3)
