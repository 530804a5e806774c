"""A trained policy behind the orchestrator's interface: the same kernels see, the same decide."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agents.bundle import load_bundle, read_lookahead, read_manifest, restore_environment
from agents.planning.lookahead import LookaheadPolicy
from agents.planning.players import LearnedPlayer, understudy_of
from agents.problem import ActionScores, BatchPolicy, ScoringPolicy
from envs.config import EnvConfig
from envs.own.parts import OwnParts
from envs.rows.buffers import configure_view, make_bench, make_buffers, make_view, observed
from orchestrator.deployment.records import Choice, Considered, text_of
from orchestrator.engine.plans import PlanExecutor, no_preference
from orchestrator.engine.snapshot import Snapshot
from orchestrator.errors import ConfigurationError, IllegalActionError
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.run.buffers import Bench, Buffers
from orchestrator.kernels.run.cycle import Desk, carry_out
from orchestrator.kernels.see.queue import Encoding
from orchestrator.kernels.state.codes import (
    NO_JOB,
    ActionKind,
    JobKind,
    Placement,
    Reason,
    Status,
)
from orchestrator.kernels.state.row import ClusterShape, ClusterState, allocate
from orchestrator.messages import Action, Plan, ScaleFleet, Wait
from orchestrator.own.loading import is_part_name, source_digest
from orchestrator.ports import Planner, Policy, Sized
from orchestrator.scheduling.ahead import LookaheadConfig
from orchestrator.scheduling.rules import policy_of

__all__ = ["BundlePolicy"]


_MOST_CHOICES = 128
"""Of one plan: then others have their turn, and it is asked again."""


_SHOWN = 4  # alternatives that are told in words


@dataclass(frozen=True)
class _Taken:
    """A choice: what each action is worth, and the one that is taken, by number and as kernels do.

    One that thinks ahead may take another than what it thinks best at first sight.
    """

    scores: ActionScores
    number: int
    code: tuple[int, int, int]


class BundlePolicy:
    """Implements ``orchestrator.ports.Planner``, and tells what it thinks of all it might do.

    A snapshot is a private copy of the cluster's row, so it is described by the very kernels that
    describe an environment's rows, with the windows that the policy was trained with.

    Services and fleet it sizes at ticks, if it was trained to: it is then shown what the cluster's
    log says of them (:class:`orchestrator.messages.Tick`), and services that wait are started as in
    an environment: by best fit, before anything else. A policy that was trained without a queue
    sizes only; jobs are left to a rule.

    One thing a live row cannot know: whether jobs are still to come. While anything runs, waiting
    is legal in both; on an idle cluster it is legal in an episode that still has arrivals, and not
    live, where a policy that waited there might starve its queue.

    It belongs to one thread at a time: buffers are kept from call to call.

    Parameters
    ----------
    policy : BatchPolicy
    config : EnvConfig
        The environment that it was trained in; the live cluster's ``semantics`` may be the same
        object.
    digest : str, optional
        Of all that it decides by; see :meth:`load`.
    lookahead : LookaheadConfig or None, optional
        How far it thinks ahead before each choice; None: it takes what it thinks best.
    """

    def __init__(
        self,
        policy: BatchPolicy,
        config: EnvConfig,
        digest: str = "",
        lookahead: LookaheadConfig | None = None,
    ) -> None:
        if config.encoding == Encoding.PUBLISHED:
            raise ConfigurationError(
                "deployment: the published encoding scales by the largest values of a whole trace, "
                "which a live cluster does not know; train with another encoding"
            )
        if config.choose_node:
            raise ConfigurationError(
                "deployment: a live cluster takes placements by generator, not nodes by number; "
                "train a policy that chooses among 'placements'"
            )
        if lookahead is not None and (config.services > 0 or config.capacity_steps > 0):
            raise ConfigurationError(
                "deployment: a policy that sizes services or the fleet cannot think ahead on a "
                "live cluster, which has no record of their demand; delete the bundle's "
                "lookahead.json"
            )
        self.policy = policy
        self.config = config
        self.digest = digest
        self._ahead = None if lookahead is None else LookaheadPolicy(policy, lookahead)
        self._schema = config.schema
        self._view = make_view(config)
        self._own = OwnParts({}, config.own_features, config.reward.form)
        self._memory: tuple[ClusterShape, Buffers, Bench] | None = None
        self._rule = policy_of(None)
        self._aside: ClusterState | None = None  # the row without what is only shown

    @classmethod
    def load(cls, directory: str | Path) -> BundlePolicy:
        """The policy of a bundle, in the environment that its manifest describes.

        It thinks ahead as the bundle says (:func:`agents.bundle.write_lookahead`).

        Raises
        ------
        BundleError
            When the bundle is incomplete or damaged.
        """
        manifest = read_manifest(directory)
        config = restore_environment(manifest.environment)
        said = f"{manifest.kind} {manifest.digest} {manifest.weights_sha256} "
        said += f"{sorted(manifest.environment.items())} {sorted(manifest.model.items())}"
        own = [name for name in (*config.features, *manifest.model.values()) if is_part_name(name)]
        said += "".join(f" {source_digest(name, 'part')}" for name in own)
        lookahead = read_lookahead(directory)
        said += "" if lookahead is None else f" {lookahead}"
        digest = hashlib.sha256(said.encode()).hexdigest()[:16]
        return cls(load_bundle(directory, config.schema), config, digest, lookahead)

    @property
    def name(self) -> str:
        """For tables."""
        return self.policy.name if self._ahead is None else self._ahead.name

    @property
    def sizes(self) -> Sized:
        """Of how many services, and whether of the fleet, it decides on the size at ticks."""
        return Sized(self.config.services, self.config.capacity_steps > 0)

    def sized(self, since: int) -> Sized:
        """The same: it always decides."""
        return self.sizes

    @property
    def understudy(self) -> LearnedPlayer | None:
        """Who plays in its place where futures are played; None: the compiled engine cannot."""
        return understudy_of(self.policy, self.config, ahead=self._ahead is not None)

    def leave_jobs_to(self, rule: Policy) -> None:
        """Say who places jobs, if this policy was trained without a queue."""
        self._rule = rule

    def decide(self, snapshot: Snapshot) -> Plan:
        """The first thing that it would do at a decision point, or to wait."""
        if self.sizes != Sized():
            return Plan(self.consider(snapshot).plan.actions[:1])
        buffers, bench = self._buffers(snapshot.state.shape)
        configure_view(snapshot.state, self.config)
        taken = self._choose(snapshot, buffers, bench)
        return Plan((Wait(),) if taken is None else (snapshot.action(*taken.code),))

    def plan(self, snapshot: Snapshot) -> Plan:
        """All that it would decide from here until it waits; the snapshot is spoilt."""
        return self.consider(snapshot).plan

    def consider(self, snapshot: Snapshot) -> Considered:
        """The same, and what it saw and thought at each choice.

        Each choice is carried out on the snapshot before the next one, as the engine will do it.
        """
        state = snapshot.state
        buffers, bench = self._buffers(state.shape)
        aside = self._show(snapshot)
        desk = (snapshot.prefer or no_preference(state.shape)).desk(state.shape)
        actions, choices = list[Action](), list[Choice]()
        while len(choices) < _MOST_CHOICES:
            configure_view(state, self.config)
            actions += self._start_services(snapshot, desk)
            taken = self._choose(snapshot, buffers, bench)
            if taken is None:
                actions.append(Wait())
                break
            code = taken.code
            choices.append(self._choice(snapshot, buffers, taken))
            actions.append(snapshot.action(*code))
            if code[0] == ActionKind.WAIT or state.rows[0]["commitment"]:
                break
            row = np.array([code], np.int64)
            _, reason, status = carry_out(state.rows, 0, row, 0, -1, desk)
            if reason != Reason.OK:
                raise IllegalActionError(
                    f"policy '{self.name}': its environment's rules allow to "
                    f"{text_of(actions[-1])}, and the cluster's do not "
                    f"({Reason(reason).name.lower()}); give the orchestrator the semantics that "
                    "the policy was trained with"
                )
            if status != Status.DECISION:
                break
        if aside is not None:
            actions = self._with_jobs(actions, aside)
        return Considered(Plan(tuple(actions)), tuple(choices))

    def _start_services(self, snapshot: Snapshot, desk: Desk) -> list[Action]:
        """Start the services that wait and fit, as an environment does before it asks anybody."""
        if self.config.services == 0:
            return []
        rows, started = snapshot.state.rows, list[Action]()
        waiting = snapshot.state.queue[0, : int(rows[0]["queue_len"])]["job"]
        services = waiting[snapshot.state.request[0, waiting]["kind"] == JobKind.SERVICE]
        for j in services.tolist():
            code = (int(ActionKind.PLACE), j, int(Placement.BEST_FIT))
            if carry_out(rows, 0, np.array([code], np.int64), 0, -1, desk)[1] == Reason.OK:
                started.append(snapshot.action(*code))
        return started

    def _with_jobs(self, actions: list[Action], aside: Snapshot) -> list[Action]:
        """The same, and what the rule does about jobs then."""
        mine = [action for action in actions if not isinstance(action, Wait)]
        index = {name: j for j, name in enumerate(aside.job_ids) if name}
        executor = PlanExecutor(aside.state, 0, lambda name: index.get(name, NO_JOB), aside.prefer)
        for action in mine:  # nodes that are ordered are not there yet, those given up still are
            if not isinstance(action, ScaleFleet):
                executor.carry_out(Plan((action,)), rehearsed=True)
        rule = self._rule
        plan = rule.plan(aside) if isinstance(rule, Planner) else rule.decide(aside)
        return [*mine, *plan.actions]

    def _show(self, snapshot: Snapshot) -> Snapshot | None:
        """Have the row show what is decided on besides jobs; for who decides on these, a copy.

        None: this policy does.
        """
        aside = None
        if self.config.window == 0:
            if self._aside is None or self._aside.shape != snapshot.state.shape:
                self._aside = allocate(snapshot.state.shape)
            entry.copy_row(snapshot.state.rows, 0, self._aside.rows, 0)
            aside = replace(snapshot, state=self._aside)
        if self.sizes != Sized():
            snapshot.show_fleet()
        return aside

    def _choose(self, snapshot: Snapshot, buffers: Buffers, bench: Bench) -> _Taken | None:
        """What the legal actions are worth, and which is taken; None: no choice."""
        rows = snapshot.state.rows
        if entry.describe(rows, 0, self._view, buffers, bench) == 0:
            return None
        if self._own:
            self._own.watch(snapshot.state, buffers)
            self._own.describe()
        seen = observed(buffers, self._schema)
        scores = _scores(self.policy, seen, seen["action_mask"].astype(np.bool_))
        code = entry.decode(rows, 0, scores.best, self._view, buffers)
        thought = None if self._ahead is None else self._ahead.think(snapshot.state, self.config)
        if thought is None or thought.taken == 0:
            return _Taken(scores, scores.best, code)
        numbers = scores.actions.tolist()
        codes = [entry.decode(rows, 0, number, self._view, buffers) for number in numbers]
        return _Taken(scores, numbers[codes.index(thought.action)], thought.action)

    def _choice(self, snapshot: Snapshot, buffers: Buffers, taken: _Taken) -> Choice:
        """What is kept of a choice: copies, since the buffers are written again."""
        seen, scores = observed(buffers, self._schema, 0), taken.scores
        order = np.argsort(-scores.scores, kind="stable")[:_SHOWN]
        rows, told = snapshot.state.rows, list[tuple[str, float]]()
        for k in order.tolist():
            code = entry.decode(rows, 0, int(scores.actions[k]), self._view, buffers)
            told.append((text_of(snapshot.action(*code)), float(scores.scores[k])))
        return Choice(
            {name: part.copy() for name, part in seen.items()},
            scores.actions,
            scores.scores,
            taken.number,
            tuple(told),
        )

    def _buffers(self, shape: ClusterShape) -> tuple[Buffers, Bench]:
        """Buffers for one row of a shape, kept from call to call."""
        if self._memory is None or self._memory[0] != shape:
            buffers, bench = make_buffers(shape, self.config), make_bench(shape, self.config)
            self._memory = (shape, buffers, bench)
        return self._memory[1:]


def _scores(
    policy: BatchPolicy, seen: dict[str, NDArray[np.generic]], mask: NDArray[np.bool_]
) -> ActionScores:
    """What a policy thinks of the legal actions; of one that does not say, which it takes."""
    if isinstance(policy, ScoringPolicy):
        return policy.score(seen, mask)
    return ActionScores(policy.actions(seen, mask)[:1], np.zeros(1, np.float32))
