"""States of environments: all that what comes next depends on, as bytes that can be put back.

A row is its scalars and tables; beside it a session keeps what the policy was shown last and how
the episode is counted. Both are copied by one compiled call, as far as they are in use. The memo of
the engine (``kernels/place/memo.py``) is not: it only saves time, and is built up again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from envs.checks import check_type
from envs.session import Session
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.run import rows as entry

__all__ = ["RowState", "restore_row", "save_row"]


@dataclass(frozen=True, eq=False, repr=False)
class RowState:
    """Where a row of an environment was. It is a value: keep it, pickle it, do not write it.

    Parameters
    ----------
    origin : mapping of str to str
        Digests of what the environment was made of, by what they are of.
    content : uint8 [bytes]
    """

    origin: Mapping[str, str]
    content: NDArray[np.uint8]

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return self.content.nbytes

    def __repr__(self) -> str:
        """Say what it is, not what it holds."""
        return f"RowState({self.nbytes} bytes, trace {self.origin['trace']})"


def save_row(session: Session, e: int) -> RowState:
    """The state of a row of a session."""
    rows, beside = session.state.rows, session.beside
    content = np.empty(entry.saved_bytes(rows, e, beside), np.uint8)
    entry.save_row(rows, e, beside, content)
    return RowState(session.origin, content)


def restore_row(session: Session, e: int, state: RowState) -> None:
    """Put a row of a session where another one was.

    Parameters
    ----------
    session : Session
    e : int
        Row.
    state : RowState
        Of a session of the same origin, whatever its number of rows.

    Raises
    ------
    ConfigurationError
        Naming what differs: the row is then as it was.
    """
    check_type("set_state: 'state'", state, RowState, "what get_state() returned")
    if state.origin is not session.origin:
        _check_origin(state.origin, session.origin)
    entry.restore_row(session.state.rows, e, session.beside, state.content)
    session.buffers.nodes.seen[e] = 0  # kinds are numbered anew


def _check_origin(theirs: Mapping[str, str], ours: Mapping[str, str]) -> None:
    """Refuse a state of an environment that is made otherwise."""
    for name, digest in ours.items():
        if theirs.get(name) != digest:
            raise ConfigurationError(
                f"set_state: the state is of an environment with another {name} "
                f"({theirs.get(name)}, here {digest}); make this one from the same workload and "
                f"options, or take its copy()"
            )
