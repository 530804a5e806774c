"""What orchestrator and agents say to each other: typed messages in frames on a stream.

A frame is its length, four bytes, and a message in msgpack. The agent connects and says
:class:`Hello`; whoever it talks to answers :class:`Welcome` or :class:`Refused`. Orders carry a
fencing token and may come again; reports carry a number and come again until they are acknowledged.
"""

from __future__ import annotations

import asyncio
import hmac
from typing import Any, TypeAlias

import msgspec

from orchestrator.errors import ConfigurationError, QuartermasterError
from orchestrator.node.gpus import Gpu

__all__ = [
    "SINCE_READING",
    "VERSION",
    "Ack",
    "Address",
    "Answer",
    "Beat",
    "Body",
    "Cause",
    "Ended",
    "Fence",
    "Found",
    "Halt",
    "Hello",
    "Joined",
    "Kept",
    "Launch",
    "Line",
    "Look",
    "Order",
    "Part",
    "Progress",
    "ProtocolError",
    "Question",
    "Read",
    "Refused",
    "Release",
    "Renewed",
    "Report",
    "Save",
    "Saved",
    "Seen",
    "Serving",
    "Stale",
    "ToAgent",
    "ToOrchestrator",
    "Welcome",
    "World",
    "read_hello",
    "token_fits",
]


VERSION = 3
"""Of this protocol; an orchestrator takes agents that speak it, or the one before."""


SINCE_READING = 3
"""The first version whose agents can be asked for what workers have written."""


_OLDEST = 2  # that agents may speak


_HEADER = 4  # bytes of a frame's length
_MOST = 16 * 2**20  # bytes of a frame
_MOST_UNSENT = 64 * 2**20  # bytes that may wait for a peer that does not read


Fence: TypeAlias = tuple[int, int]
"""(term, index): whose order it is. An agent refuses one that is lower than what it has seen."""


class ProtocolError(QuartermasterError, ConnectionError):
    """What came over a connection is not what the protocol says."""


# --- from the orchestrator ------------------------------------------------------------------------


class Welcome(msgspec.Struct, frozen=True, tag="welcome"):
    """The agent is taken; ``echo_ms`` is the time it had sent, from which its lease runs."""

    echo_ms: int
    lease_ms: int
    fence: Fence


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The agent is not taken, and has to end: trying again would not help."""

    reason: str


class Renewed(msgspec.Struct, frozen=True, tag="renewed"):
    """The lease runs from when the agent had sent its beat."""

    echo_ms: int


class Ack(msgspec.Struct, frozen=True, tag="ack"):
    """These reports are safe, and need not come again."""

    numbers: tuple[int, ...]


class Launch(msgspec.Struct, frozen=True, tag="launch"):
    """Start a worker, once its GPUs are free; one that is there already is left alone.

    ``worker`` tells it from all others of the run. ``warm``: it joins a gang that runs, and waits
    to be told of a world; its ``rank`` is then only what the others will call it. ``share`` is of
    each of its GPUs, ``memory_mb`` what it may use (0: no limit). ``replica``: it serves requests,
    by itself; whoever hears of it from its agent knows that by this.
    """

    fence: Fence
    job: str
    run: int
    worker: int
    command: tuple[str, ...]
    rank: int
    size: int
    local_rank: int
    local_size: int
    node_rank: int
    master: tuple[str, int]
    generation: int = 0
    warm: bool = False
    working_dir: str = ""
    environment: tuple[tuple[str, str], ...] = ()
    gpus: tuple[int, ...] = ()
    share: float = 1.0
    memory_mb: int = 0
    checkpoints: str = ""
    replica: bool = False


class Halt(msgspec.Struct, frozen=True, tag="halt"):
    """Stop workers of a run (None: all): SIGTERM, after ``grace_ms`` SIGKILL.

    ``save``: have those that can be asked save first, under this number. ``renews``: others are to
    take their places, which whoever leads then has to know when they have ended.
    """

    fence: Fence
    job: str
    run: int
    workers: tuple[int, ...] | None
    reason: str
    grace_ms: int
    save: int = 0
    renews: bool = False


class Save(msgspec.Struct, frozen=True, tag="save"):
    """Have the workers of a run save; each answers with :class:`Saved`."""

    fence: Fence
    job: str
    run: int
    number: int


class World(msgspec.Struct, frozen=True, tag="world"):
    """The workers of a run are others from now on.

    ``ranks`` has, for each rank, the one that its worker was started with. ``members`` are the
    workers of this agent: (worker, rank), -1 for one that is not part of it.
    """

    fence: Fence
    job: str
    run: int
    generation: int
    ranks: tuple[int, ...]
    master: tuple[str, int]
    members: tuple[tuple[int, int], ...]


class Release(msgspec.Struct, frozen=True, tag="release"):
    """The node has left the cluster: stop what is left on it."""

    fence: Fence


class Look(msgspec.Struct, frozen=True, tag="look"):
    """Say which workers of a run of a job (None: the last that is kept) have written something.

    It is answered by :class:`Found`, under this number.
    """

    number: int
    job: str
    run: int | None


class Read(msgspec.Struct, frozen=True, tag="read"):
    """Say what a worker has written, from an offset on (below 0: from the end).

    It is answered by a :class:`Part`, under this number: within ``wait_ms`` if there is nothing
    yet.
    """

    number: int
    job: str
    run: int
    worker: int
    offset: int
    limit: int
    wait_ms: int


Order: TypeAlias = Launch | Halt | Save | World | Release
Question: TypeAlias = Look | Read
ToAgent: TypeAlias = Welcome | Refused | Renewed | Ack | Order | Question


# --- from an agent --------------------------------------------------------------------------------


class Cause:
    """Why a worker has ended, or was not started."""

    EXIT = "exit"
    """By itself, with a code."""
    SIGNAL = "signal"
    """By a signal that the agent did not send."""
    HALTED = "halted"
    """It was told to."""
    MEMORY = "memory"
    """It used more than it may."""
    COMMAND = "command"
    """Its command cannot be run, on no node."""
    NODE = "node"
    """The node could not start it."""
    LEASE = "lease"
    """The orchestrator was not heard of for so long that it may run elsewhere."""


class Seen(msgspec.Struct, frozen=True):
    """A worker that an agent has; ``replica`` and ``renews`` are what it was told about it."""

    job: str
    run: int
    worker: int
    first_rank: int
    rank: int
    size: int
    generation: int
    gpus: tuple[int, ...]
    knows: bool
    halted: bool
    port: int = 0
    replica: bool = False
    renews: bool = False


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """An agent introduces itself. ``boot`` tells its processes apart, ``sent_ms`` is its clock.

    ``gpus``: those that it has found; None: it cannot look.
    """

    version: int
    token: str
    node: str
    boot: str
    host: str
    pid: int
    sent_ms: int
    fence: Fence
    workers: tuple[Seen, ...] = ()
    gpus: tuple[Gpu, ...] | None = None


class Beat(msgspec.Struct, frozen=True, tag="beat"):
    """The agent is alive, and asks for its lease to be renewed.

    ``gpus``: how they are used, if that has changed.
    """

    sent_ms: int
    gpus: tuple[Gpu, ...] | None = None


class Knows(msgspec.Struct, frozen=True, tag="knows"):
    """A worker has said hello: it can be asked to save, and told of other workers."""

    job: str
    run: int
    worker: int


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    """A worker's process, and all that it had started, is gone; or it was never there.

    ``code`` is that of its exit, or 128 and the number of its signal. ``tail`` is the end of what
    it had written. ``replica`` and ``renews`` are what its agent was told about it.
    """

    job: str
    run: int
    worker: int
    rank: int
    size: int
    code: int
    cause: str
    reason: str = ""
    tail: str = ""
    replica: bool = False
    renews: bool = False


class Saved(msgspec.Struct, frozen=True, tag="saved"):
    """A worker has answered a save: at which step, or why it could not (``problem``)."""

    job: str
    run: int
    worker: int
    number: int
    step: int = 0
    problem: str = ""


class Joined(msgspec.Struct, frozen=True, tag="joined"):
    """A worker is part of a generation."""

    job: str
    run: int
    worker: int
    generation: int


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """A worker says how far it is."""

    job: str
    run: int
    worker: int
    step: int
    fraction: float | None = None


class Serving(msgspec.Struct, frozen=True, tag="serving"):
    """A replica answers requests at this port of its node; 0: it does not any more."""

    job: str
    run: int
    worker: int
    port: int


class Stale(msgspec.Struct, frozen=True, tag="stale"):
    """An order was refused: another orchestrator leads since ``fence``."""

    fence: Fence


Body: TypeAlias = Knows | Ended | Saved | Joined | Progress | Serving | Stale


class Report(msgspec.Struct, frozen=True, tag="report"):
    """Something happened; it is told again until it is acknowledged."""

    number: int
    body: Body


class Kept(msgspec.Struct, frozen=True):
    """A worker of which something is kept: its bytes from ``begin`` to before ``end``."""

    run: int
    worker: int
    begin: int
    end: int
    ended: bool


class Found(msgspec.Struct, frozen=True, tag="found"):
    """The answer to :class:`Look`."""

    number: int
    workers: tuple[Kept, ...]


class Part(msgspec.Struct, frozen=True, tag="part"):
    """The answer to :class:`Read`.

    ``offset`` is where it begins, later than was asked for if that is not kept any more. ``ended``:
    nothing comes after it. ``there``: the worker is, or was, here.
    """

    number: int
    data: bytes
    offset: int
    next_offset: int
    ended: bool
    there: bool


Answer: TypeAlias = Found | Part
ToOrchestrator: TypeAlias = Hello | Beat | Report | Answer


# --- frames ---------------------------------------------------------------------------------------


_ENCODER = msgspec.msgpack.Encoder()
_FOR_AGENT = msgspec.msgpack.Decoder(ToAgent)
_FOR_ORCHESTRATOR = msgspec.msgpack.Decoder(ToOrchestrator)


class Address(msgspec.Struct, frozen=True):
    """Where an orchestrator listens: ``host:port``, or ``unix:PATH``."""

    path: str = ""
    host: str = ""
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read one; raises a :class:`ConfigurationError` if it is none."""
        if text.startswith("unix:") and len(text) > len("unix:"):
            return cls(path=text.removeprefix("unix:"))
        host, _, port = text.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            problem = f"address '{text}' is neither 'host:port' nor 'unix:PATH'"
            raise ConfigurationError(f"{problem}; give one of these")
        return cls(host=host.strip("[]"), port=int(port))

    def __str__(self) -> str:
        """As it is given."""
        return f"unix:{self.path}" if self.path else f"{self.host}:{self.port}"

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to whoever listens there."""
        if self.path:
            return await asyncio.open_unix_connection(self.path)
        return await asyncio.open_connection(self.host, self.port)


class Line:
    """A connection on which messages are sent and read; closed by whoever cannot read them."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._unsent: list[bytes] = []  # until the event loop's next turn: then in one go

    @property
    def is_open(self) -> bool:
        """Whether what is sent may arrive."""
        return not self._writer.is_closing()

    def send(self, message: ToAgent | ToOrchestrator) -> None:
        """Send a message; what is sent on a closed line is lost, as it may be on any other."""
        if self._writer.is_closing():
            return
        data = _ENCODER.encode(message)
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._flush)
        self._unsent += (len(data).to_bytes(_HEADER, "big"), data)

    def _flush(self) -> None:
        data, self._unsent = b"".join(self._unsent), []
        if data and not self._writer.is_closing():
            self._writer.write(data)
        if self._writer.transport.get_write_buffer_size() > _MOST_UNSENT:
            self._writer.close()  # it does not read, and will be told anew

    async def frame(self) -> bytes | None:
        """Read a frame; None at the end of the line."""
        try:
            length = int.from_bytes(await self._reader.readexactly(_HEADER), "big")
            if length > _MOST:
                raise ProtocolError(f"a frame of {length} bytes; at most {_MOST} are read")
            return await self._reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionResetError, BrokenPipeError):
            return None

    async def for_agent(self) -> ToAgent | None:
        """Read what an agent is told; None at the end."""
        data = await self.frame()
        told: ToAgent | None = None if data is None else _decoded(_FOR_AGENT, data)
        return told

    async def for_orchestrator(self) -> ToOrchestrator | None:
        """Read what an agent tells; None at the end."""
        data = await self.frame()
        said: ToOrchestrator | None = None if data is None else _decoded(_FOR_ORCHESTRATOR, data)
        return said

    def close(self) -> None:
        """End the line, once what was sent is on its way."""
        self._flush()
        self._writer.close()


def _decoded(decoder: msgspec.msgpack.Decoder[Any], data: bytes) -> Any:
    try:
        return decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise ProtocolError(f"a message cannot be read: {error}") from error


def read_hello(data: bytes) -> Hello | Refused:
    """Read the first frame of an agent; why it is refused if it speaks another version.

    Raises
    ------
    ProtocolError
        If it is no greeting at all.
    """
    try:
        said = msgspec.msgpack.decode(data)
    except msgspec.MsgspecError as error:
        raise ProtocolError(f"the first frame is no message: {error}") from error
    if not isinstance(said, dict) or said.get("type") != "hello":
        raise ProtocolError("the first message is no hello")
    if said.get("version") not in range(_OLDEST, VERSION + 1):
        problem = f"the agent speaks version {said.get('version')!r:.20} of the protocol"
        return Refused(f"{problem}, and the orchestrator {VERSION}; install the same release")
    hello: Hello = _decoded(_FOR_ORCHESTRATOR, data)
    return hello


def token_fits(given: str, wanted: str) -> bool:
    """Whether a token is the right one, in a time that says nothing about it."""
    return hmac.compare_digest(given.encode(), wanted.encode())
