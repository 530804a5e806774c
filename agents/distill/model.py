"""The set network in torch, for gradients; the engine computes the same from the same weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from agents.distill.lessons import Lessons
from orchestrator.kernels.run.network import STEPS, weight_count, weight_layout
from orchestrator.kernels.see.layout import QueueColumn

__all__ = ["Batch", "SetNetwork"]


@dataclass(frozen=True)
class Batch:
    """B lessons as padded tensors, Q jobs at most, of each of which K at most were tried.

    Parameters
    ----------
    jobs : float32 [B, Q, 14]
    there : bool [B, Q]
        Whether there is a job.
    around : float32 [B, 8]
    tried : int64 [B, K]
        Positions; 0 where there is none.
    valid : bool [B, K]
    gains, errors : float32 [B, K]
    """

    jobs: Tensor
    there: Tensor
    around: Tensor
    tried: Tensor
    valid: Tensor
    gains: Tensor
    errors: Tensor

    @classmethod
    def of(cls, lessons: Lessons, chosen: NDArray[np.int64]) -> Batch:
        """Some of the lessons."""
        counts = lessons.counts[chosen]
        ends = np.cumsum(lessons.counts)[chosen]
        width = int(counts.max())
        there = np.arange(width) < counts[:, None]
        jobs = np.zeros((len(chosen), width, lessons.jobs.shape[1]), np.float32)
        rows = (ends - counts)[:, None] + np.arange(width)
        jobs[there] = lessons.jobs[rows[there]]
        tried = lessons.tried[chosen]
        arrays = (
            jobs,
            there,
            lessons.around[chosen],
            np.maximum(tried, 0),
            tried >= 0,
            lessons.gains[chosen],
            lessons.errors[chosen],
        )
        return cls(*map(torch.from_numpy, arrays))


class SetNetwork(nn.Module):
    """Scores of the jobs of windows, as :mod:`orchestrator.kernels.run.network` says.

    Parameters
    ----------
    linear : float [14]
        Where the linear part begins. The output layer begins at zero, so that this is all of it.
    hidden : int
    seed : int
        Of the other layers.
    """

    linear: Tensor
    own: Tensor
    bias: Tensor
    mean: Tensor
    most: Tensor
    around: Tensor
    inner_bias: Tensor
    beside: Tensor
    inner: Tensor
    out: Tensor

    def __init__(self, linear: NDArray[np.floating], hidden: int, seed: int) -> None:
        super().__init__()
        self.hidden = hidden
        generator = torch.Generator().manual_seed(seed)
        for name, (_, shape) in weight_layout(hidden).items():
            values = torch.zeros(shape)
            if len(shape) == 2:
                bound = shape[0] ** -0.5
                values.uniform_(-bound, bound, generator=generator)
            self.register_parameter(name, nn.Parameter(values))
        with torch.no_grad():
            self.linear.copy_(torch.from_numpy(np.array(linear, np.float32)))

    def forward(self, batch: Batch) -> Tensor:
        """Scores [B, Q]; -inf where there is no job."""
        jobs, there = batch.jobs, batch.there
        count = there.sum(1, keepdim=True).clamp(min=1)
        units = torch.relu(jobs @ self.own + self.bias) * there[:, :, None]
        average = units.sum(1) / count
        most = units.amax(1)
        common = average @ self.mean + most @ self.most + batch.around @ self.around
        deeper = units @ self.inner + (common + self.inner_bias)[:, None]
        share, slack = jobs[..., QueueColumn.DEMAND_SHARE], jobs[..., QueueColumn.SLACK]
        demand = torch.ceil(share * STEPS - 1e-3)
        room = torch.floor(slack * STEPS + 1e-3)
        fits = (demand[:, None, :] <= room[:, :, None]) & there[:, None, :]
        beside = (fits.float() @ units) / count[:, :, None]
        deeper = torch.relu(deeper + beside @ self.beside)
        scores = jobs @ self.linear + deeper @ self.out
        return scores.masked_fill(~there, -torch.inf)

    def vector(self) -> NDArray[np.float32]:
        """The weights as the engine takes them, float32 [weight_count(hidden)]."""
        parts = [getattr(self, name).detach().reshape(-1) for name in weight_layout(self.hidden)]
        return torch.cat(parts).numpy().copy()

    def load_vector(self, vector: NDArray[np.float32]) -> None:
        """The inverse of :meth:`vector`."""
        if vector.shape != (weight_count(self.hidden),):
            raise ValueError(f"{vector.shape} are not the weights of {self.hidden} units")
        with torch.no_grad():
            for name, (at, shape) in weight_layout(self.hidden).items():
                size = int(np.prod(shape))
                part = torch.from_numpy(np.array(vector[at : at + size], np.float32))
                getattr(self, name).copy_(part.reshape(shape))
