"""What the agent has told a worker, until it is done: the next groups, saves to answer, the stop.

Groups are formed here, each in a thread of its own, while the training goes on in the one before.
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

from orchestrator.errors import CorruptCheckpointError, ValidationError
from orchestrator.worker import manifests
from orchestrator.worker.control import Control, Hangup, Order, SaveOrder, StopOrder, World
from orchestrator.worker.group import Group, GroupBrokenError

__all__ = ["Orders"]

_log = logging.getLogger(__name__)

_LOOK_S = 0.05
_UNBEGUN = -1


class Orders:
    """A worker's orders.

    Parameters
    ----------
    control : Control
        The line on which they come.
    patience_s : float
        How long members of a group wait for each other, s.
    """

    def __init__(self, control: Control, patience_s: float) -> None:
        self._control, self._patience_s = control, patience_s
        self._changed = threading.Condition()
        self._formed: dict[int, Group | None] = {}  # by generation; None: not a member
        self._current = -1
        self._forming: dict[threading.Thread, threading.Event] = {}
        self._saves: dict[int, int] = {}  # numbers that are to be answered, and their step
        self._writer: int | None = None  # the identity of the member that writes checkpoints
        self.stop: str | None = None
        self.failure = "it could not be written"

    def connect(self) -> None:
        """Begin to listen; whoever starts with its job forms the first group as it was told."""
        control = self._control
        connected = control.connect(self._listen)
        if not control.newcomer:
            master = control.master or "127.0.0.1:0"
            ranks = tuple(range(control.size))
            first = World(0, ranks, master, control.identity, control.size)
            self._begin(first)
        elif not connected:
            problem = f"is {control.identity} of {control.size}, and no agent says where to join"
            remedy = "give one below WORLD_SIZE, or start the worker through an agent"
            raise ValidationError("environment", "RANK", problem, remedy)

    def close(self) -> None:
        """Hang up, and drop what nobody will use."""
        self._control.close()
        with self._changed:
            forming, self._forming = self._forming, {}
        for thread, cancelled in forming.items():
            cancelled.set()
            thread.join()
        with self._changed:
            for group in self._formed.values():
                if group is not None:
                    group.close()
            self._formed.clear()

    # --- groups -------------------------------------------------------------------------------

    def ready(self, current: int) -> int:
        """The newest generation that this worker could go over to."""
        with self._changed:
            return max((*self._formed, current))

    def wait_ready(self, after: int, deadline: float) -> int | None:
        """The newest generation after one, once there is one; None: told to stop, or too late."""
        with self._changed:
            while not (newer := [each for each in self._formed if each > after]):
                left = deadline - time.monotonic()
                if left <= 0.0 or self.stop is not None:
                    return None
                self._changed.wait(min(left, _LOOK_S))  # a signal's handler notifies nobody
            return max(newer)

    def take(self, generation: int) -> Group | None:
        """The group of a generation, None for who is not in it; those before it are dropped."""
        with self._changed:
            self._current = max(self._current, generation)
            chosen = self._formed.pop(generation)
            for each in [each for each in self._formed if each < generation]:
                old = self._formed.pop(each)
                if old is not None:
                    old.close()
        return chosen

    def joined(self, world: World, folder: Path | None) -> None:
        """Say that this worker is a member of a group now."""
        if world.generation > 0:
            self._control.say({"joined": world.generation})
        writer = world.ranks[0]
        with self._changed:
            if self._writer not in (None, writer) or folder is None:
                # Whoever was to write them may be gone: they are asked for again.
                self._saves = dict.fromkeys(self._saves, _UNBEGUN)
            self._writer = writer

    def _begin(self, world: World) -> None:
        """Form the group of a generation, beside everything else."""
        cancelled = threading.Event()
        args = (world, cancelled)
        name = f"generation-{world.generation}"
        # No daemon: a process that ends while torch is in a thread of it is aborted.
        thread = threading.Thread(target=self._form, args=args, name=name, daemon=False)
        with self._changed:
            for former, event in list(self._forming.items()):
                event.set()  # who waits for members of a former one waits for nothing
                if not former.is_alive():
                    del self._forming[former]
            self._forming[thread] = cancelled
            thread.start()

    def _form(self, world: World, cancelled: threading.Event) -> None:
        group: Group | None = None
        if world.rank is not None:
            try:
                group = Group(world, self._patience_s, cancelled)
            except GroupBrokenError as error:
                _log.info("%s", error)
                return
        with self._changed:
            if world.generation <= self._current:
                if group is not None:
                    group.close()
                return
            self._formed[world.generation] = group
            self._changed.notify_all()

    # --- saves --------------------------------------------------------------------------------

    @property
    def asked(self) -> bool:
        """Whether there is a save to begin."""
        with self._changed:
            return _UNBEGUN in self._saves.values()

    def saving(self, step: int) -> None:
        """All saves that were asked for are begun with a step."""
        with self._changed:
            begun = {k: step for k, at in self._saves.items() if at == _UNBEGUN}
            self._saves.update(begun)

    def answer_saves(self, saved: int, failed: int, *, final: bool = False) -> None:
        """Answer those whose step is saved, or could not be; in the end, all.

        Parameters
        ----------
        saved, failed : int
            The last step that the writer has saved, and the last one that it could not save.
        final : bool, optional
            Whether nothing will be known later.
        """
        with self._changed:
            begun = {k: at for k, at in self._saves.items() if at != _UNBEGUN}
            for number, step in begun.items():
                if saved >= step:
                    self._control.say({"saved": number, "step": saved})
                elif failed >= step:
                    self._control.say({"failed": number, "reason": self.failure})
                else:
                    continue
                del self._saves[number]
            for number in list(self._saves) if final else []:
                reason = "the training ended before the save was known to be complete"
                self._control.say({"failed": number, "reason": reason})
                del self._saves[number]

    @staticmethod
    def newest_step(folder: Path) -> int:
        """The last step in a folder of checkpoints, by its manifest; -1 if there is none."""
        for each in manifests.steps(folder):
            try:
                return manifests.read(each).step
            except CorruptCheckpointError as error:
                _log.warning("%s", error)
        return -1

    # --- what is heard ------------------------------------------------------------------------

    def _listen(self, order: Order) -> None:
        """Take an order; in the line's thread."""
        if isinstance(order, World):
            self._begin(order)
            return
        with self._changed:
            if isinstance(order, SaveOrder):
                self._saves[order.number] = _UNBEGUN
            elif isinstance(order, StopOrder):
                self.stop = self.stop or order.reason
            elif isinstance(order, Hangup):
                self.stop = self.stop or "the agent has hung up"
            self._changed.notify_all()
