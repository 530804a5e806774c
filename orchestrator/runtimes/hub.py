"""Where agents connect: who is there, whose lease runs, and what they are told."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from orchestrator.errors import ConfigurationError
from orchestrator.node.gpus import Gpu
from orchestrator.node.protocol import (
    VERSION,
    Ack,
    Address,
    Answer,
    Beat,
    Body,
    Fence,
    Found,
    Hello,
    Line,
    Order,
    Part,
    ProtocolError,
    Question,
    Refused,
    Renewed,
    Report,
    Welcome,
    read_hello,
    token_fits,
)
from orchestrator.ports import Clock, FaultDetector, Timer

__all__ = ["MARGIN_MS", "AgentHub", "HubListener", "Vitals"]


MARGIN_MS = 1000
"""After a lease's end, for workers to be killed."""


_GREETING_S = 5.0  # for the first message of whoever connects
_LOOK_S = 0.1  # between looks at leases
_STALLED_MS = 1000
_PORTS = range(32_768, 60_999)  # that Linux hands out
_RECENT_MS = 1500  # a peer that was heard of since then is there


_log = logging.getLogger(__name__)


class HubListener(Protocol):
    """Who hears of agents."""

    def joined(self, node: str, hello: Hello) -> None:
        """An agent is there, with these workers; what it still has to report comes next."""

    def beat(self, node: str) -> None:
        """An agent has shown itself."""

    def heard(self, node: str, number: int, body: Body) -> None:
        """An agent reports something; 0: it need not be acknowledged."""

    def left(self, node: str) -> None:
        """The connection of an agent is gone; its workers may live until their lease is over."""

    def answered(self, node: str, answer: Answer) -> None:
        """An agent answers what it was asked."""

    def gone(self, node: str, seen_ms: int) -> None:
        """All workers that a node had are gone for certain; it was seen last then."""


@dataclass
class _Peer:
    """An agent that was there once."""

    boot: str
    host: str
    line: Line | None
    granted_ms: int  # when its lease was renewed last
    seen_ms: int
    hello_ms: int = 0  # when it had introduced itself, by its clock
    fence: Fence = (-1, -1)  # whom it had obeyed by then
    gone: bool = False
    gpus: tuple[Gpu, ...] | None = None
    version: int = VERSION


class AgentHub:
    """Takes the connections of agents.

    Parameters
    ----------
    address : Address
        Where to listen; port 0 is a free one, see ``address`` once it is open.
    token : str
        What agents have to know.
    lease_ms : int
        How long an agent's workers may live without word from here.
    now_ms : callable
        Time.
    """

    def __init__(
        self, address: Address, token: str, lease_ms: int, now_ms: Callable[[], int]
    ) -> None:
        if lease_ms <= 0:
            problem = f"'lease_s' is {lease_ms / 1000}; it must be positive"
            raise ConfigurationError(f"ProcessRuntime: {problem}")
        self.address, self.fence = address, (-1, -1)
        self.lease_ms = lease_ms
        self._token, self.now_ms = token, now_ms
        self._listener: HubListener | None = None
        self._peers: dict[str, _Peer] = {}
        self._server: asyncio.Server | None = None
        self._lines: set[Line] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._looking: asyncio.Task[None] | None = None
        self._changed = asyncio.Condition()

    async def open(self, listener: HubListener) -> None:
        """Listen."""
        self._listener = listener
        if self.address.path:
            await _free(self.address.path)
            self._server = await asyncio.start_unix_server(self._accept, self.address.path)
        else:
            given = self.address.host, self.address.port
            self._server = await asyncio.start_server(self._accept, *given, backlog=512)
            port = self._server.sockets[0].getsockname()[1]
            self.address = Address(host=self.address.host, port=port)
        self._looking = asyncio.create_task(self._look())

    async def close(self) -> None:
        """Leave the agents alone: they keep their workers until their leases are over."""
        self._listener = None
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        if self._server is not None:
            self._server.close()
        for line in list(self._lines):
            line.close()
        if self._server is not None:
            await self._server.wait_closed()

    async def wait_for(self, nodes: Sequence[str], timeout_s: float) -> None:
        """Wait until the agents of these nodes are there.

        One that has obeyed an orchestrator hangs up on one that does not lead yet, and comes again:
        until this one leads it is enough to have come, and to have told of its workers.

        Raises
        ------
        ConfigurationError
            If some are not, in time.
        """
        try:
            async with self._changed, asyncio.timeout(timeout_s):
                await self._changed.wait_for(lambda: not self._missing(nodes))
        except TimeoutError:
            missing = ", ".join(f"'{node}'" for node in self._missing(nodes))
            problem = f"no agent of {missing} has come to {self.address} in {timeout_s} s"
            raise ConfigurationError(f"{problem}; look into its log") from None

    def _missing(self, nodes: Sequence[str]) -> list[str]:
        leads = self.fence[0] >= 0
        return [
            node for node in nodes if not self.reaches(node) and (leads or node not in self._peers)
        ]

    def reaches(self, node: str) -> bool:
        """Whether a node's agent is there."""
        peer = self._peers.get(node)
        return peer is not None and peer.line is not None and peer.line.is_open

    @property
    def leads(self) -> bool:
        """Whether agents that have obeyed another orchestrator stay: it has a term to show them."""
        return self.fence[0] >= 0

    def lead(self, fence: Fence) -> list[str]:
        """Orders carry this fence from now on; nodes whose agents are to come back for that."""
        waiting = list[str]()
        if not self.leads:  # it is said with all orders, and news once
            waiting = [node for node in self.nodes() if not self.reaches(node)]
        self.fence = max(fence, self.fence)
        return waiting

    def awaits_lead(self, node: str) -> bool:
        """Whether an agent comes and goes because nobody leads here yet: it obeys whoever did.

        Its absence says nothing about its node until somebody does.
        """
        peer = self._peers.get(node)
        return peer is not None and not self.leads and self.fence < peer.fence

    def host(self, node: str) -> str:
        """Where other nodes reach a node."""
        peer = self._peers.get(node)
        return "127.0.0.1" if peer is None else peer.host

    def gpus(self, node: str) -> tuple[Gpu, ...] | None:
        """GPUs that a node's agent has found; None: it cannot look, or has not come."""
        peer = self._peers.get(node)
        return None if peer is None else peer.gpus

    def version(self, node: str) -> int | None:
        """Of the protocol, as a node's agent speaks it; None: it has not come."""
        peer = self._peers.get(node)
        return None if peer is None else peer.version

    def nodes(self) -> list[str]:
        """Nodes whose agents have come, and are not known to be gone for good."""
        return [node for node, peer in self._peers.items() if not peer.gone]

    def meeting_point(self, node: str) -> tuple[str, int]:
        """Where workers meet on a node, at a port that is free here."""
        try:
            with socket.socket() as free:
                free.bind(("", 0))
                return self.host(node), int(free.getsockname()[1])
        except OSError as error:  # who cannot look draws one: workers that do not meet are lost
            _log.warning("no free port can be looked for: %s", error)
            return self.host(node), secrets.choice(_PORTS)

    def may_have_workers(self, node: str) -> bool:
        """Whether something that was told to a node may run there."""
        peer = self._peers.get(node)
        return peer is not None and not peer.gone

    def send(self, node: str, order: Order | Question) -> bool:
        """Tell an agent something, if it is there."""
        peer = self._peers.get(node)
        if peer is None or peer.line is None or not peer.line.is_open:
            return False
        peer.line.send(order)
        return True

    def acknowledge(self, node: str, numbers: Sequence[int]) -> None:
        """Reports of an agent are safe."""
        peer = self._peers.get(node)
        wanted = tuple(number for number in numbers if number)
        if peer is not None and peer.line is not None and wanted:
            peer.line.send(Ack(wanted))

    def hang_up(self, node: str) -> None:
        """Have an agent come anew, and say which workers it has."""
        peer = self._peers.get(node)
        if peer is not None:
            self._close(node, peer)

    def bury(self, node: str) -> None:
        """Somebody knows that a node's agent has ended, and all that it had started with it."""
        peer = self._peers.get(node)
        if peer is not None and not peer.gone:
            self._close(node, peer)
            peer.gone = True
            if self._listener is not None:
                self._listener.gone(node, peer.seen_ms)

    # --- connections -----------------------------------------------------------------------------

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task of our own: what asyncio makes of a coroutine function complains when it is
        # cancelled before it has begun, as it is when an event loop ends.
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = Line(reader, writer)
        self._lines.add(line)
        node = ""
        try:
            hello = await self._greeted(line)
            if hello is not None:
                node = hello.node
                await self._hear(line, node)
        except (ProtocolError, OSError, TimeoutError) as error:
            _log.warning("the connection of %s ends: %s", f"node '{node}'" if node else "?", error)
        except asyncio.CancelledError:
            pass  # the event loop ends
        finally:
            self._lines.discard(line)
            line.close()
            peer = self._peers.get(node)
            if peer is not None and peer.line is line:
                self._close(node, peer)

    def _close(self, node: str, peer: _Peer) -> None:
        if peer.line is not None:
            peer.line.close()
            peer.line = None
            if self._listener is not None:
                self._listener.left(node)

    async def _greeted(self, line: Line) -> Hello | None:
        """The greeting of an agent that is taken."""
        data = await asyncio.wait_for(line.frame(), _GREETING_S)
        if data is None or self._listener is None:
            return None
        hello = read_hello(data)
        if isinstance(hello, Hello) and hello.fence[0] > self.fence[0] >= 0:
            _log.error("node '%s' obeys another orchestrator: this one was replaced", hello.node)
            return None
        if isinstance(hello, Hello) and self._is_overtaken(hello):
            _log.warning("node '%s' has come on another line since it said this", hello.node)
            return None
        if isinstance(hello, Hello):
            problem = self._objection(hello)
            if not problem:
                await self._take(line, hello)
                return hello
            hello = Refused(problem)
        _log.warning("an agent is refused: %s", hello.reason)
        line.send(hello)
        return None

    def _is_overtaken(self, hello: Hello) -> bool:
        """Whether a later greeting of the same agent was faster: what this one tells is over."""
        peer = self._peers.get(hello.node)
        return peer is not None and peer.boot == hello.boot and hello.sent_ms < peer.hello_ms

    def _objection(self, hello: Hello) -> str:
        """Why an agent is not taken."""
        if not token_fits(hello.token, self._token):
            return f"the token of node '{hello.node}' is wrong; give it that of this orchestrator"
        peer = self._peers.get(hello.node)
        recent = peer is not None and self.now_ms() - peer.seen_ms < _RECENT_MS
        if peer is not None and peer.boot != hello.boot and peer.line is not None and recent:
            return f"node '{hello.node}' has an agent; give this one another name, or end that one"
        return ""

    async def _take(self, line: Line, hello: Hello) -> None:
        now_ms, node = self.now_ms(), hello.node
        before = self._peers.get(node)
        if before is not None:
            self._close(node, before)
            if before.boot != hello.boot and not before.gone and self._listener is not None:
                self._listener.gone(node, before.seen_ms)  # its folder was free
        peer = _Peer(hello.boot, hello.host, line, now_ms, now_ms, gpus=hello.gpus)
        peer.version, peer.hello_ms, peer.fence = hello.version, hello.sent_ms, hello.fence
        self._peers[node] = peer
        line.send(Welcome(hello.sent_ms, self.lease_ms, self.fence))
        if self._listener is not None:
            self._listener.joined(node, hello)
            self._listener.beat(node)
        async with self._changed:
            self._changed.notify_all()

    async def _hear(self, line: Line, node: str) -> None:
        """Hear an agent until its line ends."""
        while (message := await line.for_orchestrator()) is not None:
            peer = self._peers[node]
            if peer.line is not line or self._listener is None:
                return
            if isinstance(message, Beat):
                peer.seen_ms = peer.granted_ms = self.now_ms()
                peer.gpus = peer.gpus if message.gpus is None else message.gpus
                line.send(Renewed(message.sent_ms))
                self._listener.beat(node)
            elif isinstance(message, Report):
                peer.seen_ms = self.now_ms()
                self._listener.heard(node, message.number, message.body)
            elif isinstance(message, Found | Part):
                self._listener.answered(node, message)

    # --- leases ----------------------------------------------------------------------------------

    async def _look(self) -> None:
        """Say whose workers are gone, because nobody has renewed their lease."""
        last_ms = self.now_ms()
        while True:
            await asyncio.sleep(_LOOK_S)
            now_ms, before_ms = self.now_ms(), last_ms
            last_ms = now_ms
            if now_ms - before_ms > _STALLED_MS:
                continue  # this process stood still, and there may be beats to be read first
            for node, peer in list(self._peers.items()):
                if not peer.gone and now_ms > peer.granted_ms + self.lease_ms + MARGIN_MS:
                    _log.warning("node '%s' was not heard of, and its lease is over", node)
                    try:
                        self.bury(node)
                    except Exception:  # other leases end all the same
                        _log.exception("what follows from the loss of node '%s' failed", node)


async def _free(path: str) -> None:
    """Take what a predecessor that was killed has left; from one that listens nothing is taken."""
    try:
        _, writer = await asyncio.open_unix_connection(path)
    except (FileNotFoundError, ConnectionRefusedError):
        _unlink(path)
        return
    except BlockingIOError:  # its queue is full
        pass
    else:
        writer.close()
    problem = f"somebody listens at 'unix:{path}'"
    raise ConfigurationError(f"ProcessRuntime: {problem}; end that one, or give another 'address'")


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        Path(path).unlink()


# An agent whose connection is gone is looked for so often before its node is taken for dead. While
# this process stands still nobody can come to it: however long that is, it is one look of these.
_LOOKS, _BETWEEN_LOOKS_MS = 10, 100


class Vitals:
    """Passes signs of life on; a detector that fails costs what it would have said.

    Parameters
    ----------
    clock : Clock
    detector : FaultDetector or None
        None: nobody is told.
    hub : AgentHub
        Knows which agents are there. Of those that wait until somebody leads here nothing is told.
    """

    def __init__(self, clock: Clock, detector: FaultDetector | None, hub: AgentHub) -> None:
        self._clock, self._detector, self._hub = clock, detector, hub
        self._tasks: set[asyncio.Task[None]] = set()
        self._missed: dict[str, Timer] = {}  # nodes whose agents are looked for
        self._closed = True

    def open(self) -> None:
        """Begin to tell."""
        self._closed = False

    async def close(self) -> None:
        """Tell nothing more."""
        self._closed = True
        for timer in self._missed.values():
            timer.cancel()
        self._missed.clear()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def show(self, node: str) -> None:
        """A node lives; from now on it is watched, and missed."""
        if self._detector is not None and not self._hub.awaits_lead(node):
            self._tell(self._detector.heartbeat, node)

    def report(self, node: str) -> None:
        """A node is known to be dead."""
        if self._detector is not None:
            self._tell(self._detector.report, node)

    def left(self, node: str) -> None:
        """The connection of an agent is gone: it comes back at once, or its node is dead.

        Before this orchestrator leads that says nothing: agents come and go until it does.
        """
        before = self._missed.pop(node, None)
        if before is not None:
            before.cancel()
        if self._hub.leads and self._detector is not None and not self._closed:
            self._look_later(node, _LOOKS)

    def _look_later(self, node: str, looks: int) -> None:
        due_ms = self._clock.now_ms() + _BETWEEN_LOOKS_MS
        self._missed[node] = self._clock.call_at(due_ms, lambda: self._look_for(node, looks - 1))

    def _look_for(self, node: str, looks: int) -> None:
        del self._missed[node]
        if self._closed or self._hub.reaches(node):
            return
        if looks > 0:
            self._look_later(node, looks)
        else:
            self.report(node)

    def _tell(self, work: Callable[[str], Awaitable[None]], node: str) -> None:
        async def guarded() -> None:
            try:
                await work(node)
            except Exception:
                _log.exception("the fault detector, or who listens to it, failed")

        task = asyncio.ensure_future(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
