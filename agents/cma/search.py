"""State of a search by CMA-ES: what one generation leaves for the next, and a checkpoint holds."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from pathlib import Path

import cma
import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import ConfigurationError

__all__ = ["Search"]


class _Normal:
    """Normal deviates of its own generator: the library would use and seed NumPy's global one."""

    def __init__(self, seed: int) -> None:
        self.generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, 1])))

    def __call__(self, *size: int) -> NDArray[np.float64]:
        return self.generator.standard_normal(size)


@dataclass
class Search:
    """A search in progress.

    Parameters
    ----------
    strategy : cma.CMAEvolutionStrategy
    seed : int
    seconds : float, optional
        Spent so far, in all sittings.
    jobs : int, optional
        Jobs replayed so far.
    means : list of float64 [n], optional
        Mean of the search distribution after each generation.
    kept : float64 [n] or None, optional
        The weights that will be the policy.
    lowest : float64 [windows] or None, optional
        Relative costs, window by window, of what validated best.
    history : list of dict, optional
        One entry for each validation.
    """

    strategy: cma.CMAEvolutionStrategy
    seed: int
    seconds: float = 0.0
    jobs: int = 0
    means: list[NDArray[np.float64]] = field(default_factory=list)
    kept: NDArray[np.float64] | None = None
    lowest: NDArray[np.float64] | None = None
    history: list[dict[str, float]] = field(default_factory=list)

    @classmethod
    def begin(cls, start: NDArray[np.float64], sigma: float, population: int, seed: int) -> Search:
        """A search around ``start``."""
        options = {
            "popsize": population,
            "randn": _Normal(seed),
            "seed": np.nan,  # leave NumPy's global generator alone
            "verbose": -9,
            "verb_log": 0,
        }
        return cls(cma.CMAEvolutionStrategy(start, sigma, options), seed)

    @property
    def generation(self) -> int:
        """Generations completed."""
        return len(self.means)

    def ask(self) -> NDArray[np.float64]:
        """The next population, [P, n]."""
        return np.array(self.strategy.ask())

    def tell(self, population: NDArray[np.float64], fitness: NDArray[np.float64]) -> None:
        """Report how the population did; lower is better."""
        self.strategy.tell(list(population), list(fitness))
        self.means.append(np.array(self.strategy.mean))

    def average(self) -> NDArray[np.float64]:
        """Mean of the last third of the generations' means: less noisy than any of them."""
        if not self.means:
            return np.array(self.strategy.mean)
        count = max(-(-len(self.means) // 3), 1)
        return np.mean(self.means[-count:], axis=0)

    def judge(self, candidate: NDArray[np.float64], relative: NDArray[np.float64]) -> bool:
        """Keep a candidate unless it validates clearly worse than the best.

        The bound is one standard error of the difference over the same windows. Costs are
        heavy-tailed, so the lowest mean is often luck; later averages are less noisy.

        Parameters
        ----------
        candidate : float64 [n]
            Weights.
        relative : float64 [windows]
            Their costs, each in proportion to a reference.

        Returns
        -------
        bool
            Whether it was kept.
        """
        if self.lowest is None or relative.mean() < self.lowest.mean():
            self.lowest = relative
        difference = relative - self.lowest
        bound = difference.std() / max(len(difference) - 1, 1) ** 0.5
        if self.kept is None or difference.mean() <= bound:
            self.kept = candidate
        return self.kept is candidate

    def save(self, path: Path) -> None:
        """Write a checkpoint, whole or not at all."""
        scratch = path.with_name(f".{path.name}.new")
        scratch.write_bytes(pickle.dumps(self))
        scratch.replace(path)

    @classmethod
    def restore(cls, path: Path, seed: int) -> Search:
        """Read a checkpoint of a run with the same seed.

        A checkpoint is a pickle, as the library provides for: read none of unknown origin.
        """
        remedy = "delete it to begin anew, or choose another output folder"
        try:
            search = pickle.loads(path.read_bytes())
        except (pickle.UnpicklingError, EOFError, AttributeError, ImportError) as error:
            raise ConfigurationError(
                f"checkpoint {path}: cannot be read ({error}); {remedy}"
            ) from None
        if not isinstance(search, cls) or search.seed != seed:
            found = f"seed {search.seed}" if isinstance(search, cls) else "something else"
            raise ConfigurationError(f"checkpoint {path}: is of {found}, not seed {seed}; {remedy}")
        return search
