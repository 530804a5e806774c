"""Errors of the orchestrator: each names what is wrong, where, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = [
    "AttemptTimeoutError",
    "CapacityError",
    "CheckpointError",
    "ConfigurationError",
    "ContractError",
    "CorruptCheckpointError",
    "CorruptedError",
    "DeadlineExceededError",
    "IllegalActionError",
    "InvariantError",
    "NoHealthyEndpointError",
    "NotLeaderError",
    "NotOwnerError",
    "OutputError",
    "QuartermasterError",
    "RateLimitedError",
    "RequestRejectedError",
    "RetriesExhaustedError",
    "SaveDeadlineError",
    "SchemaMismatchError",
    "ServiceError",
    "StorageError",
    "TraceError",
    "TwinError",
    "UnknownEntityError",
    "UnknownOptionError",
    "UnknownSchemaError",
    "UnknownServiceError",
    "UnreachableError",
    "ValidationError",
    "WorkerLostError",
]


class QuartermasterError(Exception):
    """Base of every error that this project raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors reach other processes with their message and all that they hold."""
        return _remade, (type(self), self.args), self.__dict__


def _remade(kind: type[QuartermasterError], args: tuple[Any, ...]) -> QuartermasterError:
    """An error as it was, whatever its constructor asks for."""
    error = kind.__new__(kind, *args)
    error.args = args
    return error


class ValidationError(QuartermasterError, ValueError):
    """A value that was given to us is not acceptable.

    Parameters
    ----------
    subject : str
        The thing that was given, for example ``JobSpec 'resnet'``.
    field : str
        The offending field.
    problem : str
        What is wrong with it.
    remedy : str
        What to do about it.
    """

    def __init__(self, subject: str, field: str, problem: str, remedy: str) -> None:
        super().__init__(f"{subject}: field '{field}' {problem}; {remedy}")
        self.subject = subject
        self.field = field
        self.problem = problem
        self.remedy = remedy


class TraceError(QuartermasterError, ValueError):
    """A trace file cannot be read.

    Parameters
    ----------
    path : str
        The file.
    problem : str
        What is wrong, naming the field or column.
    remedy : str
        What to do about it.
    line : int or None, optional
        One-based line number, where one line is to blame.
    """

    def __init__(self, path: str, problem: str, remedy: str, line: int | None = None) -> None:
        where = path if line is None else f"{path}, line {line}"
        super().__init__(f"{where}: {problem}; {remedy}")
        self.path = path
        self.line = line
        self.problem = problem
        self.remedy = remedy


class ConfigurationError(QuartermasterError, ValueError):
    """A configuration does not make sense, or names something unknown."""


class UnknownOptionError(ConfigurationError, TypeError):
    """A keyword argument that nobody has heard of; Python's own error for it, too."""


class CapacityError(QuartermasterError, RuntimeError):
    """Something does not fit into the fixed capacities of a :class:`ClusterShape`."""


class UnknownEntityError(QuartermasterError, KeyError):
    """A job or node that nobody has heard of."""

    def __str__(self) -> str:
        # KeyError would show the repr of its argument, quotes and all.
        return str(self.args[0]) if self.args else ""


class IllegalActionError(QuartermasterError, ValueError):
    """A policy chose an action that its mask forbids (raised in strict mode only)."""


class InvariantError(QuartermasterError, AssertionError):
    """Cluster state broke one of its invariants: a bug in this project."""


class ContractError(QuartermasterError, AssertionError):
    """One's own part does not do what its kind promises: found by the checks of ``testing``.

    Parameters
    ----------
    part : str
        Its name.
    problem : str
        The promise that is broken, and how.
    remedy : str
        What to do about it.
    """

    def __init__(self, part: str, problem: str, remedy: str) -> None:
        super().__init__(f"{part}: {problem}; {remedy}")
        self.part = part
        self.problem = problem
        self.remedy = remedy


class NotLeaderError(QuartermasterError, RuntimeError):
    """Another orchestrator has taken over the log: this one must not act any more.

    Parameters
    ----------
    leader : str
        Who has.
    term : int
        The entry of the log with which it did.
    """

    def __init__(self, leader: str, term: int) -> None:
        super().__init__(
            f"orchestrator '{leader}' leads since entry {term} of the log, and this one does not "
            "act any more; ask that one, or make a new one on the log to have it take over"
        )
        self.leader = leader
        self.term = term


class NotOwnerError(NotLeaderError):
    """A shard is not led here, or not any more.

    Parameters
    ----------
    shard : str
        The shard.
    owner : str
        The member that holds it, as far as is known; ``""``: nobody does.
    address : str
        Where to find that member, if it has said so.
    """

    def __init__(self, shard: str, owner: str = "", address: str = "") -> None:
        where = f"member '{owner}'" + (f" at {address}" if address else "")
        told = f"{where} owns it; ask it there" if owner else "nobody owns it now; ask again soon"
        RuntimeError.__init__(self, f"shard '{shard}' is not led here: {told}")
        self.shard, self.leader, self.address = shard, owner, address
        self.term = -1


class StorageError(QuartermasterError, RuntimeError):
    """What keeps a log does not take or give it: a disk that is full, read-only, or locked."""


class CorruptedError(QuartermasterError, ValueError):
    """What was kept is not what was written: bytes are missing, or others."""


class UnknownSchemaError(QuartermasterError, ValueError):
    """What was kept was written by a version whose forms this one does not know."""


class SchemaMismatchError(QuartermasterError, ValueError):
    """A policy bundle was made for other features or actions than the ones at hand."""


class UnknownServiceError(UnknownEntityError):
    """A service, or an endpoint of one, that nobody has heard of.

    Parameters
    ----------
    name : str
        What was asked for.
    known : sequence of str
        What there is.
    """

    def __init__(self, name: str, known: Sequence[str]) -> None:
        there = ", ".join(known) if known else "none"
        super().__init__(f"unknown service or endpoint '{name}'; register it first; known: {there}")
        self.name = name


class ServiceError(QuartermasterError, RuntimeError):
    """A request to a service was not answered.

    Parameters
    ----------
    service : str
        The service.
    problem : str
        What is wrong.
    remedy : str
        What to do about it.
    """

    def __init__(self, service: str, problem: str, remedy: str) -> None:
        super().__init__(f"service '{service}': {problem}; {remedy}")
        self.service = service


class NoHealthyEndpointError(ServiceError):
    """Every endpoint is sick, draining or shut out by its circuit breaker, or there is none."""


class RateLimitedError(ServiceError):
    """The rate limiter turned a request away before it reached any endpoint.

    Attributes
    ----------
    retry_after_s : float
        When the next one passes, if nobody else asks.
    """

    retry_after_s = 1.0


class RetriesExhaustedError(ServiceError):
    """The last attempt that a request may have has failed; ``__cause__`` is why."""


class AttemptTimeoutError(ServiceError):
    """An endpoint did not answer in time."""


class DeadlineExceededError(ServiceError):
    """The time that a request's caller has given it is up."""


class RequestRejectedError(QuartermasterError, ValueError):
    """The request itself is wrong: the endpoint is well, and trying again would not help."""


class CheckpointError(QuartermasterError, RuntimeError):
    """A checkpoint could not be written or loaded."""


class CorruptCheckpointError(CheckpointError):
    """A folder is not the checkpoint that was written.

    Parameters
    ----------
    folder : Path
        The folder.
    problem : str
        What is wrong with it.
    """

    def __init__(self, folder: Path, problem: str) -> None:
        super().__init__(f"checkpoint {folder}: it {problem}; use the one before")
        self.folder = folder
        self.problem = problem


class SaveDeadlineError(CheckpointError):
    """A save was not complete in time; it will not be committed later either.

    Parameters
    ----------
    step : int
        Which one.
    deadline_s : float
        How long it had.
    """

    def __init__(self, step: int, deadline_s: float) -> None:
        super().__init__(
            f"save of step {step}: not complete after {deadline_s:g} s; the checkpoint before "
            "stands; give it a longer 'deadline_s', or a faster place"
        )
        self.step = step
        self.deadline_s = deadline_s


class UnreachableError(QuartermasterError, RuntimeError):
    """What was asked for is on a node that does not answer now."""


class TwinError(QuartermasterError, RuntimeError):
    """The twin has no answer: it took too long, or its process has ended."""


class WorkerLostError(QuartermasterError, RuntimeError):
    """Other workers are lost, and nobody says who goes on without them.

    Parameters
    ----------
    problem : str
        What happened.
    remedy : str
        What to do about it.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}; {remedy}")


class OutputError(QuartermasterError, ValueError):
    """Output that is there does not fit the input that it is to come from."""
