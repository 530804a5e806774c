"""Training linear policies with CMA-ES (Hansen, 2016), every replay inside the compiled engine.

Where an environment asks for a job and nothing else, the policy is a ranker of jobs; otherwise it
is a scorer of all legal actions.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from agents.bundle import save_bundle
from agents.cma.evaluator import RankerEvaluator
from agents.cma.policy import LinearRanker, named_weights
from agents.cma.scorer import LinearScorer
from agents.cma.scorer_evaluator import ScorerEvaluator
from agents.cma.search import Search
from agents.task import Task, TrainingResult
from agents.tracking import Tracker
from envs.config import EnvConfig
from envs.reward import POTENTIALS
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.see.layout import CLUSTER_EXTRA
from orchestrator.scheduler.rules import rule_named
from orchestrator.scheduler.vectors import named_vector

__all__ = ["CMATrainer"]

_CHECKPOINT = "checkpoint.pkl"


@dataclass
class CMATrainer:
    """Covariance matrix adaptation over the weights of a linear ranker, or scorer of actions.

    A ranker's fitness is the mean over windows of cost / (reference cost + mean reference cost),
    so that hard windows do not drown the others. All rankers of a generation are judged on the same
    windows, which are drawn anew for every generation. Every few generations, the average of the
    last third of the generations' means is validated, and kept unless it is clearly worse than the
    best.

    Parameters
    ----------
    budget_seconds : float
        Training stops after so long, earlier sittings included.
    generations : int
        It stops after so many generations at the latest.
    population : int
        Rankers of a generation.
    sigma : float
        Standard deviation of the weights to begin with.
    windows : int
        Windows of a generation.
    window_jobs : int or None
        Their length; None: that of the task's evaluation windows.
    prior : mapping of str to float
        Initial weights by feature name: where the search begins. The default equals SJF;
        ``{"advice": 1}`` starts at the environment's advising rule.
    features : sequence of str or None
        Weights to search over, by name; the others stay as the prior has them. None: all.
    reference : str
        The rule whose costs scale those of rankers.
    validate_every : int
        Generations between validations.
    validation_windows : int
        Windows that choose the checkpoint.
    threads : int
        Threads that replay windows.
    resume : bool
        Go on from the output folder's checkpoint, if there is one.
    """

    budget_seconds: float = 300.0
    generations: int = 10_000
    population: int = 16
    sigma: float = 0.15
    windows: int = 64
    window_jobs: int | None = None
    prior: Mapping[str, float] = field(default_factory=lambda: {"log_request": -1.0})
    features: Sequence[str] | None = None
    reference: str = "sjf"
    validate_every: int = 10
    validation_windows: int = 192
    threads: int = 2
    resume: bool = False

    def __post_init__(self) -> None:
        """Reject what makes no sense."""
        for name, least in (
            ("generations", 1),
            ("population", 4),
            ("windows", 1),
            ("validate_every", 1),
            ("validation_windows", 1),
        ):
            if getattr(self, name) < least:
                raise ConfigurationError(
                    f"agent: '{name}' is {getattr(self, name)}; at least {least}"
                )
        if not self.sigma > 0.0:
            raise ConfigurationError(f"agent: 'sigma' is {self.sigma}; give a positive number")
        rule_named(self.reference)
        plain = {name: 1.0 for name in self.prior if ":" not in name and name != "advice"}
        # The others depend on the environment, and are looked up when there is one.
        named_weights({name: 1.0 for name in plain if name not in CLUSTER_EXTRA})

    def train(self, task: Task, tracker: Tracker, output: Path) -> TrainingResult:
        """Search on the task's training windows and keep what validates best.

        Parameters
        ----------
        task : Task
        tracker : Tracker
        output : Path
            Folder for the checkpoint and the bundle.

        Returns
        -------
        TrainingResult
        """
        checkpoint = output / _CHECKPOINT
        space = _Space.of(task.config, self.prior, self.features)
        if self.resume and checkpoint.is_file():
            search = Search.restore(checkpoint, task.seed)
        else:
            begin = space.reduced(space.prior)
            search = Search.begin(begin, self.sigma, self.population, task.seed)
        run = _Run(self, task, tracker, search, space, checkpoint)
        output.mkdir(parents=True, exist_ok=True)
        run.work()
        found = search.kept if search.kept is not None else search.average()
        weights = _unit(space.whole(found[None])[0])
        ranks = task.config.commitment
        policy = (
            LinearRanker(weights, "cma")
            if ranks
            else LinearScorer(weights, task.config.schema, "cma")
        )
        bundle = save_bundle(
            output / "bundle",
            kind="linear_ranker" if ranks else "linear_scorer",
            name=policy.name,
            weights={"weights": policy.weights},
            config=task.config,
            scenario=task.scenario,
            seed=task.seed,
            training=self._description(),
        )
        return TrainingResult(policy, bundle, search.history)

    def _description(self) -> dict[str, Any]:
        features = None if self.features is None else list(self.features)
        plain = {"prior": dict(self.prior), "features": features, "algorithm": "CMA-ES"}
        return {**asdict(self), **plain}


class _Run:
    """One sitting of a training."""

    def __init__(
        self,
        trainer: CMATrainer,
        task: Task,
        tracker: Tracker,
        search: Search,
        space: _Space,
        checkpoint: Path,
    ) -> None:
        self._space = space
        self._trainer, self._task, self._tracker = trainer, task, tracker
        self._search, self._checkpoint = search, checkpoint
        self._rule = rule_named(trainer.reference)
        config = task.evaluation_config
        length = trainer.window_jobs or task.evaluation_jobs
        self._possible = task.split.admissible("train", length)
        windows = config.of_length(length)
        self._train = _evaluator(task, windows, trainer.threads)
        self._judge = _evaluator(task, config, trainer.threads)
        self._starts = task.evaluation_starts("validation", trainer.validation_windows)
        self._reference = self._judge.rule_costs(self._rule, self._starts)
        self._fitness = np.nan

    def work(self) -> None:
        """Search until the budget is spent."""
        search, trainer = self._search, self._trainer
        begun = time.monotonic() - search.seconds
        with self._progress() as (progress, bar):
            if not search.history:
                progress.update(bar, note=self._validate())
            while search.generation < trainer.generations:
                self._step()
                search.seconds = time.monotonic() - begun
                over = search.seconds >= trainer.budget_seconds
                last = over or search.generation >= trainer.generations
                if last or search.generation % trainer.validate_every == 0:
                    progress.update(bar, note=self._validate())
                progress.update(bar, completed=min(search.seconds, trainer.budget_seconds))
                if last:
                    break
        self._train.close()
        self._judge.close()

    def _step(self) -> None:
        """One generation."""
        search, trainer = self._search, self._trainer
        entropy = np.random.SeedSequence([search.seed, 0, search.generation])
        rng = np.random.Generator(np.random.Philox(entropy))
        starts = rng.choice(self._possible, trainer.windows)
        reference = self._train.rule_costs(self._rule, starts)
        population = search.ask()
        costs = self._train.costs(self._space.whole(population), starts)
        fitness = _relative(costs, reference).mean(axis=1)
        search.tell(population, fitness)
        search.jobs += (costs.size + reference.size) * self._train.length
        self._fitness = float(fitness.mean())

    def _validate(self) -> str:
        """Validate the average of late means and keep it if it is good; a note for the bar."""
        search = self._search
        candidate = search.average()
        costs = self._judge.costs(self._space.whole(candidate[None]), self._starts)[0]
        relative = _relative(costs, self._reference)
        kept = search.judge(candidate, relative)
        entry = {
            "seconds": search.seconds,
            "steps": float(search.generation),
            "jobs": float(search.jobs),
            "jobs_per_second": search.jobs / max(search.seconds, 1e-9),
            **({} if np.isnan(self._fitness) else {"fitness": self._fitness}),
            "sigma": float(search.strategy.sigma),
            "validation": self._per_job(costs),
            "reference": self._per_job(self._reference),
            "score": float(relative.mean()),
            "kept": float(kept),
        }
        search.history.append(entry)
        self._tracker.log(search.generation, entry)
        search.save(self._checkpoint)
        shown = f"{entry['validation']:.4g} ({self._rule.name} {entry['reference']:.4g})"
        return f"generation {search.generation}, validation {shown}"

    def _per_job(self, costs: NDArray[np.float64]) -> float:
        """Mean cost per job; as mean bounded slowdown where that is what rewards are made of.

        Shares that a window ends with are no sums over its jobs, and are left as they are.
        """
        terms = self._task.config.reward.terms
        if POTENTIALS.issuperset(terms):
            return float(costs.mean())
        least = terms.get("bounded_slowdown", 0.0) if len(terms) == 1 else 0.0
        return float(costs.mean() / self._judge.length + least)

    @contextmanager
    def _progress(self) -> Iterator[tuple[Progress, TaskID]]:
        columns = (
            TextColumn("[bold]CMA-ES"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns) as progress:
            yield progress, progress.add_task("", total=self._trainer.budget_seconds, note="")


def _evaluator(task: Task, config: EnvConfig, threads: int) -> RankerEvaluator | ScorerEvaluator:
    """What plays windows in such an environment."""
    kind = RankerEvaluator if config.commitment else ScorerEvaluator
    return kind(task.trace, config, threads, task.scenario)


@dataclass(frozen=True)
class _Space:
    """The weights that are searched over, among all that a policy has."""

    prior: NDArray[np.float64]
    chosen: NDArray[np.int64]

    @classmethod
    def of(
        cls, config: EnvConfig, prior: Mapping[str, float], features: Sequence[str] | None
    ) -> _Space:
        """The space of a kind of environment."""
        begin = _named(config, prior)
        if features is None:
            return cls(begin, np.arange(len(begin)))
        return cls(begin, np.flatnonzero(_named(config, dict.fromkeys(features, 1.0))))

    def reduced(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """The searched ones of all weights [D]."""
        return weights[self.chosen]

    def whole(self, population: NDArray[np.float64]) -> NDArray[np.float64]:
        """All weights [P, D] of a population of searched ones [P, n]."""
        weights = np.tile(self.prior, (len(population), 1))
        weights[:, self.chosen] = population
        return weights


def _named(config: EnvConfig, weights: Mapping[str, float]) -> NDArray[np.float64]:
    """Weights in the order of the features that such an environment's policy has."""
    if config.commitment:
        return named_weights(weights)
    return named_vector(config.schema, weights, by_head=True)


def _relative(costs: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.float64]:
    """Costs in proportion to the reference's, softened so that no calm window weighs most."""
    scale = np.abs(reference)  # what is earned costs less than nothing
    return costs / (scale + scale.mean())


def _unit(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same policy with weights of length 1: only their direction matters."""
    return weights / np.linalg.norm(weights)
