"""Policies that are as simple as they can be."""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.see.layout import DEFAULT_NAMES


class ShortestFirst:
    """SJF, read off the observation."""

    name = "shortest"

    def __init__(self) -> None:
        self.asked: list[int] = []

    def actions(self, observation, mask):
        self.asked.append(len(mask))
        assert observation["queue"].shape[0] == len(mask)
        assert mask.any(axis=1).all(), "asked about a row with nothing to decide"
        requests = observation["queue"][:, :, DEFAULT_NAMES.index("log_request")]
        return np.where(mask, requests, np.inf).argmin(axis=1)


class LastLegal:
    """The last action that is legal."""

    name = "last"

    def actions(self, observation, mask):
        return mask.shape[1] - 1 - mask[:, ::-1].argmax(axis=1)


class Illegal:
    """An action that no mask allows."""

    name = "illegal"

    def actions(self, observation, mask):
        return np.full(len(mask), mask.shape[1] + 5)


class Scattered:
    """Mostly the first legal action, now and then any, by the digits of what it sees."""

    name = "scattered"

    def actions(self, observation, mask):
        digits = (np.abs(observation["global"].astype(np.float64)).sum(axis=1) * 1e6).astype(int)
        chosen = np.where(digits % 5 == 0, digits // 5 % mask.sum(axis=1), 0)
        return (np.cumsum(mask, axis=1) > chosen[:, np.newaxis]).argmax(axis=1)
