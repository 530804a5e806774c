"""A stage: a fork of the cluster on which futures are played, one after the other.

Nothing played here reaches the row that was forked.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import TwinError
from orchestrator.kernels.run import roll as kernels
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.run.roll import Player, make_player
from orchestrator.kernels.state.codes import NEVER, NO_JOB, JobCode, JobKind, Preemption
from orchestrator.kernels.state.records import INCIDENT_DTYPE, REQUEST_DTYPE
from orchestrator.kernels.state.row import ClusterState, allocate
from orchestrator.scheduling.forks import Fork, Until
from orchestrator.scheduling.rules import Rule
from orchestrator.twin.past import work_done_ms
from orchestrator.twin.scene.cast import Cast
from orchestrator.twin.scene.track import WAITING, track_of

__all__ = ["NOBODY", "NOTHING", "WAITING", "Reserved", "Stage", "reserved", "reserved_start"]


NOBODY = np.zeros(0, REQUEST_DTYPE)
NOTHING = np.zeros(0, INCIDENT_DTYPE)
_OVER = (JobCode.COMPLETED, JobCode.FAILED)


class Stage:
    """A fork that is played again and again, in memory that is kept; for one thread.

    Parameters
    ----------
    state : ClusterState
        One row; it is not changed.
    cast : Cast
        Who plays.
    arrivals, incidents : int, optional
        How many may come, and how often nodes may fail or come back.
    records : int, optional
        How many changes of each job are kept, more or less, for :meth:`track`.
    """

    def __init__(
        self,
        state: ClusterState,
        cast: Cast,
        arrivals: int = 0,
        incidents: int = 0,
        records: int = 0,
    ) -> None:
        fork = Fork(state)
        self.kept, self._place = fork.kept, fork.place
        self._base, self._cast = fork.state, cast
        jobs = len(fork.kept) + arrivals + 1
        self._room = replace(fork.state.shape, jobs=jobs, incidents=incidents, log=records * jobs)
        self._done = work_done_ms(self._base)[: len(self.kept)]
        self.waits = np.isin(self._base.job[0, : len(self.kept)]["state"], WAITING)
        self._set_up()

    def _set_up(self) -> None:
        self._work = allocate(self._room)
        self._player = self._make_player()
        self._noted = dict[int, int]()
        self._fixed, self._logged = False, 0

    def _make_player(self) -> Player:
        if self._cast.learned is not None:
            return self._cast.learned.player(self._base, self._room)
        return make_player(self._cast.rule.to_record(), self._room.jobs, self._room.workers)

    def beside(self) -> Stage:
        """Another one of the same fork, for another thread."""
        made = copy(self)
        made._set_up()
        return made

    def begin(
        self,
        whole: NDArray[np.int64],
        arrivals: NDArray[np.void] = NOBODY,
        incidents: NDArray[np.void] = NOTHING,
    ) -> None:
        """Begin a future.

        Parameters
        ----------
        whole : int64 [kept]
            How long jobs work in all, ms; -1: as it is.
        arrivals : REQUEST_DTYPE [n], optional
            Who comes, by submit time.
        incidents : INCIDENT_DTYPE [m], optional
            What happens to nodes, by time, counted from now.
        """
        entry.copy_row(self._base.rows, 0, self._work.rows, 0)
        self._work.rows[0]["keep_log"] = self._work.shape.log > 0
        self._logged = int(self._work.rows[0]["log_count"])
        self._noted, self._fixed = {}, len(incidents) == 0
        left = np.where(whole < 0, -1, np.maximum(whole - self._done, 1))
        kernels.assume_remaining(self._work.rows, 0, left)
        if len(arrivals) or len(incidents):
            kernels.expect(self._work.rows, 0, arrivals, incidents)

    def estimates_ms(self) -> NDArray[np.int64]:
        """How long users say that jobs work, int64 [kept]; -1: services."""
        asks = self._base.request[0, : len(self.kept)]
        found: NDArray[np.int64] = np.where(
            asks["kind"] == JobKind.SERVICE, -1, asks["requested_ms"]
        ).astype(np.int64)
        return found

    def find(self, row: int) -> int:
        """Where a job of the cluster's table is."""
        return int(self._place[row])

    def roll(self, until: Until, job: int = NO_JOB) -> None:
        """Play on, until that has happened to a job."""
        try:
            kernels.roll_on(self._work.rows, 0, self._player, int(until), job)
        except RuntimeError as error:
            raise TwinError(
                f"twin: '{self._cast.name}' chose in a future what is not legal there; give the "
                "orchestrator the semantics that the policy was trained with"
            ) from error
        if until == Until.STARTED and self.has_started(job):  # it may start again later
            self._noted[job] = int(self._work.job[0, job]["start_ms"])

    def roll_to_end_of(self, job: int) -> int:
        """Play on until a job has started, and ended; when it ends, NEVER if it does not.

        A job that nothing can stop or change any more is not played on: when it ends is known.
        """
        if self.waits[job]:
            self.roll(Until.STARTED, job)
        runs = self._work.job[0, job]
        if self._is_settled(job):
            return int(self._work.heap[0, int(runs["heap_slot"])]["time_ms"])
        self.roll(Until.ENDED, job)
        return int(runs["end_ms"]) if runs["state"] in _OVER else NEVER

    def _is_settled(self, job: int) -> bool:
        """Whether a job runs, and nobody preempts, resizes or moves it, and no node fails."""
        asks, runs = self._work.request[0, job], self._work.job[0, job]
        if not self._fixed or self._cast.learned is not None or runs["state"] != JobCode.RUNNING:
            return False
        stays = self._cast.rule.preemption == Preemption.NONE or asks["preemptible"] == 0
        alone = asks["elastic"] == 0 and asks["kind"] != JobKind.SERVICE
        return bool(stays and alone and runs["heap_slot"] >= 0)

    def has_started(self, job: int) -> bool:
        """Whether a job that waited has started since the fork was made."""
        return bool(self._work.job[0, job]["runs"] > self._base.job[0, job]["runs"])

    def starts_ms(self) -> NDArray[np.int64]:
        """When jobs that waited have started, int64 [kept]; NEVER: they have not."""
        count = len(self.kept)
        runs, before = self._work.job[0, :count], self._base.job[0, :count]["runs"]
        begun = np.where(before == 0, runs["first_start_ms"], runs["start_ms"])
        found: NDArray[np.int64] = np.where(runs["runs"] > before, begun, NEVER).astype(np.int64)
        for job, time_ms in self._noted.items():
            found[job] = time_ms
        return found

    def ends_ms(self) -> NDArray[np.int64]:
        """When jobs have ended, int64 [kept]; NEVER: they have not."""
        runs = self._work.job[0, : len(self.kept)]
        over = np.isin(runs["state"], _OVER)
        found: NDArray[np.int64] = np.where(over, runs["end_ms"], NEVER).astype(np.int64)
        return found

    def others(self, before_ms: int) -> tuple[int, float]:
        """How many have come before a time, and how long they waited in all, h."""
        row: Any = self._work.rows[0]
        first, last = len(self.kept), int(row["num_jobs"])
        begun = self._work.job[0, first:last]["first_start_ms"]
        asked = self._work.request[0, first:last]["submit_ms"]
        until = np.where(begun >= 0, begun, int(row["now_ms"]))
        waited = np.maximum(until - asked, 0)[asked < before_ms]
        return len(waited), float(waited.sum() / 3_600_000)

    def track(self) -> NDArray[np.void] | None:
        """How the queue and the use went on, TRACK_DTYPE; None: more happened than was kept."""
        return track_of(self._work, self._base, self._logged)


@dataclass(frozen=True)
class Reserved:
    """What comes if all work for their estimates, and nobody comes; n jobs.

    Parameters
    ----------
    rows : int32 [n]
        Which jobs: rows of the cluster's table.
    start_ms, end_ms : int64 [n]
        When each starts, if it waits, and ends; ``NEVER``: it does not.
    """

    rows: NDArray[np.int32]
    start_ms: NDArray[np.int64]
    end_ms: NDArray[np.int64]


def reserved(state: ClusterState, rule: Rule) -> Reserved:
    """When jobs would start and end if all worked for their estimates, and nobody came.

    It is what Slurm tells (``squeue --start``: the backfill scheduler's plan by time limits).
    """
    stage = Stage(state, Cast(rule))
    stage.begin(stage.estimates_ms())
    stage.roll(Until.DRAINED)
    starts = np.where(stage.waits, stage.starts_ms(), NEVER)
    return Reserved(stage.kept, starts, stage.ends_ms())


def reserved_start(state: ClusterState, rule: Rule, row: int) -> int:
    """When one job that waits would start so, ms: it is played on no further than that."""
    stage = Stage(state, Cast(rule))
    job = stage.find(row)
    if not stage.waits[job]:
        return NEVER
    stage.begin(stage.estimates_ms())
    stage.roll(Until.STARTED, job)
    return int(stage.starts_ms()[job])
