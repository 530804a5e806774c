"""Genetic programming (Koza, 1992): formulas are drawn, crossed and changed; the better ones stay.

The rival of learned weights that needs no gradient, no prior and no idea of what the answer looks
like but for the symbols: a formula can multiply, divide and compare features, a weighted sum
cannot. What comes out is short enough to be read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agents.bundle import Origin, PolicyParts, save_bundle
from agents.evaluation.play import evaluate_policies, evaluate_rule
from agents.evolved.formula import OPERATORS, Formula, FormulaRanker, formula_of, takes
from agents.evolved.settings import EvolvedSettings
from agents.files import write_json
from agents.problem import Problem, Windows
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
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.see.layout import DEFAULT_NAMES

__all__ = ["EvolvedTrainer", "breed", "change", "cross", "grow"]

_CHECKPOINT = "checkpoint.json"
_KIND = "formula"
_DEPTH = 4
_LEAF, _NUMBER = 0.3, 0.2  # chances that a part ends early, and that it ends in a constant
_JITTER = 0.3


def grow(rng: np.random.Generator, symbols: int, depth: int = _DEPTH) -> Formula:
    """Draw a formula of at most so many symbols."""
    while True:
        codes, constants = _draw(rng, depth)
        if len(codes) <= symbols:
            return Formula(tuple(codes), tuple(constants))


def _draw(rng: np.random.Generator, depth: int) -> tuple[list[int], list[float]]:
    if depth == 0 or rng.random() < _LEAF:
        if rng.random() < _NUMBER:
            return [-1], [float(rng.normal())]
        return [int(rng.integers(len(DEFAULT_NAMES)))], [0.0]
    code = len(DEFAULT_NAMES) + int(rng.integers(len(OPERATORS)))
    codes, constants = [code], [0.0]
    for _ in range(takes(code)):
        more, numbers = _draw(rng, depth - 1)
        codes += more
        constants += numbers
    return codes, constants


def cross(rng: np.random.Generator, mother: Formula, father: Formula, symbols: int) -> Formula:
    """The mother with a part of the father in the place of one of hers; herself if that is long."""
    begin, other = (int(rng.integers(len(parent))) for parent in (mother, father))
    return _replaced(mother, begin, father, slice(other, father.end(other)), symbols)


def change(rng: np.random.Generator, formula: Formula, symbols: int) -> Formula:
    """Another part in the place of one, or another number in the place of a constant."""
    numbers = [k for k, code in enumerate(formula.codes) if code == -1]
    if numbers and rng.random() < 0.5:
        at = int(rng.choice(numbers))
        constants = list(formula.constants)
        constants[at] += float(rng.normal(0.0, _JITTER * (abs(constants[at]) + 0.1)))
        return Formula(formula.codes, tuple(constants))
    new = grow(rng, symbols, depth=2)
    begin = int(rng.integers(len(formula)))
    return _replaced(formula, begin, new, slice(0, len(new)), symbols)


def _replaced(formula: Formula, begin: int, other: Formula, part: slice, symbols: int) -> Formula:
    end = formula.end(begin)
    codes = (*formula.codes[:begin], *other.codes[part], *formula.codes[end:])
    constants = (*formula.constants[:begin], *other.constants[part], *formula.constants[end:])
    return Formula(codes, constants) if len(codes) <= symbols else formula


def breed(
    rng: np.random.Generator,
    population: Sequence[Formula],
    fitness: NDArray[np.float64],
    settings: EvolvedSettings,
) -> list[Formula]:
    """The next generation; lower fitness is better."""
    order = np.argsort(fitness, kind="stable")

    def parent() -> Formula:
        drawn = rng.integers(len(population), size=settings.tournament)
        return population[int(drawn[fitness[drawn].argmin()])]

    children = [population[int(k)] for k in order[: settings.elite]]
    while len(children) < settings.population:
        child = parent()
        if rng.random() < settings.crossover:
            child = cross(rng, child, parent(), settings.symbols)
        else:
            child = change(rng, child, settings.symbols)
        children.append(child)
    return children


@dataclass
class _Search:
    """What one generation leaves for the next, and a checkpoint holds."""

    population: list[Formula]
    generation: int = 0
    jobs: int = 0
    best: Best[Formula] = field(default_factory=Best)


class EvolvedTrainer(EvolvedSettings):
    """Evolves a ranker of jobs; its parameters are those of :class:`EvolvedSettings`."""

    def train(self, problem: Problem, tracker: Tracker, output: Path) -> TrainingResult:
        """Search on the problem's training windows and keep what validates best.

        Parameters
        ----------
        problem : Problem
            Of ordering jobs.
        tracker : Tracker
        output : Path
            Folder for the checkpoint and the bundle.

        Returns
        -------
        TrainingResult
        """
        if not problem.config.commitment:
            raise ConfigurationError(
                "agent: formulas rank jobs, and this environment asks for more; choose "
                "env=job_ordering or env=job_ordering_backfill"
            )
        output.mkdir(parents=True, exist_ok=True)
        run = _Run(self, problem, tracker, output / _CHECKPOINT)
        search = run.work()
        kept = search.best.kept or search.population[0]
        policy = FormulaRanker(kept)
        parts = PolicyParts(_KIND, policy.arrays(), policy.name, {"formula": str(kept)})
        training = {**asdict(self), "algorithm": "genetic programming"}
        origin = Origin(problem.config, problem.seed, problem.scenario, training)
        bundle = save_bundle(output / "bundle", parts, origin)
        course = run.course
        return TrainingResult(
            policy, bundle, course.history, search.best.score, course.stopped, search.generation
        )


class _Run:
    """One sitting of a training."""

    def __init__(
        self, settings: EvolvedSettings, problem: Problem, tracker: Tracker, checkpoint: Path
    ) -> None:
        self._settings, self._problem, self._checkpoint = settings, problem, checkpoint
        self._made_of = made_of(problem, settings)
        self._judging = problem.judging_windows("validation", settings.validation_windows)
        self._reference = self._referred(self._judging)
        length = settings.window_jobs or problem.evaluation_jobs
        self._config = problem.judged.config.of_length(length)
        self._possible = problem.parts.admissible("train", length)
        budget = Budget(settings.budget_seconds, settings.total_steps, settings.generations)
        self.course = Course("genetic programming", budget, tracker)
        rng = self._rng(0)
        first = [grow(rng, settings.symbols) for _ in range(settings.population)]
        self._search = _Search(first)
        if settings.resume and checkpoint.is_file():
            self._restore()

    def _rng(self, *part: int) -> np.random.Generator:
        return np.random.default_rng([self._problem.seed, *part])

    def work(self) -> _Search:
        """Search until the budget is spent."""
        search, course = self._search, self.course
        course.advance(search.jobs, search.generation)
        with course:
            while not course.ended:
                fitness = self._judge()
                search.generation += 1
                course.advance(search.jobs, search.generation)
                if course.ended or search.generation % self._settings.validate_every == 0:
                    self._validate(fitness)
                rng = self._rng(2, search.generation)
                search.population = breed(rng, search.population, fitness, self._settings)
                if course.history and course.history[-1]["generation"] == search.generation:
                    self._save()
        return search

    def _judge(self) -> NDArray[np.float64]:
        """How the formulas of the generation do on its windows; lower is better."""
        search, settings = self._search, self._settings
        starts = self._rng(1, search.generation).choice(self._possible, settings.windows)
        windows = Windows(
            self._problem.trace, self._config, starts.astype(np.int64), self._problem.scenario
        )
        reference = self._referred(windows)
        different = list(dict.fromkeys(search.population))
        shares = reference.relative(self._costs(different, windows)).mean(axis=1)
        lengths = np.array([len(formula) for formula in different])
        known = dict(zip(different, shares + settings.parsimony * lengths, strict=True))
        search.jobs += len(known) * len(windows) * self._config.length
        return np.array([known[formula] for formula in search.population])

    def _costs(self, formulas: Sequence[Formula], windows: Windows) -> NDArray[np.float64]:
        """Of each formula on each window, [formulas, windows]."""
        judged = evaluate_policies(map(FormulaRanker, formulas), windows)
        return np.array([result.values[self._settings.metric] for result in judged])

    def _referred(self, windows: Windows) -> Reference:
        judged = evaluate_rule(self._settings.reference, windows, keep_jobs=0)
        return Reference(self._settings.reference, judged.values[self._settings.metric])

    def _validate(self, fitness: NDArray[np.float64]) -> None:
        search, settings = self._search, self._settings
        ranked = dict.fromkeys(search.population[int(k)] for k in np.argsort(fitness))
        finalists = list(ranked)[: settings.finalists]
        costs = self._costs(finalists, self._judging)
        for formula, relative in zip(finalists, self._reference.relative(costs), strict=True):
            search.best.offer(formula, relative)
        assert search.best.kept is not None
        assert search.best.lowest is not None
        reference = self._reference.costs
        kept = search.best.lowest * (reference + reference.mean())  # what it costs
        entry = {
            "steps": float(search.jobs),
            "generation": float(search.generation),
            "validation": float(kept.mean()),
            "reference": float(reference.mean()),
            "score": search.best.score,
            "fitness": float(fitness.min()),
            "symbols": float(len(search.best.kept)),
        }
        self.course.record(search.generation, entry, self._reference)

    def _save(self) -> None:
        """Write what the next generation needs, whole or not at all."""
        search, best = self._search, self._search.best
        assert best.kept is not None
        assert best.lowest is not None
        write_json(
            self._checkpoint,
            {
                "made_of": self._made_of,
                "population": [asdict(formula) for formula in search.population],
                "generation": search.generation,
                "jobs": search.jobs,
                "best": asdict(best.kept),
                "lowest": best.lowest.tolist(),
                "seconds": self.course.seconds,
                "history": self.course.history,
            },
        )

    def _restore(self) -> None:
        saved = json.loads(self._checkpoint.read_text(encoding="utf-8"))
        check_made_of(self._checkpoint, saved["made_of"], self._made_of)
        lowest = np.array(saved["lowest"])
        best = Best(kept=formula_of(**saved["best"]), lowest=lowest, score=float(lowest.mean()))
        population = [formula_of(**each) for each in saved["population"]]
        self._search = _Search(population, saved["generation"], saved["jobs"], best)
        self.course.seconds_before, self.course.history = saved["seconds"], saved["history"]
