"""Scheduling policies as small YAML files: sort key, filters, score, preemption.

    name: packing
    sort: sjf
    filters: [resources, topology, bandwidth]
    score: {fgd: 1}
    preemption: none

The words are those of the Kubernetes scheduling framework. A profile becomes a :class:`Rule`, which
kernels carry out; it holds no code.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.errors import ConfigurationError
from orchestrator.kernels.codes import Placement, Preemption, RuleKey
from orchestrator.scheduler.rules import Rule
from orchestrator.semantics import enum_member

__all__ = ["FILTERS", "parse_profile", "read_profile"]

FILTERS = ("resources", "gpu_model", "gpu_memory", "topology", "bandwidth")
"""What every placement is checked for, whether a profile lists it or not."""

_PREEMPTION = {
    "none": Preemption.NONE,
    "higher_score": Preemption.SCORE,
    "priority": Preemption.PRIORITY,
    "reclaim": Preemption.RECLAIM,
}
_FIELDS = ("name", "sort", "filters", "score", "preemption", "strict_order", "elastic")


def read_profile(path: str | Path) -> Rule:
    """Read a policy from a YAML file.

    Raises
    ------
    ConfigurationError
        Naming the file, the field and what to do.
    """
    import yaml  # type: ignore[import-untyped]

    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: is not YAML: {error}") from None
    return parse_profile(content, str(path))


def parse_profile(content: Any, source: str = "profile") -> Rule:
    """Make a rule of a policy's plain values.

    Parameters
    ----------
    content : mapping
        ``name``; ``sort``, a :class:`RuleKey`; ``score``, one :class:`Placement` by name or as a
        mapping with a weight; optionally ``filters``, some of :data:`FILTERS`; ``preemption``,
        ``none``, ``higher_score``, ``priority`` or ``reclaim``; ``strict_order``, whether the first
        job of the queue holds up all others; ``elastic``, whether running elastic jobs get idle
        capacity.
    source : str, optional
        For messages.

    Returns
    -------
    Rule

    Raises
    ------
    ConfigurationError
        Naming the field, its value and what is allowed.
    """
    if not isinstance(content, Mapping):
        raise ConfigurationError(f"{source}: is no mapping; give the fields {', '.join(_FIELDS)}")
    for field in content:
        if field not in _FIELDS:
            known = ", ".join(_FIELDS)
            raise ConfigurationError(f"{source}: unknown field '{field}'; known: {known}")
    for field in ("name", "sort"):
        if field not in content:
            raise ConfigurationError(f"{source}: field '{field}' is missing")
    name = content["name"]
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f"{source}: 'name' is {name!r}; give a text")
    _check_filters(source, content.get("filters", ()))
    preemption = content.get("preemption", "none")
    if preemption not in _PREEMPTION:
        known = ", ".join(_PREEMPTION)
        raise ConfigurationError(f"{source}: 'preemption' is {preemption!r}; choose from {known}")
    strict = content.get("strict_order", False)
    if not isinstance(strict, bool):
        raise ConfigurationError(f"{source}: 'strict_order' is {strict!r}; give true or false")
    elastic = content.get("elastic", False)
    if not isinstance(elastic, bool):
        raise ConfigurationError(f"{source}: 'elastic' is {elastic!r}; give true or false")
    return Rule(
        name,
        enum_member(RuleKey, source, "sort", str(content["sort"])),
        _placement(source, content.get("score", "best_fit")),
        preemption=_PREEMPTION[preemption],
        blocking=strict,
        elastic=elastic,
    )


def _check_filters(source: str, filters: Any) -> None:
    if isinstance(filters, str) or not hasattr(filters, "__iter__"):
        raise ConfigurationError(f"{source}: 'filters' is {filters!r}; give a list")
    for item in filters:
        if item not in FILTERS:
            known = ", ".join(FILTERS)
            raise ConfigurationError(f"{source}: unknown filter {item!r}; known: {known}")


def _placement(source: str, score: Any) -> Placement:
    """The one generator that a profile scores nodes by."""
    if isinstance(score, Mapping):
        for name, weight in score.items():
            if isinstance(weight, bool) or not isinstance(weight, int | float) or weight < 0:
                raise ConfigurationError(
                    f"{source}: 'score' weighs {name} by {weight!r}; give a number from 0 on"
                )
        used = [name for name, weight in score.items() if weight > 0]
        if len(used) != 1:
            raise ConfigurationError(
                f"{source}: 'score' gives {len(used)} placements a weight above 0; scores are not "
                "mixed: give exactly one"
            )
        score = used[0]
    return enum_member(Placement, source, "score", str(score))
