"""A fork of a cluster, from Python: what goes on in it, to be played on under other assumptions.

A fork knows of nobody to come and of no failure. It can be told: of arrivals, of incidents, of how
long jobs will still work. Nothing done to it reaches the row that it was made of.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import ConfigurationError
from orchestrator.kernels.run import roll as kernels
from orchestrator.kernels.run.roll import Player, Until, make_player
from orchestrator.kernels.state.codes import NO_JOB
from orchestrator.kernels.state.records import INCIDENT_DTYPE
from orchestrator.kernels.state.row import ClusterState, allocate
from orchestrator.scheduling.rules import Rule

__all__ = ["Fork", "Until"]


class Fork:
    """What goes on in a row, as a row of its own.

    Jobs are numbered anew: those that run or wait, in the order of the original's table, behind its
    first one.

    Parameters
    ----------
    state : ClusterState
    e : int, optional
        Row that is forked.
    arrivals, incidents : int, optional
        How many of these it has room for.

    Attributes
    ----------
    state : ClusterState
        One row: the fork.
    place : int32 [jobs of the original]
        Where each job is in the fork, or -1.
    kept : int32 [jobs of the fork]
        Which job of the original is in each place.
    """

    def __init__(
        self, state: ClusterState, e: int = 0, *, arrivals: int = 0, incidents: int = 0
    ) -> None:
        jobs = state.shape.jobs + arrivals
        shape = replace(state.shape, envs=1, jobs=jobs, incidents=incidents, log=0, effects=0)
        self.state = allocate(shape)
        self.place = np.zeros(state.shape.jobs, np.int32)
        kept = np.zeros(jobs, np.int32)
        count = kernels.fork(state.rows, e, self.state.rows, 0, self.place, kept)
        self.kept: NDArray[np.int32] = kept[:count]
        self._room = arrivals, incidents

    def job(self, j: int) -> int:
        """Where job ``j`` of the original is in the fork.

        Raises
        ------
        ConfigurationError
            If it is over.
        """
        k = int(self.place[j])
        if k < 0:
            raise ConfigurationError(f"fork: job {j} is over; ask about one that runs or waits")
        return k

    def expect(self, arrivals: NDArray[np.void], incidents: NDArray[np.void] | None = None) -> None:
        """Let these come; once.

        Parameters
        ----------
        arrivals : REQUEST_DTYPE [n]
            By submit time, none before now.
        incidents : INCIDENT_DTYPE [m], optional
            By time, counted from now.
        """
        later = np.zeros(0, INCIDENT_DTYPE) if incidents is None else incidents
        asked = len(arrivals), len(later)
        if asked[0] > self._room[0] or asked[1] > self._room[1]:
            raise ConfigurationError(
                f"fork: has room for {self._room[0]} arrivals and {self._room[1]} incidents, and "
                f"{asked[0]} and {asked[1]} are to come; make it with room for so many"
            )
        kernels.expect(self.state.rows, 0, arrivals, later)

    def assume_remaining(self, remaining: NDArray[np.int64]) -> None:
        """Let each job of the fork work for so long from now on, ms; below 0: as it is."""
        kernels.assume_remaining(self.state.rows, 0, np.ascontiguousarray(remaining, np.int64))

    def roll(self, player: Rule | Player, until: Until = Until.DRAINED, job: int = NO_JOB) -> int:
        """Play on, until nothing is left to happen, or that has happened to a job of the fork.

        Parameters
        ----------
        player : Rule or Player
            Who decides.
        until : Until, optional
        job : int, optional
            See :meth:`job`.

        Returns
        -------
        int
            Decisions taken.
        """
        if isinstance(player, Rule):
            shape = self.state.shape
            player = make_player(player.to_record(), shape.jobs, shape.workers)
        return kernels.roll_on(self.state.rows, 0, player, int(until), job)

    def cost(self, weights: NDArray[np.float64]) -> float:
        """Weighted sum of the metrics so far; ``weights`` float64 [len(Metric)]."""
        return kernels.price(self.state.rows, 0, weights)
