"""Checkpoints of a model and its optimizer: written beside the training, whole or not at all.

torch.distributed.checkpoint writes and loads, so what was saved on some ranks is loaded on any
other number of them. Everything that makes it safe is around it: a temporary folder, checksums in
a manifest, a rename, and a deadline after which a save does not count any more.
"""

from __future__ import annotations

import atexit
import functools
import logging
import queue
import shutil
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load as load_state
from torch.distributed.checkpoint.state_dict_saver import save as save_state

from orchestrator.errors import CheckpointError, SaveDeadlineError
from orchestrator.worker import manifests

__all__ = ["Checkpoints", "Restored", "Save", "Stateful"]

_log = logging.getLogger(__name__)

# It is the intent: a worker whose state is whole saves it alone.
warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or")


class Stateful(Protocol):
    """What has a state that belongs into a checkpoint: a schedule, a sampler."""

    def state_dict(self) -> dict[str, Any]:
        """Its state, as plain data and tensors."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Take a state back."""


@dataclass(frozen=True)
class Restored:
    """What was loaded, and the newer checkpoints that were damaged: folders, and why."""

    step: int
    fraction: float | None
    world_size: int
    folder: Path
    skipped: tuple[tuple[Path, str], ...] = ()


class Save:
    """A save that goes on beside the training.

    Attributes
    ----------
    step : int
        Which one.
    stall_s : float
        How long the training stood still for it.
    total_s : float
        How long all of it took; 0 until it has ended.
    """

    def __init__(self, step: int, deadline_s: float) -> None:
        self.step = step
        self.stall_s = 0.0
        self.total_s = 0.0
        self._deadline_s = deadline_s
        self._begun = time.monotonic()
        self._lock = threading.Lock()
        self._expired = False
        self._outcome: Future[Path] = Future()
        self._over = threading.Event()  # nothing is being written any more

    def done(self) -> bool:
        """Whether it has ended, one way or the other; too late is one."""
        return self._outcome.done() or self._left() <= 0.0

    def result(self) -> Path:
        """The checkpoint's folder, once it is complete.

        Raises
        ------
        SaveDeadlineError
            If it is not complete in time. It then never counts, whatever is still being written.
        CheckpointError
            If it could not be written.
        """
        try:
            return self._outcome.result(max(self._left(), 0.0))
        except TimeoutError:
            with self._lock:
                if self._outcome.done():
                    return self._outcome.result()
                self._expired = True
        raise SaveDeadlineError(self.step, self._deadline_s)

    def _left(self) -> float:
        return self._begun + self._deadline_s - time.monotonic()

    def _commit(self, folder: Path, root: Path) -> Path:
        """Make it count, unless somebody was told that it does not."""
        with self._lock:
            if self._expired or self._left() <= 0.0:
                raise SaveDeadlineError(self.step, self._deadline_s)
            path = manifests.commit(folder, root, self.step)
            self._end(path)
        return path

    def _end(self, outcome: Path | Exception) -> None:
        """Say how it ended, once."""
        self.total_s = time.monotonic() - self._begun
        if self._outcome.done():
            return
        if isinstance(outcome, Path):
            self._outcome.set_result(outcome)
        else:
            self._outcome.set_exception(outcome)


class Checkpoints:
    """Saves and loads a model with its optimizer.

    Where torch.distributed is initialised with more than one rank, every call is one that all ranks
    make, and ``folder`` has to be the same place for all of them. Sharded models (FSDP) are saved
    in shards and may be loaded on another number of ranks.

    Parameters
    ----------
    folder : Path or str
        Where the checkpoints of this job are; a subfolder for each.
    model : torch.nn.Module
    optimizer : torch.optim.Optimizer
    extras : mapping of str to Stateful, optional
        What else is saved, by name.
    keep : int, optional
        How many checkpoints are kept.
    deadline_s : float, optional
        How long a save may take, s.
    """

    def __init__(
        self,
        folder: Path | str,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        extras: Mapping[str, Stateful] | None = None,
        keep: int = 3,
        deadline_s: float = 600.0,
    ) -> None:
        if keep < 1:
            raise CheckpointError(f"Checkpoints: 'keep' is {keep}; keep at least one")
        if not deadline_s > 0.0:
            raise CheckpointError(f"Checkpoints: 'deadline_s' is {deadline_s}; give it some time")
        self.folder = Path(folder)
        self._model, self._optimizer = model, optimizer
        self._extras = dict(extras or {})
        self._keep, self._deadline_s = keep, deadline_s
        alone = not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1
        # A group of its own: what a save says in the background must not mix with the training's.
        self._group = None if alone else dist.new_group(backend="gloo")
        self._rank = 0 if alone else dist.get_rank()
        self._size = 1 if alone else dist.get_world_size()
        # Kept: the copies that it makes are overwritten by the next save, not allocated anew.
        self._stager = DefaultStager(StagingOptions(False, False, False, False))
        # One thread for all saves: starting one takes longer than copying a small model.
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        weakref.finalize(self, self._jobs.put, None)
        thread = threading.Thread(target=_work, args=(self._jobs,), name="save", daemon=True)
        thread.start()
        atexit.register(_see_off, self._jobs, weakref.ref(thread), deadline_s)
        self._current: Save | None = None

    @property
    def saving(self) -> Save | None:
        """The save that is still being written, past its deadline or not."""
        current = self._current
        return None if current is None or current._over.is_set() else current

    def save(self, step: int, *, fraction: float | None = None) -> Path:
        """Save, and return when the checkpoint is complete: its folder."""
        save = self.save_async(step, fraction=fraction)
        path = save.result()
        self.wait()
        return path

    def save_async(self, step: int, *, fraction: float | None = None) -> Save:
        """Copy the state, and write it while the training goes on.

        Raises
        ------
        CheckpointError
            If the save before is still being written.
        """
        busy = self.saving
        if busy is not None:
            raise CheckpointError(
                f"save of step {step}: that of step {busy.step} is still being written; "
                "save less often, or wait() for it"
            )
        save = Save(step, self._deadline_s)
        folder = self._agree(manifests.begin(self.folder) if self._rank == 0 else None)
        staged = self._stager.stage(self._state())
        self._current = save
        self._jobs.put(functools.partial(self._write, save, staged, folder, fraction))
        save.stall_s = time.monotonic() - save._begun
        return save

    def wait(self) -> None:
        """Return when nothing is being written any more, or its deadline has passed."""
        if self._current is not None:
            self._current._over.wait(max(self._current._left(), 0.0))

    def load(self) -> Restored | None:
        """Load the newest checkpoint that verifies; None if there is none.

        A damaged one is passed over for the one before, which is logged, and told in the result.

        Raises
        ------
        CheckpointError
            If there are checkpoints and all are damaged, or it does not fit the model.
        """
        found, skipped = self._agree(manifests.search(self.folder) if self._rank == 0 else None)
        if self._rank == 0:
            for folder, why in skipped:
                _log.warning("checkpoint %s is passed over: it %s", folder, why)
        if found is None:
            if skipped:
                raise CheckpointError(
                    f"{self.folder}: none of {len(skipped)} checkpoints verifies "
                    f"(the newest {skipped[0][1]}); restore one, or begin in another folder"
                )
            return None
        state = self._state()
        try:
            load_state(
                state,
                checkpoint_id=found.folder,
                process_group=self._group,
                no_dist=self._group is None,
            )
        except (CheckpointException, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"checkpoint {found.folder}: it does not fit this model and optimizer ({error}); "
                "build them as they were when it was saved"
            ) from error
        self._take(state)
        manifest = found.manifest
        place, size = found.folder, manifest.world_size
        return Restored(manifest.step, manifest.fraction, size, place, tuple(skipped))

    def _state(self) -> dict[str, Any]:
        """The state, by names that do not depend on the number of ranks."""
        fresh = not self._optimizer.state
        model, optimizer = get_state_dict(self._model, self._optimizer)
        if fresh:  # made by a step with nothing to learn, which counts as none
            for entries in self._optimizer.state.values():
                if torch.is_tensor(entries.get("step")):
                    entries["step"].zero_()
        state: dict[str, Any] = {"model": model, "optimizer": optimizer}
        state["extras"] = {name: extra.state_dict() for name, extra in self._extras.items()}
        return state

    def _take(self, state: dict[str, Any]) -> None:
        """Take a loaded state."""
        set_state_dict(
            self._model,
            self._optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
        )
        for name, extra in self._extras.items():
            extra.load_state_dict(state["extras"][name])

    def _write(self, save: Save, staged: Any, folder: Path, fraction: float | None) -> None:
        """See a save to its end; in the saves' own thread."""
        outcome: Path | Exception
        try:
            save_state(
                staged,
                storage_writer=FileSystemWriter(folder),
                process_group=self._group,
                no_dist=self._group is None,
            )
            outcome = folder
            if self._rank == 0:
                manifests.seal(folder, save.step, self._size, fraction)
                outcome = save._commit(folder, self.folder)
                manifests.prune(self.folder, self._keep)
                manifests.sweep(self.folder, older_than_s=self._deadline_s)
        except Exception as error:  # whoever asks for the result is told
            outcome = error if isinstance(error, CheckpointError) else _failed(save.step, error)
            if self._rank == 0:
                shutil.rmtree(folder, ignore_errors=True)
        try:
            outcome = self._agree(outcome)
        except RuntimeError as error:
            outcome = _failed(save.step, error)
        if isinstance(outcome, Exception):
            _log.warning("%s", outcome)
        save._end(outcome)
        save._over.set()

    def _agree(self, what: Any) -> Any:
        """What rank 0 says, on all ranks."""
        if self._group is None:
            return what
        box = [what]
        dist.broadcast_object_list(box, src=0, group=self._group)
        return box[0]


def _see_off(
    jobs: queue.SimpleQueue[Callable[[], None] | None],
    thread: weakref.ref[threading.Thread],
    deadline_s: float,
) -> None:
    """Wait for saves before the process ends: torch aborts it if a thread of it is in there.

    A save is over a moment before its thread has let go of what it has written. One that hangs
    keeps the process for its deadline, and no longer.
    """
    jobs.put(None)
    living = thread()
    if living is not None:
        living.join(deadline_s)


def _work(jobs: queue.SimpleQueue[Callable[[], None] | None]) -> None:
    """Do what is put into a queue, until it is None."""
    while (job := jobs.get()) is not None:
        job()
        del job  # it holds on to whoever put it there


def _failed(step: int, error: Exception) -> CheckpointError:
    """The error of a save that could not be written."""
    told = CheckpointError(f"save of step {step}: {error}; the checkpoint before stands")
    told.__cause__ = error
    return told
