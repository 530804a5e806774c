"""Training with sb3-contrib's MaskablePPO: collect, update, and validate every few updates."""

from __future__ import annotations

import ctypes
import pickle
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sb3_contrib import MaskablePPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from agents.bundle import Origin, PolicyParts, save_bundle
from agents.evaluation.play import evaluate_named, evaluate_policy
from agents.files import replacing
from agents.ppo.batches import ActionPacker
from agents.ppo.model import ScorerPolicy
from agents.ppo.rollout import PackedRolloutBuffer, SetPolicy
from agents.ppo.settings import PPOSettings
from agents.problem import Problem
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
from envs.sb3 import SchedulingVecEnv
from orchestrator.errors import ConfigurationError

__all__ = ["PPOTrainer", "keep_freed_memory"]

_CHECKPOINT = "checkpoint.pt"
_ENDLESS = 1 << 60  # environment steps

# Parameters of glibc's mallopt (malloc.h).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3


class PPOTrainer(PPOSettings):
    """Trains a scorer of legal actions; its parameters are those of :class:`PPOSettings`."""

    def train(self, problem: Problem, tracker: Tracker, output: Path) -> TrainingResult:
        """Train on the problem's training windows and keep what validates best.

        Parameters
        ----------
        problem : Problem
        tracker : Tracker
        output : Path
            Folder for checkpoints and the bundle.

        Returns
        -------
        TrainingResult
        """
        keep_freed_memory()
        torch.set_num_threads(self.threads)
        torch.manual_seed(problem.seed)
        # The rollout buffer shuffles with NumPy's global generator, as stable-baselines3 does.
        np.random.seed(problem.seed)  # noqa: NPY002
        output.mkdir(parents=True, exist_ok=True)
        rows = SchedulingVecEnv(problem.training_session(self.envs, self.windows), problem.seed)
        rate = _Rate(self)
        learner = self._model(problem, rows, rate)
        watcher = _Watcher(learner, problem, tracker, output, self)
        rate.course = watcher.course
        if self.resume:
            watcher.restore()
        most = _ENDLESS if self.most_steps is None else self.most_steps
        with watcher:
            learner.learn(
                max(most - learner.num_timesteps, 0),
                callback=watcher,
                log_interval=None,  # type: ignore[arg-type]
                reset_num_timesteps=False,
            )
        policy = watcher.policy(watcher.best_state)
        model: dict[str, Any] = {"hidden": self.hidden, "by_head": self.by_head}
        if self.network is not None:
            model["network"] = self.network
        parts = PolicyParts("ppo", policy.state(), model=model)
        start = self.start_in(problem.config.schema)
        training = {**asdict(self), "prior": start, "algorithm": "MaskablePPO"}
        origin = Origin(problem.config, problem.seed, problem.scenario, training)
        bundle = save_bundle(output / "bundle", parts, origin)
        return TrainingResult(
            policy,
            bundle,
            watcher.history,
            watcher.best_score,
            watcher.stopped,
            watcher.updates,
        )

    def _model(self, problem: Problem, rows: VecEnv, rate: _Rate) -> MaskablePPO:
        schema = problem.config.schema
        return MaskablePPO(
            SetPolicy,
            rows,
            learning_rate=rate,
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
            policy_kwargs={"schema": schema, "settings": self},
        )


class _Rate:
    """The learning rate, by what is left of the steps or, where they have no end, of the time."""

    def __init__(self, settings: PPOSettings) -> None:
        self._settings = settings
        self.course: Course | None = None  # of the training, once there is one

    def __call__(self, left: float) -> float:
        """The rate when so much of the steps is left."""
        settings = self._settings
        if settings.most_steps is None and self.course is not None:
            left = max(1.0 - self.course.spent, 0.0)
        return settings.learning_rate * (settings.final_rate + (1.0 - settings.final_rate) * left)


class _Watcher(BaseCallback):
    """Validates greedily every few updates and remembers the best scorer.

    What is validated, and kept, is an exponential moving average of the weights over updates: at a
    learning rate that gets anywhere in minutes, single iterates scatter widely around it.
    """

    def __init__(
        self,
        model: MaskablePPO,
        problem: Problem,
        tracker: Tracker,
        output: Path,
        settings: PPOSettings,
    ) -> None:
        super().__init__()
        self._watched, self._problem, self._settings = model, problem, settings
        self._checkpoint = output / _CHECKPOINT
        self._made_of = made_of(problem, settings)
        self._windows = problem.judging_windows("validation", settings.validation_windows)
        judged = evaluate_named(settings.reference, self._windows, keep_jobs=0)
        self._reference = Reference(settings.reference, judged.values[settings.metric])
        budget = Budget(settings.budget_seconds, settings.most_steps)
        self.course = Course("PPO", budget, tracker)
        self._best = Best[dict[str, Tensor]]()
        self._average: dict[str, Tensor] = {}
        self._updates = 0

    @property
    def history(self) -> list[dict[str, float]]:
        """Every validation."""
        return self.course.history

    @property
    def best_state(self) -> dict[str, Tensor]:
        """The scorer that validated best."""
        return self._best.kept or {}

    @property
    def best_score(self) -> float:
        """What that one scored."""
        return self._best.score

    @property
    def stopped(self) -> int | None:
        """The signal that ended training, if one did."""
        return self.course.stopped

    @property
    def updates(self) -> int:
        """How often the weights were updated: after every whole rollout."""
        return self._updates

    def policy(self, state: dict[str, Tensor]) -> ScorerPolicy:
        """The greedy policy of a scorer."""
        settings, schema = self._settings, self._problem.config.schema
        policy = ScorerPolicy(
            state, schema, settings.hidden, by_head=settings.by_head, network=settings.network
        )
        policy.gain = settings.gain
        return policy

    def __enter__(self) -> Self:
        """Start the clock and the progress bar."""
        self.course.__enter__()
        if not self.history:
            self._follow()
            self._validate()
        return self

    def __exit__(self, *_: object) -> None:
        """Validate what training ended with and stop the progress bar."""
        self._validate()
        self.course.__exit__()

    def restore(self) -> None:
        """Go on from the last checkpoint of the output folder, if there is one."""
        if not self._checkpoint.exists():
            return
        saved = self._read()
        check_made_of(self._checkpoint, saved["made_of"], self._made_of)
        self._watched.policy.load_state_dict(saved["policy"])
        self._watched.policy.optimizer.load_state_dict(saved["optimizer"])
        self._watched.num_timesteps = int(saved["steps"])
        self._updates = int(saved["updates"])
        self._average = saved["average"]
        lowest = saved["lowest"].numpy()
        self._best = Best(kept=saved["best_state"], lowest=lowest, score=float(lowest.mean()))
        self.course.seconds_before, self.course.history = float(saved["seconds"]), saved["history"]

    def _read(self) -> dict[str, Any]:
        """The checkpoint, which somebody else may have written."""
        try:
            saved = torch.load(self._checkpoint, weights_only=True)
        except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
            said = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ConfigurationError(
                f"checkpoint {self._checkpoint}: cannot be read ({said}); delete it to begin anew, "
                "or choose another output folder"
            ) from None
        return saved if isinstance(saved, dict) and "made_of" in saved else {"made_of": {}}

    def _on_step(self) -> bool:
        return not self.course.over

    def _on_rollout_end(self) -> None:
        self._updates += 1
        self._follow()
        self.course.advance(self.num_timesteps, self._updates)
        if self._updates % self._settings.validate_every == 0:
            self._validate()

    def _follow(self) -> None:
        """Move the average towards the scorer's weights."""
        networks: Any = self._watched.policy
        # The first updates are averaged evenly, or the starting point would linger.
        share = max(1.0 - self._settings.averaging, 1.0 / (1 + self._updates))
        for name, value in networks.scorer.state_dict().items():
            mean = self._average.get(name, value)
            self._average[name] = torch.lerp(mean, value.detach(), share)

    def _validate(self) -> None:
        state = {name: value.clone() for name, value in self._average.items()}
        judged = evaluate_policy(self.policy(state), self._windows, keep_jobs=0)
        costs = judged.values[self._settings.metric]
        relative = self._reference.relative(costs)
        self._best.offer(state, relative)
        steps = self._watched.num_timesteps
        entry = {
            "steps": float(steps),
            "validation": float(costs.mean()),
            "reference": float(self._reference.costs.mean()),
            "score": float(relative.mean()),
        }
        if self.num_timesteps > 0:  # the logger exists once learning has begun
            log = self._watched.logger.name_to_value
            entry.update({k: float(v) for k, v in log.items() if _is_number(v)})
        self.course.record(steps, entry, self._reference)
        self.course.advance(steps, self._updates)
        self._save()

    def _save(self) -> None:
        """Write the checkpoint whole, or not at all."""
        assert self._best.lowest is not None
        lowest: NDArray[np.float64] = self._best.lowest
        content = {
            "made_of": self._made_of,
            "policy": self._watched.policy.state_dict(),
            "optimizer": self._watched.policy.optimizer.state_dict(),
            "steps": self._watched.num_timesteps,
            "updates": self._updates,
            "seconds": self.course.seconds,
            "average": self._average,
            "best_state": self.best_state,
            "lowest": torch.from_numpy(lowest),
            "history": self.history,
        }
        with replacing(self._checkpoint) as temporary:
            torch.save(content, temporary)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.floating | np.integer)


def keep_freed_memory() -> bool:
    """Tell glibc's allocator not to give large blocks back to the system.

    Training frees and asks for the same few megabytes thousands of times. By default a tensor of a
    few megabytes is mapped afresh each time, and touching its new pages takes longer than the
    arithmetic (a minibatch forth and back: 22 ms, with this 16 ms).

    Returns
    -------
    bool
        Whether the C library took the settings; other ones than glibc's are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    settings = ((_MMAP_THRESHOLD, 1 << 30), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 1 << 28))
    taken = [mallopt(name, value) == 1 for name, value in settings]
    return all(taken)
