"""The rules of the game: what is legal in a cluster, and what happens by itself.

Live clusters and environments play by the same rules, so both take a :class:`Semantics`; an
environment's ``EnvConfig`` is one. Enumerations of configurations may be given by name
(:func:`enum_member`).
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import ConfigurationError
from orchestrator.kernels.state.codes import Information, QuotaMode

__all__ = ["Semantics", "enum_member", "resolve_enums"]


_MOST = (1 << 31) - 1
_MOST_SECONDS = 1 << 40
_SECONDS = ("min_run_seconds", "ageing_seconds", "slowdown_bound_seconds", "resize_lock_seconds")
_Member = TypeVar("_Member", bound=IntEnum)


@dataclass(frozen=True)
class Semantics:
    """What is legal, and what happens by itself; fixed for the life of a cluster.

    Enumerations may be given by name.

    Parameters
    ----------
    commitment : bool
        A chosen job is waited for until it fits (RLScheduler's semantics). Environments then have
        no *wait* action and place jobs first fit; otherwise a job is placed by a chosen candidate,
        or the policy waits.
    backfill : bool
        With commitment: others may run meanwhile, if they do not delay it (EASY backfilling).
    preemption_limit : int
        Preemptions per decision point. Rules that preempt by class go on at the next one; those
        that preempt by score do not begin what would take more.
    min_run_seconds : float
        A job may not be preempted or moved before it has run for so long.
    min_run_costs : int
        Rules that preempt by score leave a job alone before it has run for so many times what that
        costs it, its checkpoint and its restart; 0: they do not. With 4, at least half of the time
        that a job holds its place is work, however often it is preempted.
    resize : bool
        Policies may resize running elastic jobs.
    migrate : bool
        Policies may move running preemptible jobs to a better place.
    quota_mode : QuotaMode
        How tenants' quotas bind.
    ageing_seconds : float
        Time since submission that is worth one priority class, for rules by priority; 0: none.
    information : Information
        What rules and policies may know of run times.
    slowdown_bound_seconds : float
        Run time below which slowdowns are bounded.
    resize_lock_seconds : float or None
        A job may not be resized for so long after it has started or was last resized or moved;
        None: for ``min_run_seconds``.

    Raises
    ------
    ConfigurationError
        Naming the field that makes no sense, and what is allowed.
    """

    subject: ClassVar[str] = "semantics"
    """What messages call it."""

    commitment: bool = False
    backfill: bool = False
    preemption_limit: int = 1024
    min_run_seconds: float = 0.0
    min_run_costs: int = 4
    resize: bool = True
    migrate: bool = True
    quota_mode: QuotaMode = QuotaMode.NONE
    ageing_seconds: float = 0.0
    information: Information = Information.ESTIMATE
    slowdown_bound_seconds: float = 10.0
    resize_lock_seconds: float | None = None

    def __post_init__(self) -> None:
        """Reject what makes no sense."""
        resolve_enums(self, self.subject)
        for name in ("commitment", "backfill", "resize", "migrate"):
            flag = getattr(self, name)
            if not (isinstance(flag, bool | np.bool_ | numbers.Integral) and flag in (0, 1)):
                raise ConfigurationError(
                    f"{self.subject}: '{name}' is {flag!r}; give true or false"
                )
            object.__setattr__(self, name, bool(flag))
        for name in ("preemption_limit", "min_run_costs"):
            count = getattr(self, name)
            whole = isinstance(count, numbers.Integral) and not isinstance(count, bool)
            if not (whole and 0 <= count <= _MOST):
                raise ConfigurationError(
                    f"{self.subject}: '{name}' is {count!r}; give an integer of at least 0, and at "
                    f"most {_MOST}"
                )
            object.__setattr__(self, name, int(count))
        for name in _SECONDS:
            seconds = getattr(self, name)
            if seconds is None and name == "resize_lock_seconds":
                continue
            real = isinstance(seconds, numbers.Real) and not isinstance(seconds, bool)
            if not (real and math.isfinite(seconds) and 0 <= seconds <= _MOST_SECONDS):
                raise ConfigurationError(
                    f"{self.subject}: '{name}' is {seconds!r}; give a number of at least 0, and at "
                    f"most {_MOST_SECONDS}"
                )
            object.__setattr__(self, name, float(seconds))

    def write(self, rows: NDArray[np.void]) -> None:
        """Lay the rules down in rows of the engine; nothing else does.

        Parameters
        ----------
        rows : ndarray of ROW_DTYPE, shape [envs]
        """
        for name in ("commitment", "backfill", "preemption_limit", "min_run_costs", "migrate"):
            rows[name] = getattr(self, name)
        for name in ("min_run", "ageing", "slowdown_bound"):
            rows[f"{name}_ms"] = round(1000 * getattr(self, f"{name}_seconds"))
        lock = self.resize_lock_seconds
        rows["resize_lock_ms"] = round(1000 * (self.min_run_seconds if lock is None else lock))
        rows["quota_mode"] = self.quota_mode
        rows["information"] = self.information
        # How many elastic jobs a policy is shown; that it is shown any makes resizing legal.
        rows["elastics"] = self.resize


def enum_member(kind: type[_Member], subject: str, field: str, value: Any) -> _Member:
    """A member of an enumeration by its name, as configurations have it, or by itself.

    Parameters
    ----------
    kind : type of IntEnum
    subject, field : str
        Whose value it is, for messages.
    value : str, int or member
        The member's name, in any case; its value; or itself.

    Raises
    ------
    ConfigurationError
        Listing the names.
    """
    try:
        if isinstance(value, str):
            return kind[value.upper()]
        if not isinstance(value, bool):
            return kind(value)
    except (KeyError, ValueError):
        pass
    known = ", ".join(member.name.lower() for member in kind)
    raise ConfigurationError(f"{subject}: '{field}' is {value!r}; choose from {known}")


def resolve_enums(instance: Any, subject: str) -> None:
    """Put members for names into a new dataclass's fields of enumerations, and tuples of them.

    Which fields these are, their types say.
    """
    for name, (kind, many) in _enumerations(type(instance)).items():
        given = getattr(instance, name)
        if many:
            member: Any = tuple(enum_member(kind, subject, name, item) for item in given)
        else:
            member = enum_member(kind, subject, name, given)
        # Frozen for its users; this completes it.
        object.__setattr__(instance, name, member)


def _enumerations(kind: type) -> Mapping[str, tuple[type[IntEnum], bool]]:
    """Fields that hold a member of an enumeration (False), or a tuple of members (True)."""
    found: dict[str, tuple[type[IntEnum], bool]] = {}
    for name, hint in get_type_hints(kind).items():
        many = get_origin(hint) is tuple
        inner = get_args(hint)[0] if many else hint
        if isinstance(inner, type) and issubclass(inner, IntEnum):
            found[name] = (inner, many)
    return found
