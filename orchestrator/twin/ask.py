"""Questions to the twin: when a job starts and ends, why it waits, and what would be if.

Everything is found out on a copy of the cluster as it was set aside; nothing that is asked changes
the cluster.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.engine.engine import EngineImage
from orchestrator.errors import IllegalActionError
from orchestrator.kernels.state.codes import NEVER, JobCode
from orchestrator.scheduling.rules import Rule
from orchestrator.status import binding_status, why_waiting
from orchestrator.twin.answers import (
    Band,
    Difference,
    WhatIf,
    When,
    Why,
    band_of,
    difference_of,
)
from orchestrator.twin.futures import Futures, TwinConfig
from orchestrator.twin.past import past_of
from orchestrator.twin.play import Played, play, reserved
from orchestrator.twin.reasons import holders_of, smallest_changes
from orchestrator.twin.rehearsal import Rehearsal
from orchestrator.twin.supposed import Suppose
from orchestrator.types import JobState

__all__ = ["Twin"]


_HOUR_MS = 3_600_000
_ENDED = (JobCode.COMPLETED, JobCode.FAILED)
_TOLD = 20  # jobs of a what-if, those that change most
_NOT_MODELLED = (
    "failures of nodes",
    "nodes that are ordered or given up",
    "where jobs wish to be beside each other",
)


class Twin:
    """A copy of a cluster at a moment, to be asked; for one thread.

    Parameters
    ----------
    image : EngineImage
        The cluster as it was set aside: :meth:`orchestrator.engine.engine.Engine.image`.
    rule : Rule
        Who is in charge.
    now_ms : int
        The moment.
    config : TwinConfig or None, optional
        None: the defaults.
    known : bool, optional
        Whether the rule is in charge; False: another policy is, and this is taken to stand for it.
    futures : Futures or None, optional
        What comes; None: it is drawn from the cluster's past.

    Raises
    ------
    ConfigurationError
        If nothing has happened to the cluster yet.
    """

    def __init__(
        self,
        image: EngineImage,
        rule: Rule,
        now_ms: int,
        config: TwinConfig | None = None,
        *,
        known: bool = True,
        futures: Futures | None = None,
    ) -> None:
        self._image, self._rule, self._now_ms = image, rule, now_ms
        self.config = config or TwinConfig()
        self._given = futures
        self._here = Rehearsal(image, now_ms)
        self._engine = self._here.engine
        missing = () if known else (f"the policy in charge: rule '{rule.name}' plays in its place",)
        self._not_modelled = (*_NOT_MODELLED, *missing)

    @cached_property
    def _futures(self) -> Futures:
        return self._given or Futures(past_of(self._engine.state), self.config)

    @cached_property
    def _reserved(self) -> dict[int, int]:
        return reserved(self._engine.state, self._rule).starts()

    # --- when ----------------------------------------------------------------------------------

    def when(self, job_id: str) -> When:
        """When a job starts and ends.

        Raises
        ------
        UnknownEntityError
            If there is no such job.
        IllegalActionError
            If it has ended, or is a service.
        """
        row = self._open_row(job_id)
        played = play(self._engine.state, self._rule, self._futures, row=row)
        return self._when(job_id, row, played, self._here, self._reserved.get(row, NEVER))

    def _open_row(self, job_id: str) -> int:
        """The row of a job that has not ended."""
        row = self._engine.jobs.index.find(job_id)
        if self._engine.jobs.code(job_id) in _ENDED:
            raise IllegalActionError(f"job '{job_id}' has ended; ask about one that waits or runs")
        return row

    def _when(
        self, job_id: str, row: int, played: Played, here: Rehearsal, reserved_ms: int
    ) -> When:
        at, engine = played.of(row), here.engine
        waits = here.waits(job_id)
        binding = None
        if waits:
            found = why_waiting(engine, [job_id], self._rule.to_record())[job_id]
            binding = binding_status(found)
        return When(
            job_id=job_id,
            state=JobState[engine.jobs.code(job_id).name].value,
            now_ms=self._here.now_ms,
            start=band_of(played.start_ms[:, at]) if waits else None,
            end=band_of(played.end_ms[:, at]),
            by_estimates_ms=reserved_ms if waits and reserved_ms < NEVER else None,
            waits_for=binding,
            rule=self._rule.name,
            sources=self._futures.sources(played.futures, played.ahead_ms),
            not_modelled=self._not_modelled,
        )

    def starts(self) -> dict[str, Band | None]:
        """When each job that waits starts; None: it does not, in any future."""
        played = play(self._engine.state, self._rule, self._futures)
        ids = self._engine.jobs.index.ids
        names = {k: ids[j] for k, j in enumerate(played.rows.tolist())}
        return {
            name: band_of(played.start_ms[:, k])
            for k, name in names.items()
            if self._here.waits(name)
        }

    # --- why -----------------------------------------------------------------------------------

    def why(self, job_id: str) -> Why:
        """Why a job waits, and the smallest changes that would start it at once.

        Raises
        ------
        UnknownEntityError
            If there is no such job.
        IllegalActionError
            If it does not wait.
        """
        row = self._open_row(job_id)
        if not self._here.waits(job_id):
            state = self._engine.jobs.code(job_id).name.lower()
            raise IllegalActionError(f"job '{job_id}' is {state}; ask why of one that waits")
        binding = why_waiting(self._engine, [job_id], self._rule.to_record())[job_id]
        note = self._engine.history.last(job_id, "displaced", "preempted", "interrupted")
        found, tried = smallest_changes(self._image, self._here, self._rule, job_id, binding)
        return Why(
            job_id=job_id,
            state=JobState[self._engine.jobs.code(job_id).name].value,
            now_ms=self._here.now_ms,
            waits_for=binding_status(binding),
            held_by=holders_of(self._engine, row),
            preempted=None if note is None else note.as_dict(),
            changes=found,
            tried=tried,
            rule=self._rule.name,
        )

    # --- what if -------------------------------------------------------------------------------

    def what_if(self, suppose: Suppose, most_jobs: int = _TOLD) -> WhatIf:
        """What would be if something were done now, on the same futures with and without it.

        Parameters
        ----------
        suppose : Suppose
        most_jobs : int, optional
            Of how many jobs it is told, those that change most.

        Raises
        ------
        QuartermasterError
            If it could not be done to the cluster.
        """
        other = Rehearsal(self._image, self._now_ms)
        renamed = suppose.do(other)
        futures = self._with_newcomers(other, suppose, renamed)
        rule = suppose.rule(self._rule)
        before = play(self._engine.state, self._rule, self._futures, drained=True)
        after = play(other.engine.state, rule, futures, drained=True, like=before)
        pairs = self._pairs(before, after, other, renamed)
        return WhatIf(
            now_ms=self._here.now_ms,
            change=suppose.text,
            jobs=_most_changed(pairs, most_jobs),
            tenants=self._by_tenant(pairs),
            total=_mean_difference(list(pairs.values())),
            others=_others(before, after),
            new_job=self._new_job(suppose, other, after, rule),
            rule=rule.name,
            sources=self._futures.sources(before.futures, before.ahead_ms),
            not_modelled=self._not_modelled,
        )

    def _with_newcomers(
        self, other: Rehearsal, suppose: Suppose, renamed: Mapping[str, str]
    ) -> Futures:
        """The futures, with the jobs that are new to a rehearsal."""
        futures, index = self._futures, other.engine.jobs.index
        for old, new in renamed.items():
            row, like = index.find(new), self._engine.jobs.index.find(old)
            futures = futures.with_job(row, _ask_of(other, row), like)
        if suppose.submit is not None:
            row = index.find(suppose.submit.job_id)
            futures = futures.with_job(row, _ask_of(other, row))
        return futures

    def _pairs(
        self, before: Played, after: Played, other: Rehearsal, renamed: Mapping[str, str]
    ) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Hours until the end of jobs that are in both, before and after, [futures]."""
        ids, index = self._engine.jobs.index.ids, other.engine.jobs.index
        found = dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]()
        there = {j: k for k, j in enumerate(after.rows.tolist())}
        for k, j in enumerate(before.rows.tolist()):
            name = ids[j]
            new = renamed.get(name, name)
            if self._engine.jobs.code(name) in _ENDED or new not in index:
                continue
            code = other.engine.jobs.code(new)
            at = there.get(index.find(new))
            if code in _ENDED or at is None:
                continue
            found[name] = self._hours(before.end_ms[:, k]), self._hours(after.end_ms[:, at])
        return {name: pair for name, pair in found.items() if np.isfinite(pair[0]).any()}

    def _hours(self, times_ms: NDArray[np.int64]) -> NDArray[np.float64]:
        """Hours from now; inf: never."""
        apart = (times_ms - self._here.now_ms) / _HOUR_MS
        return np.asarray(np.where(times_ms >= NEVER, np.inf, apart))

    def _by_tenant(
        self, pairs: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]
    ) -> dict[str, Difference]:
        by_tenant = dict[str, list[tuple[NDArray[np.float64], NDArray[np.float64]]]]()
        for name, pair in pairs.items():
            by_tenant.setdefault(self._engine.jobs.specs[name].tenant, []).append(pair)
        means = {tenant: _mean_difference(all_of) for tenant, all_of in sorted(by_tenant.items())}
        return {tenant: mean for tenant, mean in means.items() if mean is not None}

    def _new_job(
        self, suppose: Suppose, other: Rehearsal, after: Played, rule: Rule
    ) -> When | None:
        if suppose.submit is None:
            return None
        job_id = suppose.submit.job_id
        row = other.engine.jobs.index.find(job_id)
        by_estimates = reserved(other.engine.state, rule).starts()
        told = self._when(job_id, row, after, other, by_estimates.get(row, NEVER))
        return replace(told, rule=rule.name)


def _ask_of(rehearsal: Rehearsal, row: int) -> NDArray[np.void]:
    asked: NDArray[np.void] = rehearsal.engine.state.request[0, row : row + 1].copy()
    return asked


def _mean_difference(
    pairs: list[tuple[NDArray[np.float64], NDArray[np.float64]]],
) -> Difference | None:
    """Of the mean over jobs in each future."""
    if not pairs:
        return None
    before, after = (np.mean([pair[k] for pair in pairs], axis=0) for k in (0, 1))
    return difference_of(before, after)


def _others(before: Played, after: Played) -> Difference | None:
    """Mean hours that those wait who come, future by future."""
    count = np.maximum(before.others[:, 0], 1.0)
    if not before.others[:, 0].any():
        return None
    return difference_of(before.others[:, 1] / count, after.others[:, 1] / count)


def _most_changed(
    pairs: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]], count: int
) -> dict[str, Difference]:
    """The jobs that change most, the ones that gain most first."""
    found = {name: difference_of(*pair) for name, pair in pairs.items()}
    known: dict[str, Any] = {name: told for name, told in found.items() if told is not None}
    most = sorted(known, key=lambda name: (-abs(known[name].mean), name))[:count]
    return {name: known[name] for name in sorted(most, key=lambda name: known[name].mean)}
