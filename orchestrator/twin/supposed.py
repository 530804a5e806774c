"""What may be supposed: jobs, nodes, quotas, another rule; and how it is done to a rehearsal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from orchestrator.errors import ConfigurationError, IllegalActionError
from orchestrator.messages import Cancel, Decommission, NodeFailed, Register, Submit
from orchestrator.scheduling.rules import RULES
from orchestrator.twin.rehearsal import Rehearsal
from orchestrator.twin.scene.cast import Cast
from orchestrator.types import JobPriority, JobSpec, NodeSpec

__all__ = ["Suppose", "nodes_like"]


_MOST_NODES = 10_000


@dataclass(frozen=True)
class Suppose:
    """Something that might be done now. Several at once are done in the order of the fields.

    Parameters
    ----------
    cancel : tuple of str
        Jobs that are cancelled.
    fail, drain : tuple of str
        Nodes that fail, or are drained.
    move : tuple of str
        Running jobs that are moved to tighter places: saved where they are, and started again.
    nodes : mapping of str to int
        How many nodes join that are like one that is there.
    quota : mapping of str to float
        What tenants are entitled to, GPUs, or cores in a cluster without GPUs.
    priority : mapping of str to JobPriority
        Waiting jobs that are cancelled and submitted anew in another class.
    submit : JobSpec or None
        A job that is submitted.
    policy : str or None
        Rule, one of those that come with the package, that is in charge from now on.
    bundle : str or None
        Bundle that is tried beside the rule, or in charge, and decides alone from now on.

    Raises
    ------
    ConfigurationError
        If nothing is supposed, or there is no such rule.
    """

    cancel: tuple[str, ...] = ()
    fail: tuple[str, ...] = ()
    drain: tuple[str, ...] = ()
    move: tuple[str, ...] = ()
    nodes: Mapping[str, int] = field(default_factory=dict)
    quota: Mapping[str, float] = field(default_factory=dict)
    priority: Mapping[str, JobPriority] = field(default_factory=dict)
    submit: JobSpec | None = None
    policy: str | None = None
    bundle: str | None = None

    def __post_init__(self) -> None:
        """Refuse to suppose nothing."""
        if not any(bool(value) for value in vars(self).values()):
            raise ConfigurationError(
                f"what-if: nothing is supposed; give one of {', '.join(vars(self))}"
            )
        if self.policy is not None and self.bundle is not None:
            raise ConfigurationError(
                "what-if: a policy and a bundle are supposed to be in charge; suppose one of them"
            )
        if self.policy is not None and self.policy not in RULES:
            raise ConfigurationError(
                f"what-if: unknown policy '{self.policy}'; choose from {', '.join(RULES)}"
            )
        for like, count in self.nodes.items():
            if isinstance(count, bool) or not 1 <= count <= _MOST_NODES:
                raise ConfigurationError(
                    f"what-if: {count!r} nodes like '{like}'; give 1 to {_MOST_NODES}"
                )

    @property
    def text(self) -> str:
        """In words."""
        said = [f"job {name} is cancelled" for name in self.cancel]
        said += [f"node {name} fails" for name in self.fail]
        said += [f"node {name} is drained" for name in self.drain]
        said += [f"job {name} is moved" for name in self.move]
        said += [f"{count} more like node {like}" for like, count in self.nodes.items()]
        said += [f"the quota of {name} is {most:g}" for name, most in self.quota.items()]
        said += [f"job {name} is {level.name}" for name, level in self.priority.items()]
        if self.submit is not None:
            said.append(f"job {self.submit.job_id} is submitted")
        for name in (self.policy, self.bundle):
            if name is not None:
                said.append(f"{name} is in charge")
        return ", ".join(said)

    def cast(self, now: Cast) -> Cast:
        """Who is in charge then."""
        return now if self.policy is None else Cast(RULES[self.policy])

    def do(self, rehearsal: Rehearsal) -> dict[str, str]:
        """Do it to a rehearsal; the new identities of jobs that are submitted anew.

        Raises
        ------
        QuartermasterError
            If it cannot be done, as it could not be done to the cluster.
        """
        renamed = dict[str, str]()
        for job_id in self.cancel:
            rehearsal.do(Cancel(job_id))
        for node_id in self.fail:
            rehearsal.do(NodeFailed(node_id))
        for node_id in self.drain:
            rehearsal.do(Decommission(node_id))
        for job_id in self.move:
            rehearsal.move(job_id)
        for like, count in self.nodes.items():
            for spec in nodes_like(rehearsal, like, count):
                rehearsal.do(Register(spec))
        for tenant, most in self.quota.items():
            rehearsal.set_quota(tenant, most)
        for job_id, level in self.priority.items():
            if not rehearsal.waits(job_id):
                raise IllegalActionError(
                    f"what-if: job '{job_id}' does not wait, and would begin from its beginning; "
                    "suppose another priority of jobs that wait"
                )
            asked = replace(rehearsal.engine.jobs.specs[job_id], priority=level)
            renamed[job_id] = rehearsal.resubmit(job_id, asked)
        if self.submit is not None:
            rehearsal.do(Submit(self.submit))
        rehearsal.review()
        return renamed


def nodes_like(rehearsal: Rehearsal, like: str, count: int) -> tuple[NodeSpec, ...]:
    """Nodes that may join, like one that is there.

    Parameters
    ----------
    rehearsal : Rehearsal
    like : str
        The node.
    count : int

    Raises
    ------
    UnknownEntityError
        If there is no such node.
    """
    nodes = rehearsal.engine.nodes
    nodes.index.find(like)
    spec, made = nodes.specs[like], list[NodeSpec]()
    number = 1
    while len(made) < count:
        name = f"{like}-more-{number}"
        number += 1
        if name not in nodes.index:
            made.append(replace(spec, node_id=name, available=True))
    return tuple(made)
