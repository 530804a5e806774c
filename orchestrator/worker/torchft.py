"""Elastic training with torchft: who trains together is what its lighthouse has seen alive.

The same ``with``, the same steps, state and order of data as :class:`Elastic`, which settles who
trains together by what the agent says. Here every step begins with a quorum of torchft's
lighthouse, newcomers get their state from a member over torchft's own line, and a step counts once
torchft's manager says so. Needs the packages of the extra ``torchft``, and a lighthouse that
somebody runs: ``torchft_lighthouse --min_replicas 1``.
"""

from __future__ import annotations

import datetime as dt
import importlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import torch
import torch.distributed

from orchestrator.errors import ConfigurationError, ValidationError, WorkerLostError
from orchestrator.worker.control import World
from orchestrator.worker.elastic import Elastic, Regroup, Share
from orchestrator.worker.group import Group, GroupBrokenError, own_address
from orchestrator.worker.order import DataOrder
from orchestrator.worker.regroup import Orders

__all__ = ["TorchFTElastic"]

_log = logging.getLogger(__name__)

# Stores and groups are made of parts for which torch ships no types.
dist: Any = torch.distributed

_ADDRESS = "TORCHFT_LIGHTHOUSE"
_HEARTBEAT_S = 0.05
_LOOK_S = 0.05


class TorchFTElastic(Elastic):
    """Data-parallel training that goes on while workers come, leave and die, by torchft.

    Used as :class:`Elastic` is. What the agent says is heard: workers that a job does without
    leave at the end of a step, newcomers wait until they are wanted, saves are answered. But whom
    the agent takes for alive does not matter: the lighthouse knows, once a worker's heartbeats have
    stayed away for as long as it was told to wait.

    Parameters
    ----------
    model : torch.nn.Module
    optimizer : torch.optim.Optimizer
    order : DataOrder
        What each step sees.
    lighthouse : str or None, optional
        Where torchft's lighthouse answers, as ``http://host:port``; None: as TORCHFT_LIGHTHOUSE
        says.
    **options
        All others of :class:`Elastic`. ``regroup_s`` is how long a quorum may take, s.

    Raises
    ------
    ConfigurationError
        If torchft is not installed, or nobody says where the lighthouse is.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        order: DataOrder,
        *,
        lighthouse: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model, optimizer, order, **options)
        self._lighthouse = lighthouse or os.environ.get(_ADDRESS, "")
        if not self._lighthouse:
            raise ConfigurationError(
                f"TorchFTElastic: nobody says where the lighthouse is; set {_ADDRESS}, or give "
                "'lighthouse' as http://host:port"
            )
        self._torchft = _load_torchft()
        patience_s = float(options.get("patience_s", 30.0))
        self._patience = dt.timedelta(seconds=patience_s)
        self._orders = self._asked = _Orders(self._control, patience_s)
        self._manager: Any = None
        self._store: Any = None
        self._broke: float | None = None  # when the step was lost that is done again
        self._unsaid = False  # whether the agent does not know yet of the present quorum

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the others, who notice when the heartbeats stay away."""
        super().__exit__(kind, error, trace)
        if self._manager is not None:
            self._manager.shutdown(wait=False)
            self._manager = self._store = None

    # --- a step -------------------------------------------------------------------------------

    def _share(self) -> Share:
        """Meet the others of this step, with the state of whoever has done most; then the part."""
        began = time.perf_counter() if self._broke is None else self._broke
        before, step = self._group, self._step
        try:
            self._manager.start_quorum()
        except (RuntimeError, TimeoutError) as error:
            raise WorkerLostError(
                f"step {step}: no quorum came about within {self._regroup_s:g} s: {error}",
                f"look whether the lighthouse at {self._lighthouse} answers",
            ) from error
        if self._step != step:
            self._attempt = 0  # others have done it
        world = self._world()
        if before is None or before.world != world or self._broke is not None:
            cause = self._cause(before, world.size)
            self._group = _Quorum(self._manager, world, self._check)
            self._unsaid = True
            self._updated = now = time.perf_counter()
            change = Regroup(world.generation, world.size, self._step, cause, now - began)
            self.regroups.append(change)
        self._known, self._broke = True, None
        return super()._share()

    def _world(self) -> World:
        """Who is in the quorum; by their ranks, since nobody has said yet who they are."""
        size, rank = self._manager.num_participants(), self._manager.participating_rank()
        number = self._manager.quorum_number()
        return World(number, tuple(range(size)), self._lighthouse, rank, size)

    def _cause(self, before: Group | None, size: int) -> str:
        if before is None:
            return "join" if self._control.newcomer else "start"
        if self._broke is not None:
            return "lost"
        return "grow" if size > before.size else "shrink" if size < before.size else "move"

    def _row(self) -> list[int]:
        """What this worker tells the others: as :class:`Elastic`, who it is, and its order."""
        key = [value & 0xFFFFFFFF for value in self._order.key()]
        return [*super()._row(), self._control.identity, *key]

    def _check(self, rows: list[list[int]]) -> None:
        """Raise if the others see their data in another order."""
        mine, width = self._row(), len(self._order.key())
        for rank, row in enumerate(rows):
            if row[-width:] != mine[-width:]:
                problem = f"is {row[-width:]} on worker {rank} and {mine[-width:]} here"
                remedy = "give all workers of a job the same"
                raise ValidationError("TorchFTElastic", "order", problem, remedy)

    def _after(self, rows: list[list[int]]) -> None:
        """Do what all have agreed on with a step."""
        told, group = self._asked.told, self._member()
        if self._unsaid and (told is None or told.size == group.size):
            self._unsaid = False
            who = tuple(row[-len(self._order.key()) - 1] for row in rows)
            number = told.generation if told is not None else 0
            world = World(number, who, group.world.master, group.rank, group.size)
            folder = None if self._checkpoints is None else self._checkpoints.folder
            self._orders.joined(world, folder)
            if group.rank == 0 and folder is not None:
                self._saved_step = max(self._saved_step, self._orders.newest_step(folder))
        super()._after(rows)

    # --- who trains together ------------------------------------------------------------------

    def _recover(self, error: Exception, began: float) -> None:
        """A member is gone: the next quorum is without it."""
        _log.info("%s", error)
        self._broke = began

    def _join_next(self, cause: str, began: float | None = None) -> None:
        """Be there for the next quorum; whoever was made for later waits until it is wanted."""
        if not self._asked.wait_wanted(time.monotonic() + self._regroup_s):
            self.stopped = self._orders.stop or "nobody wanted it"
            return
        host = own_address(self._control.master or self._lighthouse.rpartition("/")[2])
        self._store = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False)
        self._manager = self._torchft(
            pg_timeout=self._patience,
            load_state_dict=self._take,
            state_dict=lambda: {**self._state(), "step": self._step},
            min_replica_size=1,
            use_async_quorum=False,  # a newcomer's first step counts like any other
            timeout=self._patience,
            quorum_timeout=dt.timedelta(seconds=self._regroup_s),
            connect_timeout=self._patience,
            heartbeat_interval=dt.timedelta(seconds=_HEARTBEAT_S),
            lighthouse_addr=self._lighthouse,
            replica_id=f"worker_{self._control.identity:06d}",
            hostname=host,
            store_addr=host,
            store_port=self._store.port,
            rank=0,
            world_size=1,
        )
        self._manager.load_state_dict({"step": self._step, "batches_committed": 0})


class _Orders(Orders):
    """A worker's orders, where no groups are formed here: the lighthouse says who is in them."""

    told: World | None = None

    def wait_wanted(self, deadline: float) -> bool:
        """Wait until the agent has said that this worker is one of those who train."""
        with self._changed:
            while self.told is None and self.stop is None:
                left = deadline - time.monotonic()
                if left <= 0.0:
                    return False
                self._changed.wait(min(left, _LOOK_S))
            return self.stop is None

    def _begin(self, world: World) -> None:
        with self._changed:
            self.told = world
            if world.rank is None:
                self.stop = self.stop or "the job shrinks"
            self._changed.notify_all()


class _Quorum(Group):
    """The members of a quorum, and what they say to each other."""

    def __init__(
        self, manager: Any, world: World, check: Callable[[list[list[int]]], None]
    ) -> None:
        self.world, self.rank, self.size = world, world.rank or 0, world.size
        self._manager, self._check = manager, check

    def exchange(self, row: Sequence[int], flat: torch.Tensor | None = None) -> list[list[int]]:
        """Everybody's row of integers, by rank; ``flat`` becomes the sum of everybody's."""
        rows = torch.zeros(self.size, len(row), dtype=torch.int64)
        rows[self.rank] = torch.tensor(row, dtype=torch.int64)
        summed = [rows] if flat is None else [rows, flat]
        works = [self._manager.allreduce(each, reduce_op=dist.ReduceOp.SUM) for each in summed]
        for work in works:
            work.wait()
        told: list[list[int]] = rows.tolist()
        if self._manager.errored() is None:
            self._check(told)
        if not self._manager.should_commit():
            raise GroupBrokenError(f"quorum {self.world.generation}: a member is gone")
        return told

    def close(self) -> None:
        """Nothing of it is this worker's own."""


def _load_torchft() -> Callable[..., Any]:
    """What makes a manager that knows the number of its quorum."""
    try:
        torchft = importlib.import_module("torchft")
    except ImportError as error:
        raise ConfigurationError(
            f"TorchFTElastic: torchft cannot be loaded ({error}); install quartermaster[torchft]"
        ) from error
    groups: Any = torchft.ProcessGroupGloo
    managers: Any = torchft.Manager

    class Gloo(groups):  # type: ignore[misc]
        """Torchft's group, which remembers for which quorum it was made."""

        number = -1

        def configure(self, *given: Any, **named: Any) -> None:
            self.number = int(named["quorum_id"] if "quorum_id" in named else given[4])
            super().configure(*given, **named)

    class Manager(managers):  # type: ignore[misc]
        """Torchft's manager, and the number of its quorum."""

        def __init__(self, *, pg_timeout: dt.timedelta, **named: Any) -> None:
            self._numbered = Gloo(timeout=pg_timeout)
            super().__init__(pg=self._numbered, **named)

        def quorum_number(self) -> int:
            return self._numbered.number

    return Manager
