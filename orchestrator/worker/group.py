"""Process groups that are formed while another one is still at work.

A group belongs to a generation. Its members meet in a store of its own, which its first member
opens unless somebody else, a controller for example, already has at that address. Nothing here
touches torch's default group: a script may use that for itself, or not at all.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import functools
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed

from orchestrator.errors import QuartermasterError, ValidationError
from orchestrator.worker.control import World

__all__ = ["Group", "GroupBrokenError", "own_address", "warm_up"]


# Groups that stand beside each other are made of parts for which torch ships no types.
dist: Any = torch.distributed

_START_S = 300.0
_LOOK_S = 0.002


class GroupBrokenError(QuartermasterError, RuntimeError):
    """A member of a group is gone, or the group was never complete."""


class Group:
    """The members of one generation, and what they say to each other.

    Parameters
    ----------
    world : World
        Who they are; this worker is one of them.
    patience_s : float
        How long one waits for the others, s.
    cancelled : threading.Event
        Set when the others need not be waited for any more.

    Raises
    ------
    GroupBrokenError
        If not all of them came.
    """

    def __init__(self, world: World, patience_s: float, cancelled: threading.Event) -> None:
        if world.rank is None:
            problem, remedy = "is None", "only a member can form a group"
            raise ValidationError("World", "rank", problem, remedy)
        self.world, self.rank, self.size = world, world.rank, world.size
        self._group: Any = None
        self._store: Any = None
        if world.size == 1:
            return
        # Those who start together may be long in coming: machines, images, imports.
        wait_s = patience_s if world.generation else _START_S
        try:
            self._store = _meet(world, self.rank, wait_s, cancelled)
            options = dist.ProcessGroupGloo._Options()
            options._devices = [_device(own_address(world.master))]
            options._timeout = dt.timedelta(seconds=patience_s)
            options._threads = 2
            self._group = dist.ProcessGroupGloo(self._store, self.rank, self.size, options)
        except (RuntimeError, OSError) as error:
            raise _broken(world, error) from error  # nobody waits for a group that never was

    def exchange(self, row: Sequence[int], flat: torch.Tensor | None = None) -> list[list[int]]:
        """Everybody's row of integers, by rank; ``flat`` becomes the sum of everybody's.

        Raises
        ------
        GroupBrokenError
            If a member is gone. Some may have got all of it nevertheless: ``flat`` is spoilt.
        """
        if self.size == 1:
            return [list(row)]
        mine = torch.tensor(row, dtype=torch.int64)
        rows = [torch.empty_like(mine) for _ in range(self.size)]
        self._do(lambda: _both(self._group, mine, rows, flat))
        return [each.tolist() for each in rows]

    def broadcast(self, tensor: torch.Tensor, source: int) -> None:
        """Everybody's ``tensor`` becomes that of one member."""
        if self.size == 1:
            return
        options = dist.BroadcastOptions()
        options.rootRank, options.rootTensor = source, 0
        self._do(lambda: self._group.broadcast([tensor], options).wait())

    def _do(self, what: Callable[[], object]) -> None:
        """Do something with all others.

        What torch raises holds on to the group through its frames. It must not outlive this
        function, or the connections stay open and the others wait for who has given up.
        """
        try:
            what()
            return
        except RuntimeError as error:
            told = _broken(self.world, error)
        raise told

    def close(self) -> None:
        """Leave; the others notice. It takes some 20 ms, so a thread of its own does it.

        A process does not end before it has: torch would abort it.
        """
        box = [self._group, self._store]
        self._group = self._store = None
        if box[0] is not None:
            threading.Thread(target=box.clear, name="leave", daemon=False).start()


def _both(group: Any, mine: torch.Tensor, rows: list[torch.Tensor], flat: Any) -> None:
    """Gather rows and sum ``flat``, side by side."""
    works = [group.allgather([rows], [mine])]
    if flat is not None:
        works.append(group.allreduce([flat]))
    for work in works:
        work.wait()


def warm_up() -> None:
    """Pay for what a first group costs (modules that load late), before others wait for it."""
    options = dist.ProcessGroupGloo._Options()
    options._devices = [_device("127.0.0.1")]
    alone = dist.ProcessGroupGloo(dist.HashStore(), 0, 1, options)
    alone.allreduce([torch.zeros(1)]).wait()


def _label(world: World) -> str:
    """A generation's place in the store; torchrun keeps one store for all its restarts."""
    again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return f"generation-{world.generation}" if world.generation else f"start-{again}"


def _meet(world: World, rank: int, wait_s: float, cancelled: threading.Event) -> Any:
    """A store in which all members of a generation are known to be.

    Torch's own waits cannot be interrupted, and a thread in one keeps its process from ending. So
    it is asked again and again, and torch is let loose when everybody is there.
    """
    host, _, port = world.master.rpartition(":")
    deadline = time.monotonic() + wait_s
    handle = _listen(host, int(port)) if rank == 0 else None
    if handle is None:
        _until(
            lambda: _answers(host, int(port)), deadline, cancelled, f"no store at {world.master}"
        )
    store = dist.TCPStore(
        host,
        int(port),
        is_master=handle is not None,
        wait_for_workers=False,
        timeout=dt.timedelta(seconds=wait_s),
        **({} if handle is None else {"master_listen_fd": handle}),
    )
    here = dist.PrefixStore(_label(world), store)
    here.set(f"here-{rank}", "")
    others = [f"here-{each}" for each in range(world.size)]
    _until(lambda: here.check(others), deadline, cancelled, "not all members came")
    return here


def _until(
    done: Callable[[], bool], deadline: float, cancelled: threading.Event, otherwise: str
) -> None:
    """Wait for something that is looked for every other millisecond."""
    while not done():
        if cancelled.is_set() or time.monotonic() > deadline:
            raise TimeoutError(otherwise)
        time.sleep(_LOOK_S)


def _answers(host: str, port: int) -> bool:
    """Whether somebody listens at an address."""
    try:
        socket.create_connection((host, port), timeout=1.0).close()
    except OSError:
        return False
    return True


def _listen(host: str, port: int) -> int | None:
    """A socket at an address; None if somebody else has it, here or on another machine."""
    with contextlib.ExitStack() as stack:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        place = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            place.bind((host, port))
            place.listen(1024)
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
                return None
            raise
        return place.detach()


def own_address(master: str) -> str:
    """Address of this machine on the network on which the members meet."""
    host, _, port = master.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((host, int(port)))
        return str(probe.getsockname()[0])


@functools.cache
def _device(address: str) -> Any:
    """A network device; one for all groups, since ending one takes time."""
    return dist.ProcessGroupGloo.create_device(hostname=address)


def _broken(world: World, error: Exception) -> GroupBrokenError:
    """What a member that is gone does to a group."""
    reason = str(error).partition("\n")[0][:160]
    return GroupBrokenError(
        f"the group of generation {world.generation} ({world.size} workers) is broken: {reason}; "
        "those who are left meet in the next one"
    )
