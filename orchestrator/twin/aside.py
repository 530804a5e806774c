"""Who thinks a question over: a process of the twin's own, or, in a simulation, this one.

A question goes to that process with a copy of the cluster, and its answer comes back, both pickled,
through pipes that nobody else holds. The cluster goes on meanwhile: what the process compiles, and
what it plays, take nothing from the event loop.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Generic, Protocol, TypeVar, cast

from orchestrator.engine.engine import EngineImage
from orchestrator.errors import QuartermasterError, TwinError
from orchestrator.twin.ask import Twin
from orchestrator.twin.futures import TwinConfig
from orchestrator.twin.scene.cast import Cast

__all__ = ["Here", "Inquiry", "Thinker", "TwinProcess", "think"]


_HEAD_BYTES = 8  # before each message: its length, big endian
_PATIENT = 10  # the cluster, on the same machine, goes first
_THINK = f"from {__name__} import think; think()"
_ROOT = Path(__file__).parents[2]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Inquiry(Generic[_T]):
    """A question, and all that its answer follows from.

    Parameters
    ----------
    image, cast, now_ms, config
        See :class:`orchestrator.twin.ask.Twin`.
    question : callable
        Asks a twin; one that can be pickled.
    """

    image: EngineImage
    cast: Cast
    now_ms: int
    config: TwinConfig
    question: Callable[[Twin], _T]

    def answer(self) -> _T:
        """Think it over."""
        return self.question(Twin(self.image, self.cast, self.now_ms, self.config))


class Thinker(Protocol):
    """Thinks questions over, one at a time."""

    async def ask(self, inquiry: Inquiry[_T]) -> _T:
        """The answer; raises what the twin raises."""

    async def close(self) -> None:
        """Think no more."""


class Here:
    """Thinks in this process: for simulations, which start none."""

    async def ask(self, inquiry: Inquiry[_T]) -> _T:
        """The answer; raises what the twin raises."""
        return await asyncio.to_thread(inquiry.answer)

    async def close(self) -> None:
        """Nothing is open."""


class TwinProcess:
    """Thinks in a process of its own, which starts with the first question and is kept.

    Parameters
    ----------
    most_s : float, optional
        How long an answer may take, s, kernels that are compiled for the first time included.
    """

    def __init__(self, most_s: float = 600.0) -> None:
        self._most_s = most_s
        self._child: asyncio.subprocess.Process | None = None

    async def ask(self, inquiry: Inquiry[_T]) -> _T:
        """The answer; raises what the twin raises, and a :class:`TwinError` if there is none."""
        message = await asyncio.to_thread(pickle.dumps, inquiry, 5)
        child = await self._awake()
        answered = False
        try:
            async with asyncio.timeout(self._most_s):
                told = await _exchange(child, message)
            answered = True
        except TimeoutError:
            raise TwinError(
                f"twin: no answer in {self._most_s:g} s; ask for fewer futures, or of fewer jobs"
            ) from None
        except (OSError, EOFError) as error:
            raise TwinError(
                "twin: its process has ended before it answered; ask again, and if it ends again "
                "look for its last words in the server's output"
            ) from error
        finally:
            if not answered:  # nobody waits for what it says any more
                await self.close()
        refusal, answer = cast(tuple[Exception | None, Any], pickle.loads(told))
        if refusal is not None:
            raise refusal
        return cast(_T, answer)

    async def _awake(self) -> asyncio.subprocess.Process:
        """The process, started if there is none."""
        if self._child is None or self._child.returncode is not None:
            self._child = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                _THINK,
                cwd=_ROOT,  # where it finds this very package
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                start_new_session=True,  # a terminal's interrupt is for whoever started it
            )
        return self._child

    async def close(self) -> None:
        """End the process; another question starts another one."""
        child, self._child = self._child, None
        if child is None:
            return
        if child.returncode is None:
            child.kill()
        await child.wait()


async def _exchange(child: asyncio.subprocess.Process, message: bytes) -> bytes:
    """Send a message, and wait for the one that comes back."""
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(len(message).to_bytes(_HEAD_BYTES, "big"))
    child.stdin.write(message)
    await child.stdin.drain()
    try:
        length = int.from_bytes(await child.stdout.readexactly(_HEAD_BYTES), "big")
        return await child.stdout.readexactly(length)
    except asyncio.IncompleteReadError as error:
        raise EOFError from error


# --- the process ----------------------------------------------------------------------------------


def think() -> None:
    """Be that process: answer until nobody asks any more."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as out:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no answer
        os.nice(_PATIENT)
        while (message := _next(sys.stdin.buffer)) is not None:
            told = pickle.dumps(_answered(message), 5)
            out.write(len(told).to_bytes(_HEAD_BYTES, "big") + told)
            out.flush()


def _next(source: BinaryIO) -> bytes | None:
    """The next message; None: there is none, or it was cut off."""
    head = source.read(_HEAD_BYTES)
    if len(head) < _HEAD_BYTES:
        return None
    length = int.from_bytes(head, "big")
    message = source.read(length)
    return message if len(message) == length else None


def _answered(message: bytes) -> tuple[Exception | None, Any]:
    """What went wrong, if something did, and the answer.

    What nobody has foreseen ends the process, with its trace on the standard error.
    """
    try:
        return None, pickle.loads(message).answer()
    except QuartermasterError as error:
        return error, None
