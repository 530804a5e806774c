"""What one's own reward terms and features promise, checked while random episodes are played."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.config import EnvConfig
from envs.own.parts import FEATURE_SETS, NamedFeature, feature_named
from envs.own.views import RowsView, Views
from envs.reward import RewardConfig
from envs.session import Session
from envs.testing.play import SMALL, play, small_session
from orchestrator.errors import ConfigurationError, ContractError
from orchestrator.kernels.run.buffers import RewardForm
from orchestrator.own.loading import make_part, part_name

__all__ = ["check_feature", "check_reward_term"]

_ROWS = 3
_EVERY = 7  # steps between looks
_LARGEST = 100.0
_OF_ROWS = ("queue", "victims", "elastics")


def check_reward_term(term: str | Callable[..., Any], config: EnvConfig | None = None) -> None:
    """Check that a reward term keeps what :class:`envs.own.parts.RewardTerm` asks for.

    It gives one finite number a row, depends on nothing but its view, looks at each row by itself,
    and an episode's rewards add up to its total, however they are paid.

    Parameters
    ----------
    term : str, function or class
        As ``RewardConfig.terms`` takes it.
    config : EnvConfig or None, optional
        An environment to play in; None: two small ones.

    Raises
    ------
    ContractError
        Naming the promise that is broken.
    ConfigurationError
        If there is no such term.
    """
    name = part_name(term, "reward term")
    part = make_part(name, "reward term", "envs.own.parts.RewardTerm")
    for base in SMALL.values() if config is None else [config]:
        paid = {}
        for form in RewardForm:
            own = replace(base, reward=RewardConfig(terms={name: 1.0}, form=form))
            session = small_session(own, _ROWS)
            total = np.zeros(_ROWS)
            for step, reward in enumerate(play(session, name)):
                total += reward
                if step % _EVERY == 0:
                    _look(name, part, _views(session).terms)
            paid[form] = total
            end = np.array([session.own.cost(e) for e in range(_ROWS)])
            if not np.allclose(total, -end, rtol=1e-6, atol=1e-6):
                raise ContractError(
                    name,
                    f"rewards add up to {total.tolist()}, and its totals at the end are "
                    f"{end.tolist()}",
                    "let it depend on the view alone, and be 0 before anything has happened",
                )


def check_feature(feature: str | type, config: EnvConfig | None = None) -> None:
    """Check that a feature keeps what :class:`envs.own.parts.Feature` asks for.

    It gives finite numbers of moderate size, depends on nothing but its view, looks at each row by
    itself, follows its entities when they change places, and does not know the future: with other
    jobs to come it says the same.

    Parameters
    ----------
    feature : str, function or class
        As ``EnvConfig.features`` takes it.
    config : EnvConfig or None, optional
        An environment to play in; None: those of two small ones that show its set.

    Raises
    ------
    ContractError
        Naming the promise that is broken.
    ConfigurationError
        If there is no such feature, or no environment shows what it describes.
    """
    name = part_name(feature, "feature")
    found = feature_named(name)
    bases = [base for base in SMALL.values() if _shows(base, found.of)]
    if config is not None:
        bases = [config]
    if not bases:
        raise ConfigurationError(
            f"feature '{name}': no small environment shows '{found.of}'; give a 'config' that does"
        )
    for base in bases:
        own = replace(base, features=(name,))
        session = small_session(own, _ROWS)
        for step, _ in enumerate(play(session, name)):
            if step % _EVERY == 0:
                view = _views(session).features
                _look(name, found.part, view)
                _check_values(found, view)
                _check_future(found, view)


def _shows(config: EnvConfig, of: str) -> bool:
    assert of in FEATURE_SETS
    return bool(getattr(config.schema, "globals" if of == "global" else of))


def _views(session: Session) -> Views:
    views = Views(session.state, session.buffers)
    views.refresh()
    return views


def _look(name: str, part: Callable[[RowsView], Any], view: RowsView) -> None:
    """Whether it says the same again, and the same of a row by itself."""
    values = np.array(part(view))
    if not np.array_equal(values, np.asarray(part(view))):
        raise ContractError(
            name, "said something else when asked again", "remember nothing, and draw nothing"
        )
    for e in range(_ROWS):
        columns: Iterator[Any] = (column[e : e + 1] for column in view)
        alone = np.asarray(part(RowsView(*columns)))
        if not np.allclose(alone, values[e : e + 1], rtol=1e-6, atol=1e-9):
            raise ContractError(
                name,
                "says something else of a row when others are beside it",
                "sum and compare along the last axis, never along the first",
            )


def _check_values(found: NamedFeature, view: RowsView) -> None:
    """Whether values are of a size that networks can use, and stay with their entities."""
    values = np.array(found.part(view))
    if np.abs(values).max(initial=0.0) > _LARGEST:
        raise ContractError(
            found.source,
            f"gave {np.abs(values).max():.4g}, which drowns all other features",
            "give shares, or logarithms of seconds: roughly within -5 and 5",
        )
    if found.of not in _OF_ROWS:
        return
    listed: NDArray[np.int32] = getattr(view, found.of)
    order = np.random.default_rng(0).permutation(listed.shape[1])
    moved: dict[str, Any] = {found.of: listed[:, order]}
    turned = np.asarray(found.part(view._replace(**moved)))
    there = listed[:, order] >= 0
    if not np.allclose(turned[there], values[:, order][there], rtol=1e-6, atol=1e-9):
        raise ContractError(
            found.source,
            "does not follow its entities when they change places",
            f"look jobs up by their numbers in view.{found.of}",
        )


def _check_future(found: NamedFeature, view: RowsView) -> None:
    """Whether it says the same if other jobs are to come."""
    later = view.request["submit_ms"] > view.now_ms[:, np.newaxis]
    other = view.request.copy()
    for field in ("workers", "requested_ms", "gpus_per_worker", "cpu_milli", "memory_mib"):
        other[field] = np.where(later, other[field] * 3 + 7, other[field])
    other["submit_ms"] = np.where(later, other["submit_ms"] * 2 + 1000, other["submit_ms"])
    if not np.allclose(
        np.asarray(found.part(view._replace(request=other))), np.asarray(found.part(view))
    ):
        raise ContractError(
            found.source,
            "knows the future: with other jobs to come it says something else",
            "look at jobs of view.queue, view.victims and view.elastics, or at those with "
            "submit_ms <= now_ms",
        )
