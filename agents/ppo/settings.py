"""The parameters of PPO, stated once: ``conf/agent`` takes its keys and defaults from here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agents.evaluation.play import policy_named
from agents.settings import (
    check_bounds,
    check_budget,
    check_metric,
    check_types,
    check_weights,
    prior_for,
)
from orchestrator.errors import ConfigurationError
from orchestrator.scheduling.schema import FeatureSchema

__all__ = ["PPOSettings"]

_LEAST = {
    **dict.fromkeys(
        ("total_steps", "generations", "budget_seconds", "final_rate", "discount", "gae"), 0
    ),
    **dict.fromkeys(("value_weight", "entropy", "averaging"), 0),
    **dict.fromkeys(("envs", "steps", "epochs", "hidden", "critic_summary", "threads"), 1),
    **dict.fromkeys(("validate_every", "validation_windows", "windows"), 1),
    "batch": 2,  # advantages of a minibatch are divided by their spread
}
_MOST = {"discount": 1, "gae": 1, "final_rate": 1, "averaging": 1}
_ABOVE = {"learning_rate": 0, "clip": 0, "gain": 0}
_REQUEST_WEIGHT = -2.0


@dataclass(frozen=True)
class PPOSettings:
    """Proximal policy optimisation with action masks.

    Parameters
    ----------
    total_steps : int or None
        Environment steps; None: no limit.
    generations : int or None
        Updates of the policy, each after ``envs * steps`` environment steps; None: no limit. The
        learning rate falls linearly to ``final_rate`` of itself over the steps that these two
        allow; without either, over ``budget_seconds``.
    budget_seconds : float or None
        Training stops after so long even if steps are left; compilation does not count. None: no
        limit, so that what is learned does not depend on the machine's speed. At least one of the
        three is needed.
    envs, steps : int
        Rows, and steps per row between updates.
    batch, epochs : int
        Minibatch size and passes over a rollout.
    learning_rate, final_rate, discount, gae, clip, value_weight, entropy : float
        The usual.
    hidden, critic_summary : int
        Units of the networks' hidden layers.
    prior : mapping of str to float, or None
        Initial linear weights by feature name (or ``candidate:NAME``, ``victim:NAME``,
        ``elastic:NAME``, ``head:NAME``): where training starts. ``{"advice": 1}`` starts at the
        advising rule; None: ``{"log_request": -2}``, at shortest job first, all actions but
        placements ranking below those. Weights of actions that the environment does not have are
        left out.
    made_for : str or None
        The environment group whose actions the prior is about, for messages.
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
        The rule whose values scale those of validation windows, or any policy of the zoo or of
        one's own (:func:`agents.evaluation.play.policy_named`).
    metric : str
        Metric of ``agents.evaluation`` that they choose it by; lower is better.
    windows : int
        Training windows to draw from.
    threads : int
        Threads of torch.
    resume : bool
        Go on from the output folder's last checkpoint, if there is one.
    network : str or None
        A network of one's own, ``package.module:Class``, in the place of the scorer's; see
        :func:`agents.ppo.model.own_network`.
    """

    total_steps: int | None = 1_500_000
    generations: int | None = None
    budget_seconds: float | None = 540.0
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
    prior: Mapping[str, float] | None = None
    made_for: str | None = None
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
    network: str | None = None

    def __post_init__(self) -> None:
        """Reject what makes no sense: wrong types and bounds, unknown rules and metrics."""
        check_types("agent", self)
        check_weights("agent", "prior", self.prior)
        check_bounds("agent", self, _LEAST, _MOST, _ABOVE)
        check_budget("agent", self)
        if self.envs * self.steps < 2:
            raise ConfigurationError(
                "agent: 'envs' and 'steps' are 1: a single step has no spread; raise one of them"
            )
        policy_named(self.reference)
        check_metric("agent", self.metric)

    @property
    def most_steps(self) -> int | None:
        """Environment steps that the limits allow, whole updates; None: any number."""
        update = self.envs * self.steps
        updates = None if self.generations is None else self.generations * update
        limits = [limit for limit in (self.total_steps, updates) if limit is not None]
        return min(limits, default=None)

    def start_in(self, schema: FeatureSchema) -> dict[str, float]:
        """Where training starts in an environment: the prior, or the default one."""
        return prior_for(schema, self.prior, _REQUEST_WEIGHT, self.made_for, by_head=self.by_head)
