"""Distillation: a ranker plays, lookahead thinks about its decisions, a set network learns of it.

The gradient is that of the expected gain, of a softmax of the scores over the choices that were
tried: what each would gain is known, up to the noise of its futures, so that no choice has to be
called right. The next round is played by what was learned, and thought about by lookahead on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agents.bundle import Origin, PolicyParts, load_bundle, save_bundle
from agents.distill.lessons import Lessons, collect, join
from agents.distill.model import Batch, SetNetwork
from agents.distill.settings import DistillSettings
from agents.linear.evaluate import RankerEvaluator
from agents.linear.policy import Ranker, SetRanker
from agents.planning.lookahead import LookaheadPolicy
from agents.problem import Problem, Windows
from agents.tracking import Tracker
from agents.training import Best, Budget, Course, Reference, TrainingResult
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.run.network import weight_count
from orchestrator.scheduling.ahead import LookaheadConfig
from orchestrator.scheduling.rules import rule_named

__all__ = ["DistillTrainer", "expected_loss", "learn"]

_WINDOWS = 4096  # of a round, at most
_MOST_ERRORS = 4.0  # a gain counts at most so many errors
_NAME = "set_network"


class DistillTrainer(DistillSettings):
    """Trains a set network; its parameters are those of :class:`DistillSettings`."""

    def train(self, problem: Problem, tracker: Tracker, output: Path) -> TrainingResult:
        """Play, think and learn, and keep the round that validates best.

        Parameters
        ----------
        problem : Problem
            Of ordering jobs.
        tracker : Tracker
        output : Path
            Folder for the bundle.

        Returns
        -------
        TrainingResult
        """
        if not self.base:
            raise ConfigurationError(
                "agent: 'base' is empty; give the folder of a ranker's bundle, which training "
                "begins at, such as results/lublin/cma_backfill"
            )
        base = load_bundle(self.base, problem.config.schema)
        if not isinstance(base, Ranker):
            raise ConfigurationError(
                f"agent: 'base' is {self.base}, whose policy '{base.name}' ranks no jobs; give the "
                "folder of a bundle of kind linear_ranker or set_network"
            )
        budget = Budget(self.budget_seconds, self.total_steps, self.generations)
        course = Course("distillation", budget, tracker)
        run = _Run(self, problem, base, course)
        with course:
            run.validate()
            while not course.ended:
                run.go_on()
        run.close()
        best = run.best
        assert best.kept is not None
        policy = SetRanker(best.kept, self.hidden, _NAME)
        model = {"hidden": self.hidden}
        parts = PolicyParts("set_network", {"weights": policy.weights}, _NAME, model)
        training = {**asdict(self), "algorithm": "distillation of lookahead"}
        origin = Origin(problem.config, problem.seed, problem.scenario, training)
        bundle = save_bundle(output / "bundle", parts, origin)
        return TrainingResult(
            policy, bundle, course.history, best.score, course.stopped, run.rounds
        )


class _Run:
    """The state of a training."""

    def __init__(
        self, settings: DistillSettings, problem: Problem, base: Ranker, course: Course
    ) -> None:
        self._settings, self._problem, self._course = settings, problem, course
        self._network = SetNetwork(base.weights[:14], settings.hidden, problem.seed)
        if base.hidden == settings.hidden:
            self._network.load_vector(base.weights)
        elif base.hidden > 0:
            raise ConfigurationError(
                f"agent: 'hidden' is {settings.hidden}, and the base has {base.hidden} units; give "
                "the same"
            )
        judging = problem.judging_windows("validation", settings.validation_windows)
        self._starts, self._config = judging.starts, judging.config
        self._judge = RankerEvaluator(
            problem.trace,
            judging.config,
            settings.threads,
            problem.scenario,
            hidden=settings.hidden,
        )
        costs = self._judge.rule_costs(rule_named(settings.reference), self._starts)
        self._reference = Reference(settings.reference, costs)
        self._lots = list[Lessons]()
        self.best: Best[NDArray[np.float32]] = Best()
        self.rounds = 0

    def close(self) -> None:
        """Let the threads go."""
        self._judge.close()

    def go_on(self) -> None:
        """One round: play, learn, validate."""
        settings, problem = self._settings, self._problem
        first, stop = problem.parts.region("train")
        seed = problem.seed + 1 + self.rounds
        length = problem.evaluation_jobs
        starts = problem.parts.starts("train", _WINDOWS, length, seed)
        windows = Windows(problem.trace, self._config, starts)
        ahead = LookaheadConfig(
            actions=settings.actions, futures=settings.futures, arrivals=settings.arrivals
        )
        student = SetRanker(self._network.vector(), settings.hidden)
        teacher = LookaheadPolicy(student, ahead)
        record = problem.trace.requests[first:stop]
        self._lots.append(
            collect(
                teacher,
                windows,
                record,
                settings.lessons,
                follow=settings.follow,
                seed=problem.seed,
                threads=settings.threads,
            )
        )
        learn(self._network, self._lots, settings, seed)
        self.rounds += 1
        self._course.advance(sum(map(len, self._lots)), self.rounds)
        self.validate()

    def validate(self) -> None:
        """Judge the network, and keep it if it is the best so far."""
        vector = self._network.vector()
        assert vector.shape == (weight_count(self._settings.hidden),)
        costs = self._judge.costs(vector[None], self._starts)[0]
        relative = self._reference.relative(costs)
        kept = self.best.offer(vector, relative)
        length = self._judge.length
        entry = {
            "steps": float(self.rounds),
            "lessons": float(sum(map(len, self._lots))),
            "validation": float(costs.mean() / length + 1.0),
            "reference": float(self._reference.costs.mean() / length + 1.0),
            "score": float(relative.mean()),
            "kept": float(kept),
        }
        self._course.record(self.rounds, entry, self._reference)


def learn(
    network: SetNetwork, lots: Sequence[Lessons], settings: DistillSettings, seed: int
) -> None:
    """Some passes over all lessons, with a learning rate that rises and falls."""
    lessons = join(lots)
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, 2])))
    per_pass = max(len(lessons) // settings.batch, 1)
    optimiser = torch.optim.Adam(network.parameters(), settings.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.learning_rate, total_steps=settings.epochs * per_pass
    )
    for _ in range(settings.epochs):
        order = rng.permutation(len(lessons))
        for k in range(per_pass):
            chosen = order[k * settings.batch : (k + 1) * settings.batch]
            optimiser.zero_grad()
            loss = expected_loss(network, Batch.of(lessons, chosen), settings)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            schedule.step()


def expected_loss(network: SetNetwork, batch: Batch, settings: DistillSettings) -> Tensor:
    """Minus the expected gain, in errors, and what it costs to leave the base's choice."""
    scores = settings.sharpness * network(batch).gather(1, batch.tried)
    chances = scores.masked_fill(~batch.valid, -torch.inf).log_softmax(1)
    errors = batch.gains / (batch.errors + settings.noise)
    errors = errors.clamp(-_MOST_ERRORS, _MOST_ERRORS)
    gain = (chances.exp() * errors).sum(1)
    return -gain.mean() - settings.pull * chances[:, 0].mean()
