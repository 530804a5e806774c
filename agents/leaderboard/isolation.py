"""A policy in a process of its own: observations go in by a pipe, numbers of actions come out.

The process imports the policy and NumPy. It has no trace, no state, no cost and no ``TRACES_DIR``.
What it answers is read as whole numbers, never as objects, so that it cannot run code here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import ConfigurationError, QuartermasterError
from orchestrator.own.loading import make_part

__all__ = ["IsolatedPolicy", "checked_actions", "make_policy", "serve"]

_MASK = "mask"
_KEPT = ("PATH", "HOME", "LANG", "VIRTUAL_ENV", "OMP_NUM_THREADS", "TMPDIR")
_PATIENCE_S = 10.0


def make_policy(reference: str) -> Any:
    """A policy of one's own, made anew; see :func:`orchestrator.own.loading.make_part`.

    Raises
    ------
    ConfigurationError
        When there is none, or it has no ``actions``.
    """
    return make_part(reference, "policy", "agents.BatchPolicy", ("actions",))


def checked_actions(name: str, chosen: Any, rows: int) -> NDArray[np.int64]:
    """A policy's answer as numbers of actions.

    Raises
    ------
    ConfigurationError
        When it is not one whole number for each row.
    """
    values = np.asarray(chosen)
    if values.shape != (rows,) or not np.issubdtype(values.dtype, np.integer):
        raise ConfigurationError(
            f"policy '{name}': answered {values.dtype} of shape {values.shape}; give one whole "
            f"number for each of the {rows} rows"
        )
    return values.astype(np.int64)


class IsolatedPolicy:
    """A policy of one's own, asked in another process.

    Parameters
    ----------
    name : str
    reference : str
        ``module:Class`` or ``path/of/file.py:Class``.

    Raises
    ------
    ConfigurationError
        When the process ends instead of answering.
    """

    def __init__(self, name: str, reference: str) -> None:
        self.name = name
        environment = {key: os.environ[key] for key in _KEPT if key in os.environ}
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        code = f"from agents.leaderboard.isolation import serve; serve({reference!r})"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )

    def anew(self) -> IsolatedPolicy:
        """The same, having forgotten all that it was asked before."""
        self._exchange({}, 0)
        return self

    def actions(
        self, observation: Mapping[str, NDArray[Any]], mask: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """Choose an action for each row."""
        return np.frombuffer(self._exchange({**observation, _MASK: mask}, len(mask)), np.int64)

    def _exchange(self, arrays: Mapping[str, NDArray[Any]], rows: int) -> bytes:
        """Tell the process something, and read the numbers that it answers."""
        pipe_in, pipe_out = self._process.stdin, self._process.stdout
        assert pipe_in is not None
        assert pipe_out is not None
        try:
            _write(pipe_in, arrays)
            answer = pipe_out.read(8 * rows)
        except BrokenPipeError:
            answer = b""
        if len(answer) != 8 * rows or self._process.poll() is not None:
            raise ConfigurationError(
                f"policy '{self.name}': its process has ended (what it said stands above); run it "
                "with isolated=false to see where"
            )
        return answer

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):  # it died with something left to read
                    pipe.close()
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _write(pipe: IO[bytes], arrays: Mapping[str, NDArray[Any]]) -> None:
    """A line of JSON that describes the arrays, then their bytes."""
    kept = {name: np.ascontiguousarray(values) for name, values in arrays.items()}
    head = [[name, values.dtype.str, values.shape] for name, values in kept.items()]
    pipe.write(json.dumps(head).encode() + b"\n")
    for values in kept.values():
        pipe.write(values.tobytes())
    pipe.flush()


def _read(pipe: IO[bytes]) -> dict[str, NDArray[Any]] | None:
    """The inverse; None at the end."""
    line = pipe.readline()
    if not line:
        return None
    arrays = {}
    for name, kind, shape in json.loads(line):
        dtype = np.dtype(kind)
        count = int(np.prod(shape))
        data = bytearray(pipe.read(count * dtype.itemsize))
        arrays[name] = np.frombuffer(data, dtype).reshape(shape)
    return arrays


def serve(reference: str) -> None:
    """Answer until nobody asks any more; in the policy's own process. No arrays: begin anew.

    Parameters
    ----------
    reference : str
        Of the policy's class.
    """
    pipe_in = sys.stdin.buffer
    pipe_out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the policy prints is no answer
    try:
        policy = make_policy(reference)
        while (seen := _read(pipe_in)) is not None:
            if not seen:
                policy = make_policy(reference)
                continue
            mask = seen.pop(_MASK)
            actions = checked_actions(reference, policy.actions(seen, mask), len(mask))
            pipe_out.write(actions.tobytes())
            pipe_out.flush()
    except QuartermasterError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
