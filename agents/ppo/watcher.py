"""Watching a training run: validation, the best checkpoint, the time budget, the progress bar."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import (
    BarColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from sb3_contrib import MaskablePPO
from stable_baselines3.common.callbacks import BaseCallback
from torch import Tensor

from agents.evaluation import evaluate_policy, evaluate_rule
from agents.ppo.inference import ScorerPolicy
from agents.task import Task
from agents.tracking import Tracker
from envs.config import EnvConfig
from envs.workloads import Trace

__all__ = ["ValidationPlan", "Watcher"]

_CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True)
class ValidationPlan:
    """How often to validate, on how many windows, and when to stop."""

    every: int
    windows: int
    budget_seconds: float
    total_steps: int
    hidden: int
    by_head: bool = False
    reference: str = "sjf"
    metric: str = "bounded_slowdown"
    averaging: float = 0.95


class Watcher(BaseCallback):
    """Validates greedily every few updates and remembers the best scorer.

    What is validated, and kept, is an exponential moving average of the weights over updates: at a
    learning rate that gets anywhere in minutes, single iterates scatter widely around it.

    The validation score is the mean over windows of cost / (reference cost + mean reference
    cost): hard windows do not drown the others. Lower is better.
    """

    def __init__(
        self, model: MaskablePPO, task: Task, tracker: Tracker, output: Path, plan: ValidationPlan
    ) -> None:
        super().__init__()
        self.history: list[dict[str, float]] = []
        self.best_state: dict[str, Tensor] = {}
        self._watched = model
        self._task, self._tracker, self._output, self._plan = task, tracker, output, plan
        self._starts = task.evaluation_starts("validation", plan.windows)
        judged = evaluate_rule(plan.reference, *self._where, keep_jobs=0, scenario=task.scenario)
        self._reference = judged.values[plan.metric]
        self._best = np.inf
        self._average: dict[str, Tensor] = {}
        self._updates = 0
        self._spent = 0.0
        self._begun = 0.0
        self._progress = Progress(
            TextColumn("[bold]PPO"),
            BarColumn(),
            TextColumn("{task.completed:,}/{task.total:,} steps"),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._bar = self._progress.add_task("", total=plan.total_steps, note="")

    def __enter__(self) -> Self:
        """Start the clock and the progress bar."""
        self._begun = time.monotonic()
        self._progress.start()
        if not self.history:
            self._follow()
            self._validate()
        return self

    def __exit__(self, *_: object) -> None:
        """Validate what training ended with and stop the progress bar."""
        self._validate()
        self._progress.stop()

    def restore(self) -> None:
        """Go on from the last checkpoint of the output folder, if there is one."""
        path = self._output / _CHECKPOINT
        if not path.exists():
            return
        saved = torch.load(path, weights_only=True)
        self._watched.policy.load_state_dict(saved["policy"])
        self._watched.policy.optimizer.load_state_dict(saved["optimizer"])
        self._watched.num_timesteps = int(saved["steps"])
        self._updates = int(saved["updates"])
        self._spent = float(saved["seconds"])
        self._best = float(saved["best"])
        self._average = saved["average"]
        self.best_state = saved["best_state"]
        self.history = saved["history"]

    @property
    def _where(self) -> tuple[Trace, EnvConfig, NDArray[np.int64]]:
        """Trace, environment and windows of the validation."""
        return self._task.trace, self._task.evaluation_config, self._starts

    @property
    def seconds(self) -> float:
        """Training time so far, earlier sittings included."""
        return self._spent + time.monotonic() - self._begun

    def _on_step(self) -> bool:
        return self.seconds < self._plan.budget_seconds

    def _on_rollout_end(self) -> None:
        self._updates += 1
        self._follow()
        self._progress.update(self._bar, completed=self.num_timesteps)
        if self._updates % self._plan.every == 0:
            self._validate()

    def _follow(self) -> None:
        """Move the average towards the scorer's weights."""
        networks: Any = self._watched.policy
        # The first updates are averaged evenly, or the starting point would linger.
        share = max(1.0 - self._plan.averaging, 1.0 / (1 + self._updates))
        for name, value in networks.scorer.state_dict().items():
            mean = self._average.get(name, value)
            self._average[name] = torch.lerp(mean, value.detach(), share)

    def _validate(self) -> None:
        model, plan = self._watched, self._plan
        state = {name: value.clone() for name, value in self._average.items()}
        schema = self._task.config.schema
        policy = ScorerPolicy(state, schema, plan.hidden, by_head=plan.by_head)
        scenario = self._task.scenario
        judged = evaluate_policy(policy, *self._where, keep_jobs=0, scenario=scenario)
        costs = judged.values[plan.metric]
        score = float(np.mean(costs / (self._reference + self._reference.mean())))
        if score < self._best:
            self._best, self.best_state = score, state
        entry = {
            "seconds": self.seconds,
            "steps": float(model.num_timesteps),
            "validation": float(costs.mean()),
            "reference": float(self._reference.mean()),
            "score": score,
        }
        if self.num_timesteps > 0:  # the logger exists once learning has begun
            log = model.logger.name_to_value
            entry.update({k: float(v) for k, v in log.items() if _is_number(v)})
        self.history.append(entry)
        self._tracker.log(model.num_timesteps, entry)
        note = f"validation {costs.mean():.1f} ({plan.reference} {self._reference.mean():.1f})"
        self._progress.update(self._bar, completed=model.num_timesteps, note=note)
        self._save()

    def _save(self) -> None:
        """Write the checkpoint whole, or not at all."""
        path = self._output / _CHECKPOINT
        scratch = path.with_suffix(".tmp")
        torch.save(
            {
                "policy": self._watched.policy.state_dict(),
                "optimizer": self._watched.policy.optimizer.state_dict(),
                "steps": self._watched.num_timesteps,
                "updates": self._updates,
                "seconds": self.seconds,
                "best": self._best,
                "average": self._average,
                "best_state": self.best_state,
                "history": self.history,
            },
            scratch,
        )
        scratch.rename(path)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.floating | np.integer)
