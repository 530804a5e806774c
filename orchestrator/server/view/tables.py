"""Tables of a picture as columns, and which of their rows have changed since they were told.

Nothing here makes an object per job or node, but for those that have changed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.engine.engine import Engine
from orchestrator.kernels.state.codes import FOREVER_MS, JobCode

__all__ = ["Gangs", "Nodes", "ended_gangs"]


_Ints = NDArray[np.int64]


_WATCHED = ("runs", "start_ms", "resized_ms", "expected_end_ms", "workers_now", "state")
"""Fields of a job's record which are told of gangs; the first two say whether it is another run."""


_NODE_FIELDS = (
    *("state", "gpus", "gpu_free_milli", "cpu_cap_milli", "cpu_free_milli", "workers"),
    *("rack", "spine"),
)


_UNENDING_MS = FOREVER_MS // 2


def _columns(engine: Engine, rows: _Ints) -> dict[str, list[Any]]:
    """Jobs of rows, a list for each of their properties."""
    state, table = engine.state, engine.jobs
    run, ask, ids = state.job[0][rows], state.request[0][rows], table.index.ids
    names = [ids[j] for j in rows.tolist()]
    end_ms = np.where(
        run["expected_end_ms"] - run["start_ms"] > _UNENDING_MS, -1, run["expected_end_ms"]
    )
    return {
        "row": rows.tolist(),
        "id": names,
        "name": [table.specs[name].name for name in names],
        "tenant": ask["tenant"].tolist(),
        "priority": ask["priority"].tolist(),
        "kind": ask["kind"].tolist(),
        "state": run["state"].tolist(),
        "start_ms": run["start_ms"].tolist(),
        "until_ms": end_ms.tolist(),
        "workers": run["workers_now"].tolist(),
        "gpus": (ask["gpus_per_worker"] * ask["gpu_milli"] / 1000).tolist(),
    }


class Gangs:
    """Jobs that are placed, as they were told last."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Nothing was told."""
        self._told: _Ints = np.zeros((0, len(_WATCHED) + 1), np.int64)

    def _look(self, engine: Engine) -> _Ints:
        """What is watched of each row; rows of jobs that are not placed are zero throughout."""
        count = len(engine.jobs.index.ids)
        jobs, asks = engine.state.job[0, :count], engine.state.request[0, :count]
        found = np.zeros((count, len(_WATCHED) + 1), np.int64)
        there = np.flatnonzero(jobs["workers_now"] > 0)
        for column, name in enumerate(_WATCHED):
            found[there, column] = jobs[name][there]
        found[there, -1] = asks["submit_ms"][there]
        return found

    def changes(self, engine: Engine) -> dict[str, Any]:
        """Gangs that are new, or otherwise than they were told, and those that have gone."""
        now = self._look(engine)
        before = self._told
        if len(before) < len(now):
            before = np.vstack([before, np.zeros((len(now) - len(before), now.shape[1]), np.int64)])
        self._told = now
        other = (before != now).any(axis=1)
        was, there = before[:, 0] > 0, now[:, 0] > 0
        another = (before[:, [0, -1]] != now[:, [0, -1]]).any(axis=1)  # run, or job
        gone = np.flatnonzero(was & (~there | another))
        changed = np.flatnonzero(other & there)
        told: dict[str, Any] = {}
        if len(gone):
            ends = engine.state.job[0][gone]
            ended = np.isin(ends["state"], (JobCode.COMPLETED, JobCode.FAILED)) & ~there[gone]
            told["gone"] = {
                "row": gone.tolist(),
                "end_ms": np.where(ended, ends["end_ms"], engine.now_ms).tolist(),
                "state": np.where(there[gone], -1, ends["state"]).tolist(),
            }
        if len(changed):
            told["set"] = self._told_of(engine, changed)
        return told

    def all(self, engine: Engine) -> dict[str, Any]:
        """Every gang as it was told last; to be asked right after :meth:`changes`."""
        rows = np.flatnonzero(self._told[:, 0] > 0)
        return {"set": self._told_of(engine, rows)} if len(rows) else {}

    @staticmethod
    def _told_of(engine: Engine, rows: _Ints) -> dict[str, list[Any]]:
        """Gangs with the nodes that they are on: one list, and how many of it are of each."""
        counts = engine.state.job[0]["workers_now"][rows]
        widest = int(counts.max(initial=0))
        places = engine.state.worker[0]["node"][rows, :widest]
        there = np.arange(widest) < counts[:, None]
        return {**_columns(engine, rows), "at": places[there].tolist()}


def ended_gangs(engine: Engine, most: int) -> dict[str, list[Any]]:
    """The jobs that have ended last and are remembered, with when and how; the oldest first."""
    jobs = engine.state.job[0, : len(engine.jobs.index.ids)]
    ended = (jobs["state"] == JobCode.COMPLETED) | (jobs["state"] == JobCode.FAILED)
    rows = np.flatnonzero(ended & (jobs["start_ms"] >= 0))
    rows = rows[np.argsort(jobs["end_ms"][rows], kind="stable")[-most:]]
    return {**_columns(engine, rows), "end_ms": jobs["end_ms"][rows].tolist()}


class Nodes:
    """Nodes as they were told last."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Nothing was told."""
        self._told: _Ints = np.zeros((0, len(_NODE_FIELDS)), np.int64)

    def changes(self, engine: Engine) -> dict[str, Any]:
        """Nodes that are new, or not as they were told."""
        ids = engine.nodes.index.ids
        table = engine.state.node[0, : len(ids)]
        now = np.stack([table[name].astype(np.int64) for name in _NODE_FIELDS], axis=1)
        before, self._told = self._told, now
        known = len(before)
        rows = np.flatnonzero((now[:known] != before[: len(now)]).any(axis=1))
        rows = np.concatenate([rows, np.arange(known, len(now))])
        return self._told_of(ids, rows) if len(rows) else {}

    def all(self, engine: Engine) -> dict[str, Any]:
        """Every node as it was told last."""
        return self._told_of(engine.nodes.index.ids, np.arange(len(self._told)))

    def _told_of(self, ids: list[str], rows: _Ints) -> dict[str, Any]:
        values = self._told[rows]
        told = {name: values[:, k].tolist() for k, name in enumerate(_NODE_FIELDS)}
        return {"row": rows.tolist(), "id": [ids[n] for n in rows.tolist()], **told}
