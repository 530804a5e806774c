"""Formulas over the features of a job: what they say, how they are computed, how they are read.

A formula is a list of symbols, each before what it is applied to, so that no brackets are needed,
and a part of it is a stretch of that list.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.bundle import Manifest
from agents.problem import ActionScores, require_ordering
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.see.layout import DEFAULT_NAMES

__all__ = ["OPERATORS", "Formula", "FormulaRanker", "Operator", "load_formula"]

_SMALL = 1e-6
_MOST = 1e6  # values are cut off there, so that no product of products is infinite
_CONSTANT = -1


@dataclass(frozen=True)
class Operator:
    """What may stand in a formula besides features and constants.

    Parameters
    ----------
    name : str
    takes : int
        Operands.
    apply : callable
        Of arrays; the result is finite where these are.
    text : str
        With ``{0}`` and ``{1}`` where the operands go.
    """

    name: str
    takes: int
    apply: Callable[..., NDArray[np.float64]]
    text: str


def _divide(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Protected: a small divisor counts as one of that size."""
    return a / np.where(np.abs(b) < _SMALL, _SMALL, b)


OPERATORS: tuple[Operator, ...] = (
    Operator("add", 2, np.add, "({0} + {1})"),
    Operator("subtract", 2, np.subtract, "({0} - {1})"),
    Operator("multiply", 2, np.multiply, "({0} * {1})"),
    Operator("divide", 2, _divide, "({0} / {1})"),
    Operator("minimum", 2, np.minimum, "min({0}, {1})"),
    Operator("maximum", 2, np.maximum, "max({0}, {1})"),
    Operator("negative", 1, np.negative, "-{0}"),
    Operator("root", 1, lambda a: np.sqrt(np.abs(a)), "sqrt|{0}|"),
    Operator("log", 1, lambda a: np.log1p(np.abs(a)), "log(1 + |{0}|)"),
    Operator("exp", 1, lambda a: np.exp(np.minimum(a, 10.0)), "exp({0})"),
    Operator("positive", 1, lambda a: (a > 0).astype(np.float64), "[{0} > 0]"),
)
"""In the order of their codes, which bundles hold: new ones come last."""


@dataclass(frozen=True)
class Formula:
    """A score of a job.

    Parameters
    ----------
    codes : tuple of int
        Symbols, each before its operands: a feature's number in ``DEFAULT_NAMES``, that many and
        more for an operator, -1 for a constant.
    constants : tuple of float
        As many; 0 where the symbol is none.
    """

    codes: tuple[int, ...]
    constants: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse what is no formula."""
        known = range(_CONSTANT, len(DEFAULT_NAMES) + len(OPERATORS))
        sound = len(self.codes) == len(self.constants) and all(c in known for c in self.codes)
        if not sound or not np.all(np.isfinite(self.constants)) or self._open() != 0:
            raise ConfigurationError(
                "formula: 'codes' and 'constants' are no formula; take them from a bundle, or from "
                "agents.evolved.search"
            )

    def _open(self) -> int:
        """Operands that are missing at the end; -1 if something follows a whole formula."""
        wanted = 1
        for code in self.codes:
            if wanted == 0:
                return -1
            wanted += takes(code) - 1
        return wanted

    def __len__(self) -> int:
        """Symbols."""
        return len(self.codes)

    def end(self, begin: int) -> int:
        """Where the part that begins at a symbol ends."""
        wanted = 1
        while wanted > 0:
            wanted += takes(self.codes[begin]) - 1
            begin += 1
        return begin

    def __call__(self, features: NDArray[Any]) -> NDArray[np.float64]:
        """Scores [...] of features [..., 14]; always finite."""
        operands: list[NDArray[np.float64]] = []
        with np.errstate(over="ignore"):
            for code, constant in zip(self.codes[::-1], self.constants[::-1], strict=True):
                operands.append(self._value(code, constant, features, operands))
        return np.broadcast_to(operands[0], features.shape[:-1])

    def _value(
        self,
        code: int,
        constant: float,
        features: NDArray[Any],
        operands: list[NDArray[np.float64]],
    ) -> NDArray[np.float64]:
        if code == _CONSTANT:
            return np.asarray(constant)
        if code < len(DEFAULT_NAMES):
            return features[..., code].astype(np.float64)
        operator = OPERATORS[code - len(DEFAULT_NAMES)]
        taken = [operands.pop() for _ in range(operator.takes)]
        return np.clip(operator.apply(*taken), -_MOST, _MOST)

    def __str__(self) -> str:
        """As people write it."""
        operands: list[str] = []
        for code, constant in zip(self.codes[::-1], self.constants[::-1], strict=True):
            if code == _CONSTANT:
                operands.append(f"{constant:.3g}")
            elif code < len(DEFAULT_NAMES):
                operands.append(DEFAULT_NAMES[code])
            else:
                operator = OPERATORS[code - len(DEFAULT_NAMES)]
                operands.append(operator.text.format(*[operands.pop() for _ in range(takes(code))]))
        return operands[0]


def takes(code: int) -> int:
    """Operands of a symbol."""
    return 0 if code < len(DEFAULT_NAMES) else OPERATORS[code - len(DEFAULT_NAMES)].takes


class FormulaRanker:
    """Chooses the job of the highest score; ties: the first in the window.

    It serves any window, but only environments that ask for a job and nothing else, and describe
    jobs by the default features.

    Parameters
    ----------
    formula : Formula
    name : str, optional
        For tables.
    """

    def __init__(self, formula: Formula, name: str = "evolved") -> None:
        self.formula, self.name = formula, name

    def actions(
        self, observation: Mapping[str, NDArray[Any]], mask: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """Choose an action for each row."""
        features = observation["queue"]
        require_ordering("formula", features, mask)
        return np.where(mask, self.formula(features), -np.inf).argmax(axis=1)

    def score(
        self, observation: Mapping[str, NDArray[Any]], mask: NDArray[np.bool_]
    ) -> ActionScores:
        """Scores of the jobs of one state's window."""
        legal = np.flatnonzero(mask[0])
        return ActionScores(legal, self.formula(observation["queue"][0])[legal])

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What a bundle holds."""
        return {
            "codes": np.array(self.formula.codes, np.int64),
            "constants": np.array(self.formula.constants, np.float64),
        }

    def __repr__(self) -> str:
        """Show the formula."""
        return f"FormulaRanker({self.formula})"


def load_formula(manifest: Manifest, weights: Mapping[str, Any]) -> FormulaRanker:
    """Make the policy of a bundle of kind ``formula``."""
    return FormulaRanker(formula_of(weights["codes"], weights["constants"]), manifest.name)


def formula_of(codes: Sequence[int], constants: Sequence[float]) -> Formula:
    """A formula from arrays or lists."""
    return Formula(tuple(int(c) for c in codes), tuple(float(c) for c in constants))
