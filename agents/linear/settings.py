"""The parameters of CMA-ES, stated once: ``conf/agent`` takes its keys and defaults from here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agents.linear.policy import named_weights
from agents.settings import check_bounds, check_budget, check_types, check_weights, prior_for
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.see.layout import CLUSTER_EXTRA
from orchestrator.scheduling.rules import rule_named
from orchestrator.scheduling.schema import FeatureSchema

__all__ = ["CMASettings"]

_REQUEST_WEIGHT = -1.0
_LEAST = {
    "budget_seconds": 0,
    "total_steps": 0,
    "window_jobs": 1,
    "threads": 1,
    "generations": 1,
    "population": 4,
    "windows": 1,
    "validate_every": 1,
    "validation_windows": 1,
    "restarts": 1,
    "trial_generations": 1,
}


@dataclass(frozen=True)
class CMASettings:
    """Covariance matrix adaptation over the weights of a linear ranker, or scorer of actions.

    Parameters
    ----------
    budget_seconds : float or None
        Training stops after so long, earlier sittings included; compilation does not count. None:
        no limit, so that what is learned does not depend on the machine's speed.
    total_steps : int or None
        It stops when so many jobs (or ticks) have been replayed, those under the reference
        included: a policy takes one step for each, or more. None: no limit.
    generations : int or None
        It stops after so many generations; None: no limit. At least one of the three is needed.
    population : int
        Rankers of a generation.
    sigma : float
        Standard deviation of the weights to begin with.
    windows : int
        Windows of a generation.
    window_jobs : int or None
        Their length; None: that of the problem's evaluation windows.
    prior : mapping of str to float, or None
        Initial weights by feature name: where the search begins. ``{"advice": 1}`` starts at the
        environment's advising rule; None: ``{"log_request": -1}``, which equals SJF, all actions
        but placements ranking below those. Weights of actions that the environment does not have
        are left out.
    features : sequence of str or None
        Weights to search over, by name; the others stay as the prior has them. None: all. Those of
        actions that the environment does not have are left out.
    made_for : str or None
        The environment group whose actions the prior and the features are about, for messages.
    reference : str
        The rule whose costs scale those of rankers.
    validate_every : int
        Generations between validations.
    validation_windows : int
        Windows that choose the checkpoint.
    restarts : int
        Short searches that are begun, the first at the prior and the others a step away from it;
        the one that validates best goes on. Where a search may end in an optimum that is none, as
        without backfilling, 8 find a better one; 1: there is one search.
    trial_generations : int
        Generations of a short search; all count in every budget.
    threads : int
        Threads that replay windows.
    resume : bool
        Go on from the output folder's checkpoint, if there is one.
    """

    budget_seconds: float | None = 300.0
    total_steps: int | None = None
    generations: int | None = 10_000
    population: int = 16
    sigma: float = 0.15
    windows: int = 64
    window_jobs: int | None = None
    prior: Mapping[str, float] | None = None
    features: Sequence[str] | None = None
    made_for: str | None = None
    reference: str = "sjf"
    validate_every: int = 10
    validation_windows: int = 192
    restarts: int = 1
    trial_generations: int = 12
    threads: int = 2
    resume: bool = False

    def __post_init__(self) -> None:
        """Reject what makes no sense."""
        check_types("agent", self)
        check_weights("agent", "prior", self.prior)
        check_bounds("agent", self, _LEAST, above={"sigma": 0})
        check_budget("agent", self)
        if self.features is not None and len(self.features) == 0:
            raise ConfigurationError(
                "agent: 'features' is []; name what to search over, or give null for all"
            )
        rule_named(self.reference)
        prior = self.prior or {}
        plain = {name: 1.0 for name in prior if ":" not in name and name != "advice"}
        # The others depend on the environment, and are looked up when there is one.
        named_weights({name: 1.0 for name in plain if name not in CLUSTER_EXTRA})

    def start_in(self, schema: FeatureSchema) -> dict[str, float]:
        """Where training starts in an environment: the prior, or the default one."""
        return prior_for(schema, self.prior, _REQUEST_WEIGHT, self.made_for, by_head=True)
