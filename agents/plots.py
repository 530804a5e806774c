"""Pictures of a run: learning curve, paired comparison, and a window as a Gantt chart."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from agents.evaluation.files import replacing
from agents.evaluation.outcomes import METRICS, EvaluationResult
from agents.evaluation.packing import PackingResult
from agents.evaluation.report import Report
from agents.evaluation.statistics import Comparison

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "ACCENT",
    "GREY",
    "PALE",
    "SECOND",
    "assign_lanes",
    "draw_comparison",
    "draw_gantt",
    "draw_learning_curve",
    "draw_packing",
    "draw_pictures",
    "figure_file",
]

ACCENT, SECOND, _INK, GREY, PALE = "#1f5fa8", "#c8742a", "#222222", "#8a8a8a", "#d9d9d9"
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
    "axes.labelcolor": _INK,
    "axes.axisbelow": True,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "grid.color": "#ececec",
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}
_MOST_LANES = 4096
_MS_PER_HOUR = 3_600_000.0
_BOUND_MS = 10_000


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
            _plain_ticks(axes, "y")
        axes.set(xlabel="training time, minutes", ylabel=unit, title=title)
        axes.set_xlim(left=0.0)
        axes.legend()


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


def draw_comparison(path: Path, report: Report, variant: str = "") -> None:
    """Draw a policy against rules on the same windows.

    Left, window by window against the first baseline; right, the ratio of means to every baseline
    with its interval.

    Parameters
    ----------
    path : Path
    report : Report
        With at least one learned policy, or else its first rule takes the place.
    variant : str, optional
    """
    group = report.results[variant]
    mine = next((result for result in group if result.learned), group[0])
    pairs = [pair for pair in report.comparisons[variant] if pair.policy == mine.policy]
    against = next(result for result in group if result.policy == pairs[0].baseline)
    name = report.suite.metric.replace("_", " ")
    with figure_file(path, (8.6, 4.0), ncols=2, width_ratios=(1.0, 1.15)) as (_, (left, right)):
        _scatter(left, mine, against, report.suite.metric)
        left.set_title(f"{len(mine.starts)} test windows, mean {name}")
        _intervals(right, pairs)
        right.set_title(f"{name}, {mine.policy} relative to …")


def _scatter(axes: Axes, mine: EvaluationResult, against: EvaluationResult, metric: str) -> None:
    x, y = against.values[metric], mine.values[metric]
    low, high = min(x.min(), y.min()) / 1.15, max(x.max(), y.max()) * 1.15
    if low > 0:
        axes.set(xscale="log", yscale="log")
    axes.plot([low, high], [low, high], color=GREY, lw=1, zorder=1)
    axes.scatter(x, y, s=14, color=ACCENT, alpha=0.6, linewidths=0, zorder=2)
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.set(xlabel=against.policy, ylabel=mine.policy)
    for which in ("x", "y"):
        _plain_ticks(axes, which)
    axes.text(0.96, 0.05, f"{mine.policy} better", ha="right", color=GREY, transform=axes.transAxes)
    axes.text(0.04, 0.93, f"{against.policy} better", color=GREY, transform=axes.transAxes)


def _intervals(axes: Axes, pairs: Sequence[Comparison]) -> None:
    axes.axvline(1.0, color=GREY, lw=1)
    for row, pair in enumerate(pairs):
        for shift, estimate, colour, text in (
            (-0.12, pair.ratio, ACCENT, "mean"),
            (0.12, pair.iqm_ratio, SECOND, "interquartile mean"),
        ):
            y = row + shift
            axes.plot([estimate.low, estimate.high], [y, y], color=colour, lw=2)
            axes.plot(estimate.value, y, "o", color=colour, ms=5, label=None if row else text)
    names = [f"{pair.baseline}\nbeaten on {pair.won:.0%}" for pair in pairs]
    axes.set_yticks(range(len(pairs)), names)
    axes.set_ylim(len(pairs) - 0.4, -0.6)
    axes.set_xlabel("ratio, 95 % bootstrap interval (less than 1 is better)")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)


def _plain_ticks(axes: Axes, which: str) -> None:
    """Plain numbers on a logarithmic axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis = getattr(axes, f"{which}axis")
    if axis.get_scale() == "log":
        low, high = axis.get_view_interval()
        wide = high > 30.0 * low  # labels of a finer division would run into each other
        subs = (1.0, 3.0) if wide else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
        axis.set_major_locator(LogLocator(subs=subs, numticks=12))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
        axis.set_minor_formatter(NullFormatter())


def assign_lanes(
    start: NDArray[np.int64], end: NDArray[np.int64], size: NDArray[np.int64], lanes: int
) -> list[list[tuple[int, int]]]:
    """Give every job lanes of its own for as long as it runs.

    A job gets the smallest gap that holds it whole, else the lowest free lanes.

    Parameters
    ----------
    start, end : int64 [J]
    size : int64 [J]
        Lanes that each job needs.
    lanes : int
        All there are.

    Returns
    -------
    list of list of (int, int)
        For each job its runs of lanes: the first, and how many.
    """
    owner = np.full(lanes, -1, np.int64)
    given: list[list[tuple[int, int]]] = [[] for _ in range(len(start))]
    running: list[int] = []
    for j in np.lexsort((-size, start)):
        for k in [k for k in running if end[k] <= start[j]]:
            running.remove(k)
            for first, count in given[k]:
                owner[first : first + count] = -1
        given[j] = _take(_runs(owner < 0), int(size[j]))
        for first, count in given[j]:
            owner[first : first + count] = j
        running.append(int(j))
    return given


def _runs(free: NDArray[np.bool_]) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate(([0], free.view(np.int8), [0]))))
    return [(int(a), int(b - a)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _take(gaps: list[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    whole = [gap for gap in gaps if gap[1] >= size]
    if whole:
        return [(min(whole, key=lambda gap: gap[1])[0], size)]
    taken = []
    for first, count in gaps:
        part = min(count, size)
        if part > 0:
            taken.append((first, part))
            size -= part
    return taken


def draw_gantt(path: Path, results: Sequence[EvaluationResult], sequence: int = 0) -> None:
    """Draw one window under several policies: capacity over time, and how many jobs wait.

    Every job is a block, as high as its demand and as long as its run.

    Parameters
    ----------
    path : Path
    results : sequence of EvaluationResult
        One panel for each, with the jobs of the window. Of a preempted job the last run is drawn.
    sequence : int, optional
        The window.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    norm = LogNorm(1.0, 100.0, clip=True)
    count = len(results)
    size = (9.2, 2.0 + 2.4 * count)
    layout = {"nrows": count + 1, "height_ratios": [2.0] * count + [1.0]}
    with figure_file(path, size, sharex=True, **layout) as (figure, grid):
        stops = ["#c9dcef", "#7aa6d6", "#f2c14e", "#d9632b", "#8c1c13"]
        colours = LinearSegmentedColormap.from_list("slowdown", stops)
        for axes, result in zip(grid, results, strict=False):
            _blocks(axes, result, sequence, colours, norm)
        _waiting(grid[-1], results, sequence)
        grid[-1].set_xlabel("hours since the first submission")
        bar = figure.colorbar(
            ScalarMappable(norm, colours), ax=grid[:-1], aspect=30, pad=0.01, extend="max"
        )
        bar.set_label("bounded slowdown of the job")
        bar.outline.set_visible(False)


def _slowdowns(jobs: NDArray[np.void]) -> NDArray[np.float64]:
    """Bounded slowdown of each job, from the run that it ended with."""
    run = np.maximum(jobs["end_ms"] - jobs["last_start_ms"], _BOUND_MS)
    slowdown: NDArray[np.float64] = (jobs["end_ms"] - jobs["submit_ms"]) / run
    return np.maximum(slowdown, 1.0)


def _blocks(axes: Axes, result: EvaluationResult, sequence: int, colours: Any, norm: Any) -> None:
    from matplotlib.collections import PolyCollection

    jobs = result.of_sequence(sequence)
    unit = max(int(np.gcd.reduce(jobs["units"])), -(-result.capacity_units // _MOST_LANES))
    size = -(-jobs["units"] // unit)
    lanes = result.capacity_units // unit
    placed = assign_lanes(jobs["last_start_ms"], jobs["end_ms"], size, lanes)
    zero = jobs["submit_ms"].min()
    begin = (jobs["last_start_ms"] - zero) / _MS_PER_HOUR
    until = (jobs["end_ms"] - zero) / _MS_PER_HOUR
    shade = colours(norm(_slowdowns(jobs)))
    corners, faces = [], []
    for j, runs in enumerate(placed):
        for first, count in runs:
            left, right = begin[j], until[j]
            low, high = first * unit / 1000, (first + count) * unit / 1000
            corners.append([(left, low), (right, low), (right, high), (left, high)])
            faces.append(shade[j])
    axes.add_collection(
        PolyCollection(corners, facecolors=faces, edgecolors="white", linewidths=0.15)
    )
    mean = result.values["bounded_slowdown"][sequence]
    axes.set(ylim=(0, result.capacity_units / 1000), ylabel=result.resource)
    axes.set_xlim(0, max(until.max(), axes.get_xlim()[1]))
    axes.set_title(f"{result.policy}: mean bounded slowdown {mean:,.1f}")


def _waiting(axes: Axes, results: Sequence[EvaluationResult], sequence: int) -> None:
    for result, colour in zip(results, (ACCENT, SECOND, GREY), strict=False):
        jobs = result.of_sequence(sequence)
        times = np.concatenate((jobs["submit_ms"], jobs["start_ms"]))
        change = np.repeat((1, -1), len(jobs))
        order = np.argsort(times, kind="stable")
        hours = (times[order] - jobs["submit_ms"].min()) / _MS_PER_HOUR
        waiting = np.cumsum(change[order])
        axes.step(hours, waiting, where="post", color=colour, lw=1.2, label=result.policy)
    axes.set_ylim(bottom=0)
    axes.set(ylabel="jobs waiting")
    axes.grid(axis="y")
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 0.95), ncols=len(results))


def draw_pictures(
    folder: Path, report: Report, history: Sequence[Mapping[str, float]], title: str
) -> None:
    """Draw the pictures of a training run: learning curve, paired comparison and Gantt chart.

    Parameters
    ----------
    folder : Path
    report : Report
        On test windows, the trained policy first.
    history : sequence of mappings
        See :func:`draw_learning_curve`.
    title : str
        Of the learning curve.
    """
    variant, group = next(iter(report.results.items()))
    metric = report.suite.metric
    unit = f"{metric.replace('_', ' ')}, validation windows"
    # Trainers are configured with the rule that the evaluation puts first.
    reference = report.suite.baselines[0]
    reference = reference.upper() if reference == "sjf" else reference
    draw_learning_curve(folder / "learning_curve.png", history, title, unit, reference)
    draw_comparison(folder / "comparison.png", report, variant)
    rules = [result for result in group if not result.learned]
    best = min(rules, key=lambda result: -METRICS[metric] * result.values[metric].mean())
    # The window in the middle by the rule's result: neither the easiest nor the hardest.
    kept = np.unique(best.jobs["sequence"])
    middle = kept[np.argsort(best.values[metric][kept])[len(kept) // 2]]
    draw_gantt(folder / "gantt.png", [group[0], best], int(middle))
