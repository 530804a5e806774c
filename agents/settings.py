"""What settings must be, field by field, and the weights that training starts from.

What is wrong is said in one line, with the field and the remedy. Weights are named as the entries
of an action's vector are (:mod:`orchestrator.scheduling.schema`). A head whose actions score zero,
such as waiting, would be preferred to all placements of a prior that gives these negative scores;
so every prior of ours says how it ranks the heads, too.
"""

from __future__ import annotations

import types
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from envs.checks import check_whole, is_finite, is_whole
from envs.outcomes import METRICS
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.see.layout import ActionHead, SizeChoice
from orchestrator.scheduling.schema import FeatureSchema, feature_names

__all__ = [
    "check_bounds",
    "check_budget",
    "check_kind",
    "check_metric",
    "check_number",
    "check_seed",
    "check_types",
    "check_weights",
    "features_for",
    "prior_for",
]

_MOST_SEED = 2**32 - 1  # of NumPy's old generators, which libraries seed
_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    type(None): "null",
}


def check_types(subject: str, settings: Any) -> None:
    """Refuse fields of a dataclass whose values are not of the annotated type.

    Parameters
    ----------
    subject : str
        What the settings are of, for the message.
    settings : dataclass
        Fields that are no plain values (such as mappings) may be anything of their kind.

    Raises
    ------
    ConfigurationError
    """
    hints = get_type_hints(type(settings))
    for field in fields(settings):
        value, hint = getattr(settings, field.name), hints[field.name]
        kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
        if not any(_is_of(value, kind) for kind in kinds):
            wanted = " or ".join(_words(kind) for kind in kinds)
            raise ConfigurationError(f"{subject}: '{field.name}' is {value!r}; give {wanted}")


def check_bounds(
    subject: str,
    settings: Any,
    least: Mapping[str, float],
    most: Mapping[str, float] | None = None,
    above: Mapping[str, float] | None = None,
) -> None:
    """Refuse fields outside of their bounds; null is in bounds.

    Parameters
    ----------
    subject : str
    settings : object
    least, most : mapping of str to float
        Bounds that are allowed themselves.
    above : mapping of str to float, optional
        Bounds that are not.

    Raises
    ------
    ConfigurationError
    """
    for name, bound in least.items():
        value = getattr(settings, name)
        if value is not None and value < bound:
            raise ConfigurationError(f"{subject}: '{name}' is {value}; at least {bound} is needed")
    for name, bound in (most or {}).items():
        value = getattr(settings, name)
        if value is not None and value > bound:
            raise ConfigurationError(f"{subject}: '{name}' is {value}; at most {bound} is possible")
    for name, bound in (above or {}).items():
        value = getattr(settings, name)
        if value is not None and not value > bound:
            wanted = "a positive number" if bound == 0 else f"more than {bound}"
            raise ConfigurationError(f"{subject}: '{name}' is {value}; give {wanted}")


def check_metric(subject: str, metric: str) -> None:
    """Refuse a metric that there is none of, or of which more is better.

    Raises
    ------
    ConfigurationError
    """
    known = [name for name, sign in METRICS.items() if sign < 0]
    if metric not in known:
        raise ConfigurationError(
            f"{subject}: 'metric' is '{metric}'; choose from {', '.join(known)}"
        )


def check_budget(subject: str, settings: Any) -> None:
    """Refuse a training without any limit.

    Parameters
    ----------
    subject : str
    settings : object
        With ``budget_seconds``, ``total_steps`` and ``generations``.

    Raises
    ------
    ConfigurationError
    """
    limits = ("budget_seconds", "total_steps", "generations")
    if all(getattr(settings, name) is None for name in limits):
        names = ", ".join(f"'{name}'" for name in limits)
        raise ConfigurationError(
            f"{subject}: {names} are all null, and training would never end; set one of them"
        )


def check_kind(subject: str, name: str, value: Any, kind: type) -> None:
    """Refuse a value that is not of a kind.

    Raises
    ------
    ConfigurationError
    """
    if not _is_of(value, kind):
        raise ConfigurationError(f"{subject}: '{name}' is {value!r}; give {_words(kind)}")


def check_number(subject: str, name: str, value: Any, least: int) -> int:
    """A whole number that is at least so large.

    Raises
    ------
    ConfigurationError
    """
    return check_whole(f"{subject}: '{name}'", value, least)


def check_weights(subject: str, name: str, weights: Mapping[str, Any] | None) -> None:
    """Refuse weights by feature name that are no numbers.

    Raises
    ------
    ConfigurationError
    """
    for feature, weight in (weights or {}).items():
        check_kind(f"{subject}, '{name}'", feature, weight, float)


def check_seed(subject: str, value: Any) -> int:
    """A seed that every generator of random numbers takes.

    Raises
    ------
    ConfigurationError
    """
    return check_whole(f"{subject}: 'seed'", value, 0, _MOST_SEED)


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a value is of a kind; whole numbers are numbers, truth values are none."""
    if get_origin(kind) is Literal:
        return True  # named values are looked up where they are used
    kind = get_origin(kind) or kind
    if kind is int:
        return is_whole(value)
    if kind is float:
        return is_finite(value)
    if kind is Sequence:
        return isinstance(value, Sequence | np.ndarray) and not isinstance(value, str)
    if isinstance(value, str) and kind is not str:
        return False  # a text is a sequence, too
    return isinstance(value, kind)


def _words(kind: Any) -> str:
    """A kind of values in words."""
    kind = get_origin(kind) or kind
    return _WORDS.get(kind, "names with numbers" if issubclass(kind, Mapping) else "a list")


# --- Where training starts ------------------------------------------------------------------------


_ADVICE = "advice"
_REQUESTS = ("log_request", "request_time")
"""What says how long a job takes, in the encodings that tell."""

_LONGEST = 1.5
"""A run time of 38 days as ``log_request``: other heads rank below all jobs that are shorter."""

_LEAST_SHARE = 0.5


def prior_for(
    schema: FeatureSchema,
    prior: Mapping[str, float] | None,
    weight: float,
    made_for: str | None = None,
    *,
    by_head: bool,
) -> dict[str, float]:
    """Initial weights of an agent in an environment.

    Parameters
    ----------
    schema : FeatureSchema
        Of the environment.
    prior : mapping of str to float, or None
        As it is configured; None, or ``advice`` where no rule advises: shortest job first.
    weight : float
        Of a job's estimated run time in the latter; negative.
    made_for : str or None, optional
        The environment that the agent is made for, for messages.
    by_head : bool
        Whether each head has columns of its own.

    Returns
    -------
    dict of str to float
        Without the weights of actions that the environment does not have.

    Raises
    ------
    ConfigurationError
        If a name is no feature, or jobs are not described.
    """
    if prior is None:
        return _shortest_first(schema, weight, made_for, by_head)
    given = dict(prior)
    if _ADVICE in given and not schema.advice:
        warnings.warn(
            "agent: 'prior' starts at the advising rule, and this environment has none"
            f"{_hint(made_for)}; training starts at shortest job first",
            stacklevel=2,
        )
        del given[_ADVICE]
        given = _shortest_first(schema, weight, made_for, by_head) | given
    return {name: given[name] for name in _known(schema, given, made_for, by_head)}


def features_for(
    schema: FeatureSchema, features: Iterable[str], made_for: str | None = None, *, by_head: bool
) -> list[str]:
    """Those of the features to be searched over that an environment has.

    Raises
    ------
    ConfigurationError
        If a name is no feature, or most are of actions that the environment does not have.
    """
    wanted = list(features)
    found = _known(schema, wanted, made_for, by_head)
    if len(found) < _LEAST_SHARE * len(wanted):
        raise ConfigurationError(
            f"agent: of its {len(wanted)} 'features' this environment has {len(found)}"
            f"{_hint(made_for)}; choose another agent or environment"
        )
    return found


def _shortest_first(
    schema: FeatureSchema, weight: float, made_for: str | None, by_head: bool
) -> dict[str, float]:
    """The shortest job is placed, and nothing else is done while any can be."""
    names = feature_names(schema, by_head)
    request = next((name for name in _REQUESTS if name in names), None)
    if request is None:
        raise ConfigurationError(
            "agent: it starts at shortest job first, and this environment does not describe "
            f"jobs{_hint(made_for)}; give a 'prior', or choose another agent"
        )
    heads = [f"head:{head.name.lower()}" for head in ActionHead if head != ActionHead.PLACE]
    return {request: weight} | {name: _LONGEST * weight for name in heads if name in names}


def _known(
    schema: FeatureSchema, names: Iterable[str], made_for: str | None, by_head: bool
) -> list[str]:
    """Those of some names that are features here; the others must be of heads that are not."""
    here = [*feature_names(schema, by_head), *([_ADVICE] if schema.advice else [])]
    actions = schema.actions
    every = replace(
        actions,
        victims=max(actions.victims, 1),
        elastics=max(actions.elastics, 1),
        migrate=True,
        capacity_steps=max(actions.capacity_steps, 1),
        services=max(actions.services, 1),
        can_wait=True,
    )
    either = (replace(every, sizes=sizes) for sizes in (0, len(SizeChoice)))
    elsewhere = {
        name
        for layout in either
        for name in feature_names(replace(schema, actions=layout), by_head)
    }
    for name in names:
        if name not in here and name not in elsewhere:
            raise ConfigurationError(
                f"agent: unknown feature '{name}'{_hint(made_for)}; known: {', '.join(here)}"
            )
    return [name for name in names if name in here]


def _hint(made_for: str | None) -> str:
    return f" (the agent is made for env={made_for})" if made_for else ""
