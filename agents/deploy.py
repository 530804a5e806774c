"""A trained policy behind the orchestrator's interface: the same kernels see, the same decide."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agents.bundle import load_bundle, read_manifest, restore_environment
from agents.problem import ActionScores, BatchPolicy, ScoringPolicy
from envs.config import EnvConfig
from envs.own.parts import OwnParts
from envs.session import configure_view, make_bench, make_buffers, make_view, observed
from orchestrator.deployment.records import Choice, Considered, text_of
from orchestrator.engine.plans import no_preference
from orchestrator.engine.snapshot import Snapshot
from orchestrator.errors import ConfigurationError, IllegalActionError
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.run.buffers import Bench, Buffers
from orchestrator.kernels.run.cycle import carry_out
from orchestrator.kernels.see.queue import Encoding
from orchestrator.kernels.state.codes import ActionKind, Reason, Status
from orchestrator.kernels.state.row import ClusterShape
from orchestrator.messages import Action, Plan, Wait

__all__ = ["BundlePolicy"]


_MOST_CHOICES = 128
"""Of one plan: then others have their turn, and it is asked again."""


_SHOWN = 4  # alternatives that are told in words


class BundlePolicy:
    """Implements ``orchestrator.ports.Planner``, and tells what it thinks of all it might do.

    A snapshot is a private copy of the cluster's row, so it is described by the very kernels that
    describe an environment's rows, with the windows that the policy was trained with.

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
    """

    def __init__(self, policy: BatchPolicy, config: EnvConfig, digest: str = "") -> None:
        if config.encoding == Encoding.PUBLISHED:
            raise ConfigurationError(
                "deployment: the published encoding scales by the largest values of a whole trace, "
                "which a live cluster does not know; train with another encoding"
            )
        if config.services > 0 or config.capacity_steps > 0:
            raise ConfigurationError(
                "deployment: a live cluster's fleet and replicas are changed by its autoscaler; "
                "train with 'services' and 'capacity_steps' 0"
            )
        if config.choose_node:
            raise ConfigurationError(
                "deployment: a live cluster takes placements by generator, not nodes by number; "
                "train a policy that chooses among 'placements'"
            )
        self.policy = policy
        self.config = config
        self.digest = digest
        self._schema = config.schema
        self._view = make_view(config)
        self._own = OwnParts({}, config.own_features, config.reward.form)
        self._memory: tuple[ClusterShape, Buffers, Bench] | None = None

    @classmethod
    def load(cls, directory: str | Path) -> BundlePolicy:
        """The policy of a bundle, in the environment that its manifest describes.

        Raises
        ------
        BundleError
            When the bundle is incomplete or damaged.
        """
        manifest = read_manifest(directory)
        config = restore_environment(manifest.environment)
        said = f"{manifest.kind} {manifest.digest} {manifest.weights_sha256} "
        said += f"{sorted(manifest.environment.items())} {sorted(manifest.model.items())}"
        digest = hashlib.sha256(said.encode()).hexdigest()[:16]
        return cls(load_bundle(directory, config.schema), config, digest)

    @property
    def name(self) -> str:
        """For tables."""
        return self.policy.name

    def decide(self, snapshot: Snapshot) -> Plan:
        """The policy's greedy action at a decision point, or to wait where it sees no choice."""
        buffers, bench = self._buffers(snapshot.state.shape)
        configure_view(snapshot.state, self.config)
        taken = self._choose(snapshot, buffers, bench)
        return Plan((Wait(),) if taken is None else (snapshot.action(*taken[1]),))

    def plan(self, snapshot: Snapshot) -> Plan:
        """All that it would decide from here until it waits; the snapshot is spoilt."""
        return self.consider(snapshot).plan

    def consider(self, snapshot: Snapshot) -> Considered:
        """The same, and what it saw and thought at each choice.

        Each choice is carried out on the snapshot before the next one, as the engine will do it.
        """
        state = snapshot.state
        buffers, bench = self._buffers(state.shape)
        desk = (snapshot.prefer or no_preference(state.shape)).desk(state.shape)
        actions, choices = list[Action](), list[Choice]()
        while len(choices) < _MOST_CHOICES:
            configure_view(state, self.config)
            taken = self._choose(snapshot, buffers, bench)
            if taken is None:
                actions.append(Wait())
                break
            scores, code = taken
            choices.append(self._choice(snapshot, buffers, scores))
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
        return Considered(Plan(tuple(actions)), tuple(choices))

    def _choose(
        self, snapshot: Snapshot, buffers: Buffers, bench: Bench
    ) -> tuple[ActionScores, tuple[int, int, int]] | None:
        """What the legal actions are worth, and the best as kernels put it; None: no choice."""
        rows = snapshot.state.rows
        if entry.describe(rows, 0, self._view, buffers, bench) == 0:
            return None
        if self._own:
            self._own.watch(snapshot.state, buffers)
            self._own.describe()
        seen = observed(buffers, self._schema)
        scores = _scores(self.policy, seen, seen["action_mask"].astype(np.bool_))
        return scores, entry.decode(rows, 0, scores.best, self._view, buffers)

    def _choice(self, snapshot: Snapshot, buffers: Buffers, scores: ActionScores) -> Choice:
        """What is kept of a choice: copies, since the buffers are written again."""
        seen = observed(buffers, self._schema, 0)
        order = np.argsort(-scores.scores, kind="stable")[:_SHOWN]
        rows, told = snapshot.state.rows, list[tuple[str, float]]()
        for k in order.tolist():
            code = entry.decode(rows, 0, int(scores.actions[k]), self._view, buffers)
            told.append((text_of(snapshot.action(*code)), float(scores.scores[k])))
        return Choice(
            {name: part.copy() for name, part in seen.items()},
            scores.actions,
            scores.scores,
            scores.best,
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
