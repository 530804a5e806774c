"""Where training runs report their numbers: nowhere, TensorBoard, or Weights & Biases.

Trainers know only the :class:`Tracker` protocol. The libraries behind it are imported when a
tracker is made, not before, and nothing here talks to a network unless asked to.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from orchestrator.errors import ConfigurationError

__all__ = ["TABLES", "NullTracker", "TensorBoardTracker", "Tracker", "WandbTracker"]

WandbMode = Literal["offline", "online", "disabled"]

TABLES = ("history", "table", "comparisons")
"""Tables of a run's folder that are reported, as CSV files there; per-job tables are too long."""

_LONGEST_TAG = 64  # of Weights & Biases


class Tracker(Protocol):
    """Receives the numbers of a training run, and in the end its tables and pictures."""

    def describe(self, config: Mapping[str, Any], tags: Sequence[str]) -> None:
        """Say what the run is, before anything else: its settings, and words to find it by."""
        ...

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Report metrics, by name, as they were after a step; steps only ever grow."""
        ...

    def publish(self, folder: Path) -> None:
        """Take the tables (:data:`TABLES`) and pictures that the run has left in its folder."""
        ...

    def close(self) -> None:
        """Write out what is left. Closing twice is allowed, logging afterwards is not."""
        ...


class NullTracker:
    """Reports nowhere."""

    def describe(self, config: Mapping[str, Any], tags: Sequence[str]) -> None:
        """Do nothing."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Do nothing."""

    def publish(self, folder: Path) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class TensorBoardTracker:
    """Writes event files that ``tensorboard --logdir DIRECTORY`` shows: numbers only.

    Parameters
    ----------
    directory : str or Path
        Made if absent; each run should have its own.
    """

    def __init__(self, directory: str | Path) -> None:
        # The library's own writer: the better known one would import torch as well.
        from tensorboard.summary import Writer

        Path(directory).mkdir(parents=True, exist_ok=True)
        self._writer = Writer(str(directory))
        self._open = True

    def describe(self, config: Mapping[str, Any], tags: Sequence[str]) -> None:
        """Leave it to the files of the run's folder."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Report metrics after a step."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, float(value), step)
        self._writer.flush()

    def publish(self, folder: Path) -> None:
        """Leave it to the files of the run's folder."""

    def close(self) -> None:
        """Flush and close the event file."""
        if self._open:
            self._writer.close()
            self._open = False


class WandbTracker:
    """Reports to Weights & Biases; offline unless asked otherwise.

    Parameters
    ----------
    project : str
        Project that the run belongs to.
    directory : str or Path
        Where the run's files go. An offline run is uploaded, if at all, by ``wandb sync``.
    mode : {"offline", "online", "disabled"}, optional
        Only "online" uses the network, and an account.
    name : str or None, optional
        The run's name; None lets the library invent one.
    """

    def __init__(
        self,
        project: str,
        directory: str | Path,
        mode: WandbMode = "offline",
        name: str | None = None,
    ) -> None:
        if mode not in get_args(WandbMode):
            known = ", ".join(get_args(WandbMode))
            raise ConfigurationError(f"tracker: unknown wandb mode '{mode}'; use one of: {known}")
        import wandb

        Path(directory).mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=project,
            dir=str(directory),
            mode=mode,
            name=name,
            # Its own messages would tear the progress bar; numbers are all that is reported.
            settings=wandb.Settings(silent=True, console="off"),
        )
        self._open = True

    def describe(self, config: Mapping[str, Any], tags: Sequence[str]) -> None:
        """Give the run its config and its tags."""
        self._run.config.update(dict(config))
        self._run.tags = tuple(tag[:_LONGEST_TAG] for tag in tags)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Report metrics after a step."""
        self._run.log({name: float(value) for name, value in metrics.items()}, step=step)

    def publish(self, folder: Path) -> None:
        """Report tables as tables and pictures as pictures, under their files' names."""
        import wandb

        kept: dict[str, Any] = {}
        for path in (folder / f"{name}.csv" for name in TABLES):
            if path.is_file():
                with path.open(newline="", encoding="utf-8") as stream:
                    head, *rows = csv.reader(stream)
                columns: list[str | int] = [*head]
                kept[path.stem] = wandb.Table(columns, [list(map(_cell, row)) for row in rows])
        kept |= {path.stem: wandb.Image(str(path)) for path in sorted(folder.glob("*.png"))}
        if kept:
            self._run.log(kept)

    def close(self) -> None:
        """Finish the run."""
        if self._open:
            self._run.finish()
            self._open = False


def _cell(text: str) -> str | float | None:
    """A cell of a table: a number where it is one."""
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        return text
