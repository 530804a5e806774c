"""What every policy promises that decides on observations: checked while it plays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.evaluation.play import policy_named
from agents.problem import BatchPolicy, ScoringPolicy
from envs.config import EnvConfig
from envs.session import Session
from envs.testing.play import SMALL, small_session
from orchestrator.errors import ContractError
from orchestrator.own.loading import check_methods

__all__ = ["check_batch_policy"]

_ROWS, _STEPS = 4, 300

Seen = Mapping[str, NDArray[Any]]


def check_batch_policy(
    policy: str | Callable[[], BatchPolicy], config: EnvConfig | None = None
) -> None:
    """Check that a policy keeps what :class:`agents.BatchPolicy` asks for.

    Its actions are legal, int64, one a row; it decides of a row alone as it does of that row among
    others, and again as before; it leaves observations as they were; and episodes end.

    Parameters
    ----------
    policy : str or callable
        ``package.module:Class``, or what makes one: its class.
    config : EnvConfig or None, optional
        The environment that it is for; None: ordering jobs, a small one.

    Raises
    ------
    ContractError
        Naming the promise that is broken.
    ConfigurationError
        If it cannot be made, or has no method ``actions``.
    """
    name = policy if isinstance(policy, str) else getattr(policy, "__name__", "policy")
    made: Any = policy_named(policy) if isinstance(policy, str) else policy()
    check_methods(made, f"policy '{name}'", "agents.problem.BatchPolicy", ("actions",))
    if not isinstance(getattr(made, "name", None), str):
        raise ContractError(name, "has no 'name'", "give it one, for tables: name = 'mine'")
    session = small_session(config or SMALL["ordering"], _ROWS)
    session.reset()
    for _ in range(_STEPS):
        seen = session.observation()
        mask = seen["action_mask"].astype(np.bool_)
        live = np.asarray(mask.any(axis=1))
        if not live.any():
            return
        actions = _asked(name, made, {key: part[live] for key, part in seen.items()}, mask[live])
        _step(session, actions, live)
    done = session.buffers.terminated | session.buffers.truncated
    if not done.any():
        raise ContractError(
            name, f"ended no episode in {_STEPS} steps", "let time pass: it must not wait for ever"
        )


def _step(session: Session, actions: NDArray[np.int64], live: NDArray[np.bool_]) -> None:
    every = np.zeros(len(live), np.int64)
    every[live] = actions
    session.step(every)


def _asked(name: str, policy: BatchPolicy, seen: Seen, mask: NDArray[np.bool_]) -> Any:
    """Actions of a batch, after all that they have to be."""
    before = {key: part.copy() for key, part in seen.items()}
    actions = policy.actions(seen, mask.copy())
    if not isinstance(actions, np.ndarray) or actions.shape != (len(mask),):
        raise ContractError(
            name, f"'actions' gave {actions!r}", f"give an array of {len(mask)} actions, int64"
        )
    if actions.dtype != np.int64:
        raise ContractError(
            name, f"'actions' gave numbers of type {actions.dtype}", "give int64: .astype(np.int64)"
        )
    for key, part in before.items():
        if not np.array_equal(seen[key], part, equal_nan=True):
            raise ContractError(name, f"wrote into '{key}'", "work on a copy of what it is shown")
    inside = (actions >= 0) & (actions < mask.shape[1])
    legal = inside & mask[np.arange(len(mask)), np.where(inside, actions, 0)]
    if not legal.all():
        e = int(np.flatnonzero(~legal)[0])
        raise ContractError(
            name,
            f"chose action {actions[e]} in a row whose mask forbids it",
            "choose among mask[row].nonzero(): np.where(mask, scores, -np.inf).argmax(axis=1)",
        )
    if not np.array_equal(policy.actions(seen, mask), actions):
        raise ContractError(
            name, "chose otherwise when asked again", "be greedy: draw nothing, remember nothing"
        )
    for e in range(len(mask)):
        row = {key: part[e : e + 1] for key, part in seen.items()}
        if policy.actions(row, mask[e : e + 1])[0] != actions[e]:
            raise ContractError(
                name,
                "chooses otherwise for a row when others are beside it",
                "look at each row by itself: sum and compare along the last axes",
            )
        if (
            isinstance(policy, ScoringPolicy)
            and policy.score(row, mask[e : e + 1]).best != (actions[e])
        ):
            raise ContractError(
                name, "'score' ranks another action first than 'actions' takes", "use one for both"
            )
    return actions
