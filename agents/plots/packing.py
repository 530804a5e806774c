"""Allocation of a cluster's GPUs as ever more are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from agents.evaluation.packing import PackingResult
from agents.plots.style import ACCENT, SECOND, figure_file

__all__ = ["draw_packing"]


def draw_packing(
    path: Path, results: Sequence[PackingResult], published: Mapping[str, float]
) -> None:
    """Draw how much of a cluster's GPUs each policy allocates while ever more are asked for.

    Parameters
    ----------
    path : Path
    results : sequence of PackingResult
    published : mapping of str to float
        Published allocations in the end, percent, marked on the right.
    """
    ranked = sorted(results, key=lambda result: -result.mean)
    percents = np.arange(ranked[0].curve.shape[1])
    with figure_file(path, (6.8, 4.0)) as (_, axes):
        axes.grid(axis="y")
        for number, result in enumerate(ranked):
            shade = str(0.75 * number / max(len(ranked) - 1, 1))
            color = ACCENT if number == 0 else shade
            name = f"{result.policy}  {result.mean:.1f}"
            axes.plot(percents, result.curve.mean(axis=0), color=color, lw=1.6, label=name)
            if result.policy in published:
                end = (percents[-1] + 1, published[result.policy])
                axes.plot(*end, marker="<", color=SECOND, ms=5, clip_on=False)
        axes.set(xlabel="GPUs asked for, % of the cluster", ylabel="GPUs allocated, %")
        axes.set_title("GPU allocation; triangles: published")
        axes.set_xlim(80.0, float(percents[-1]))
        axes.set_ylim(78.0, 97.0)
        axes.legend(fontsize=8)
