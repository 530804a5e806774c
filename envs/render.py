"""Pictures and words of a row: its decision point, and its occupancy over time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.state.codes import FOREVER_MS, JobCode, JobKind, NodeCode

if TYPE_CHECKING:
    from envs.session import Session

__all__ = ["describe_decision", "draw_occupancy"]

_SHOWN = 12
_WIDTH, _HEIGHT = 640, 256
_BACKGROUND = (250, 250, 250)
_NOW = (40, 40, 40)


def describe_decision(session: Session, e: int) -> str:
    """What row ``e`` looks like at its decision point, as a small text table."""
    row = session.state.rows[e]
    unit = "GPUs" if row["unit"] else "cores"
    up = int((session.state.node[e]["state"][: row["num_nodes"]] == NodeCode.UP).sum())
    lines = [
        (
            f"t = {row['now_ms'] / 1000:.0f} s   nodes up {up}/{row['num_nodes']}   "
            f"free {row['free_units'] / 1000:g} of {row['capacity_units'] / 1000:g} {unit}"
        ),
        (
            f"waiting {row['queue_len']}   running {row['running_len']}   "
            f"{_progress(session, e)} of {row['num_jobs']}"
        ),
    ]
    window = session.buffers.window[e][: session.buffers.shown[e, 0]]
    asked = session.state.request[e]["requested_ms"][window]
    estimated = bool((asked < FOREVER_MS).any())  # else nobody expects any of them to end
    if len(window) > 0:
        heading = f" {'estimate s':>11}" if estimated else ""
        lines.append(f"{'slot':>4} {'job':>6} {'wait s':>9}{heading} {unit:>7}")
    for slot, j in enumerate(window[:_SHOWN]):
        ask = session.state.request[e, j]
        wait = (row["now_ms"] - ask["submit_ms"]) / 1000
        demand = session.state.job[e, j]["units"] / 1000
        ends = ask["requested_ms"] < FOREVER_MS
        words = f"{ask['requested_ms'] / 1000:.0f}" if ends else "-"
        estimate = f" {words:>11}" if estimated else ""
        lines.append(f"{slot:>4} {j:>6} {wait:>9.0f}{estimate} {demand:>7g}")
    if len(window) > _SHOWN:
        lines.append(f"  ... and {len(window) - _SHOWN} more")
    for s, own in enumerate(session.state.service[e][: row["num_services"]]):
        replicas = session.state.job[e, own["job"]]["workers_now"]
        lines.append(
            f"service {s}   {own['rate_rps']:.1f} requests/s   replicas {replicas}, "
            f"ready {own['ready']}   use {own['utilisation']:.2f}"
        )
    return "\n".join(lines) + "\n"


def _progress(session: Session, e: int) -> str:
    """What became of the jobs so far: they end, or they were placed for good or turned away."""
    row = session.state.rows[e]
    if session.config.turn_away:
        placed = session.state.job[e]["first_start_ms"][: row["num_jobs"]] >= 0
        return f"placed {int(placed.sum())}, turned away {row['failed_jobs']}"
    failed = f", failed {row['failed_jobs']}" if row["failed_jobs"] > 0 else ""
    return f"completed {row['completed_jobs']}{failed}"


def job_colour(j: int) -> tuple[int, int, int]:
    """A colour for a job that differs from its neighbours' (golden-angle hues)."""
    hue = (j * 0.618033988749895) % 1.0
    sector, part = divmod(hue * 6.0, 1.0)
    rising, falling = part, 1.0 - part
    red, green, blue = (
        (1.0, rising, 0.0),
        (falling, 1.0, 0.0),
        (0.0, 1.0, rising),
        (0.0, falling, 1.0),
        (rising, 0.0, 1.0),
        (1.0, 0.0, falling),
    )[int(sector)]
    return tuple(int(70 + 150 * c) for c in (red, green, blue))  # type: ignore[return-value]


def draw_occupancy(session: Session, e: int) -> NDArray[np.uint8]:
    """Capacity x time occupancy of a row so far: an RGB image [256, 640, 3].

    Time runs to the right, from the episode's start to now (and to the expected ends of running
    jobs); each job is a block as high as its demand. Heights are stacked in order of start, so
    a block's position says how much was in use, not which device.
    """
    row = session.state.rows[e]
    image = np.full((_HEIGHT, _WIDTH, 3), _BACKGROUND, np.uint8)
    jobs = session.state.job[e][: row["num_jobs"]]
    held = np.flatnonzero((jobs["first_start_ms"] >= 0) & (jobs["state"] != JobCode.PREEMPTED))
    if len(held) == 0:
        return image
    running = np.isin(jobs["state"][held], (JobCode.RUNNING, JobCode.CHECKPOINTING))
    start = jobs["start_ms"][held].astype(np.float64)
    end = np.where(running, jobs["expected_end_ms"][held], jobs["end_ms"][held]).astype(float)
    forever = session.state.request[e][held]["kind"] == JobKind.SERVICE
    end = np.where(running & forever, float(row["now_ms"]), end)
    low = float(session.state.request[e, 0]["submit_ms"])
    high = max(float(end.max()), float(row["now_ms"]), low + 1.0)
    edges = np.linspace(low, high, _WIDTH + 1)
    per_unit = _HEIGHT / max(int(row["nominal_units"]), 1)
    order = np.argsort(start, kind="stable")
    left = np.searchsorted(edges, start, side="right") - 1
    right = np.searchsorted(edges, end, side="left")
    top = np.zeros(_WIDTH)
    for k in order:
        colour = job_colour(int(held[k]))
        height = jobs["units"][held[k]] * per_unit
        for x in range(int(left[k]), min(int(right[k]), _WIDTH)):
            # Jobs that meet within one column can be higher than the cluster together.
            from_y = min(int(top[x]), _HEIGHT)
            to_y = min(int(np.ceil(top[x] + height)), _HEIGHT)
            image[_HEIGHT - to_y : _HEIGHT - from_y, x] = colour
            top[x] += height
    now = min(int((row["now_ms"] - low) / (high - low) * (_WIDTH - 1)), _WIDTH - 1)
    image[:, now] = _NOW
    return image
