"""Training that goes on while workers come, leave and die: living ones keep their processes.

Each step ends in one exchange in which gradients are summed and everybody says what they know:
which generation they are ready for, whether they leave, whether a checkpoint is asked for. All see
the same rows, so all decide alike, and a step counts for all or for none. The next generation's
group is formed beside the training; once everybody has it, they change at the same step. A worker
that dies breaks the exchange: who is left waits for the next generation, in which whoever has done
most shows the others its state, and the step that failed is done again by those who are there.
"""

from __future__ import annotations

import logging
import math
import signal
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch

from orchestrator.errors import (
    CheckpointError,
    ConfigurationError,
    ValidationError,
    WorkerLostError,
)
from orchestrator.worker.checkpoints import Checkpoints, Save, Stateful
from orchestrator.worker.control import Control
from orchestrator.worker.group import Group, GroupBrokenError, warm_up
from orchestrator.worker.order import DataOrder
from orchestrator.worker.regroup import Orders
from orchestrator.worker.state import Averager, fingerprint, rehearse, share

__all__ = ["Elastic", "Regroup", "Share"]

_log = logging.getLogger(__name__)

_PROGRESS_S = 0.5
_READY, _LEAVES, _ASKS, _SAVED, _FAILED = range(5)
"""What the numbers of a row mean: see :meth:`Elastic._row`."""


@dataclass
class Share:
    """What one worker does in a step.

    ``indices``: its items. ``attempt``: above 0 when the step is done again, because a worker was
    lost in it. ``rehearsal``: a newcomer tries one step, which does not count, before it joins.
    """

    step: int
    epoch: int
    indices: torch.Tensor
    weight: float
    attempt: int = 0
    rehearsal: bool = False
    loss: float = math.nan

    def note(self, loss: torch.Tensor | float) -> None:
        """Have a loss averaged over all workers: ``Elastic.loss``, once the step is done."""
        self.loss = float(loss)


@dataclass(frozen=True)
class Regroup:
    """A change of the group: which generation, at which step, and how long nothing was done."""

    generation: int
    size: int
    step: int
    cause: str
    seconds: float


class Elastic(AbstractContextManager["Elastic"]):
    """Data-parallel training of a model that fits on one worker.

    ::

        order = DataOrder(len(data), batch=256)
        with Elastic(model, optimizer, order) as training:
            for part in training.steps(10_000):
                loss = criterion(model(data[part.indices]), labels[part.indices])
                loss.backward()

    Gradients are averaged over all items of a step and the optimizer is stepped at the end of the
    loop's body: leave both to it. A step in which a worker is lost is done again. Losses are means
    over the items of ``part.indices``.

    Parameters
    ----------
    model : torch.nn.Module
    optimizer : torch.optim.Optimizer
    order : DataOrder
        What each step sees.
    extras : mapping of str to Stateful, optional
        What else belongs to the state, by name; ``"scheduler"`` is stepped after each update.
    folder : Path or None, optional
        Where checkpoints are; None: where the agent says, or nowhere.
    save_every : int, optional
        Steps from one checkpoint to the next; 0: only when asked, and when stopped.
    keep, save_deadline_s
        As in :class:`Checkpoints`.
    before_update : callable, optional
        Called when gradients are averaged: clipping, for example.
    after_step : callable, optional
        Called with each share whose step counts, once: for records and figures.
    patience_s : float, optional
        How long a worker that neither answers nor hangs up is waited for, s.
    regroup_s : float, optional
        How long to wait, after a worker was lost, to be told who goes on, s.
    control : Control or None, optional
        The line to the agent; None: as the environment says.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        order: DataOrder,
        *,
        extras: Mapping[str, Stateful] | None = None,
        folder: Path | str | None = None,
        save_every: int = 0,
        keep: int = 3,
        save_deadline_s: float = 600.0,
        before_update: Callable[[], object] | None = None,
        after_step: Callable[[Share], object] | None = None,
        patience_s: float = 30.0,
        regroup_s: float = 60.0,
        control: Control | None = None,
    ) -> None:
        self._model, self._optimizer, self._order = model, optimizer, order
        self._extras = dict(extras or {})
        self._before_update, self._after_step = before_update, after_step
        self._control = control if control is not None else Control()
        self._orders = Orders(self._control, patience_s)
        self._regroup_s = regroup_s
        where = folder if folder is not None else self._control.checkpoint_folder
        self._checkpoints = (
            None
            if where is None
            else Checkpoints(
                where,
                model,
                optimizer,
                extras=self._extras,
                keep=keep,
                deadline_s=save_deadline_s,
            )
        )
        if save_every and self._checkpoints is None:
            raise ConfigurationError(
                "Elastic: 'save_every' is given and there is no place to save to; give a 'folder'"
            )
        self._save_every = save_every
        self._averager = Averager(model, 1)
        self._group: Group | None = None
        self._save: Save | None = None
        self._saved_step = self._failed_step = -1
        self._owed = False  # whether a save was asked for while another one was being written
        self._known = False  # whether this worker's state is one that counts
        self._step, self._attempt, self._until = 0, 0, 0
        self._told = self._updated = 0.0
        self._pace: deque[float] = deque(maxlen=50)
        self._handler: Any = None
        self.loss = math.nan
        self.stopped: str | None = None
        self.regroups: list[Regroup] = []

    @property
    def step(self) -> int:
        """Updates that were made, by all workers since the training began."""
        return self._step

    @property
    def rank(self) -> int:
        """Place of this worker among those of now."""
        return self._member().rank

    @property
    def size(self) -> int:
        """How many workers there are now."""
        return self._member().size

    @property
    def generation(self) -> int:
        """How often it was settled who trains together."""
        return self._member().world.generation

    @property
    def step_s(self) -> float:
        """How long a step usually takes, s."""
        return statistics.median(self._pace) if self._pace else math.nan

    def __enter__(self) -> Elastic:
        """Load what was saved, and meet the others."""
        if threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGTERM, self._terminated)
        if self._control.newcomer:
            return self  # it joins in steps(), after a rehearsal
        if self._checkpoints is not None and self._control.identity == 0:
            restored = self._checkpoints.load()
            if restored is not None:
                self._step = self._saved_step = restored.step
        self._known = True
        if self._control.path is not None:  # who may have to regroup pays for it before it begins
            warm_up()
            rehearse(self._state())
        self._orders.connect()
        self._join_next("start")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the others."""
        if self._checkpoints is not None:
            self._checkpoints.wait()
        self._settle_save()
        if kind is None:
            self._orders.answer_saves(self._saved_step, self._step, final=True)
        if self._group is not None:
            self._group.close()
        self._orders.close()
        if self._handler is not None:
            signal.signal(signal.SIGTERM, self._handler)

    def steps(self, until: int) -> Iterator[Share]:
        """Parts of all steps up to a number, this worker's share of each.

        It ends early when the worker is told to stop (``stopped`` says why) or the job shrinks and
        does without it.

        Raises
        ------
        WorkerLostError
            If workers are lost and nobody says who goes on.
        """
        self._until = until
        if self._group is None and self.stopped is None and self._control.newcomer:
            yield self._rehearse()
            self._finish_rehearsal()
        while self._step < until and self.stopped is None:
            part = self._share()
            yield part
            self._finish(part)
        self._tell(force=True)

    # --- a step -------------------------------------------------------------------------------

    def _share(self) -> Share:
        """What this worker does of the step that is due."""
        group, step = self._member(), self._step
        piece = self._order.piece(step, group.rank, group.size)
        epoch = self._order.epoch(step)
        indices = torch.from_numpy(piece.indices.copy())
        return Share(step, epoch, indices, piece.weight, self._attempt)

    def _finish(self, part: Share) -> None:
        """End a step with all others: it counts for all of them, or is done again."""
        flat = self._averager.fill(part.weight, [0.0 if part.weight == 0.0 else part.loss])
        try:
            rows = self._member().exchange(self._row(), flat)
        except GroupBrokenError as error:
            began = time.perf_counter()
            self._optimizer.zero_grad()
            self._attempt += 1
            self._recover(error, began)
            return
        (self.loss,) = self._averager.take()
        self._update()
        self._attempt = 0
        self._step += 1
        now = time.perf_counter()
        self._pace.append(now - self._updated)
        self._updated = now
        if self._after_step is not None:
            self._after_step(part)
        self._after(rows)
        self._tell()

    def _update(self) -> None:
        """Step the optimizer by the averaged gradients."""
        if self._before_update is not None:
            self._before_update()
        self._optimizer.step()
        schedule: Any = self._extras.get("scheduler")
        if schedule is not None:
            schedule.step()
        self._optimizer.zero_grad()

    def _row(self) -> list[int]:
        """What this worker tells the others, as numbers.

        The generation that it is ready for; whether it leaves; whether it was asked to save; the
        last step that it has saved, and the last one that it could not save.
        """
        ready = self._orders.ready(self._member().world.generation)
        leaves, asks = self._orders.stop is not None, self._orders.asked
        return [ready, int(leaves), int(asks), self._saved_step, self._failed_step]

    def _after(self, rows: list[list[int]]) -> None:
        """Do what all have agreed on with a step."""
        began = time.perf_counter()
        group = self._member()
        self._orders.answer_saves(rows[0][_SAVED], rows[0][_FAILED])
        asked = any(row[_ASKS] for row in rows)
        due = self._save_every > 0 and self._step % self._save_every == 0
        if asked:
            self._orders.saving(self._step)
        if group.rank == 0:
            self._settle_save()
            if asked or due or self._owed:
                self._begin_save()
        leavers = [rank for rank, row in enumerate(rows) if row[_LEAVES]]
        ready = {row[_READY] for row in rows}
        if ready != {group.world.generation} and len(ready) == 1:
            self._change(ready.pop(), began)
        elif group.rank in leavers:
            self._stop(self._orders.stop or "told to")
        elif leavers and not self._control.connected:
            self._stop("other workers were told to stop")
        elif leavers:
            self._recover(GroupBrokenError(f"workers {leavers} have left; others go on"), began)

    # --- who trains together ------------------------------------------------------------------

    def _change(self, generation: int, began: float) -> None:
        """Go over to a generation that everybody is ready for."""
        before = self._member().size
        group = self._orders.take(generation)
        if group is None:
            self._leave("the job shrinks")
            return
        cause = "grow" if group.size > before else "shrink" if group.size < before else "move"
        try:
            self._join(group, cause, began)
        except GroupBrokenError as error:
            self._recover(error, began)

    def _recover(self, error: Exception, began: float) -> None:
        """Meet those who are left in the next generation."""
        _log.info("%s", error)
        if self._group is not None:
            self._group.close()
        if not self._control.connected:
            raise WorkerLostError(
                f"step {self._step}: {error}",
                "nobody is there to say who goes on; start all workers again from the checkpoint",
            ) from error
        self._join_next("lost", began)

    def _join_next(self, cause: str, began: float | None = None) -> None:
        """Join the next generation that there is; or leave, if that is what it says."""
        began = time.perf_counter() if began is None else began
        deadline = time.monotonic() + self._regroup_s
        while self.stopped is None:
            after = -1 if self._group is None else self._group.world.generation
            generation = self._orders.wait_ready(after, deadline)
            if generation is None:
                if self._orders.stop is not None:
                    self._stop(self._orders.stop)
                    return
                raise WorkerLostError(
                    f"step {self._step}: no group came about within {self._regroup_s:g} s",
                    "look into the agent's log, or give a longer 'regroup_s'",
                )
            group = self._orders.take(generation)
            if group is None:
                self._leave("the job goes on without this worker")
                return
            try:
                self._join(group, cause, began)
                return
            except GroupBrokenError as error:
                _log.info("%s", error)
                group.close()
                self._group = group  # the next one has to be newer

    def _join(self, group: Group, cause: str, began: float) -> None:
        """Become a member of a group, with the state of whoever has done most."""
        old, self._group = self._group, group
        if old is not None:
            old.close()
        state = self._state()
        mark = fingerprint(state) if group.size > 1 else 0
        key = [value & 0xFFFFFFFF for value in self._order.key()]
        rows = group.exchange([self._step, int(self._known), mark, *key])
        for rank, row in enumerate(rows):
            if row[3:] != key:
                problem = f"is {row[3:]} on worker {rank} and {key} here (items, batch, seed, ...)"
                remedy = "give all workers of a job the same"
                raise ValidationError("Elastic", "order", problem, remedy)
        best = max(rows, key=lambda row: (row[1], row[0]))
        if any(row[:3] != best[:3] for row in rows):
            source = rows.index(best)
            shown = share(group, source, {**state, "step": self._step})
            if group.rank != source and rows[group.rank][:3] != best[:3]:
                self._take(shown)
        self._known = True
        folder = None if self._checkpoints is None else self._checkpoints.folder
        self._orders.joined(group.world, folder)
        if group.rank == 0 and folder is not None:
            self._saved_step = self._orders.newest_step(folder)
        now = time.perf_counter()
        self._updated = now
        world = group.world
        self.regroups.append(Regroup(world.generation, world.size, self._step, cause, now - began))

    def _leave(self, reason: str) -> None:
        """End this worker's part; the others go on."""
        self.stopped = reason

    def _stop(self, reason: str) -> None:
        """End this worker's part, with a checkpoint if it is the one that writes them."""
        self.stopped = reason
        writes = self._group is not None and self._group.rank == 0 and self._step > 0
        if not writes or self._checkpoints is None:
            return
        self._checkpoints.wait()
        self._settle_save()
        if self._saved_step < self._step:
            self._begin_save()
            self._checkpoints.wait()
            self._settle_save()

    def _member(self) -> Group:
        if self._group is None:
            raise ConfigurationError("Elastic: it has not begun; use it as 'with Elastic(...) as'")
        return self._group

    # --- a newcomer's rehearsal ---------------------------------------------------------------

    def _rehearse(self) -> Share:
        """A step that does not count: what loads late is loaded before others wait for it."""
        warm_up()
        piece = self._order.piece(0, 0, 1)
        indices = torch.from_numpy(piece.indices[: max(len(piece.indices) // 2, 1)].copy())
        return Share(0, 0, indices, 1.0, rehearsal=True)

    def _finish_rehearsal(self) -> None:
        """Throw the rehearsal away, and join the others: their state replaces all of it."""
        self._averager.fill(1.0, [0.0])
        self._averager.take()
        self._update()
        rehearse(self._state())
        self._orders.connect()
        self._join_next("join")

    # --- state and checkpoints ----------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        """Everything that has to be equal on all workers."""
        extras = {name: extra.state_dict() for name, extra in self._extras.items()}
        model, optimizer = self._model.state_dict(), self._optimizer.state_dict()
        return {"model": dict(model), "optimizer": optimizer, "extras": extras}

    def _take(self, state: dict[str, Any]) -> None:
        """Take the state of another worker."""
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        for name, extra in self._extras.items():
            extra.load_state_dict(state["extras"][name])
        self._step = int(state["step"])

    def _begin_save(self) -> None:
        """Begin to write a checkpoint of this step, beside the training."""
        if self._checkpoints is None:
            self._failed_step = self._step
            self._orders.failure = "there is no place to save to"
            return
        self._owed = self._save is not None
        if self._owed:
            return  # one that is being written is not what was asked for: the next one is
        fraction = min(self._step / self._until, 1.0) if self._until else None
        try:
            self._save = self._checkpoints.save_async(self._step, fraction=fraction)
        except (CheckpointError, OSError) as error:
            self._failed_step = self._step
            self._orders.failure = str(error)
            _log.warning("%s", error)

    def _settle_save(self) -> None:
        """Note how the save ended that was being written."""
        if self._save is None or not self._save.done():
            return
        try:
            self._save.result()
            self._saved_step = self._save.step
        except CheckpointError as error:
            self._failed_step = self._save.step
            self._orders.failure = str(error)
        self._save = None

    def _tell(self, *, force: bool = False) -> None:
        """Tell the agent how far the training is, now and then."""
        now = time.monotonic()
        if self._group is None or self._group.rank != 0 or self._step == 0:
            return
        if force or now - self._told >= _PROGRESS_S:
            self._told = now
            self._control.progress(self._step, min(self._step / self._until, 1.0))

    def _terminated(self, number: int, frame: FrameType | None) -> None:
        """SIGTERM: stop at the end of the step."""
        self._orders.stop = self._orders.stop or "terminated"
