"""Which items a training step sees: a function of (seed, epoch, step), split by (rank, size).

What a step sees as a whole does not depend on how many workers there are, so when their number
changes between two steps nothing is skipped and nothing is seen twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from orchestrator.errors import ValidationError

__all__ = ["DataOrder", "Piece"]


@dataclass(frozen=True)
class Piece:
    """A worker's part of a step.

    ``indices``: items of the data set. ``weight``: its part of the step's items, so that the
    sum over workers of weight times mean is the mean over all. A worker for whom nothing is left
    gets an item of another's with weight 0.
    """

    indices: npt.NDArray[np.int64]
    weight: float


class DataOrder:
    """The order in which the items of a data set are seen.

    Parameters
    ----------
    items : int
        How many there are.
    batch : int
        How many a step sees, all workers together. An epoch's last step sees what is left.
    seed : int, optional
        Another seed is another order.
    shuffle : bool, optional
        Whether each epoch has an order of its own; else it is that of the data set.
    """

    def __init__(self, items: int, batch: int, *, seed: int = 0, shuffle: bool = True) -> None:
        for field, value in (("items", items), ("batch", batch)):
            if value < 1:
                problem, remedy = f"is {value}", "give at least 1"
                raise ValidationError("DataOrder", field, problem, remedy)
        self.items, self.batch, self.seed, self.shuffle = items, batch, seed, shuffle
        self._cached: tuple[int, npt.NDArray[np.int64]] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every item is seen once."""
        return -(-self.items // self.batch)

    def epoch(self, step: int) -> int:
        """Which pass over the data a step belongs to."""
        return step // self.steps_per_epoch

    def whole(self, step: int) -> npt.NDArray[np.int64]:
        """All items that a step sees."""
        epoch, within = divmod(step, self.steps_per_epoch)
        begin = within * self.batch
        return self._permutation(epoch)[begin : begin + self.batch]

    def piece(self, step: int, rank: int, size: int) -> Piece:
        """What one worker of ``size`` sees of a step."""
        if not 0 <= rank < size:
            problem, remedy = f"is {rank}", f"give one of 0 to {size - 1}"
            raise ValidationError("DataOrder.piece", "rank", problem, remedy)
        whole = self.whole(step)
        indices = whole[rank::size]
        if len(indices) == 0:
            return Piece(whole[:1], 0.0)
        return Piece(indices, len(indices) / len(whole))

    def key(self) -> tuple[int, int, int, int]:
        """What has to be the same for all workers of a job."""
        return self.items, self.batch, self.seed, int(self.shuffle)

    def _permutation(self, epoch: int) -> npt.NDArray[np.int64]:
        """An epoch's order; the last one asked for is remembered."""
        if not self.shuffle:
            epoch = 0
        if self._cached is None or self._cached[0] != epoch:
            order = np.arange(self.items, dtype=np.int64)
            if self.shuffle:
                np.random.default_rng([self.seed, epoch]).shuffle(order)
            self._cached = epoch, order
        return self._cached[1]
