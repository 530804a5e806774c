"""Batch inference: an input in shards, done by workers that may be stopped at any time.

A shard belongs to whoever holds the lock of its file, which the kernel gives back when a process
ends, however it ends. Results are lines of that file. Whoever takes a shard up again drops a line
that was not ended and goes on behind the last whole one: in the output nothing is missing and
nothing stands twice, even if some item was computed a second time.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, BinaryIO

from orchestrator.errors import ConfigurationError, OutputError, ValidationError
from orchestrator.worker.control import Control, Hangup, Order, SaveOrder, StopOrder
from orchestrator.worker.manifests import write_atomically

__all__ = ["BatchCheck", "BatchInference", "ItemBatch", "check_output"]

_PLAN = "plan.json"


@dataclass(frozen=True)
class ItemBatch:
    """Items that are next, by their numbers in the input."""

    shard: int
    items: range


@dataclass(frozen=True)
class BatchCheck:
    """What an output holds: items that are lost, those that stand twice, lines that are torn."""

    items: int
    done: int
    lost: tuple[int, ...]
    repeated: tuple[int, ...]
    torn: int

    @property
    def complete(self) -> bool:
        """Whether every item is there once, and nothing else."""
        return not self.lost and not self.repeated and not self.torn

    def __str__(self) -> str:
        return (
            f"{self.done} of {self.items} items; {len(self.lost)} lost, "
            f"{len(self.repeated)} repeated, {self.torn} torn lines"
        )


class BatchInference(AbstractContextManager["BatchInference"]):
    """One worker's part of a batch job.

    ::

        with BatchInference(len(inputs), "output") as work:
            for batch in work:
                work.write(batch, model(inputs[batch.items.start : batch.items.stop]).tolist())

    The loop ends when nothing is left that others are not busy with, or after the batch at which
    the worker is told to stop (by its agent, or SIGTERM); ``stopped`` says why.

    Parameters
    ----------
    items : int
        How many there are.
    folder : Path or str
        Where the output is; the same for all workers, on a file system with locks.
    shard : int, optional
        Items of a shard: what one worker holds at a time.
    batch : int, optional
        Items that are done at once.
    control : Control or None, optional
        The line to the agent; None: as the environment says.
    """

    def __init__(
        self,
        items: int,
        folder: Path | str,
        *,
        shard: int = 1024,
        batch: int = 32,
        control: Control | None = None,
    ) -> None:
        for field, value in (("items", items), ("shard", shard), ("batch", batch)):
            if value < 1:
                problem, remedy = f"is {value}", "give at least 1"
                raise ValidationError("BatchInference", field, problem, remedy)
        self._items, self._shard, self._batch = items, shard, batch
        self._folder = Path(folder)
        self._control = control if control is not None else Control()
        self._file: BinaryIO | None = None
        self._due: ItemBatch | None = None
        self._told_to_stop: str | None = None
        self._save: int | None = None  # the number of a save that was asked for
        self._handler: Any = None
        self.stopped: str | None = None
        self.written = 0

    def __enter__(self) -> BatchInference:
        """Agree with what is there already, and begin to listen."""
        self._folder.mkdir(parents=True, exist_ok=True)
        plan = {"items": self._items, "shard": self._shard}
        path = self._folder / _PLAN
        if not path.exists():
            write_atomically(path, json.dumps(plan).encode())
        found = json.loads(path.read_bytes())
        if found != plan:
            raise OutputError(
                f"{self._folder}: it was begun with {found}, and this is {plan}; "
                "give another folder, or the same input"
            )
        self._control.connect(self._listen)
        if threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGTERM, self._terminated)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give back what is held."""
        self._release()
        self._answer_save()
        self._control.close()
        if self._handler is not None:
            signal.signal(signal.SIGTERM, self._handler)

    def __iter__(self) -> Iterator[ItemBatch]:
        """Batches to do, one after the other; each has to be written before the next one."""
        for shard in self._order():
            start = self._claim(shard)
            if start is None:
                continue
            stop = min((shard + 1) * self._shard, self._items)
            for first in range(start, stop, self._batch):
                self._answer_save()
                if self._told_to_stop is not None:
                    self.stopped = self._told_to_stop
                    self._release()
                    return
                self._due = ItemBatch(shard, range(first, min(first + self._batch, stop)))
                yield self._due
                if self._due is not None:
                    raise ConfigurationError(
                        f"BatchInference: items {self._due.items} were not written; "
                        "call write() for every batch"
                    )
                self._control.progress(self.written, None)
            self._release()

    def write(self, batch: ItemBatch, results: Sequence[Any]) -> None:
        """Write the results of a batch: plain data, one for each item."""
        if batch != self._due or self._file is None:
            raise ConfigurationError(
                f"BatchInference: items {batch.items} are not due; write a batch once, in its turn"
            )
        if len(results) != len(batch.items):
            problem = f"has {len(results)} values for {len(batch.items)} items"
            raise ValidationError("BatchInference.write", "results", problem, "give one for each")
        pairs = zip(batch.items, results, strict=True)
        lines = [json.dumps({"item": item, "result": result}) + "\n" for item, result in pairs]
        self._file.write("".join(lines).encode())
        self._file.flush()
        self._due = None
        self.written += len(batch.items)

    def _order(self) -> list[int]:
        """Shards, beginning where no other worker does: workers seldom meet."""
        shards = -(-self._items // self._shard)
        first = shards * (self._control.identity % self._control.size) // self._control.size
        return [(first + each) % shards for each in range(shards)]

    def _claim(self, shard: int) -> int | None:
        """Lock a shard; its first item to do. None: another worker has it, or it is done."""
        path = self._folder / f"shard-{shard:06d}.jsonl"
        file = path.open("a+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        file.seek(0)
        body = file.read()
        whole = body.rfind(b"\n") + 1
        if whole < len(body):
            file.truncate(whole)  # whoever wrote the rest was killed in the middle of a line
        start = shard * self._shard + body.count(b"\n")
        if start >= min((shard + 1) * self._shard, self._items):
            file.close()
            return None
        self._file = file
        return start

    def _release(self) -> None:
        """Give a shard back, with all that was written to it on the disk."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None

    def _answer_save(self) -> None:
        """What is written is the checkpoint: bring it to the disk, and say so if that was asked."""
        number, self._save = self._save, None
        if number is None:
            return
        if self._file is not None:
            os.fsync(self._file.fileno())
        self._control.say({"saved": number, "step": self.written})

    def _listen(self, order: Order) -> None:
        """Take an order of the agent; there is nothing to regroup."""
        if isinstance(order, SaveOrder):
            self._save = order.number  # answered after the batch that is being done
        elif isinstance(order, StopOrder):
            self._told_to_stop = order.reason
        elif isinstance(order, Hangup) and self._told_to_stop is None:
            self._told_to_stop = "the agent has hung up"

    def _terminated(self, number: int, frame: FrameType | None) -> None:
        """SIGTERM: stop after this batch."""
        self._told_to_stop = self._told_to_stop or "terminated"


def check_output(folder: Path | str, right: Callable[[int, Any], bool] | None = None) -> BatchCheck:
    """Count what an output holds.

    Parameters
    ----------
    folder : Path or str
        The output.
    right : callable, optional
        Whether a result is an item's; one that is not counts as lost.
    """
    folder = Path(folder)
    items = int(json.loads((folder / _PLAN).read_bytes())["items"])
    seen: dict[int, int] = {}
    torn = 0
    for path in sorted(folder.glob("shard-*.jsonl")):
        for line in path.read_bytes().splitlines(keepends=True):
            try:
                body = json.loads(line)
                item, result = int(body["item"]), body["result"]
            except (ValueError, KeyError, TypeError):
                torn += 1
                continue
            if not line.endswith(b"\n"):
                torn += 1
            elif right is None or right(item, result):
                seen[item] = seen.get(item, 0) + 1
    lost = tuple(item for item in range(items) if item not in seen)
    repeated = tuple(item for item, n in sorted(seen.items()) if n > 1 or not 0 <= item < items)
    return BatchCheck(items, len(seen), lost, repeated, torn)
