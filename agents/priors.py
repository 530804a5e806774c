"""Where training starts: weights by feature name, fitted to the actions that an environment has.

The vector of an action is described in :mod:`orchestrator.scheduling.schema`. A head whose actions
score zero, such as waiting, would be preferred to all placements of a prior that gives these
negative scores; so every prior of ours says how it ranks the heads, too.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace

from orchestrator.errors import ConfigurationError
from orchestrator.kernels.see.layout import ActionHead
from orchestrator.scheduling.schema import FeatureSchema, feature_names

__all__ = ["features_for", "prior_for"]

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
    elsewhere = feature_names(replace(schema, actions=every), by_head)
    for name in names:
        if name not in here and name not in elsewhere:
            raise ConfigurationError(
                f"agent: unknown feature '{name}'{_hint(made_for)}; known: {', '.join(here)}"
            )
    return [name for name in names if name in here]


def _hint(made_for: str | None) -> str:
    return f" (the agent is made for env={made_for})" if made_for else ""
