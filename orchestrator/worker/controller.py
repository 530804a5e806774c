"""A controller for one machine: starts the workers of an elastic job, and changes their number.

It speaks an agent's side of :mod:`orchestrator.worker.control`, for trying a script on a laptop,
for examples and for tests. It loads neither torch nor anything of the cluster.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from orchestrator.errors import ConfigurationError, WorkerLostError

__all__ = ["LocalController"]

_LOOK_S = 0.2
_FIRST_SPARE = 100
"""Identities of those who joined later begin here."""


class _Worker:
    """A process, its line, and what it said."""

    def __init__(self, identity: int, process: subprocess.Popen[bytes]) -> None:
        self.identity = identity
        self.process = process
        self.line: socket.socket | None = None
        self.said: list[dict[str, Any]] = []
        self.code: int | None = None


class LocalController:
    """Runs an elastic job on this machine.

    Parameters
    ----------
    command : sequence of str
        What a worker runs.
    folder : Path
        For checkpoints and the workers' output (``worker-N.log``).
    job : str, optional
        The job's name.
    variables : mapping of str to str, optional
        Added to the environment of workers.
    wait_s : float, optional
        How long anything may take before it is given up, s.
    """

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        *,
        job: str = "local",
        variables: Mapping[str, str] | None = None,
        wait_s: float = 120.0,
    ) -> None:
        self._command, self._folder, self._job = list(command), Path(folder), job
        self._variables, self._wait_s = dict(variables or {}), wait_s
        self._changed = threading.Condition()  # re-entrant
        self._workers: dict[int, _Worker] = {}
        self._members: tuple[int, ...] = ()
        self._spares: list[int] = []
        self._generation = 0
        self._ending = False
        self._folder.mkdir(parents=True, exist_ok=True)
        # A socket's path may have about 100 characters: not every folder's is that short.
        self._place = tempfile.TemporaryDirectory(prefix="worker-")
        self.path = str(Path(self._place.name) / "agent")
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.bind(self.path)
        self._server.listen(64)
        self._threads: list[threading.Thread] = []
        self._thread(self._accept)

    def __enter__(self) -> LocalController:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End everything that was started."""
        self.close()

    @property
    def members(self) -> tuple[int, ...]:
        """Identities of those who train together, by rank."""
        with self._changed:
            return self._members

    @property
    def processes(self) -> dict[int, int]:
        """Process ids of those who run, by identity."""
        with self._changed:
            return {i: w.process.pid for i, w in self._workers.items() if w.code is None}

    def start(self, workers: int) -> None:
        """Start a job on a number of workers, and wait until all have said hello."""
        if self._members:
            raise ConfigurationError("LocalController: it has started; scale() changes the number")
        with self._changed:
            self._members = tuple(range(workers))
        port = _free_port()
        for identity in range(workers):
            self._spawn(identity, workers, port, newcomer=False)
        self._await(lambda: all(self._workers[i].line for i in range(workers)), "hello")

    def prepare(self, workers: int) -> None:
        """Start workers that are to join later, and wait until they are warm."""
        with self._changed:
            first = max((*self._workers, _FIRST_SPARE - 1)) + 1
        new = list(range(first, first + workers))
        for identity in new:
            self._spawn(identity, 1, 0, newcomer=True)
        self._await(lambda: all(self._workers[i].line for i in new), "hello")
        self._spares += new

    def scale(self, workers: int) -> float:
        """Change the number of workers; when the new world was published (``time.time``)."""
        now = self.members
        missing = workers - len(now)
        if missing <= 0:
            return self._publish(now[:workers])
        if missing > len(self._spares):
            self.prepare(missing - len(self._spares))
        joining, self._spares = self._spares[:missing], self._spares[missing:]
        return self._publish((*self.members, *joining))

    def kill(self, identity: int) -> float:
        """SIGKILL a worker; when (``time.time``). The others are told as soon as it is dead."""
        worker = self._worker(identity)
        at = time.time()
        worker.process.kill()
        return at

    def tell(self, identity: int, message: Mapping[str, Any]) -> None:
        """Send a worker a message."""
        worker = self._worker(identity)
        try:
            if worker.line is not None:
                worker.line.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            return  # it is gone: _watch sees to it

    def said(self, identity: int, key: str) -> list[Any]:
        """All that a worker said of a kind: ``hello``, ``progress``, ``saved``, ``joined`` ..."""
        with self._changed:
            return [m[key] for m in self._worker(identity).said if key in m]

    def wait_said(self, identity: int, key: str, wanted: Callable[[Any], bool]) -> Any:
        """Wait for a worker to say something that one wants to hear; what it was."""
        self._await(lambda: any(map(wanted, self.said(identity, key))), f"'{key}' of {identity}")
        return next(each for each in self.said(identity, key) if wanted(each))

    def wait(self) -> dict[int, int]:
        """Wait until all workers have ended; their exit codes, by identity."""
        self._await(lambda: all(w.code is not None for w in self._workers.values()), "the end")
        with self._changed:
            return {i: w.code for i, w in self._workers.items() if w.code is not None}

    def log(self, identity: int) -> str:
        """What a worker wrote."""
        return self._log_path(identity).read_text(encoding="utf-8", errors="replace")

    def close(self) -> None:
        """Kill what still runs, and hang up."""
        with self._changed:
            self._ending = True
            workers = list(self._workers.values())
        for worker in workers:
            if worker.process.poll() is None:
                worker.process.kill()
            worker.process.wait()
            if worker.line is not None:
                worker.line.close()
        self._server.close()
        for thread in self._threads:
            thread.join(self._wait_s)
        self._place.cleanup()

    # --- processes ----------------------------------------------------------------------------

    def _spawn(self, identity: int, size: int, port: int, *, newcomer: bool) -> None:
        """Start a worker."""
        variables = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            **self._variables,
            "RANK": str(identity),
            "LOCAL_RANK": str(identity),
            "WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "QUARTERMASTER_JOB_ID": self._job,
            "QUARTERMASTER_RUN": "1",
            "QUARTERMASTER_CHECKPOINT_DIR": str(self._folder / "checkpoints"),
            "QUARTERMASTER_CONTROL": self.path,
        }
        if newcomer:
            variables["QUARTERMASTER_WARM"] = "1"
        with self._log_path(identity).open("wb") as log:
            process = subprocess.Popen(
                self._command, env=variables, stdout=log, stderr=subprocess.STDOUT
            )
        worker = _Worker(identity, process)
        with self._changed:
            self._workers[identity] = worker
        self._thread(self._watch, worker)

    def _watch(self, worker: _Worker) -> None:
        """Wait for a worker's end; if it was no good one, the others go on without it."""
        code = worker.process.wait()
        with self._changed:
            worker.code = code
            rest = tuple(each for each in self._members if each != worker.identity)
            member = worker.identity in self._members and not self._ending
            self._changed.notify_all()
        if member and code != 0 and rest:
            self._publish(rest)
        elif member:  # the training has ended: who was about to join it waits for nothing
            for each in self.processes:
                self.tell(each, {"stop": "the job has ended"})

    def _publish(self, members: tuple[int, ...]) -> float:
        """Tell members, and those who are none any more, who trains together from now on."""
        with self._changed:
            alive = [i for i in members if self._workers[i].code is None]
            before, self._members = self._members, tuple(alive)
            self._generation += 1
            world = {
                "generation": self._generation,
                "ranks": alive,
                "master": f"127.0.0.1:{_free_port()}",
                "size": len(alive),
            }
            told = {*before, *alive}
            at = time.time()
            for identity in sorted(told):
                rank = alive.index(identity) if identity in alive else None
                self.tell(identity, {"world": {**world, "rank": rank}})
        return at

    # --- lines --------------------------------------------------------------------------------

    def _accept(self) -> None:
        while not self._ending:
            self._server.settimeout(_LOOK_S)
            try:
                line, _ = self._server.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            self._thread(self._listen, line)

    def _listen(self, line: socket.socket) -> None:
        """Read what a worker says."""
        worker: _Worker | None = None
        line.settimeout(None)
        try:
            with line.makefile("rb") as file:
                for body in file:
                    message = json.loads(body)
                    with self._changed:
                        if "hello" in message:
                            worker = self._workers[message["hello"]["rank"]]
                            worker.line = line
                        if worker is not None:
                            worker.said.append(message)
                        self._changed.notify_all()
        except OSError:
            return  # it died: _watch sees to it

    def _await(self, done: Callable[[], bool], what: str) -> None:
        """Wait for something; an error if it does not come, or a worker fails before anything."""
        deadline = time.monotonic() + self._wait_s
        with self._changed:
            while not done():
                left = deadline - time.monotonic()
                failed = [w for w in self._workers.values() if w.code not in (None, 0, -9)]
                if failed or left <= 0.0:
                    who = failed[0].identity if failed else -1
                    tail = self.log(who)[-2000:] if failed else f"{self._wait_s:g} s have passed"
                    raise WorkerLostError(f"waiting for {what}: {tail}", "look into worker-N.log")
                self._changed.wait(min(left, _LOOK_S))

    def _worker(self, identity: int) -> _Worker:
        with self._changed:
            return self._workers[identity]

    def _log_path(self, identity: int) -> Path:
        return self._folder / f"worker-{identity}.log"

    def _thread(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()


def _free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
