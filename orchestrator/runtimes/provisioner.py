"""A provisioner that only takes time: nodes arrive a fixed delay after they were ordered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from orchestrator.errors import ConfigurationError, ValidationError
from orchestrator.kernels.state.codes import EventKind
from orchestrator.ports import Clock
from orchestrator.types import NodeSpec

__all__ = ["SimulatedProvisioner"]


_AGAIN_MS = 1000  # until a node that nobody took is handed over again


class SimulatedProvisioner:
    """Delivers nodes of one kind, or of several.

    Parameters
    ----------
    clock : Clock
        Time.
    template : NodeSpec
        What is delivered. Nodes are called after it, the time of their order, and a number.
    *others : NodeSpec
        Other kinds that can be ordered.
    delay_s : float
        From an order to the node's arrival, seconds.

    Raises
    ------
    ConfigurationError
        If the delay is negative, or two kinds have one name.
    """

    def __init__(
        self, clock: Clock, template: NodeSpec, *others: NodeSpec, delay_s: float = 120.0
    ) -> None:
        if not delay_s >= 0.0:
            problem = f"'delay_s' is {delay_s}; it must be at least 0"
            raise ConfigurationError(f"SimulatedProvisioner: {problem}")
        self.templates = (template, *others)
        names = [kind.node_id for kind in self.templates]
        for name in names:
            if names.count(name) > 1:
                problem = f"two kinds of nodes are called '{name}'; name them differently"
                raise ConfigurationError(f"SimulatedProvisioner: {problem}")
        self._clock = clock
        self._delay_ms = round(1000.0 * delay_s)
        self._join: Callable[[NodeSpec], Awaitable[object]] | None = None
        self._ordered = 0
        self._expected: list[NodeSpec] = []
        self._untaken: list[NodeSpec] = []  # they are there, and nobody has logged it
        self.rented: set[str] = set()

    @property
    def template(self) -> NodeSpec:
        """What it delivers where nobody says otherwise."""
        return self.templates[0]

    @property
    def pending(self) -> int:
        """Nodes that are ordered and not delivered yet."""
        return len(self._expected)

    def bind(self, join: Callable[[NodeSpec], Awaitable[object]]) -> None:
        """Say who takes nodes that arrive; the last call counts, and gets those nobody took."""
        self._join = join
        for spec in self._untaken:
            self._hand_over_at(self._clock.now_ms(), spec)

    def order(self, count: int, template: NodeSpec | None = None) -> None:
        """Order nodes of a kind; None: of the first one.

        Raises
        ------
        ValidationError
            If they are less than one, or of another kind.
        """
        if count < 1:
            raise ValidationError("order", "count", f"is {count}", "order at least one node")
        kind = self.template if template is None else template
        if kind not in self.templates:
            known = ", ".join(f"'{known.node_id}'" for known in self.templates)
            problem = f"is '{kind.node_id}', which is not delivered"
            raise ValidationError("order", "template", problem, f"choose from {known}")
        now_ms = self._clock.now_ms()
        for _ in range(count):
            name = f"{kind.node_id}-{now_ms}-{self._ordered}"
            self._ordered += 1
            self._expected.append(replace(kind, node_id=name))
            self._hand_over_at(now_ms + self._delay_ms, self._expected[-1])

    def _hand_over_at(self, time_ms: int, spec: NodeSpec) -> None:
        order = int(EventKind.NODE_ARRIVAL)
        self._clock.call_at(time_ms, lambda: self._deliver(spec), order=order)

    async def _deliver(self, spec: NodeSpec) -> None:
        if spec in self._expected:
            self._expected.remove(spec)
            self.rented.add(spec.node_id)
            self._untaken.append(spec)
        elif spec not in self._untaken:
            return  # it was taken meanwhile
        if self._join is None:
            raise ConfigurationError("SimulatedProvisioner: nobody takes its nodes; call bind()")
        if await self._join(spec) is False:
            self._hand_over_at(self._clock.now_ms() + _AGAIN_MS, spec)
        elif spec in self._untaken:
            self._untaken.remove(spec)

    def release(self, node_ids: Sequence[str]) -> None:
        """Nodes have left the cluster and are given back; those of other origin are ignored."""
        self.rented.difference_update(node_ids)
