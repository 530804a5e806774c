"""What is to happen in a schedule: a function of its seed."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.live.wires import Chances
from tests.chaos.live.worker import KINDS

STORM_S = 4.0

_MISHAPS = (
    *("kill worker", "kill worker", "stop worker", "kill agent", "stop agent", "kill leader"),
    *("stop leader", "rival", "cut", "cut", "snap", "full disk", "full node", "corrupt"),
    *("preempt", "preempt", "scale", "scale"),
)
_PLACES = ("before entry", "after entry", "before effect", "after effect", "before cut")
_PLACES += ("after cut",)


@dataclass(frozen=True)
class Job:
    """A job that is submitted: when, what its workers do and for how long, and its size."""

    at_s: float
    name: str
    kind: str
    seconds: float
    fields: dict[str, Any]


@dataclass(frozen=True)
class Step:
    """Something happens: to whom is drawn by ``pick`` from who is there, ``for_s`` how long."""

    at_s: float
    what: str
    pick: float = 0.0
    for_s: float = 0.0


@dataclass(frozen=True)
class Reign:
    """An orchestrator's process: where it kills itself (count 0: nowhere), and its clock.

    ``down_s`` passes before it starts, and ``torn`` is what is done to its files meanwhile.
    """

    ends: str = "after entry"
    ends_at: int = 0
    offset_ms: int = 0
    patience_s: float = 1.0
    down_s: float = 0.0
    torn: str = ""


@dataclass(frozen=True)
class Plan:
    """A schedule.

    For ``storm_s`` things go wrong; then everything is mended, and all has to end well, and within
    ``calm_s``.
    """

    seed: int
    storm_s: float = STORM_S
    calm_s: float = 60.0
    nodes: int = 3
    lease_s: float = 1.0
    detector: str = "phi"
    cut_every: int = 1000
    chances: Chances = field(default_factory=Chances)
    jobs: tuple[Job, ...] = ()
    steps: tuple[Step, ...] = ()
    reigns: tuple[Reign, ...] = (Reign(),)  # the last one again and again


def plan_of(seed: int) -> Plan:
    """The schedule of a seed."""
    rng = random.Random(seed)
    return Plan(
        seed,
        nodes=rng.choice([2, 3, 3]),
        lease_s=rng.choice([0.8, 1.0, 1.5]),
        detector=rng.choice(["phi", "patient", "quick"]),
        cut_every=rng.choice([8, 20, 60, 1000]),
        chances=Chances(
            held=rng.choice([0.0, 0.0, 0.3]),
            late=rng.choice([0.0, 0.0, 0.3]),
            twice=rng.choice([0.0, 0.0, 0.3]),
        ),
        jobs=tuple(_job(rng, f"j{k}") for k in range(rng.randint(3, 6))),
        steps=tuple(_step(rng) for _ in range(rng.randint(2, 7))),
        reigns=(*(_reign(rng, k) for k in range(rng.randint(1, 3))), _last_reign(rng)),
    )


def _job(rng: random.Random, name: str) -> Job:
    kind = rng.choice(KINDS)
    fields: dict[str, Any] = {
        "num_workers": rng.randint(1, 3),
        "gpus_per_worker": rng.choice([1, 1, 2, 4]),
        "priority": rng.randint(0, 3),
    }
    if kind == "elastic":
        fields |= {"elastic": True, "min_workers": 1, "max_workers": 4}
    elif fields["num_workers"] > 1 and fields["gpus_per_worker"] > 2:
        fields["num_workers"] = 2  # two nodes hold it, or one after the other
    return Job(rng.uniform(0.0, 2.0), name, kind, rng.uniform(0.2, 1.5), fields)


def _step(rng: random.Random) -> Step:
    what = rng.choice(_MISHAPS)
    for_s = rng.choice([rng.uniform(0.05, 0.7), rng.uniform(0.7, 3.0)])
    return Step(rng.uniform(0.3, STORM_S - 0.3), what, rng.random(), for_s)


def _reign(rng: random.Random, number: int) -> Reign:
    """One that may end at some entry, effect or snapshot."""
    return Reign(
        ends=rng.choice(_PLACES),
        ends_at=rng.choice([0, rng.randint(1, 4), rng.randint(1, 40)]),
        offset_ms=_offset_ms(rng),
        patience_s=rng.choice([0.1, 1.0]),
        down_s=rng.choice([0.0, 0.2, 2.0]) if number else 0.0,
        torn=rng.choice(["", "snapshot", "wal"]) if number else "",
    )


def _last_reign(rng: random.Random) -> Reign:
    return Reign(offset_ms=_offset_ms(rng), down_s=rng.choice([0.0, 0.5]))


def _offset_ms(rng: random.Random) -> int:
    """How wrong a machine's date is."""
    return rng.choice([0, 0, 1, -1]) * rng.choice([2000, 60_000, 3_600_000, 86_400_000])
