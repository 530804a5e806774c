"""Agents on this machine: processes of their own, which outlive whoever has started them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import ConfigurationError
from orchestrator.node.agent import pid_in
from orchestrator.node.workers import NAMES
from orchestrator.runtimes.process import ProcessRuntime

__all__ = ["LocalAgents"]


_ROOT = Path(__file__).resolve().parents[2]


_END_S = 15.0  # for an agent to end by itself
_GUARDED_S = 1.0  # for what an agent leaves behind to be killed, where nobody says when that is


@dataclass
class _Child:
    """An agent's process."""

    pid: int
    process: subprocess.Popen[bytes] | None
    watch: int  # readable once it, and its guard, are gone
    ended: asyncio.Event


class LocalAgents:
    """An agent for each of some nodes, all on this machine.

    They are started by :meth:`start`, which finds those that a former orchestrator has left; an
    agent that dies is told to the runtime, at once and for certain. :meth:`stop` ends them, and
    all workers with them; whoever does not call it, or is killed, leaves them to the next one.

    Parameters
    ----------
    runtime : ProcessRuntime
        Open. Where the next one listens at the same address, :meth:`hand_over` to it.
    nodes : sequence of str
        Nodes.
    folder : Path
        Where their files go, a folder for each.
    beat_s, log_bytes, grace_s
        See :class:`orchestrator.node.agent.AgentSettings`.
    linger_s : float
        For how long they look for an orchestrator that they have lost.
    """

    def __init__(
        self,
        runtime: ProcessRuntime,
        nodes: Sequence[str],
        folder: Path,
        *,
        beat_s: float = 0.25,
        log_bytes: int = 8 * 2**20,
        grace_s: float = 5.0,
        linger_s: float = 60.0,
    ) -> None:
        self._runtime, self._nodes, self._folder = runtime, tuple(nodes), folder.resolve()
        self._options = {
            "--beat": beat_s,
            "--log-bytes": log_bytes,
            "--grace": grace_s,
            "--linger": linger_s,
        }
        self._children: dict[str, _Child] = {}
        self._ending = False

    @property
    def pids(self) -> dict[str, int]:
        """Processes of the agents that live, by node."""
        return {node: child.pid for node, child in self._children.items()}

    async def start(self, timeout_s: float = 20.0) -> None:
        """Start them, and wait until all are connected."""
        for node in self._nodes:
            await self.add(node)
        await self._runtime.wait_for(self._nodes, timeout_s)

    async def add(self, node: str) -> None:
        """Start the agent of a node, unless it is there; it connects when it is ready."""
        if node in self._children:
            return
        folder = self._folder / node
        there = await asyncio.to_thread(pid_in, folder)
        child = self._adopted(there) if there else self._started(node, folder)
        self._children[node] = child
        asyncio.get_running_loop().add_reader(child.watch, self._note_end, node, child)

    async def kill(self, node: str) -> None:
        """Kill the agent of a node (SIGKILL), and wait until it and its workers are gone.

        The runtime is told. :meth:`add` starts another one.
        """
        child = self._children.get(node)
        if child is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)
        await child.ended.wait()

    def hand_over(self, runtime: ProcessRuntime) -> None:
        """Tell another runtime, at the same address, of agents that end from now on."""
        if runtime.address != self._runtime.address or runtime.token != self._runtime.token:
            problem = "the next runtime listens elsewhere, or takes another token"
            raise ConfigurationError(f"LocalAgents: {problem}; open it with those of the last one")
        self._runtime = runtime

    def _started(self, node: str, folder: Path) -> _Child:
        folder.mkdir(parents=True, exist_ok=True)
        options = [f"{name}={value}" for name, value in self._options.items()]
        options += [f"--node={node}", f"--orchestrator={self._runtime.address}"]
        command = [sys.executable, "-m", "orchestrator.node", f"--folder={folder}", *options]
        environment = {**os.environ, NAMES["token"]: self._runtime.token}
        # Its output is a pipe that nobody writes to: agent and guard hold it, and no worker does,
        # so that its end says that both are gone.
        with (folder / "agent.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=_ROOT,  # where `-m` finds this very package; workers have folders of their own
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        assert process.stdout is not None
        watch = os.dup(process.stdout.fileno())
        process.stdout.close()
        return _Child(process.pid, process, watch, asyncio.Event())

    def _adopted(self, pid: int) -> _Child:
        return _Child(pid, None, os.pidfd_open(pid), asyncio.Event())

    def _note_end(self, node: str, child: _Child) -> None:
        """An agent has ended."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(child.watch)
        os.close(child.watch)
        if child.process is not None:
            child.process.wait()  # it is a zombie by now
        if self._children.get(node) is child:
            del self._children[node]
        child.ended.set()
        if not self._ending:
            wait_s = 0.0 if child.process is not None else _GUARDED_S
            loop.call_later(wait_s, self._runtime.bury, node)

    async def stop(self) -> None:
        """End all of them, and their workers."""
        self._ending = True
        for number in (signal.SIGTERM, signal.SIGKILL):
            children = list(self._children.values())
            for child in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child.pid, number)
                    os.kill(child.pid, signal.SIGCONT)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_END_S):
                    for child in children:
                        await child.ended.wait()
        self._ending = False
