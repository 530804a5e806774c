"""One's own reward terms and features: by name, and at work in a session.

A term is a metric: its running total, a function of a row's state, whose growth over a step is
charged, as that of every built-in one is. So an episode's rewards add up to what the term says at
its end, whatever the steps were, and nothing has to be remembered but the last total.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from envs.own.views import RowsView, Views
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.run.buffers import Buffers, RewardForm
from orchestrator.kernels.see.layout import SETS, SURROUNDINGS, Shown
from orchestrator.kernels.see.metrics import Metric
from orchestrator.kernels.state.row import ClusterState
from orchestrator.own.loading import make_part

__all__ = ["FEATURE_SETS", "Feature", "NamedFeature", "OwnParts", "RewardTerm", "feature_named"]


FEATURE_SETS = ("global", *SETS, *SURROUNDINGS)
"""Sets of an observation that features can be added to."""


_SHOWN = {"queue": Shown.JOBS, "victims": Shown.VICTIMS, "elastics": Shown.ELASTICS}


_ALL = slice(None)


class RewardTerm(Protocol):
    """A cost of one's own. Any function of this form will do, one compiled by numba, too."""

    def __call__(self, view: RowsView) -> NDArray[np.float64]:
        """Running total of the cost of each row, float [B]: its growth is charged.

        It is asked after every step, at the end of an episode and before its first decision; it
        may depend on the view and on nothing else.
        """
        ...


class Feature(Protocol):
    """A feature of one's own: a class that is made without arguments.

    A function with these attributes will do; ``name`` may be left out, and is then the class's.
    """

    of: str
    """Which set it describes: one of :data:`FEATURE_SETS`."""
    name: str
    """Its name among that set's features."""

    def __call__(self, view: RowsView) -> NDArray[np.floating[Any]]:
        """The feature of each row, float [B], for ``global``; else of each entity, [B, n].

        Of the queue n is the window; of candidates, all of them, job by job. What is said of
        entities that are not there is not taken.
        """
        ...


@dataclass(frozen=True)
class NamedFeature:
    """A feature that was found.

    Parameters
    ----------
    part : Feature
    name, of : str
        Of the feature, and of the set that it belongs to.
    source : str
        The name by which it was found.
    """

    part: Feature
    name: str
    of: str
    source: str


def feature_named(source: str) -> NamedFeature:
    """A feature by the name of its class, ``package.module:Name``.

    Raises
    ------
    ConfigurationError
        If there is none, or it belongs to no set.
    """
    part = make_part(source, "feature", "envs.own.parts.Feature")
    of = getattr(part, "of", None)
    if of not in FEATURE_SETS:
        raise ConfigurationError(
            f"feature '{source}': 'of' is {of!r}; say which set it describes, one of "
            f"{', '.join(FEATURE_SETS)}"
        )
    name = getattr(part, "name", None) or _snake(source.rpartition(":")[2].rpartition(".")[2])
    if not isinstance(name, str):
        raise ConfigurationError(f"feature '{source}': 'name' is {name!r}; give a text")
    return NamedFeature(part, name, str(of), source)


def _snake(name: str) -> str:
    """``QueueAge`` as ``queue_age``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


class OwnParts:
    """One's own terms and features in the rows of one state.

    Parameters
    ----------
    terms : mapping of str to float
        Weight of each term, by its name.
    features : sequence of NamedFeature
        In the order of their columns, which are the last of their sets.
    form : RewardForm
    """

    def __init__(
        self, terms: Mapping[str, float], features: Sequence[NamedFeature], form: RewardForm
    ) -> None:
        self._terms = [
            (name, make_part(name, "reward term", "envs.own.parts.RewardTerm"), weight)
            for name, weight in terms.items()
        ]
        self._features, self._form = list(features), form
        self._columns = list[NDArray[np.float32]]()

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._terms or self._features)

    def watch(self, state: ClusterState, buffers: Buffers) -> None:
        """Work on these rows and buffers from now on."""
        if not self:
            return
        self._buffers = buffers
        self._views = Views(state, buffers)
        self._noted = buffers.metrics[:, len(Metric) :]
        self._columns = [self._column_of(k) for k in range(len(self._features))]

    def _column_of(self, k: int) -> NDArray[np.float32]:
        """Where a feature is written: [B], or [B, n]."""
        of = self._features[k].of
        behind = sum(later.of == of for later in self._features[k:])
        block: NDArray[np.float32] = getattr(self._buffers, "globals" if of == "global" else of)
        return block[..., block.shape[-1] - behind]

    def pay(self, rows: slice = _ALL) -> None:
        """Charge ``rows``, which have moved, for what the terms have grown by since last paid."""
        if not self._terms:
            return
        buffers, noted = self._buffers, self._noted
        self._views.refresh()
        due = np.zeros(len(noted), np.bool_)
        due[rows] = True
        if self._form == RewardForm.TERMINAL:
            due &= buffers.terminated | buffers.truncated
        for k, (name, term, weight) in enumerate(self._terms):
            total = self._total(name, term)
            buffers.reward[due] -= (weight * (total - noted[:, k]) * buffers.scale)[due]
            noted[due, k] = total[due]

    def describe(self, rows: slice = _ALL) -> None:
        """Write the features of ``rows``, as they are now."""
        if not self._features:
            return
        self._views.refresh()
        for feature, column in zip(self._features, self._columns, strict=True):
            values = np.asarray(feature.part(self._views.features))
            self._check(f"feature '{feature.source}'", values, column.shape)
            part = column[rows]
            part[...] = values[rows]
            if feature.of in _SHOWN:
                count = self._buffers.shown[rows, _SHOWN[feature.of], np.newaxis]
                part[np.arange(part.shape[1]) >= count] = 0.0

    def cost(self, e: int) -> float:
        """What the terms charge a row for in all, weighted."""
        if not self._terms:
            return 0.0
        self._views.refresh()
        return sum(weight * float(self._total(n, term)[e]) for n, term, weight in self._terms)

    def _total(self, name: str, term: RewardTerm) -> NDArray[np.float64]:
        total = np.asarray(term(self._views.terms))
        self._check(f"reward term '{name}'", total, self._noted.shape[:1])
        return total

    @staticmethod
    def _check(subject: str, values: NDArray[Any], shape: tuple[int, ...]) -> None:
        """Refuse what would spoil rewards or observations without a word."""
        if values.shape != shape:
            raise ConfigurationError(
                f"{subject}: gave shape {values.shape}; give {shape}: a number for each row, and "
                "for each entity of its set if it has one"
            )
        if not np.isfinite(values).all():
            raise ConfigurationError(
                f"{subject}: gave a value that is not finite; guard divisions and logarithms"
            )
