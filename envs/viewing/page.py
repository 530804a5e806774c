"""Episodes as a page: one file that plays them, and asks nobody else for anything.

The page is put together from sources: those beside this file (``web/``), and the colours, canvases
and formats of the live cluster's page (``orchestrator/server/page``), which they import.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import orchestrator
from envs.viewing.episode import EpisodeView, Explanation
from envs.viewing.lanes import BAR_DTYPE
from envs.viewing.series import series_of
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.state.codes import NodeCode
from orchestrator.scheduling.runs import RunEnd

__all__ = ["episode_data", "episode_page"]

_OWN = Path(__file__).parent / "web"
_SHARED = Path(orchestrator.__file__).parent / "server" / "page"
_STYLES = (_SHARED / "page.css", _OWN / "episode.css")
_MODULES = (  # in the order of their imports
    *(_SHARED / "format.js", _SHARED / "draw.js"),
    *(_OWN / name for name in ("times.js", "bars.js", "curves.js", "panels.js", "main.js")),
)
_IMPORT = re.compile(r"^import [^;]*;\n", re.MULTILINE)
_EXPORT = re.compile(r"^export ", re.MULTILINE)

_MOST_ALTERNATIVES, _MOST_PARTS = 6, 4  # of a decision that is shown


def episode_page(episodes: Sequence[EpisodeView]) -> str:
    """A page that plays episodes of the same window, one at a time, on one clock.

    Parameters
    ----------
    episodes : sequence of EpisodeView
        One for each policy; their names are distinct.

    Returns
    -------
    str
        HTML, whole: no file beside it, and nothing from the network.
    """
    if len(episodes) == 0:
        raise ConfigurationError("episode page: there is no episode; give one at least")
    data = json.dumps(
        [episode_data(one) for one in episodes], allow_nan=False, separators=(",", ":")
    )
    parts = {
        "title": html.escape(episodes[0].title or "Episode"),
        "style": "\n".join(path.read_text("utf-8") for path in _STYLES),
        "theme": (_SHARED / "theme.js").read_text("utf-8"),
        "script": _script(),
        "data": data.replace("<", "\\u003c"),
    }
    template = (_OWN / "episode.html").read_text("utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)


def _script() -> str:
    """All modules as one: none of them asks for another one any more."""
    texts = [path.read_text("utf-8") for path in _MODULES]
    return "\n".join(_EXPORT.sub("", _IMPORT.sub("", text)) for text in texts)


def episode_data(seen: EpisodeView) -> dict[str, Any]:
    """What the page draws, as plain data; times are ms since the episode began."""
    jobs, runs, bars, zero = seen.jobs, seen.runs, seen.bars, seen.begin_ms
    series, end = series_of(seen), _end_ms(seen)
    shown = int(np.searchsorted(series.time_ms, end, side="right"))
    return {
        "policy": seen.policy,
        "title": seen.title,
        "resource": seen.resource,
        "end": end - zero,
        "bound": seen.bound_ms,
        "nodes": list(seen.nodes),
        "capacity": seen.capacity.tolist(),
        "jobs": {
            "id": jobs["id"].tolist(),
            "submit": (jobs["submit_ms"] - zero).tolist(),
            "end": np.where(jobs["end_ms"] >= 0, jobs["end_ms"] - zero, -1).tolist(),
            "work": jobs["work_ms"].tolist(),
            "estimate": jobs["estimate_ms"].tolist(),
            **{name: jobs[name].tolist() for name in ("units", "workers", "tenant", "service")},
        },
        "runs": {
            **{name: runs[name].tolist() for name in ("job", "run", "units", "workers")},
            "start": (runs["start_ms"] - zero).tolist(),
            "end": (runs["end_ms"] - zero).tolist(),
            "how": [RunEnd(end).name.lower() for end in runs["end"].tolist()],
        },
        "bars": {name: bars[name].tolist() for name in BAR_DTYPE.names or ()},
        "outages": [
            [n, since - zero, until - zero, NodeCode(state).name.lower()]
            for n, since, until, state in seen.outages.tolist()
        ],
        "series": {
            "time": (series.time_ms[:shown] - zero).tolist(),
            "waiting": series.waiting[:shown].tolist(),
            "running": series.running[:shown].tolist(),
            "busy": series.busy[:shown].tolist(),
            "utilisation": _rounded(series.utilisation[:shown]),
            "slowdown": _rounded(series.slowdown[:shown]),
            "wait": _rounded(series.wait_s[:shown]),
        },
        "events": [[event.time_ms - zero, *event[1:]] for event in seen.events],
        "decisions": [_decision(one, zero) for one in seen.explanations],
    }


def _end_ms(seen: EpisodeView) -> int:
    """Until when there is something to see: nodes may fail and recover long after the last job."""
    ends = seen.jobs["end_ms"]
    return int(ends.max()) if len(ends) and (ends >= 0).all() else seen.now_ms


def _decision(one: Explanation, zero: int) -> dict[str, Any]:
    return {
        "time": one.time_ms - zero,
        "by": one.by,
        "count": one.count or len(one.alternatives),
        "alternatives": [
            [each.action, _number(each.score), each.note, _parts(each.parts[:_MOST_PARTS])]
            for each in one.alternatives[:_MOST_ALTERNATIVES]
        ],
    }


def _parts(parts: Iterable[tuple[str, float]]) -> list[list[str | float | None]]:
    return [[name, _number(value)] for name, value in parts]


def _rounded(values: NDArray[np.float64]) -> list[float | None]:
    return [_number(value) for value in values.tolist()]


def _number(value: float) -> float | None:
    """Five significant digits; None for what JSON does not have."""
    return float(f"{value:.5g}") if math.isfinite(value) else None
