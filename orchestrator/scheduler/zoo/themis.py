"""Themis: serve whoever would finish latest compared with having a fair share.

Mahajan et al., "Themis: Fair and Efficient GPU Cluster Scheduling", NSDI 2020. Its metric is
rho = T_shared / T_isolated; leases end every few minutes, and the apps of the worst rho are served
first. Left out are the auction by which the paper distributes resources among the worst share of
the apps (here they are served in order) and the bids that weigh placements.
"""

from __future__ import annotations

from orchestrator.scheduler.zoo.board import Board
from orchestrator.scheduler.zoo.rounds import RoundPolicy

__all__ = ["Themis", "finish_time_ratio"]


def finish_time_ratio(board: Board, j: int, sharing: int) -> float:
    """How much later a job ends, if it runs from now on, than it would have alone: rho.

    Parameters
    ----------
    board : Board
    j : int
        Job.
    sharing : int
        Jobs that share the cluster. Alone, a job has 1 / sharing of it, and takes that much longer
        if it needs more.
    """
    ask = board.requests[j]
    shared = board.now_ms - int(ask["submit_ms"]) + board.remaining(j)
    capacity = max(int(board.row["capacity_units"]), 1)
    isolated = int(ask["requested_ms"]) * max(1.0, board.units(j) * sharing / capacity)
    return float(shared / isolated)


class Themis(RoundPolicy):
    """Rounds (leases) in which the job of the worst finish-time fairness goes first."""

    def rank(self, board: Board, jobs: list[int]) -> list[int]:
        """Order jobs by rho, the largest first."""
        ratios = {j: finish_time_ratio(board, j, len(jobs)) for j in jobs}
        return sorted(jobs, key=lambda j: (-ratios[j], int(board.requests[j]["submit_ms"]), j))
