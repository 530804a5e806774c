"""Questions to the twin: when a job starts and ends, why it waits, and what would be if.

Everything is found out on a copy of the cluster as it was set aside; nothing that is asked changes
the cluster.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from orchestrator.engine.engine import EngineImage
from orchestrator.errors import IllegalActionError
from orchestrator.kernels.state.codes import NEVER, JobCode, JobKind
from orchestrator.status import binding_status, why_waiting
from orchestrator.twin.answers import (
    LEVELS,
    Band,
    Courses,
    Difference,
    WhatIf,
    When,
    Why,
    band_of,
    courses_of,
    difference_of,
)
from orchestrator.twin.futures import Futures, TwinConfig
from orchestrator.twin.past import past_of
from orchestrator.twin.play import Played, play
from orchestrator.twin.reasons import holders_of, smallest_changes
from orchestrator.twin.rehearsal import Rehearsal
from orchestrator.twin.scene.cast import Cast
from orchestrator.twin.scene.failures import FailurePast
from orchestrator.twin.scene.stage import reserved_start
from orchestrator.twin.supposed import Suppose
from orchestrator.types import JobState

__all__ = ["Twin"]


_HOUR_MS = 3_600_000
_ENDED = (JobCode.COMPLETED, JobCode.FAILED)
_TOLD = 20  # jobs of a what-if, those that change most
_MOMENTS = 49  # of a course: now, and 48 steps
_LEAST_MS = 60_000  # for which a course is told
_NONE = np.zeros(0)
_Pairs: TypeAlias = Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]
_NOT_MODELLED = (
    "nodes that are ordered or given up",
    "where jobs wish to be beside each other",
)


class Twin:
    """A copy of a cluster at a moment, to be asked; for one thread.

    Parameters
    ----------
    image : EngineImage
        The cluster as it was set aside: :meth:`orchestrator.engine.engine.Engine.image`.
    cast : Cast
        Who is in charge.
    now_ms : int
        The moment.
    config : TwinConfig or None, optional
        None: the defaults.
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
        cast: Cast,
        now_ms: int,
        config: TwinConfig | None = None,
        futures: Futures | None = None,
    ) -> None:
        self._image, self._cast, self._now_ms = image, cast, now_ms
        self._rule = cast.rule
        self.config = config or TwinConfig()
        self._given = futures
        self._here = Rehearsal(image, now_ms)
        self._engine = self._here.engine
        self._failed = FailurePast(self._engine)
        failures = (
            "failures of several nodes at once" if self._failed.tells else "failures of nodes"
        )
        self._not_modelled = (failures, *_NOT_MODELLED)

    @cached_property
    def _futures(self) -> Futures:
        if self._given is not None:
            return self._given
        futures = Futures(past_of(self._engine.state), self.config)
        return futures.with_failures(self._failed, self._engine)

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
        played = play(self._engine.state, self._cast, self._futures, row=row)
        reserved_ms = reserved_start(self._engine.state, self._rule, row)
        return self._when(job_id, row, played, (self._here, self._cast), reserved_ms)

    def _open_row(self, job_id: str) -> int:
        """The row of a job that has not ended."""
        row = self._engine.jobs.index.find(job_id)
        if self._engine.jobs.code(job_id) in _ENDED:
            raise IllegalActionError(f"job '{job_id}' has ended; ask about one that waits or runs")
        return row

    def _when(
        self,
        job_id: str,
        row: int,
        played: Played,
        scene: tuple[Rehearsal, Cast],
        reserved_ms: int,
    ) -> When:
        here, cast = scene
        at, engine = played.of(row), here.engine
        waits = here.waits(job_id)
        binding = None
        if waits:
            found = why_waiting(engine, [job_id], cast.rule.to_record())[job_id]
            binding = binding_status(found)
        return When(
            job_id=job_id,
            state=JobState[engine.jobs.code(job_id).name].value,
            now_ms=self._here.now_ms,
            start=band_of(played.start_ms[:, at]) if waits else None,
            end=band_of(played.end_ms[:, at]),
            by_estimates_ms=reserved_ms if waits and reserved_ms < NEVER else None,
            waits_for=binding,
            rule=cast.name,
            sources=self._futures.sources(played.futures, played.ahead_ms),
            not_modelled=(*self._not_modelled, *cast.missing),
        )

    def starts(self) -> dict[str, Band | None]:
        """When each job that waits starts; None: it does not, in any future."""
        played = play(self._engine.state, self._cast, self._futures)
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

    def what_if(self, suppose: Suppose, cast: Cast | None = None, most_jobs: int = _TOLD) -> WhatIf:
        """What would be if something were done now, on the same futures with and without it.

        Parameters
        ----------
        suppose : Suppose
        cast : Cast or None, optional
            Who is in charge then; None: as is supposed.
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
        then = cast or suppose.cast(self._cast)
        before = play(self._engine.state, self._cast, self._futures, drained=True)
        after = play(other.engine.state, then, futures, drained=True, like=before)
        pairs = self._pairs(before, after, other, renamed)
        return WhatIf(
            now_ms=self._here.now_ms,
            change=suppose.text,
            jobs=_most_changed(pairs, most_jobs),
            tenants=self._by_tenant(pairs),
            total=_mean_difference(list(pairs.values())),
            others=_others(before, after),
            new_job=self._new_job(suppose, other, after, then),
            courses=self._courses(before, after, pairs),
            rule=then.name,
            sources=self._futures.sources(before.futures, before.ahead_ms),
            not_modelled=(*self._not_modelled, *dict.fromkeys(self._cast.missing + then.missing)),
        )

    def _courses(self, before: Played, after: Played, pairs: _Pairs) -> Courses | None:
        ends = np.concatenate([hours for pair in pairs.values() for hours in pair] or [_NONE])
        ends = ends[np.isfinite(ends)] * _HOUR_MS
        if not (ends.size and before.tracks and after.tracks):
            return None
        span_ms = max(np.quantile(ends, LEVELS[-1]), _LEAST_MS)
        if before.others[:, 0].any():
            span_ms = min(span_ms, before.ahead_ms)
        times_ms = self._here.now_ms + np.linspace(0, span_ms, _MOMENTS).astype(np.int64)
        return courses_of(before, after, times_ms, "gpu" if self._engine.row["unit"] else "cpu")

    def _with_newcomers(
        self, other: Rehearsal, suppose: Suppose, renamed: Mapping[str, str]
    ) -> Futures:
        """The futures, with the jobs that are new to a rehearsal."""
        index = other.engine.jobs.index
        futures = self._futures.with_failures(self._failed, other.engine)
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
        """Hours until the end of jobs that are in both and end, before and after, [futures]."""
        ids, index = self._engine.jobs.index.ids, other.engine.jobs.index
        found = dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]()
        there = {j: k for k, j in enumerate(after.rows.tolist())}
        for k, j in enumerate(before.rows.tolist()):
            name = ids[j]
            new = renamed.get(name, name)
            if self._engine.jobs.code(name) in _ENDED or new not in index:
                continue
            if self._engine.jobs.specs[name].kind == JobKind.SERVICE:
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

    def _by_tenant(self, pairs: _Pairs) -> dict[str, Difference]:
        by_tenant = dict[str, list[tuple[NDArray[np.float64], NDArray[np.float64]]]]()
        for name, pair in pairs.items():
            by_tenant.setdefault(self._engine.jobs.specs[name].tenant, []).append(pair)
        means = {tenant: _mean_difference(all_of) for tenant, all_of in sorted(by_tenant.items())}
        return {tenant: mean for tenant, mean in means.items() if mean is not None}

    def _new_job(
        self, suppose: Suppose, other: Rehearsal, after: Played, then: Cast
    ) -> When | None:
        if suppose.submit is None:
            return None
        job_id = suppose.submit.job_id
        row = other.engine.jobs.index.find(job_id)
        reserved_ms = reserved_start(other.engine.state, then.rule, row)
        return self._when(job_id, row, after, (other, then), reserved_ms)


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
