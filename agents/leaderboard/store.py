"""What the board knows of a cell: who has played it, and at which cost on each window.

One JSON file for each cell. Its digests say what the costs depend on (trace, windows, environment,
scenario, metric, rules); where one of them is another today, the costs are of another game, and the
file is refused. What digests cannot see, a change of the engine itself, is found by playing a
rule's first windows again (:func:`check_replay`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.files import write_json
from agents.leaderboard.cells import Cell
from orchestrator.errors import ConfigurationError

__all__ = ["Entry", "Kind", "Record", "check_fresh", "check_replay", "read_record", "write_record"]

FORMAT = 1
"""Version of the layout of these files."""

_RENEW = "play everybody again by renew=true"
_DIGITS = 10  # of a cost that is kept; the engine is exact, the last bits of a mean are not
_CLOSE = 1e-8


class Kind(StrEnum):
    """What an entry is."""

    RULE = "rule"
    BUNDLE = "bundle"
    OWN = "own"


@dataclass(frozen=True)
class Entry:
    """Somebody on the board.

    Parameters
    ----------
    name : str
    kind : Kind
    source : str
        The folder of a bundle, or the reference of a class; a rule's name.
    digest : str
        Of the weights, or of the file of the class; empty for rules.
    costs : float64 [M]
        On each window; lower is better.
    isolated : bool, optional
        Whether it was asked in a process of its own, and is again when it plays again.
    """

    name: str
    kind: Kind
    source: str
    digest: str
    costs: NDArray[np.float64]
    isolated: bool = False

    @property
    def mean(self) -> float:
        """Mean cost."""
        return float(self.costs.mean())


@dataclass(frozen=True)
class Record:
    """All that is known of a cell.

    Parameters
    ----------
    cell, group, metric, about : str
    made_of : mapping of str to str
        Digests of what the costs depend on, by name.
    entries : sequence of Entry
    """

    cell: str
    group: str
    metric: str
    about: str
    made_of: Mapping[str, str]
    entries: Sequence[Entry]

    @property
    def rules(self) -> list[Entry]:
        """The rules, best first."""
        found = [entry for entry in self.entries if entry.kind == Kind.RULE]
        return sorted(found, key=lambda entry: entry.mean)

    @property
    def learned(self) -> list[Entry]:
        """The others, best first."""
        found = [entry for entry in self.entries if entry.kind != Kind.RULE]
        return sorted(found, key=lambda entry: entry.mean)

    @property
    def best(self) -> Entry:
        """The rule of the lowest mean cost: the one in hindsight, which policies did not have."""
        return self.rules[0]

    def with_entry(self, entry: Entry) -> Record:
        """The same with an entry; one of the same name makes way."""
        others = [other for other in self.entries if other.name != entry.name]
        return replace(self, entries=(*others, entry))


def read_record(board: Path, cell: str) -> Record | None:
    """Read what a board knows of a cell; None: nothing.

    Raises
    ------
    ConfigurationError
        When its file is damaged, or of another version.
    """
    path = _path(board, cell)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ConfigurationError(
                f"leaderboard {path}: has format {content['format']}, not {FORMAT}; {_RENEW}"
            )
        entries = [_entry(name, **said) for name, said in content["entries"].items()]
        about = {name: content[name] for name in ("cell", "group", "metric", "about", "made_of")}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(
            f"leaderboard {path}: cannot be read ({error}); restore the file, or {_RENEW}"
        ) from None
    return Record(**about, entries=entries)


def _entry(
    name: str,
    kind: str,
    source: str,
    digest: str,
    costs: Sequence[float],
    isolated: bool = False,
) -> Entry:
    return Entry(name, Kind(kind), source, digest, np.array(costs, np.float64), bool(isolated))


def write_record(board: Path, record: Record) -> None:
    """Write what is known of a cell, whole or not at all."""
    content: dict[str, Any] = {
        "format": FORMAT,
        "cell": record.cell,
        "group": record.group,
        "metric": record.metric,
        "about": record.about,
        "made_of": dict(record.made_of),
        "entries": {
            entry.name: {
                "kind": entry.kind.value,
                "source": entry.source,
                "digest": entry.digest,
                "isolated": entry.isolated,
                "costs": [float(f"{cost:.{_DIGITS}g}") for cost in entry.costs],
            }
            for entry in (*record.rules, *record.learned)
        },
    }
    write_json(_path(board, record.cell), content)


def check_fresh(board: Path, record: Record, cell: Cell) -> None:
    """Refuse costs of another game than a cell is today.

    Raises
    ------
    ConfigurationError
        Naming what differs.
    """
    now = cell.made_of
    other = [name for name in now if record.made_of.get(name) != now[name]]
    if other:
        names = ", ".join(f"'{name}'" for name in other)
        raise ConfigurationError(
            f"leaderboard {_path(board, record.cell)}: is stale, {names} of the suite changed; "
            f"{_RENEW}"
        )


def check_replay(board: Path, record: Record, cell: Cell) -> None:
    """Refuse costs of another engine: the best rule's first window is played again.

    Raises
    ------
    ConfigurationError
        When it costs another amount than it did.
    """
    known, rule = record.best, record.best.name
    again = cell.rule_costs(rule, 1)[0]
    if not np.isclose(again, known.costs[0], rtol=_CLOSE, atol=0.0):
        raise ConfigurationError(
            f"leaderboard {_path(board, record.cell)}: rule '{rule}' costs {again:.10g} on the "
            f"first window, and {known.costs[0]:.10g} when it was kept: the engine has changed; "
            f"{_RENEW}"
        )


def _path(board: Path, cell: str) -> Path:
    return board / f"{cell}.json"
