"""The line between a worker and the agent of its node: JSON, one message a line, a unix socket.

A worker says hello, and what it has done; the agent says what it should do. A script that nobody
has started through an agent has no line: nothing is heard, and what is said goes nowhere.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import ValidationError

__all__ = ["Control", "Hangup", "SaveOrder", "StopOrder", "World"]

_log = logging.getLogger(__name__)

_MOST_BYTES = 1 << 16
_MOST_UNSENT = 1000


@dataclass(frozen=True)
class World:
    """Who trains together from a generation on.

    ``ranks``: the identities of the members (``RANK`` when they were started), in the order of
    their ranks in this world. ``master``: where they meet, as host:port. ``rank``: this worker's
    own; None: it is not in it.
    """

    generation: int
    ranks: tuple[int, ...]
    master: str
    rank: int | None
    size: int

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> World:
        """A world as it was sent."""
        ranks = tuple(int(rank) for rank in body["ranks"])
        rank = None if body.get("rank") is None else int(body["rank"])
        world = cls(int(body["generation"]), ranks, str(body["master"]), rank, int(body["size"]))
        outside = rank is not None and not 0 <= rank < world.size
        if len(ranks) != world.size or outside or ":" not in world.master:
            raise ValueError(f"a world that makes no sense: {world}")
        return world


@dataclass(frozen=True)
class SaveOrder:
    """Save, and say that you have under this number."""

    number: int


@dataclass(frozen=True)
class StopOrder:
    """Stop at the end of this step."""

    reason: str


@dataclass(frozen=True)
class Hangup:
    """The agent is gone."""


Order = World | SaveOrder | StopOrder | Hangup


class Control:
    """What a worker was told when it was started, and its line to the agent.

    Parameters
    ----------
    variables : mapping of str to str or None, optional
        The environment; None: this process's.
    """

    def __init__(self, variables: Mapping[str, str] | None = None) -> None:
        given = os.environ if variables is None else variables
        self.identity = _number(given, "RANK", 0)
        self.size = _number(given, "WORLD_SIZE", 1)
        self.run = _number(given, "QUARTERMASTER_RUN", 0)
        self.job = given.get("QUARTERMASTER_JOB_ID", "")
        folder = given.get("QUARTERMASTER_CHECKPOINT_DIR")
        self.checkpoint_folder = Path(folder) if folder else None
        self.path = given.get("QUARTERMASTER_CONTROL") or None
        port = given.get("MASTER_PORT")
        self.master = f"{given.get('MASTER_ADDR', '127.0.0.1')}:{port}" if port else None
        # Who joins a job that runs is told where; whoever starts with it knows by its environment.
        self.newcomer = bool(given.get("QUARTERMASTER_WARM")) or self.identity >= self.size
        self._socket: socket.socket | None = None
        self._unsent: queue.Queue[bytes | None] = queue.Queue(_MOST_UNSENT)
        self._threads: list[threading.Thread] = []

    @property
    def connected(self) -> bool:
        """Whether there is an agent to talk to."""
        return self._socket is not None

    def connect(self, listener: Callable[[Order], None]) -> bool:
        """Say hello, and have what the agent says told to a listener, in a thread of its own.

        Whether there is an agent. The listener's last word is :class:`Hangup`.
        """
        if self.path is None or self._socket is not None:
            return self.connected
        line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            line.connect(self.path)
        except OSError as error:
            line.close()
            problem, remedy = f"leads nowhere ({error})", "start the agent, or unset it"
            raise ValidationError("environment", "QUARTERMASTER_CONTROL", problem, remedy) from None
        self._socket = line
        self.say({"hello": {"job": self.job, "run": self.run, "rank": self.identity}})
        for target, args in ((self._write, ()), (self._read, (listener,))):
            thread = threading.Thread(target=target, args=args, name="control", daemon=True)
            self._threads.append(thread)
            thread.start()
        return True

    def say(self, message: Mapping[str, Any]) -> None:
        """Send a message, sooner or later; it never waits for an agent that does not read."""
        if self._socket is None:
            return
        try:
            self._unsent.put_nowait(json.dumps(message).encode() + b"\n")
        except queue.Full:
            _log.warning("the agent does not read: dropped %s", sorted(message))

    def progress(self, step: int, fraction: float | None) -> None:
        """Say how far the training is."""
        self.say({"progress": {"step": step, "fraction": fraction}})

    def close(self, timeout_s: float = 5.0) -> None:
        """Send what is left, and hang up."""
        if self._socket is None:
            return
        try:
            self._unsent.put(None, timeout=timeout_s)
        except queue.Full:
            _log.warning("the agent does not read: what was to be said is lost")
        self._threads[0].join(timeout_s)
        line, self._socket = self._socket, None
        try:
            line.shutdown(socket.SHUT_RDWR)
        except OSError:
            _log.debug("the agent had hung up already")
        if threading.current_thread() is not self._threads[1]:
            self._threads[1].join(timeout_s)
        line.close()

    def _write(self) -> None:
        line = self._socket
        while line is not None and (body := self._unsent.get()) is not None:
            try:
                line.sendall(body)
            except OSError as error:
                _log.warning("the agent cannot be told: %s", error)
                return

    def _read(self, listener: Callable[[Order], None]) -> None:
        line = self._socket
        if line is None:
            return
        try:
            with line.makefile("rb") as file:
                while body := file.readline(_MOST_BYTES):
                    order = _parse(body)
                    if order is not None:
                        listener(order)
        except OSError as error:
            _log.warning("the line to the agent broke: %s", error)
        listener(Hangup())


def _parse(body: bytes) -> Order | None:
    """What a line says; None, and a warning, if that is nothing that is known."""
    try:
        message = json.loads(body)
        if "world" in message:
            return World.read(message["world"])
        if "save" in message:
            return SaveOrder(int(message["save"]))
        if "stop" in message:
            return StopOrder(str(message["stop"]))
        _log.warning("the agent said what nobody here understands: %s", sorted(message))
    except (ValueError, KeyError, TypeError) as error:
        _log.warning("the agent said %r, which cannot be read: %s", body[:100], error)
    return None


def _number(given: Mapping[str, str], field: str, otherwise: int) -> int:
    """A variable that is a number not below 0."""
    text = given.get(field, "")
    if not text:
        return otherwise
    if not text.isdecimal():
        problem, remedy = f"is '{text}'", "give a whole number"
        raise ValidationError("environment", field, problem, remedy)
    return int(text)
