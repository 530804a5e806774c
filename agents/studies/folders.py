"""Runs as their folders tell of them: what was set, what came of it, and at which cost per window.

Runs can be compared if they were judged on the same windows of the same trace under the same rules
of the game. Rules of scheduling play alike in every run, so that these say whether that is so: the
same rule has the same value on every window, or something differed.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf

from envs.outcomes import METRICS
from orchestrator.errors import ConfigurationError

__all__ = ["Run", "check_comparable", "find_folders", "read_run"]

Values = NDArray[np.float64]

_CONFIG, _RESULT, _SUMMARY, _HISTORY = "config.yaml", "result.json", "summary.json", "history.csv"
_CLOSE = 1e-9


@dataclass(frozen=True)
class Run:
    """A run that was judged.

    Parameters
    ----------
    folder : Path
    config : mapping
        All that was set.
    result : mapping
        ``score`` (of validation), ``seconds`` (of training), ``updates`` and more.
    history : sequence of mappings
        Validations: ``seconds``, ``score`` and more.
    metric : str
        That the run was judged by.
    judged_on : mapping
        What says which windows these were.
    policy : float64 [M]
        Cost on each window: less is better.
    rules : mapping of str to float64 [M]
        The same of the rules that it was judged beside.
    """

    folder: Path
    config: Mapping[str, Any]
    result: Mapping[str, Any]
    history: Sequence[Mapping[str, float]]
    metric: str
    judged_on: Mapping[str, Any]
    policy: Values
    rules: Mapping[str, Values]

    @property
    def seed(self) -> int:
        """Of its training."""
        return int(self.config["seed"])


def find_folders(patterns: Iterable[str]) -> list[Path]:
    """Folders of runs: those that are named, that a pattern finds, or that lie in such a folder.

    Raises
    ------
    ConfigurationError
        When a pattern finds none.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        paths = sorted(glob(pattern))  # noqa: PTH207  patterns may be absolute
        named = [Path(path) for path in paths if Path(path).is_dir()]
        inside = [path.parent for folder in named for path in sorted(folder.rglob(_CONFIG))]
        if not inside:
            raise ConfigurationError(
                f"report: '{pattern}' finds no folder of a run; name folders that scripts/train.py "
                "wrote to, or a folder that holds some"
            )
        found.update(dict.fromkeys(inside))
    return list(found)


def read_run(folder: Path) -> Run | None:
    """Read a run; None: it has not ended, was stopped, or was not judged.

    Raises
    ------
    ConfigurationError
        When a file cannot be read.
    """
    if not all((folder / name).is_file() for name in (_RESULT, _SUMMARY, _HISTORY)):
        return None
    try:
        config = OmegaConf.to_container(OmegaConf.load(folder / _CONFIG))
        assert isinstance(config, dict)
        result = json.loads((folder / _RESULT).read_text("utf-8"))
        if dict(result).get("stopped") is not None:
            return None
        summary = json.loads((folder / _SUMMARY).read_text("utf-8"))
        with (folder / _HISTORY).open(newline="", encoding="utf-8") as stream:
            rows = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(stream)]
        read = _packed if "suite" in summary and "ratio" in summary["suite"] else _played
        metric, judged_on, costs = read(summary)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ConfigurationError(
            f"report: run '{folder}' cannot be read ({error!r}); leave it out, or run it anew"
        ) from None
    named = {str(key): value for key, value in config.items()}
    policy, *rules = costs.items()  # the trained one comes first
    return Run(folder, named, result, rows, metric, judged_on, policy[1], dict(rules))


_Read = tuple[str, dict[str, Any], dict[str, Values]]


def _played(summary: Mapping[str, Any]) -> _Read:
    """Windows that were played: of a metric of which more is better, the negative."""
    metric = summary["metric"]
    sign = -METRICS[metric]
    judged_on = {
        "trace": [summary["trace"]["name"], summary["trace"]["jobs"]],
        "windows": [summary["windows"]["length"], summary["windows"]["starts"]],
        "metric": metric,
        "information": summary["information"],
    }
    costs = {
        name: sign * np.array(values[metric]["windows"], np.float64)
        for name, values in summary["policies"].items()
    }
    return metric, judged_on, costs


def _packed(summary: Mapping[str, Any]) -> _Read:
    """Orders of arrival that were packed: what is left unallocated, percent."""
    suite = summary["suite"]
    judged_on = {"trace": summary["trace"]["digest"], "windows": [suite["ratio"], suite["seeds"]]}
    costs = {
        name: 100.0 - np.array(values["allocation"], np.float64)
        for name, values in summary["policies"].items()
    }
    return "unallocated GPUs, %", judged_on, costs


def check_comparable(runs: Sequence[Run]) -> list[str]:
    """Refuse runs that were not judged on the same windows; the rules that all were judged beside.

    Raises
    ------
    ConfigurationError
        Naming two runs, and what differs.
    """
    first = runs[0]
    shared = [name for name in first.rules if all(name in run.rules for run in runs)]
    for run in runs[1:]:
        for name in first.judged_on.keys() | run.judged_on.keys():
            mine, other = first.judged_on.get(name), run.judged_on.get(name)
            if mine != other:
                raise _not_comparable(first, run, f"another '{name}'{_values(mine, other)}")
        for rule in shared:
            if not np.allclose(first.rules[rule], run.rules[rule], rtol=_CLOSE, atol=0.0):
                problem = (
                    f"other windows: rule '{rule}' has other values there, so the jobs, the "
                    "scenario or the semantics differ"
                )
                raise _not_comparable(first, run, problem)
    if not shared:
        raise ConfigurationError(
            "report: the runs were judged beside no common rule, so nothing says that their "
            "windows are the same; judge them beside one at least ('evaluation.rules')"
        )
    return shared


def _values(mine: Any, other: Any) -> str:
    """Two values for a message, unless they are long."""
    said = f" ({other!r}, not {mine!r})"
    return said if len(said) < 120 else ""


def _not_comparable(first: Run, run: Run, problem: str) -> ConfigurationError:
    return ConfigurationError(
        f"report: '{run.folder}' was judged on {problem} than '{first.folder}'; report on these "
        "apart, or judge them alike ('task', 'evaluation', 'workload', 'env')"
    )
