"""Policies of somebody's own: what the board has to cope with."""

from __future__ import annotations

import os

import numpy as np

from orchestrator.kernels.see.layout import DEFAULT_NAMES

REQUEST = DEFAULT_NAMES.index("log_request")


class Shortest:
    """The shortest job; it spoils what it is given, prints, and remembers."""

    def __init__(self):
        self.asked = 0

    def actions(self, observation, mask):
        self.asked += 1
        print("asked", self.asked)
        chosen = np.where(mask, observation["queue"][:, :, REQUEST], np.inf).argmin(axis=1)
        for values in (*observation.values(), mask):
            values[...] = 0
        return chosen


class Curious(Shortest):
    """It would play badly if it were told where the traces are."""

    def actions(self, observation, mask):
        if "TRACES_DIR" in os.environ:
            return mask.shape[1] - 1 - mask[:, ::-1].argmax(axis=1)
        return super().actions(observation, mask)


class Short(Shortest):
    """One answer too few."""

    def actions(self, observation, mask):
        return super().actions(observation, mask)[1:]


class Dying(Shortest):
    """Its process ends in the middle of a play."""

    def actions(self, observation, mask):
        if self.asked == 3:
            os._exit(7)
        return super().actions(observation, mask)


class Needy:
    """It cannot be made without an argument."""

    def __init__(self, weights):
        self.weights = weights


class Mute:
    """It has nothing to say."""


class FirstLegal:
    """The first legal action, in whatever environment."""

    def actions(self, observation, mask):
        return mask.argmax(axis=1)
