"""A cluster as one compact picture: everything that the page draws, and what changed in it.

The picture is read from the engine's arrays. Why jobs wait costs more: it is asked of a
few at a time. Services are sampled once a second.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.engine.engine import Engine
from orchestrator.kernels.state.codes import JobCode, NodeCode
from orchestrator.orchestrator import InfrastructureOrchestrator
from orchestrator.questions.listing import served_order
from orchestrator.scheduling.rules import RULES, placing_rule
from orchestrator.server.view.services import ServiceSeries
from orchestrator.server.view.tables import Gangs, Nodes, ended_gangs
from orchestrator.status import fragmentation, tenant_shares, why_waiting
from orchestrator.types import JobState

__all__ = ["ClusterPicture"]


_QUEUED = 200
"""Waiting jobs that are told, the first ones."""


_EXPLAINED = 16
"""Waiting jobs of which is asked why, at one look: it takes some 0.2 ms each on 1,000 nodes."""


_ENDED = 400
"""Jobs that have ended and are told."""


_EVENTS = 200
"""Events that are told to whoever begins to look."""


_Part = dict[str, Any]


class ClusterPicture:
    """What was told of a cluster, and how it is now.

    Parameters
    ----------
    orchestrator : InfrastructureOrchestrator
        The cluster.
    deployed : bool, optional
        Whether policies can be put in charge: there is more to ask of who decides.
    """

    def __init__(self, orchestrator: InfrastructureOrchestrator, *, deployed: bool = False) -> None:
        self._orchestrator = orchestrator
        self._deployed = deployed
        self._gangs, self._nodes = Gangs(), Nodes()
        self._services = ServiceSeries(orchestrator.mesh, orchestrator.clock)
        self._parts: _Part = {}  # small ones, as they were told
        self._waiting: dict[int, list[Any]] = {}  # by row, as it was told
        self._reasons: dict[str, tuple[int, str]] = {}  # after how many entries, and why
        self._behind = False  # of some it is not known why they wait now
        self._events: deque[_Part] = deque(maxlen=_EVENTS)
        self._cursor: str | None = None
        self._loads = self._engine.loads

    @property
    def _engine(self) -> Engine:
        return self._orchestrator.engine

    @property
    def version(self) -> tuple[int, int]:
        """Changes with the cluster, as far as its log tells; cheap."""
        return self._engine.loads, self._engine.applied

    @property
    def behind(self) -> bool:
        """Whether another look tells more, though nothing has happened."""
        return self._behind

    def changes(self) -> _Part:
        """What is not as it was told; empty if nothing is. From then on it is told."""
        told: _Part = {}
        if self._engine.loads != self._loads:  # nothing is as it was known to be
            self._loads = self._engine.loads
            self._gangs.forget()
            self._nodes.forget()
            self._parts, self._waiting = {}, {}
            told["reset"] = True
        nodes = self._nodes.changes(self._engine)
        gangs = self._gangs.changes(self._engine)
        told |= {"nodes": nodes} if nodes else {}
        told |= {"gangs": gangs} if gangs else {}
        told |= self._queue()
        for name, part in self._small().items():
            if self._parts.get(name) != part:
                self._parts[name] = told[name] = part
        if fresh := self._happened():
            self._events += fresh
            told["events"] = fresh
        samples = self._services.sample()
        told |= {"services": samples} if samples else {}
        if told:
            told["now_ms"] = self.now_ms
        return told

    def whole(self) -> _Part:
        """All that was told: the picture as whoever heard every change has it."""
        return {
            "reset": True,
            "now_ms": self.now_ms,
            "nodes": self._nodes.all(self._engine),
            "gangs": self._gangs.all(self._engine),
            "ended": ended_gangs(self._engine, _ENDED),
            "queue": {"order": list(self._waiting), "set": list(self._waiting.values())},
            "events": list(self._events),
            "services": self._services.all(),
            "series": self._series(),
            **self._parts,
        }

    @property
    def now_ms(self) -> int:
        """Time on the cluster's clock."""
        return max(self._orchestrator.clock.now_ms(), self._engine.now_ms)

    # --- parts -----------------------------------------------------------------------------------

    def _small(self) -> _Part:
        """Parts that are told as a whole when anything in them has changed."""
        engine = self._engine
        row, state = engine.row, engine.state
        codes = np.bincount(state.job[0]["state"], minlength=len(JobCode))
        jobs = {one.value: int(codes[JobCode[one.name]]) for one in JobState}
        jobs["completed"] = engine.jobs.count("completed_jobs")
        jobs["failed"] = engine.jobs.count("failed_jobs")
        nodes = np.bincount(state.node[0]["state"], minlength=len(NodeCode))
        up = int(row["capacity_units"])
        used = up - int(row["free_units"])
        return {
            "totals": {
                "jobs": jobs,
                "nodes": {code.name.lower(): int(nodes[code]) for code in NodeCode if code > 0},
                "unit": "gpu" if row["unit"] else "cpu",
                "capacity": up / 1000,
                "used": used / 1000,
                "queued": int(row["queue_len"]),
                "fragmentation": round(fragmentation(engine), 4),
                "preemptions": engine.jobs.count("preemptions"),
                "interruptions": engine.jobs.count("interruptions"),
                "decisions": int(row["decisions"]),
            },
            "tenants": self._tenants(),
            "scaling": self._scaling(),
            "policy": self._decider(),
        }

    def _tenants(self) -> list[_Part]:
        """Who holds what, what each is entitled to, and how many of its jobs wait."""
        engine = self._engine
        queue = engine.state.queue[0, : int(engine.row["queue_len"])]["job"]
        waiting = np.bincount(engine.state.request[0]["tenant"][queue], minlength=1)
        shares = tenant_shares(engine)
        weights = sum(own["weight"] or 1.0 for own in shares.values()) or 1.0
        return [
            {
                "name": name,
                "used": own["used"],
                "quota": own["quota"],
                "share": round(own["dominant_share"] or 0.0, 4),
                "entitled": round((own["weight"] or 1.0) / weights, 4),
                "waiting": int(waiting[k]) if k < len(waiting) else 0,
            }
            for k, (name, own) in enumerate(shares.items())
        ]

    def _scaling(self) -> _Part:
        """What was decided of the number of nodes."""
        account = self._orchestrator.metrics.scaling
        told = account.summary()
        return {
            "demand": [[t, v] for t, v in account.demand][-120:],
            "capacity": [[t, v] for t, v in account.capacity][-120:],
            "up": told["up"],
            "down": told["down"],
            "added": told["nodes_added"],
            "removed": told["nodes_removed"],
        }

    def _decider(self) -> _Part:
        """Who decides, and which rules might."""
        policy = self._orchestrator.policy
        rule = placing_rule(policy)
        name = str(getattr(policy, "name", type(policy).__name__)) if rule is None else rule.name
        return {"name": name, "deployed": self._deployed, "rules": list(RULES)}

    def _series(self) -> _Part:
        """The past of the whole cluster, as the metrics have kept it."""
        metrics, begun_ms = self._orchestrator.metrics, 1  # before the first entry time is 0
        return {
            name: [[time_ms, round(value, 4)] for time_ms, value in series if time_ms >= begun_ms]
            for name, series in (
                ("use", metrics.utilization.series),
                ("queue", metrics.queue),
                ("fairness", metrics.fairness),
            )
        }

    def _happened(self) -> list[_Part]:
        """What happened since it was told last, the oldest first; the last of it if it is much.

        What a policy decides is told by what becomes of jobs.
        """
        told = deque[_Part](maxlen=_EVENTS)
        while True:
            found, _ = self._orchestrator.happenings(self._cursor, _EVENTS)
            told += [one.as_dict() for one in found if one.kind != "decision"]
            if found:
                self._cursor = found[-1].cursor
            if len(found) < _EVENTS:
                return list(told)

    # --- the queue -------------------------------------------------------------------------------

    def _queue(self) -> _Part:
        """The first ones that wait: their order if it has changed, and those that have."""
        engine = self._engine
        rows = self._first_rows()
        self._explain([engine.jobs.index.ids[j] for j in rows])
        now = dict(zip(rows, self._entries(rows), strict=True))
        fresh = [entry for j, entry in now.items() if self._waiting.get(j) != entry]
        same = list(now) == list(self._waiting)
        self._waiting = now
        if same and not fresh:
            return {}
        return {"queue": {"order": rows, "set": fresh} if not same else {"set": fresh}}

    def _first_rows(self) -> list[int]:
        """Rows of those who are served first, in the order of the rule in charge."""
        first: list[int] = served_order(self._engine, self._rule)[:_QUEUED].tolist()
        return first

    @property
    def _rule(self) -> NDArray[np.void] | None:
        """By which rule jobs are placed; None: by none."""
        rule = placing_rule(self._orchestrator.policy)
        return None if rule is None else rule.to_record()

    def _entries(self, rows: list[int]) -> list[list[Any]]:
        """Of each: row, id, name, tenant, priority, workers, GPUs, when submitted, why it waits."""
        table, asks = self._engine.jobs, self._engine.state.request[0][rows]
        columns = (
            asks[name].tolist() for name in ("tenant", "priority", "workers", "gpus_per_worker")
        )
        ids = [table.index.ids[j] for j in rows]
        return [
            [
                j,
                name,
                table.specs[name].name,
                *asked,
                submit_ms,
                self._reasons.get(name, (-1, ""))[1],
            ]
            for j, name, submit_ms, *asked in zip(
                rows, ids, asks["submit_ms"].tolist(), *columns, strict=True
            )
        ]

    def _explain(self, names: list[str]) -> None:
        """Know why they wait: of those that nobody has asked about, then of the longest ago."""
        applied, known = self._engine.applied, self._reasons
        self._reasons = {name: known[name] for name in names if name in known}
        old = [name for name in names if known.get(name, (-1, ""))[0] != applied]
        old.sort(key=lambda name: known.get(name, (-1, ""))[0])  # stable: the first ones first
        self._behind = len(old) > _EXPLAINED
        for name, found in why_waiting(self._engine, old[:_EXPLAINED], self._rule).items():
            text = found.text or found.reason.name.lower().replace("_", " ")
            self._reasons[name] = applied, text
