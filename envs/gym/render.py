"""Pictures and words of a row: its decision point, and its occupancy over time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.state.codes import FOREVER_MS, JobCode, JobKind, NodeCode
from orchestrator.scheduling.runs import RUN_DTYPE, RunEnd, RunReader

if TYPE_CHECKING:
    from envs.session import Session

__all__ = ["describe_decision", "draw_occupancy", "kept_effects"]

_SHOWN = 12
_WIDTH, _HEIGHT = 640, 256
_BACKGROUND, _PARTIAL = (250, 250, 250), (215, 215, 215)
_PER_JOB, _LEAST = 32, 4096
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


def kept_effects(jobs: int) -> int:
    """Effects that a session of so many jobs keeps, so that all their runs can be drawn."""
    return max(_PER_JOB * jobs, _LEAST)


def draw_occupancy(session: Session, e: int) -> NDArray[np.uint8]:
    """Capacity x time occupancy of a row so far: an RGB image [256, 640, 3].

    Time runs to the right, from the episode's start to now (and to the expected ends of running
    jobs); each run of a job is a block as high as what it held. Heights are stacked in order of
    start, so a block's position says how much was in use, not which device. On a darker ground only
    the last run of each job is drawn: the session does not keep what came before
    (:meth:`envs.session.Session.keep_effects`), or more has happened than it keeps.
    """
    row = session.state.rows[e]
    whole, blocks = _blocks(session, e)
    image = np.full((_HEIGHT, _WIDTH, 3), _BACKGROUND if whole else _PARTIAL, np.uint8)
    if len(blocks) == 0:
        return image
    start, end = blocks["start_ms"].astype(np.float64), blocks["end_ms"].astype(np.float64)
    low = float(session.state.request[e, 0]["submit_ms"])
    high = max(float(end.max()), float(row["now_ms"]), low + 1.0)
    edges = np.linspace(low, high, _WIDTH + 1)
    per_unit = _HEIGHT / max(int(row["nominal_units"]), 1)
    left = np.searchsorted(edges, start, side="right") - 1
    right = np.searchsorted(edges, end, side="left")
    top = np.zeros(_WIDTH)
    for k in np.argsort(start, kind="stable"):
        colour = job_colour(int(blocks["job"][k]))
        height = blocks["units"][k] * per_unit
        for x in range(int(left[k]), min(int(right[k]), _WIDTH)):
            # Jobs that meet within one column can be higher than the cluster together.
            from_y = min(int(top[x]), _HEIGHT)
            to_y = min(int(np.ceil(top[x] + height)), _HEIGHT)
            image[_HEIGHT - to_y : _HEIGHT - from_y, x] = colour
            top[x] += height
    now = min(int((row["now_ms"] - low) / (high - low) * (_WIDTH - 1)), _WIDTH - 1)
    image[:, now] = _NOW
    return image


def _blocks(session: Session, e: int) -> tuple[bool, NDArray[np.void]]:
    """Whether every run of the jobs is known, and those that are, RUN_DTYPE; services' last one."""
    state, row = session.state, session.state.rows[e]
    jobs, kinds = (table[e][: row["num_jobs"]] for table in (state.job, state.request["kind"]))
    found = RunReader(session.envs).finish(state, e) if state.shape.effects > 0 else None
    holds = np.isin(jobs["state"], (JobCode.RUNNING, JobCode.CHECKPOINTING, JobCode.COMPLETED))
    last = holds if found is None else holds & (kinds == JobKind.SERVICE)
    runs = np.zeros(int(last.sum()), RUN_DTYPE)
    runs["job"], runs["end"] = np.flatnonzero(last), RunEnd.UNFINISHED
    for name in ("start_ms", "units"):
        runs[name] = jobs[name][last]
    runs["end"][jobs["state"][last] == JobCode.COMPLETED] = RunEnd.COMPLETED
    runs["end_ms"] = jobs["end_ms"][last]
    if found is not None:
        runs = np.concatenate((found.runs, runs))
    goes_on = runs["end"] == RunEnd.UNFINISHED
    expected = jobs["expected_end_ms"][runs["job"]]
    forever = kinds[runs["job"]] == JobKind.SERVICE
    runs["end_ms"][goes_on] = np.where(forever, row["now_ms"], expected)[goes_on]
    return found is not None, runs
