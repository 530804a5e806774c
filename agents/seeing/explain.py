"""Why an action: what its alternatives are worth to whoever decides.

Rules sort jobs by a key, linear policies add up features, networks have scores that become
probabilities, and who thinks ahead compares futures. Each is told as the same thing, an
:class:`envs.viewing.episode.Explanation`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import gymnasium
import numpy as np
from numpy.typing import NDArray

from agents.linear.policy import LinearRanker, LinearScorer, SetRanker
from agents.planning.lookahead import LookaheadPolicy
from agents.ppo.batches import ActionPacker
from agents.problem import ActionScores, BatchPolicy, ScoringPolicy
from envs.gym.single import SchedulingEnv
from envs.session import Session
from envs.viewing.episode import Alternative, Explanation
from orchestrator.deployment.records import text_of
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.see.layout import DEFAULT_NAMES
from orchestrator.kernels.state.codes import NODE_CHOICE, ActionKind, Reason
from orchestrator.messages import PlaceJob, from_code
from orchestrator.scheduling.rules import Rule, rule_named
from orchestrator.scheduling.schema import feature_names

__all__ = ["Explainer", "explain", "explainer_of"]

_Code: TypeAlias = tuple[int, int, int]
_MOST = 24  # alternatives that are told


class Explainer(Protocol):
    """Asks a policy about the rows of a session."""

    def ask(self, e: int = 0) -> tuple[Explanation, _Code] | None:
        """Why, and what, as kernels take it; None: there is nothing to choose."""
        ...


def explain(
    policy: Rule | str | BatchPolicy | LookaheadPolicy, env: gymnasium.Env[Any, Any]
) -> Explanation:
    """What a policy would do at the decision point of an environment, and why not something else.

    Parameters
    ----------
    policy : Rule, str, BatchPolicy or LookaheadPolicy
        A rule, or its name: the scores are its keys. A linear policy: what each feature adds to the
        score, and of a set network what the network does. One of PPO: probabilities. One that
        thinks ahead: mean gains over its own action in the futures that it tried. Of other policies
        it is told what they take.
    env : gymnasium.Env
        A :class:`envs.SchedulingEnv`, wrapped or not, at a decision point; it stays as it is.

    Returns
    -------
    Explanation
        ``str`` of it is a table.

    Raises
    ------
    ConfigurationError
        If the environment is of another kind, or its episode is over.
    """
    inner = env.unwrapped
    if not isinstance(inner, SchedulingEnv):
        raise ConfigurationError(
            f"explain: {type(inner).__name__} is no environment of Quartermaster; give one that "
            "gymnasium.make('quartermaster/...') has made"
        )
    if inner.session.buffers.terminated[0] or inner.session.state.rows[0]["point_open"] == 0:
        raise ConfigurationError("explain: there is no decision to explain; call reset() first")
    asked = explainer_of(policy, inner.session).ask()
    if asked is None:
        raise ConfigurationError(
            "explain: the policy sees nothing to choose here; step on to the next decision"
        )
    return asked[0]


def explainer_of(policy: Rule | str | BatchPolicy | LookaheadPolicy, session: Session) -> Explainer:
    """Who asks a policy about the rows of a session; an observation is what buffers hold."""
    if isinstance(policy, str):
        policy = rule_named(policy)
    if isinstance(policy, Rule):
        return _OfRule(policy, session)
    if isinstance(policy, LookaheadPolicy):
        return _OfLookahead(policy, session)
    return _OfScores(policy, session)


class _Told:
    """What explainers have in common: a session, and how its actions are called."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def words(self, e: int, code: _Code) -> str:
        """An action in words."""
        kind, j, value = code
        state = self.session.state
        if kind == ActionKind.SERVICE:
            j = int(state.service[e, j]["job"])
        about = kind not in (ActionKind.WAIT, ActionKind.CAPACITY) and j >= 0
        name = f"job {state.request[e, j]['source_id']}" if about else ""
        if kind == ActionKind.PLACE and state.rows[e]["commitment"]:
            return text_of(PlaceJob(name))  # where is not chosen
        if kind == ActionKind.PLACE and value >= NODE_CHOICE:
            return f"place {name} on node {value - NODE_CHOICE}"
        return text_of(from_code(kind, name, value))

    def told(self, e: int, by: str, alternatives: Sequence[Alternative], count: int) -> Explanation:
        """An explanation of the decision at which a row stands, of ``count`` alternatives."""
        row = self.session.state.rows[e]
        return Explanation(int(row["now_ms"]), int(row["point"]), by, tuple(alternatives), count)


class _OfRule(_Told):
    """By a rule's key, the lowest first."""

    def __init__(self, rule: Rule, session: Session) -> None:
        super().__init__(session)
        self._rule, self._record = rule, rule.to_record()

    def ask(self, e: int = 0) -> tuple[Explanation, _Code] | None:
        state, session = self.session.state, self.session
        code = entry.rule_action(state.rows, e, self._record, session.bench.jobs)
        kind, j, _ = code
        waiting = state.queue[e, : int(state.rows[e]["queue_len"])]["job"].tolist()
        keys = {q: entry.job_score(state.rows, e, q, int(self._rule.key)) for q in waiting}
        order = sorted(waiting, key=lambda q: keys[q])  # of equals the first in the queue
        about = kind in (ActionKind.PLACE, ActionKind.PREEMPT, ActionKind.RESIZE)
        score = entry.job_score(state.rows, e, j, int(self._rule.key)) if about else math.nan
        others = [q for q in order if kind != ActionKind.PLACE or q != j]
        told = [Alternative(self.words(e, code), score)]
        told += [self._waiting(e, q, keys[q]) for q in others[:_MOST]]
        name = self._rule.key.name.lower()
        by = f"rule {self._rule.name}: key {name} of jobs, the lowest that may go first"
        return self.told(e, by, told, 1 + len(others)), code

    def _waiting(self, e: int, q: int, key: float) -> Alternative:
        """A job that waits on: what its key is, and whether it could start."""
        reason = Reason(entry.why_not(self.session.state.rows, e, q))
        why = (
            "" if reason == Reason.OK else f"cannot start: {reason.name.lower().replace('_', ' ')}"
        )
        return Alternative(self.words(e, (ActionKind.PLACE, q, self._rule.placement)), key, why)


class _OfScores(_Told):
    """By the scores of a policy that decides on observations."""

    def __init__(self, policy: BatchPolicy, session: Session) -> None:
        super().__init__(session)
        self._policy = policy
        self._packer: ActionPacker | None = None
        self._names: Sequence[str] = ()
        if isinstance(policy, LinearScorer):
            self._packer = ActionPacker(policy.schema, by_head=True)
            self._names = feature_names(policy.schema, by_head=True)
        elif isinstance(policy, LinearRanker):
            self._names = DEFAULT_NAMES
        elif isinstance(policy, SetRanker):
            self._names = (*DEFAULT_NAMES, "network")

    def ask(self, e: int = 0) -> tuple[Explanation, _Code] | None:
        session = self.session
        seen = session.observation(slice(e, e + 1))
        mask = seen["action_mask"].astype(np.bool_)
        taken = int(self._policy.actions(seen, mask)[0])
        found = ActionScores(np.array([taken]), np.array([math.nan]))
        if isinstance(self._policy, ScoringPolicy):
            found = self._policy.score(seen, mask)
        scores, by = self._worth(found.scores)
        parts = self._parts(seen, mask, found)
        order = sorted(
            range(len(found.actions)), key=lambda k: (found.actions[k] != taken, -scores[k], k)
        )
        told = []
        for k in order[:_MOST]:
            code = entry.decode(
                session.state.rows, e, int(found.actions[k]), session.source.seen, session.buffers
            )
            told.append(Alternative(self.words(e, code), float(scores[k]), "", parts.get(k, ())))
        code = entry.decode(session.state.rows, e, taken, session.source.seen, session.buffers)
        return self.told(e, by, told, len(order)), code

    def _worth(self, scores: NDArray[np.floating[Any]]) -> tuple[NDArray[np.float64], str]:
        """Scores as they are told, and what they are."""
        values, name = scores.astype(np.float64), self._policy.name
        if not isinstance(self._policy, ScoringPolicy):
            return values, f"{name} does not say what it thinks of what it does not take"
        gain = getattr(self._policy, "gain", None)
        if gain is None:
            return values, f"{name}: score, the highest is taken"
        odds = np.exp(gain * (values - values.max()))
        return odds / odds.sum(), f"{name}: probability, the highest is taken"

    def _parts(
        self, seen: Mapping[str, NDArray[Any]], mask: NDArray[np.bool_], found: ActionScores
    ) -> dict[int, Sequence[tuple[str, float]]]:
        """What each score is the sum of, where it is one: what sets it apart comes first."""
        policy = self._policy
        if isinstance(policy, LinearRanker | SetRanker):
            count = len(DEFAULT_NAMES)
            sums = _products(seen["queue"][0][found.actions], policy.weights[:count])
            if isinstance(policy, SetRanker):  # its linear part, and all the rest
                sums = np.column_stack((sums, found.scores - sums.sum(axis=1)))
        elif isinstance(policy, LinearScorer) and self._packer is not None:
            packed = self._packer.pack(seen, mask)
            at = {int(a): k for k, a in enumerate(packed.actions)}
            sums = _products(packed.vectors[[at[int(a)] for a in found.actions]], policy.weights)
        else:
            return {}
        apart = np.abs(sums - sums.mean(axis=0))
        told = dict[int, Sequence[tuple[str, float]]]()
        for k, row in enumerate(sums):
            order = np.argsort(-apart[k], kind="stable")
            told[k] = tuple((self._names[f], float(row[f])) for f in order if row[f] != 0.0)
        return told


def _products(vectors: NDArray[Any], weights: NDArray[np.float32]) -> NDArray[np.float64]:
    products: NDArray[np.float64] = vectors.astype(np.float64) * weights.astype(np.float64)
    return products


class _OfLookahead(_Told):
    """By mean gains over the base's own action, in common futures."""

    def __init__(self, policy: LookaheadPolicy, session: Session) -> None:
        super().__init__(session)
        self._policy = policy
        self._think = policy.thinking_on(session)

    def ask(self, e: int = 0) -> tuple[Explanation, _Code] | None:
        thought = self._think(e)
        if thought is None:
            return None
        settings = self._policy.settings
        order = sorted(
            range(len(thought.actions)), key=lambda k: (k != thought.taken, -thought.gains[k], k)
        )
        told = []
        for k in order:
            kind, j, value = thought.actions[k].tolist()
            gain = float(thought.gains[k])
            note = self._sure(gain, float(thought.margins[k])) if k > 0 else "its own action"
            words = self.words(e, (kind, j, value))
            told.append(Alternative(words, gain if math.isfinite(gain) else math.nan, note))
        by = (
            f"{self._policy.name}: mean gain over {self._policy.base.name}'s own action in "
            f"{settings.futures} futures, in what it charges for"
        )
        return self.told(e, by, told, len(told)), thought.action

    def _sure(self, gain: float, margin: float) -> str:
        """How sure a gain is."""
        if not math.isfinite(gain):
            return "not played on: it comes to the same as another one"
        errors = self._policy.settings.errors
        if self._policy.settings.margin == 0.0 and errors > 0.0:
            return (
                f"± {margin / errors:.3g} (standard error); to be taken it must exceed {margin:.3g}"
            )
        return f"to be taken it must exceed {margin:.3g}"
