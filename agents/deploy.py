"""A trained policy behind the orchestrator's interface: the same kernels see, the same decide."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from agents.bundle import load_bundle, read_manifest, restore_environment
from agents.problem import BatchPolicy
from envs.config import EnvConfig
from envs.session import configure_view, make_bench, make_buffers, make_view, observed
from orchestrator.engine.snapshot import Snapshot
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.run.buffers import Bench, Buffers
from orchestrator.kernels.see.queue import Encoding
from orchestrator.kernels.state.row import ClusterShape
from orchestrator.messages import Plan, Wait

__all__ = ["BundlePolicy"]


class BundlePolicy:
    """Implements ``orchestrator.ports.Policy``: one action a plan.

    A snapshot is a private copy of the cluster's row, so it is described by the very kernels that
    describe an environment's rows, with the windows that the policy was trained with.

    One thing a live row cannot know: whether jobs are still to come. While anything runs, waiting
    is legal in both; on an idle cluster it is legal in an episode that still has arrivals, and not
    live, where a policy that waited there might starve its queue.

    Parameters
    ----------
    policy : BatchPolicy
    config : EnvConfig
        The environment that it was trained in; the live cluster's ``semantics`` may be the same
        object.
    """

    def __init__(self, policy: BatchPolicy, config: EnvConfig) -> None:
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
        self._schema = config.schema
        self._view = make_view(config)
        self._memory: tuple[ClusterShape, Buffers, Bench] | None = None

    @classmethod
    def load(cls, directory: str | Path) -> BundlePolicy:
        """The policy of a bundle, in the environment that its manifest describes.

        Raises
        ------
        BundleError
            When the bundle is incomplete or damaged.
        """
        config = restore_environment(read_manifest(directory).environment)
        return cls(load_bundle(directory, config.schema), config)

    def decide(self, snapshot: Snapshot) -> Plan:
        """The policy's greedy action at a decision point, or to wait where it sees no choice."""
        state = snapshot.state
        buffers, bench = self._buffers(state.shape)
        configure_view(state, self.config)
        choices = entry.describe(state.rows, 0, self._view, buffers, bench)
        if choices == 0:
            return Plan((Wait(),))
        seen = observed(buffers, self._schema)
        mask = seen["action_mask"].astype(np.bool_)
        chosen = int(self.policy.actions(seen, mask)[0])
        kind, j, value = entry.decode(state.rows, 0, chosen, self._view, buffers)
        return Plan((snapshot.action(kind, j, value),))

    def _buffers(self, shape: ClusterShape) -> tuple[Buffers, Bench]:
        """Buffers for one row of a shape, kept from call to call."""
        if self._memory is None or self._memory[0] != shape:
            buffers, bench = make_buffers(shape, self.config), make_bench(shape, self.config)
            self._memory = (shape, buffers, bench)
        return self._memory[1:]
