"""How all pictures look, and how they are written."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["ACCENT", "GREY", "INK", "MS_PER_HOUR", "PALE", "SECOND", "figure_file", "plain_ticks"]

ACCENT, SECOND, INK, GREY, PALE = "#1f5fa8", "#c8742a", "#222222", "#8a8a8a", "#d9d9d9"
_STYLE: Any = {
    "figure.dpi": 110,
    "savefig.dpi": 160,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.axisbelow": True,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": "#ececec",
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}
MS_PER_HOUR = 3_600_000.0


@contextmanager
def figure_file(
    path: Path, size: tuple[float, float], **layout: Any
) -> Iterator[tuple[Figure, Any]]:
    """A figure that is written to ``path`` at the end, whole or not at all."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=size)
        FigureCanvasAgg(figure)
        axes = figure.subplots(**layout)
        yield figure, axes
        with replacing(path) as temporary, warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*[Cc]onstrained_layout.*")
            figure.savefig(temporary)


def plain_ticks(axes: Axes, which: str) -> None:
    """Plain numbers on a logarithmic axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis = getattr(axes, f"{which}axis")
    if axis.get_scale() == "log":
        low, high = axis.get_view_interval()
        # Labels of a finer division would run into each other.
        subs: tuple[float, ...] = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
        if high > 30.0 * low:
            subs = (1.0,) if high > 1000.0 * low else (1.0, 3.0)
        axis.set_major_locator(LogLocator(subs=subs, numticks=12))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
        axis.set_minor_formatter(NullFormatter())
