"""Speed suites: which measurements, what they should reach, which ratios must hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from agents.speed.clock import Measure
from agents.speed.measures import MEASURES, UnavailableError, Workbench
from orchestrator.errors import ConfigurationError

__all__ = ["Outcome", "Ratio", "SpeedSuite", "Target", "run_speed_suite"]


@dataclass(frozen=True)
class Target:
    """What a measurement should reach, and what it aims at; times and memory: at most."""

    least: float
    aim: float


@dataclass(frozen=True)
class Ratio:
    """A quotient of two measurements of the same run, which holds on any machine.

    Parameters
    ----------
    of, to : str
        Measurements.
    at_least : float
    """

    of: str
    to: str
    at_least: float


@dataclass(frozen=True)
class SpeedSuite:
    """What is to be measured.

    Parameters
    ----------
    name : str
    measures : sequence of str
        Some of :data:`MEASURES`.
    bench : Workbench
    targets : mapping of str to Target, optional
    ratios : sequence of Ratio, optional
        The run fails when one does not hold.
    """

    name: str
    measures: Sequence[str]
    bench: Workbench
    targets: Mapping[str, Target] = field(default_factory=dict)
    ratios: Sequence[Ratio] = ()

    def __post_init__(self) -> None:
        """Reject unknown names."""
        for name in (*self.measures, *self.targets):
            if name not in MEASURES:
                known = ", ".join(MEASURES)
                raise ConfigurationError(f"suite: unknown measurement '{name}'; known: {known}")
        for ratio in self.ratios:
            for name in (ratio.of, ratio.to):
                if name not in self.measures:
                    raise ConfigurationError(f"suite: a ratio needs '{name}': add it to 'measures'")


@dataclass(frozen=True)
class Outcome:
    """A measurement, or why it could not be made."""

    name: str
    what: str
    measure: Measure | None
    reason: str = ""


def run_speed_suite(suite: SpeedSuite) -> Iterator[Outcome]:
    """Make the measurements of a suite, one after the other."""
    for name in suite.measures:
        function = MEASURES[name]
        what = (function.__doc__ or name).splitlines()[0].rstrip(".")
        try:
            yield Outcome(name, what, function(suite.bench))
        except UnavailableError as error:
            yield Outcome(name, what, None, str(error))
