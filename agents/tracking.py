"""Where training runs report their numbers: nowhere, TensorBoard, or Weights & Biases.

Trainers know only the :class:`Tracker` protocol. The libraries behind it are imported when a
tracker is made, not before, and nothing here talks to a network unless asked to.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from orchestrator.errors import ConfigurationError

__all__ = ["NullTracker", "TensorBoardTracker", "Tracker", "WandbTracker"]

WandbMode = Literal["offline", "online", "disabled"]


class Tracker(Protocol):
    """Receives the numbers of a training run."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Report metrics, by name, as they were after a step; steps only ever grow."""
        ...

    def close(self) -> None:
        """Write out what is left. Closing twice is allowed, logging afterwards is not."""
        ...


class NullTracker:
    """Reports nowhere."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class TensorBoardTracker:
    """Writes event files that ``tensorboard --logdir DIRECTORY`` shows.

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

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Report metrics after a step."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, float(value), step)
        self._writer.flush()

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
    config : mapping or None, optional
        Settings of the run, shown beside its curves.
    """

    def __init__(
        self,
        project: str,
        directory: str | Path,
        mode: WandbMode = "offline",
        name: str | None = None,
        config: Mapping[str, Any] | None = None,
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
            config=dict(config or {}),
            # Its own messages would tear the progress bar; numbers are all that is reported.
            settings=wandb.Settings(silent=True, console="off"),
        )
        self._open = True

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Report metrics after a step."""
        self._run.log({name: float(value) for name, value in metrics.items()}, step=step)

    def close(self) -> None:
        """Finish the run."""
        if self._open:
            self._run.finish()
            self._open = False
