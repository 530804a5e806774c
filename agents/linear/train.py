"""Training linear policies with CMA-ES (Hansen, 2016), every replay inside the compiled engine.

Where an environment asks for a job and nothing else, the policy is a ranker of jobs; otherwise it
is a scorer of all legal actions.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import cma
import numpy as np
from numpy.typing import NDArray

from agents.bundle import Origin, PolicyParts, save_bundle
from agents.files import replacing
from agents.linear.evaluate import RankerEvaluator, ScorerEvaluator
from agents.linear.policy import LinearRanker, LinearScorer, named_weights
from agents.linear.settings import CMASettings
from agents.problem import Problem
from agents.settings import features_for
from agents.tracking import Tracker
from agents.training import (
    Best,
    Budget,
    Course,
    Reference,
    TrainingResult,
    check_made_of,
    made_of,
)
from envs.config import EnvConfig
from envs.reward import POTENTIALS
from orchestrator.errors import ConfigurationError
from orchestrator.scheduling.rules import rule_named
from orchestrator.scheduling.schema import named_vector

__all__ = ["CMATrainer", "Search"]

_CHECKPOINT = "checkpoint.pkl"


class CMATrainer(CMASettings):
    """Searches the weights of a linear policy; its parameters are those of :class:`CMASettings`.

    All policies of a generation are judged on the same windows, which are drawn anew for every
    generation, by their costs relative to a rule's. Every few generations, the average of the last
    third of the generations' means is validated, and kept unless it is clearly worse than the best.
    Of several short searches the one that validates best goes on.
    """

    def train(self, problem: Problem, tracker: Tracker, output: Path) -> TrainingResult:
        """Search on the problem's training windows and keep what validates best.

        Parameters
        ----------
        problem : Problem
        tracker : Tracker
        output : Path
            Folder for the checkpoint and the bundle.

        Returns
        -------
        TrainingResult
        """
        checkpoint = output / _CHECKPOINT
        space = _Space.of(problem.config, self)
        if self.resume and checkpoint.is_file():
            search = Search.restore(checkpoint, made_of(problem, self))
        else:
            search = _begin(self, space, problem.seed)
            search.made_of = made_of(problem, self)
        budget = Budget(self.budget_seconds, self.total_steps, self.generations)
        course = Course("CMA-ES", budget, tracker, search.seconds, search.history)
        course.advance(search.jobs, search.total)
        run = _Run(self, problem, search, space, course)
        output.mkdir(parents=True, exist_ok=True)
        search = run.work(checkpoint)
        found = search.best.kept if search.best.kept is not None else search.average()
        weights = _unit(space.whole(found[None])[0])
        ranks, schema = problem.config.commitment, problem.config.schema
        policy = LinearRanker(weights, "cma") if ranks else LinearScorer(weights, schema, "cma")
        kind = "linear_ranker" if ranks else "linear_scorer"
        parts = PolicyParts(kind, {"weights": policy.weights}, policy.name)
        features = None if self.features is None else list(self.features)
        training = {**asdict(self), "prior": self.start_in(schema), "features": features}
        training["algorithm"] = "CMA-ES"
        origin = Origin(problem.config, problem.seed, problem.scenario, training)
        bundle = save_bundle(output / "bundle", parts, origin)
        return TrainingResult(
            policy, bundle, course.history, search.best.score, course.stopped, run.total
        )


class _Normal:
    """Normal deviates of its own generator: the library would use and seed NumPy's global one."""

    def __init__(self, *seeds: int) -> None:
        self.generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(seeds)))

    def __call__(self, *size: int) -> NDArray[np.float64]:
        return self.generator.standard_normal(size)


@dataclass
class Search:
    """A search in progress: what one generation leaves for the next, and a checkpoint holds.

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
    best : Best, optional
        The weights that will be the policy. Later averages are less noisy than earlier ones, so
        they may be worse by a standard error.
    history : list of dict, optional
        One entry for each validation.
    made_of : dict of str to str, optional
        Digests of the problem and the settings that it belongs to.
    trial : int or None, optional
        Which of the short searches it is; None: it is the one that goes on.
    before : int, optional
        Generations of the other searches so far.
    rival : Search or None, optional
        The best of the short searches before it.
    """

    strategy: cma.CMAEvolutionStrategy
    seed: int
    seconds: float = 0.0
    jobs: int = 0
    means: list[NDArray[np.float64]] = field(default_factory=list)
    best: Best[NDArray[np.float64]] = field(default_factory=lambda: Best(tolerance=1.0))
    history: list[dict[str, float]] = field(default_factory=list)
    made_of: dict[str, str] = field(default_factory=dict)
    trial: int | None = None
    before: int = 0
    rival: Search | None = None

    @classmethod
    def begin(
        cls,
        start: NDArray[np.float64],
        sigma: float,
        population: int,
        seed: int,
        trial: int | None = None,
    ) -> Search:
        """A search around ``start``; short ones but the first begin a step away from it."""
        normal = _Normal(seed, 1, *_mark(trial))
        options = {
            "popsize": population,
            "randn": normal,
            "seed": np.nan,  # leave NumPy's global generator alone
            "verbose": -9,
            "verb_log": 0,
        }
        if trial:
            start = start + sigma * normal(len(start))
        return cls(cma.CMAEvolutionStrategy(start, sigma, options), seed, trial=trial)

    @property
    def generation(self) -> int:
        """Generations completed."""
        return len(self.means)

    @property
    def total(self) -> int:
        """The same, those of the other searches included."""
        return self.before + self.generation

    @property
    def leader(self) -> Search:
        """The search that validated best so far: itself, or a short one before it."""
        rival = self.rival
        if rival is None or self.best.score <= rival.best.score:
            return self
        return rival

    def windows_seed(self) -> list[int]:
        """What the windows of the next generation follow from."""
        return [self.seed, 0, self.generation, *_mark(self.trial)]

    def followed_by(self, other: Search) -> Search:
        """The search that goes on after this one, with the course so far."""
        other.seconds, other.jobs, other.history = self.seconds, self.jobs, self.history
        other.made_of, other.before = self.made_of, self.total - other.generation
        return other

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

    def save(self, path: Path) -> None:
        """Write a checkpoint, whole or not at all."""
        with replacing(path) as temporary:
            temporary.write_bytes(pickle.dumps(self))

    @classmethod
    def restore(cls, path: Path, made_of: Mapping[str, str]) -> Search:
        """Read a checkpoint of a run of the same problem and settings.

        A checkpoint is a pickle, as the library provides for: read none of unknown origin.
        """
        remedy = "delete it to begin anew, or choose another output folder"
        try:
            search = pickle.loads(path.read_bytes())
        except (pickle.UnpicklingError, EOFError, AttributeError, ImportError) as error:
            raise ConfigurationError(
                f"checkpoint {path}: cannot be read ({error}); {remedy}"
            ) from None
        if not isinstance(search, cls):
            raise ConfigurationError(f"checkpoint {path}: is of something else; {remedy}")
        check_made_of(path, search.__dict__.get("made_of", {}), made_of)
        return search


def _mark(trial: int | None) -> list[int]:
    """What seeds of a short search have besides; of the first one nothing, as if it were alone."""
    return [trial] if trial else []


def _begin(settings: CMASettings, space: _Space, seed: int, trial: int = 0) -> Search:
    """A search of a training: a short one, if there are several."""
    which = trial if settings.restarts > 1 else None
    start = space.reduced(space.prior)
    return Search.begin(start, settings.sigma, settings.population, seed, which)


class _Run:
    """One sitting of a training."""

    def __init__(
        self,
        settings: CMASettings,
        problem: Problem,
        search: Search,
        space: _Space,
        course: Course,
    ) -> None:
        self._settings, self._problem = settings, problem
        self._search, self._space, self._course = search, space, course
        self._rule = rule_named(settings.reference)
        length = settings.window_jobs or problem.evaluation_jobs
        self._possible = problem.parts.admissible("train", length)
        judging = problem.judging_windows("validation", settings.validation_windows)
        config = judging.config
        self._train = _evaluator(problem, config.of_length(length), settings.threads)
        self._judge = _evaluator(problem, config, settings.threads)
        self._starts = judging.starts
        costs = self._judge.rule_costs(self._rule, self._starts)
        self._reference = Reference(settings.reference, costs)
        self._fitness = np.nan

    @property
    def total(self) -> int:
        """Generations so far, of all searches."""
        return self._search.total

    def work(self, checkpoint: Path) -> Search:
        """Search until the budget is spent; the search that did best."""
        course, every = self._course, self._settings.validate_every
        with course:
            if not self._search.history:
                self._validate(checkpoint)
            while not course.ended:
                self._step()
                search = self._search
                search.seconds = course.seconds
                course.advance(search.jobs, search.total)
                tried = self._is_tried()
                if course.ended or tried or search.generation % every == 0:
                    self._validate(checkpoint)
                if tried:
                    self._go_on(checkpoint)
        self._train.close()
        self._judge.close()
        return self._search.leader

    def _is_tried(self) -> bool:
        """Whether a short search has come to its end."""
        search = self._search
        return search.trial is not None and search.generation >= self._settings.trial_generations

    def _go_on(self, checkpoint: Path) -> None:
        """Begin the next short search or, after the last, go on with the one that did best."""
        search, settings = self._search, self._settings
        best, following = search.leader, (search.trial or 0) + 1
        search.rival = None
        if following < settings.restarts:
            begun = _begin(settings, self._space, search.seed, following)
            self._search = search.followed_by(begun)
            self._search.rival = best
        else:
            self._search = search.followed_by(best)
            self._search.trial, self._search.rival = None, None
        self._search.save(checkpoint)

    def _step(self) -> None:
        """One generation."""
        search = self._search
        entropy = np.random.SeedSequence(search.windows_seed())
        rng = np.random.Generator(np.random.Philox(entropy))
        starts = rng.choice(self._possible, self._settings.windows)
        reference = Reference(self._rule.name, self._train.rule_costs(self._rule, starts))
        population = search.ask()
        costs = self._train.costs(self._space.whole(population), starts)
        fitness = reference.relative(costs).mean(axis=1)
        search.tell(population, fitness)
        search.jobs += (costs.size + reference.costs.size) * self._train.length
        self._fitness = float(fitness.mean())

    def _validate(self, checkpoint: Path) -> None:
        """Validate the average of late means, and keep it if it is good."""
        search = self._search
        candidate = search.average()
        costs = self._judge.costs(self._space.whole(candidate[None]), self._starts)[0]
        relative = self._reference.relative(costs)
        kept = search.best.offer(candidate, relative)
        entry = {
            "steps": float(search.total),
            "jobs": float(search.jobs),
            "jobs_per_second": search.jobs / max(search.seconds, 1e-9),
            **({} if np.isnan(self._fitness) else {"fitness": self._fitness}),
            "sigma": float(search.strategy.sigma),
            "validation": self._per_job(costs),
            "reference": self._per_job(self._reference.costs),
            "score": float(relative.mean()),
            "kept": float(kept),
        }
        self._course.record(search.total, entry, self._reference)
        search.save(checkpoint)

    def _per_job(self, costs: NDArray[np.float64]) -> float:
        """Mean cost per job; as mean bounded slowdown where that is what rewards are made of.

        Shares that a window ends with are no sums over its jobs, and are left as they are.
        """
        terms = self._problem.config.reward.terms
        if POTENTIALS.issuperset(terms):
            return float(costs.mean())
        least = terms.get("bounded_slowdown", 0.0) if len(terms) == 1 else 0.0
        return float(costs.mean() / self._judge.length + least)


def _evaluator(
    problem: Problem, config: EnvConfig, threads: int
) -> RankerEvaluator | ScorerEvaluator:
    """What plays windows in such an environment."""
    kind = RankerEvaluator if config.commitment else ScorerEvaluator
    return kind(problem.trace, config, threads, problem.scenario)


@dataclass(frozen=True)
class _Space:
    """The weights that are searched over, among all that a policy has."""

    prior: NDArray[np.float64]
    chosen: NDArray[np.int64]

    @classmethod
    def of(cls, config: EnvConfig, settings: CMASettings) -> _Space:
        """The space of a kind of environment."""
        schema, wanted = config.schema, settings.features
        found = wanted and features_for(schema, wanted, settings.made_for, by_head=True)
        begin = _named(config, settings.start_in(schema))
        if found is None:
            return cls(begin, np.arange(len(begin)))
        return cls(begin, np.flatnonzero(_named(config, dict.fromkeys(found, 1.0))))

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


def _unit(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same policy with weights of length 1: only their direction matters."""
    return weights / np.linalg.norm(weights)
