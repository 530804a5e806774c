"""Training with sb3-contrib's MaskablePPO."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sb3_contrib import MaskablePPO
from stable_baselines3.common.vec_env import VecEnv

from agents.bundle import save_bundle
from agents.evaluation import METRICS
from agents.ppo.buffer import PackedRolloutBuffer
from agents.ppo.inference import ScorerPolicy
from agents.ppo.memory import keep_freed_memory
from agents.ppo.packing import ActionPacker
from agents.ppo.policy import SetPolicy
from agents.ppo.watcher import ValidationPlan, Watcher
from agents.task import Task, TrainingResult
from agents.tracking import Tracker
from envs.sb3 import SchedulingVecEnv
from orchestrator.errors import ConfigurationError
from orchestrator.scheduler.rules import rule_named

__all__ = ["PPOTrainer"]


@dataclass
class PPOTrainer:
    """Proximal policy optimisation with action masks.

    Parameters
    ----------
    total_steps : int
        Environment steps; the learning rate falls linearly to ``final_rate`` of itself over them.
    budget_seconds : float
        Training stops after so long even if steps are left.
    envs, steps : int
        Rows, and steps per row between updates.
    batch, epochs : int
        Minibatch size and passes over a rollout.
    learning_rate, final_rate, discount, gae, clip, value_weight, entropy : float
        The usual.
    hidden, critic_summary : int
        Units of the networks.
    prior : mapping of str to float
        Initial linear weights by feature name: where training starts.
    gain : float
        Factor of the scores; see ``SetScorer``.
    by_head : bool
        Whether each head has columns, and so linear weights, of its own.
    averaging : float
        Decay, per update, of the moving average of the weights that is validated and kept.
    validate_every : int
        Updates between validations.
    validation_windows : int
        Windows that choose the checkpoint.
    reference : str
        The rule whose values scale those of validation windows.
    metric : str
        Metric of ``agents.evaluation`` that they choose it by; lower is better.
    windows : int
        Training windows to draw from.
    threads : int
        Threads of torch.
    resume : bool
        Go on from the output folder's last checkpoint, if there is one.
    """

    total_steps: int = 1_500_000
    budget_seconds: float = 540.0
    envs: int = 256
    steps: int = 64
    batch: int = 2048
    epochs: int = 3
    learning_rate: float = 3e-3
    final_rate: float = 0.1
    discount: float = 0.98
    gae: float = 0.95
    clip: float = 0.2
    value_weight: float = 0.5
    entropy: float = 0.0
    hidden: int = 32
    critic_summary: int = 64
    prior: Mapping[str, float] = field(default_factory=lambda: {"log_request": -2.0})
    gain: float = 10.0
    by_head: bool = False
    averaging: float = 0.95
    validate_every: int = 10
    validation_windows: int = 32
    reference: str = "sjf"
    metric: str = "bounded_slowdown"
    windows: int = 4096
    threads: int = 1
    resume: bool = False

    def __post_init__(self) -> None:
        """Reject metrics that checkpoints cannot be chosen by, and unknown rules."""
        rule_named(self.reference)
        known = [name for name, sign in METRICS.items() if sign < 0]
        if self.metric not in known:
            raise ConfigurationError(
                f"PPO: 'metric' is '{self.metric}'; choose from {', '.join(known)}"
            )

    def train(self, task: Task, tracker: Tracker, output: Path) -> TrainingResult:
        """Train on the task's training windows and keep what validates best.

        Parameters
        ----------
        task : Task
        tracker : Tracker
        output : Path
            Folder for checkpoints and the bundle.

        Returns
        -------
        TrainingResult
        """
        keep_freed_memory()
        torch.set_num_threads(self.threads)
        torch.manual_seed(task.seed)
        # The rollout buffer shuffles with NumPy's global generator, as stable-baselines3 does.
        np.random.seed(task.seed)  # noqa: NPY002
        output.mkdir(parents=True, exist_ok=True)
        rows = SchedulingVecEnv(task.training_session(self.envs, self.windows), task.seed)
        model = self._model(task, rows)
        watcher = Watcher(model, task, tracker, output, self._plan())
        if self.resume:
            watcher.restore()
        with watcher:
            model.learn(
                max(self.total_steps - model.num_timesteps, 0),
                callback=watcher,
                log_interval=None,  # type: ignore[arg-type]
                reset_num_timesteps=False,
            )
        schema = task.config.schema
        policy = ScorerPolicy(watcher.best_state, schema, self.hidden, by_head=self.by_head)
        bundle = save_bundle(
            output / "bundle",
            kind="ppo",
            weights=policy.state(),
            config=task.config,
            scenario=task.scenario,
            seed=task.seed,
            training=self._description(),
            model={"hidden": self.hidden, "by_head": self.by_head},
        )
        return TrainingResult(policy, bundle, watcher.history)

    def _plan(self) -> ValidationPlan:
        return ValidationPlan(
            every=self.validate_every,
            windows=self.validation_windows,
            budget_seconds=self.budget_seconds,
            total_steps=self.total_steps,
            hidden=self.hidden,
            by_head=self.by_head,
            reference=self.reference,
            metric=self.metric,
            averaging=self.averaging,
        )

    def _description(self) -> dict[str, Any]:
        return {**asdict(self), "prior": dict(self.prior), "algorithm": "MaskablePPO"}

    def _model(self, task: Task, rows: VecEnv) -> MaskablePPO:
        schema = task.config.schema
        return MaskablePPO(
            SetPolicy,
            rows,
            learning_rate=self._rate,
            n_steps=self.steps,
            batch_size=self.batch,
            n_epochs=self.epochs,
            gamma=self.discount,
            gae_lambda=self.gae,
            clip_range=self.clip,
            ent_coef=self.entropy,
            vf_coef=self.value_weight,
            device="cpu",
            rollout_buffer_class=PackedRolloutBuffer,
            rollout_buffer_kwargs={"packer": ActionPacker(schema, self.by_head)},
            policy_kwargs={
                "schema": schema,
                "hidden": self.hidden,
                "critic_summary": self.critic_summary,
                "prior": dict(self.prior),
                "gain": self.gain,
                "by_head": self.by_head,
            },
        )

    def _rate(self, left: float) -> float:
        return self.learning_rate * (self.final_rate + (1.0 - self.final_rate) * left)
