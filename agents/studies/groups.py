"""Runs that differ in their seed only are one group; groups are named by what differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.studies.folders import Run
from orchestrator.errors import ConfigurationError

__all__ = ["Group", "group_runs"]

# What is about one run, or about how it is shown, and not about what was learned.
_OF_A_RUN = (
    *("seed", "output", "overwrite", "tracker", "live", "traces", "given_traces"),
    *("agent.resume", "agent.threads", "agent.made_for", "evaluation.keep_jobs"),
)
_MOST_NAMED = 4
_ABSENT = "-"


@dataclass(frozen=True)
class Group:
    """Runs of the same settings with different seeds.

    Parameters
    ----------
    name : str
        What distinguishes it from the other groups.
    runs : sequence of Run
        By seed.
    """

    name: str
    runs: Sequence[Run]

    @property
    def costs(self) -> NDArray[np.float64]:
        """Cost of each run on each window, [S, M]."""
        return np.stack([run.policy for run in self.runs])


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Group runs by their settings, in the order in which they come.

    Raises
    ------
    ConfigurationError
        When a seed comes twice with the same settings: one of the two is a copy.
    """
    settings = [_flat(run.config) for run in runs]
    members: dict[tuple[tuple[str, str], ...], list[Run]] = {}
    for run, said in zip(runs, settings, strict=True):
        members.setdefault(tuple(sorted(said.items())), []).append(run)
    for same in members.values():
        _check_seeds(same)
    names = _names([dict(key) for key in members])
    return [
        Group(name, sorted(same, key=lambda run: run.seed))
        for name, same in zip(names, members.values(), strict=True)
    ]


def _check_seeds(runs: Sequence[Run]) -> None:
    known: dict[int, Run] = {}
    for run in runs:
        if run.seed in known:
            raise ConfigurationError(
                f"report: '{run.folder}' and '{known[run.seed].folder}' have the same settings and "
                f"the same seed, {run.seed}: they count as one; leave one of them out"
            )
        known[run.seed] = run


def _flat(config: Mapping[str, Any], path: str = "") -> dict[str, str]:
    """Settings by dotted name, as text, but for those of a single run."""
    found: dict[str, str] = {}
    for key, value in config.items():
        name = f"{path}.{key}" if path else str(key)
        if name in _OF_A_RUN:
            continue
        if isinstance(value, Mapping) and value:
            found |= _flat(value, name)
        else:
            found[name] = str(value)
    return found


def _names(settings: Sequence[dict[str, str]]) -> list[str]:
    """A name for each, of what distinguishes it: experiment, trainer, then single settings."""
    parts: list[list[str]] = [[] for _ in settings]
    alike = [list(range(len(settings)))]
    for coarse in (_title, _trainer):
        finer: list[list[int]] = []
        for same in alike:
            found: dict[str, list[int]] = {}
            for k in same:
                found.setdefault(coarse(settings[k]), []).append(k)
            for value, members in found.items():
                finer.append(members)
                for k in members if len(found) > 1 else ():
                    parts[k].append(value)
        alike = finer
    for same in alike:
        keys = _differing([settings[k] for k in same])[:_MOST_NAMED]
        for number, k in enumerate(same):
            parts[k] += [f"{short}={settings[k].get(key, _ABSENT)}" for key, short in keys]
            if len(same) > 1 and not keys:
                parts[k].append(f"#{number + 1}")
    return [", ".join(part) or _title(said) for part, said in zip(parts, settings, strict=True)]


def _title(said: Mapping[str, str]) -> str:
    return said.get("name", "run")


def _trainer(said: Mapping[str, str]) -> str:
    """The class of the trainer, without its package."""
    return said.get("agent._target_", _ABSENT).rpartition(".")[2]


def _differing(settings: Sequence[dict[str, str]]) -> list[tuple[str, str]]:
    """Settings that are not the same in all, and as short a name of each as is clear."""
    keys = list(dict.fromkeys(key for said in settings for key in said))
    found = [key for key in keys if len({said.get(key) for said in settings}) > 1]
    ends = [key.rpartition(".")[2] for key in found]
    return [
        (key, end if ends.count(end) == 1 else key) for key, end in zip(found, ends, strict=True)
    ]
