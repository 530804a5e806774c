"""What takes a learned policy out of charge: lateness, errors, illegal plans, worse results."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.deployment.records import Verdict
from orchestrator.engine.snapshot import Snapshot
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.state.codes import JobCode

__all__ = ["LEAST_COMPLETIONS", "Completions", "Conduct", "Guards"]


LEAST_COMPLETIONS = 10
"""Completions that a mean is of, at least."""


@dataclass(frozen=True)
class Guards:
    """When a candidate is taken out of charge.

    Parameters
    ----------
    deadline_ms : float or None
        How long a decision may take; then the rule decides this one. None: as long as it takes.
    late, errors, illegal : int
        So many late answers, errors or illegal plans among the last ``of`` decisions, and the rule
        decides all. At most ``of``.
    of : int
        Decisions that are looked back at.
    completions : int
        Jobs whose mean bounded slowdown is watched: the last ones that have ended, against as many
        under the rule before. It takes at least 10 of either.
    factor : float
        How many times the rule's that may be; at least 1.
    pairs : int
        Decision points after which the estimated gain counts, in canary and active alike.
    loss : float
        What of the rule's cost may be lost, by that estimate: the whole interval must be beyond.
    """

    deadline_ms: float | None = 50.0
    late: int = 3
    errors: int = 3
    illegal: int = 1
    of: int = 100
    completions: int = 50
    factor: float = 2.0
    pairs: int = 50
    loss: float = 0.05

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("late", "errors", "illegal", "of", "pairs"):
            if getattr(self, name) < 1:
                raise _fault(name, getattr(self, name), "give 1 or more")
        if max(self.late, self.errors, self.illegal) > self.of:
            raise _fault("of", self.of, "give no less than 'late', 'errors' and 'illegal'")
        if self.completions < LEAST_COMPLETIONS:
            raise _fault("completions", self.completions, f"give {LEAST_COMPLETIONS} or more")
        if self.factor < 1.0:
            raise _fault("factor", self.factor, "give 1 or more")
        if self.deadline_ms is not None and self.deadline_ms <= 0:
            raise _fault("deadline_ms", self.deadline_ms, "give more than 0, or null for none")

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def _fault(name: str, value: object, remedy: str) -> ConfigurationError:
    return ConfigurationError(f"guards: '{name}' is {value!r}; {remedy}")


_LIMITS = {Verdict.LATE: "late", Verdict.FAILED: "errors", Verdict.ILLEGAL: "illegal"}
_WORDS = {
    Verdict.LATE: "answers were late",
    Verdict.FAILED: "decisions ended with an error",
    Verdict.ILLEGAL: "plans were illegal",
}


class Conduct:
    """How a candidate has done, decision by decision."""

    def __init__(self, guards: Guards) -> None:
        self._guards = guards
        self._last: deque[Verdict] = deque(maxlen=guards.of)
        self.counts = dict.fromkeys(Verdict, 0)

    def note(self, verdict: Verdict, detail: str = "") -> str:
        """A decision was asked for; why the candidate has to go, or ``""``."""
        self._last.append(verdict)
        self.counts[verdict] += 1
        if verdict not in _LIMITS:
            return ""
        found = self._last.count(verdict)
        if found < getattr(self._guards, _LIMITS[verdict]):
            return ""
        told = f"{found} of the last {len(self._last)} {_WORDS[verdict]}"
        return f"{told}: {detail}" if detail else told


class Completions:
    """Bounded slowdowns of the last jobs that have ended, read from snapshots.

    A job's is the time from its submission to its end, over that from its first start to its end,
    of which at least the cluster's bound counts. What had ended before the first snapshot is not
    counted.

    Parameters
    ----------
    most : int
        How many are kept.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.forget()
        self._known: NDArray[np.int64] | None = None
        self.total = 0

    def read(self, snapshot: Snapshot) -> int:
        """Count who has ended since the last snapshot; how many."""
        row: Any = snapshot.state.rows[0]
        runs, asks = snapshot.state.job[0], snapshot.state.request[0]
        ends = np.where(runs["state"] == JobCode.COMPLETED, runs["end_ms"], -1)
        known = self._known
        if known is None or len(known) != len(ends):
            self._known = ends.copy()
            return 0
        new = np.flatnonzero((ends >= 0) & (ends != known))
        known[new] = ends[new]
        if len(new) == 0:
            return 0
        new = new[np.argsort(ends[new], kind="stable")]
        ran = ends[new] - runs["first_start_ms"][new]
        bound = max(int(row["slowdown_bound_ms"]), 1)
        slowdowns = (ends[new] - asks["submit_ms"][new]) / np.maximum(ran, bound)
        self._last.extend(np.maximum(slowdowns, 1.0).tolist())
        self.total += len(new)
        return len(new)

    def forget(self) -> None:
        """Count from now on: somebody else decides."""
        # Another one, not an empty one: a thread may be at reading the old one.
        self._last: deque[float] = deque(maxlen=self._most)

    @property
    def mean(self) -> float | None:
        """Mean of the last ones; None: too few have ended."""
        last = list(self._last)
        return float(np.mean(last)) if len(last) >= LEAST_COMPLETIONS else None

    def breach(self, baseline: float | None, guards: Guards) -> str:
        """Why the candidate has to go, by the rule's mean before; ``""``: it need not."""
        mean = self.mean
        if baseline is None or mean is None or mean <= guards.factor * baseline:
            return ""
        return (
            f"mean bounded slowdown of the last {len(self._last)} jobs is {mean:.2f}, more than "
            f"{guards.factor:g} times the {baseline:.2f} under the rule before"
        )
