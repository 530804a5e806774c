"""An engine of one's own: what is supposed to be done to the cluster is done to it.

Commands are checked, applied and decided upon as those of the live cluster are, by the same engine;
nothing is logged and nobody acts on it.
"""

from __future__ import annotations

from dataclasses import replace

from orchestrator.engine.engine import Engine, EngineImage
from orchestrator.errors import ConfigurationError, IllegalActionError
from orchestrator.kernels.state.codes import JobCode, Reason
from orchestrator.messages import (
    Cancel,
    CheckpointCommitted,
    Command,
    Decide,
    Entry,
    Establish,
    Event,
    MigrateJob,
    Plan,
    Review,
    Submit,
)
from orchestrator.scheduling.rules import Rule, RulePolicy
from orchestrator.types import JobSpec, TenantSpec

__all__ = ["Rehearsal"]


_WAITING = (JobCode.PENDING, JobCode.PREEMPTED)
_MOST_ROUNDS = 1000  # plans of one cycle


class Rehearsal:
    """A copy of the cluster at a moment, that commands are tried on.

    Parameters
    ----------
    image : EngineImage
        The cluster as it was set aside.
    now_ms : int
        The moment; not before the last entry.

    Raises
    ------
    ConfigurationError
        If nothing has happened to the cluster yet.
    """

    def __init__(self, image: EngineImage, now_ms: int) -> None:
        if not image.begun:
            raise ConfigurationError(
                "twin: nothing has happened to the cluster yet; submit a job, then ask"
            )
        self.engine = Engine.of(image.settings)
        self.engine.load(image)
        self.now_ms = max(now_ms, self.engine.now_ms)
        self.do(Review())

    def do(self, body: Command | Event) -> None:
        """Have something done to it now.

        Raises
        ------
        QuartermasterError
            If it makes no sense, or is refused.
        """
        outcome = self.engine.handle(Entry(self.now_ms, body))
        if outcome.reason != Reason.OK:
            raise IllegalActionError(
                f"{type(body).__name__.lower()}: it is refused as things are "
                f"({outcome.reason.name.lower()}); suppose something else"
            )

    def resubmit(self, job_id: str, spec: JobSpec) -> str:
        """Cancel a waiting job and submit it as another one; the new one's identity."""
        new = f"{job_id}~"
        self.do(Cancel(job_id))
        self.do(Submit(replace(spec, job_id=new)))
        return new

    def set_quota(self, tenant: str, quota: float) -> None:
        """Entitle a tenant to so many GPUs, or cores in a cluster without GPUs."""
        settings = self.engine.settings
        known = {one.name: one for one in settings.tenants}
        if tenant not in (*known, *self.engine.jobs.tenants.names):
            raise ConfigurationError(
                f"quota: no tenant '{tenant}'; known are "
                f"{', '.join(self.engine.jobs.tenants.names) or 'none'}"
            )
        known[tenant] = replace(known.get(tenant, TenantSpec(tenant)), quota=quota)
        nodes = tuple(self.engine.nodes.specs.values())
        self.do(Establish(**{**vars(settings), "tenants": tuple(known.values()), "nodes": nodes}))

    def move(self, job_id: str) -> None:
        """Move a running job to a tighter place; raises if it may not be moved, or has none."""
        self.review()
        outcome = self.engine.handle(Entry(self.now_ms, Decide(Plan((MigrateJob(job_id),)))))
        if outcome.reason != Reason.OK:
            raise IllegalActionError(
                f"move: job '{job_id}' stays where it is ({outcome.reason.name.lower()}); suppose "
                "that another one is moved"
            )

    def waits(self, job_id: str) -> bool:
        """Whether a job waits; raises if nobody knows it."""
        return self.engine.jobs.code(job_id) in _WAITING

    def review(self) -> None:
        """Open a decision point: whoever decides sees what was done."""
        self.do(Review())

    # --- who starts at once --------------------------------------------------------------------

    def start_of(self, job_id: str, rule: Rule) -> tuple[int, tuple[str, ...]] | None:
        """Have the rule decide, and wait for those that it saves for others; then ask it again.

        Parameters
        ----------
        job_id : str
        rule : Rule

        Returns
        -------
        int
            After how many ms the job starts: 0, or as long as saving takes.
        tuple of str
            Jobs that are preempted.
        None
            It does not start at once.
        """
        policy, begun_ms = RulePolicy(rule), self.now_ms
        before = set(self.engine.saving())
        displaced = list[str]()
        self._decide(policy)
        while self.waits(job_id):
            saving = self.engine.saving()
            ours = {name: told for name, told in saving.items() if name not in before}
            displaced += [name for name in ours if name not in displaced]
            if not ours:
                return None
            name = min(ours, key=lambda one: (ours[one][1], one))
            run, cost_ms = ours[name]
            self.now_ms = max(self.now_ms, begun_ms + cost_ms)
            self.do(CheckpointCommitted(name, run))
            self._decide(policy)
        return self.now_ms - begun_ms, tuple(displaced)

    def _decide(self, policy: RulePolicy) -> None:
        """A cycle: the rule is asked until it waits."""
        self.do(Review())
        for _ in range(_MOST_ROUNDS):
            if not self.engine.decision_open:
                return
            plan = policy.plan(self.engine.snapshot())
            self.do(Decide(plan))
