"""The learning curve of a training run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from agents.plots.style import ACCENT, GREY, PALE, SECOND, figure_file, plain_ticks

__all__ = ["draw_learning_curve"]


def draw_learning_curve(
    path: Path,
    history: Sequence[Mapping[str, float]],
    title: str,
    unit: str,
    reference_name: str = "SJF",
) -> None:
    """Draw the validation score over training time.

    Parameters
    ----------
    path : Path
        The picture, for example a ``.png``.
    history : sequence of mappings
        ``seconds``, ``validation`` and, where there is one, ``reference``: the score of a rule on
        the same windows.
    title : str
    unit : str
        What is validated.
    reference_name : str, optional
        The rule whose score ``reference`` is.
    """
    minutes = np.array([entry["seconds"] for entry in history]) / 60.0
    scores = np.array([entry["validation"] for entry in history])
    with figure_file(path, (6.4, 3.6)) as (_, axes):
        axes.grid(axis="y")
        axes.plot(minutes, scores, color=PALE, lw=1.2, zorder=2)
        axes.plot(minutes, scores, ".", color=GREY, ms=4, zorder=3, label="each validation")
        best = np.minimum.accumulate(scores)
        axes.step(minutes, best, where="post", color=ACCENT, lw=2, zorder=4, label="best so far")
        reference = history[-1].get("reference")
        if reference is not None:
            axes.axhline(reference, color=SECOND, lw=1.2, ls="--", label=reference_name)
        if scores.max() > 3.0 * scores.min():
            axes.set_yscale("log")
            plain_ticks(axes, "y")
        axes.set(xlabel="training time, minutes", ylabel=unit, title=title)
        axes.set_xlim(left=0.0)
        axes.legend()
