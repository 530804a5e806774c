"""Who decides: a rule, and beside it or instead of it a candidate that may be taken out again.

The cycle asks this as it asks any policy. What stands between it and a candidate: a deadline, the
engine's own legality, guards on conduct and results, and a rule that can decide at any time.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from orchestrator.deployment.asking import Answer, Asker, considered
from orchestrator.deployment.compare import (
    Beside,
    Comparer,
    ForwardPlay,
    copy_snapshot,
    sizes_of,
)
from orchestrator.deployment.guards import LEAST_COMPLETIONS, Completions, Conduct, Guards
from orchestrator.deployment.log import DecisionLog, LoggedDecision
from orchestrator.deployment.records import (
    Considered,
    DecisionRecord,
    LearnedPolicy,
    LeavesJobs,
    Mode,
    Understood,
    Verdict,
    essence_of,
    state_digest,
    text_of,
)
from orchestrator.engine.checks import check_message
from orchestrator.engine.plans import PlanExecutor
from orchestrator.engine.snapshot import Snapshot
from orchestrator.errors import (
    ConfigurationError,
    NotLeaderError,
    QuartermasterError,
    SchemaMismatchError,
)
from orchestrator.kernels.state.codes import NO_JOB, Reason
from orchestrator.kernels.state.row import ClusterState
from orchestrator.live.cycle import load_kernels
from orchestrator.messages import Decide, Plan, ScaleFleet
from orchestrator.orchestrator import InfrastructureOrchestrator
from orchestrator.ports import Clock, Policy, Sized, SizingPolicy
from orchestrator.scheduling.rules import RULES, Rule, RulePolicy, Scheduler, policy_of
from orchestrator.twin.scene.cast import Understudy
from orchestrator.types import JobSpec

__all__ = ["PolicyDeployment", "PolicyEvent", "Remember"]


Remember: TypeAlias = Callable[[dict[str, Any]], Awaitable[object]]
"""Keeps what a restart must know of a deployment."""


_EVENTS = 256  # that are told
_LATENCIES = 1024
_ON = "on"
_NO_BASELINE = (
    "no baseline: the guard on results is off until the rule has been in charge for "
    f"{LEAST_COMPLETIONS} completions"
)
_AGAIN_S = 1.0  # until it is tried again to keep who decides


_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PolicyEvent:
    """The mode has changed: when, to which, with which bundle, and why."""

    time_ms: int
    mode: str
    bundle: str
    reason: str


@dataclass(frozen=True)
class _Setting:
    """What a restart must know."""

    mode: Mode = Mode.FALLBACK
    bundle: str = ""
    digest: str = ""
    share: float = 0.0
    since_ms: int = 0
    reason: str = "the rule decides until somebody says otherwise"
    baseline: float | None = None  # the last mean bounded slowdown under the rule

    @property
    def by_rule(self) -> bool:
        """Whether the rule decides alone."""
        return self.mode in (Mode.FALLBACK, Mode.SHADOW)

    def as_dict(self) -> dict[str, Any]:
        """As it is kept in the log."""
        return {**vars(self), "mode": self.mode.value}


class _Candidate:
    """A learned policy, what it has done so far, and how it compares."""

    def __init__(self, policy: Policy, twin: Policy, guards: Guards, play: ForwardPlay) -> None:
        self.name = policy.name if isinstance(policy, LearnedPolicy) else type(policy).__name__
        self.digest = _digest_of(policy)
        self.asker = Asker(policy, guards.deadline_ms)
        self.twin = twin  # for the thread beside: a policy belongs to one thread
        self.conduct = Conduct(guards)
        self.play = play
        self.points = self.agreed = 0
        self.latencies_ms: deque[float] = deque(maxlen=_LATENCIES)


class PolicyDeployment:
    """A rule in charge, and a learned policy that may take over from it, under guard.

    Implements ``orchestrator.ports.Planner``: give it to an orchestrator as its policy.

    Parameters
    ----------
    rule : Policy, Rule, Scheduler or None, optional
        Decides unless a candidate does, and whenever that fails; None: the default scheduler.
    load : callable or None, optional
        Makes the policy of a bundle, by its path: :class:`orchestrator.deployment.LearnedPolicy`,
        or any policy. Called twice for each, as one decides and the other thinks ahead. None:
        nothing can be put in charge.
    guards : Guards, optional
        When a candidate has to go.
    log : DecisionLog or None, optional
        Keeps candidates' decisions.
    clock : Clock or None, optional
        Time of what people ask for; None: that of the last decision.
    compare_share : float, optional
        Of one core's time that estimating the gain may take.
    seed : int, optional
        Of the draw of canaries' decision points.
    """

    def __init__(
        self,
        rule: Policy | Rule | Scheduler | None = None,
        load: Callable[[str], Policy] | None = None,
        *,
        guards: Guards | None = None,
        log: DecisionLog | None = None,
        clock: Clock | None = None,
        compare_share: float = 0.1,
        seed: int = 0,
    ) -> None:
        self.fallback = policy_of(rule)
        self._own_rule = rule is not None
        self.guards = guards or Guards()
        self._load, self._log, self._clock = load, log, clock
        self._share, self._seed = compare_share, seed
        self._setting = _Setting()
        self._candidate: _Candidate | None = None
        self._comparer: Comparer | None = None
        self._lock = threading.Lock()  # of what is set: people and guards may want to at once
        self._changing = asyncio.Lock()  # one bundle is loaded at a time
        self._sized_at = -1  # the entry at which the candidate last decided on sizes
        self._recalls = 0  # how often people wanted the rule: what was asked for before is void
        self._completions = Completions(self.guards.completions)
        self._beside = Beside()
        self._asked_room: ClusterState | None = None
        self._trial_room: ClusterState | None = None
        self._now_ms = 0
        self._remember: Remember | None = None
        self._kept: _Setting | None = None
        self._keeping = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._orchestrator: InfrastructureOrchestrator | None = None
        self.events: deque[PolicyEvent] = deque(maxlen=_EVENTS)

    # --- deciding --------------------------------------------------------------------------------

    @property
    def mode(self) -> Mode:
        """Who decides."""
        return self._setting.mode

    @property
    def bundle(self) -> str:
        """Where the candidate comes from; empty: there is none."""
        return self._setting.bundle

    @property
    def name(self) -> str:
        """Of who decides: the rule, or the candidate if it decides at all."""
        candidate = None if self._setting.by_rule else self._candidate
        if candidate is not None:
            return candidate.name
        return self._rule_name or type(self.fallback).__name__

    @property
    def placing_rule(self) -> Rule | None:
        """The rule by which jobs are placed now; None: there is none."""
        by_rule = self._setting.by_rule
        return self.fallback.rule if by_rule and isinstance(self.fallback, RulePolicy) else None

    @property
    def stand_in(self) -> Rule | None:
        """The rule that plays where the candidate cannot be played."""
        return self.fallback.rule if isinstance(self.fallback, RulePolicy) else None

    @property
    def understudy(self) -> Understudy | None:
        """Who plays in the place of a candidate that decides at every point; None: nobody can."""
        setting = self._setting
        return self.understudy_of(setting.bundle) if setting.mode == Mode.ACTIVE else None

    def understudy_of(self, bundle: str) -> Understudy | None:
        """Who plays in the place of a bundle; None: nobody can, or it is not the candidate."""
        candidate = self._candidate
        if candidate is None or bundle != self._setting.bundle:
            return None
        policy = candidate.asker.policy
        return policy.understudy if isinstance(policy, Understood) else None

    @property
    def _rule_name(self) -> str | None:
        return self.fallback.rule.name if isinstance(self.fallback, RulePolicy) else None

    @property
    def sizes(self) -> Sized:
        """What of the cluster's size a candidate decides on, or would."""
        candidate = None if self._setting.mode == Mode.FALLBACK else self._candidate
        policy = None if candidate is None else candidate.asker.policy
        return policy.sizes if isinstance(policy, SizingPolicy) else Sized()

    def sized(self, since: int) -> Sized:
        """The same if a candidate did at an entry from ``since`` on: else that is left undone."""
        return self.sizes if self._sized_at >= since else Sized()

    def admit(self, spec: JobSpec) -> JobSpec:
        """A job as it is submitted: as the rule has it."""
        return self.fallback.admit(spec) if isinstance(self.fallback, RulePolicy) else spec

    def decide(self, snapshot: Snapshot) -> Plan:
        """The same as :meth:`plan`."""
        return self.plan(snapshot)

    def plan(self, snapshot: Snapshot) -> Plan:
        """What whoever is in charge wants, until it waits; the snapshot is spoilt."""
        self._now_ms = snapshot.now_ms
        setting, candidate = self._setting, self._candidate
        self._completions.read(snapshot)
        if candidate is None or setting.mode == Mode.FALLBACK:
            return considered(self.fallback, snapshot).plan
        if setting.mode == Mode.SHADOW:
            return self._decide_beside(candidate, snapshot)
        breach = self._completions.breach(setting.baseline, self.guards)
        if breach:
            self._give_up(candidate, breach)
        elif setting.mode == Mode.ACTIVE or self._is_canary(snapshot.entry, setting.share):
            plan = self._let_decide(candidate, snapshot)
            if plan is not None:
                return plan
        return considered(self.fallback, snapshot).plan

    def _decide_beside(self, candidate: _Candidate, snapshot: Snapshot) -> Plan:
        """The rule decides, and the candidate is asked afterwards."""
        if not self._beside.idle:  # it is passed over
            return considered(self.fallback, snapshot).plan
        untouched = copy_snapshot(snapshot, self._trial_room)
        self._trial_room = untouched.state
        plan = considered(self.fallback, snapshot).plan

        def shadow(mine: Snapshot) -> None:
            asked = copy_snapshot(mine)
            answer = Asker(candidate.twin, None).ask(asked)
            self._note(candidate, mine, answer, Mode.SHADOW, rule=self._sized_plan(mine, plan))
            self._compare(candidate, mine, plan, answer.considered)

        self._beside.offer(untouched, shadow)
        return plan

    def _let_decide(self, candidate: _Candidate, snapshot: Snapshot) -> Plan | None:
        """The candidate's plan, if it comes in time and is legal."""
        mode, begun = self.mode, time.perf_counter()
        asked = copy_snapshot(snapshot, self._asked_room)
        self._asked_room = asked.state
        answer = candidate.asker.ask(asked)
        if candidate.asker.busy:
            self._asked_room = None  # it is at work in there
        answer = self._checked(answer, snapshot)
        answer = replace(answer, seconds=time.perf_counter() - begun)
        if answer.verdict != Verdict.TAKEN or answer.considered is None:
            self._note(candidate, snapshot, answer, mode)
            return None
        plan = answer.considered.plan
        if snapshot.state.rows[0]["scaling_open"]:
            self._sized_at = snapshot.entry

        def compare(mine: Snapshot) -> None:
            rule = considered(self.fallback, copy_snapshot(mine)).plan
            sized = self._sized_plan(mine, rule)
            self._note(candidate, mine, answer, mode, rule=sized)
            self._compare(candidate, mine, rule, answer.considered)

        compares = self._comparer is not None and self._comparer.due
        if compares and self._beside.idle:
            self._beside.offer(snapshot, compare)
        else:
            self._note(candidate, snapshot, answer, mode)
        return plan

    def _checked(self, answer: Answer, snapshot: Snapshot) -> Answer:
        """The answer, after its plan was tried on a copy by the engine's own executor."""
        if answer.considered is None:
            return answer
        plan = answer.considered.plan
        try:
            check_message(Decide(plan))
        except QuartermasterError as error:
            return Answer(Verdict.ILLEGAL, answer.seconds, answer.considered, str(error))
        trial = copy_snapshot(snapshot, self._trial_room)
        self._trial_room = trial.state
        if any(isinstance(action, ScaleFleet) for action in plan.actions):
            trial.show_fleet()
        index = {name: j for j, name in enumerate(snapshot.job_ids) if name}
        executor = PlanExecutor(trial.state, 0, lambda name: index.get(name, NO_JOB), trial.prefer)
        for action in plan.actions:
            reason = executor.carry_out(Plan((action,)), rehearsed=True)
            if reason != Reason.OK:
                detail = f"{text_of(action)}: {reason.name.lower()}"
                return Answer(Verdict.ILLEGAL, answer.seconds, answer.considered, detail)
        return answer

    def _sized_plan(self, snapshot: Snapshot, plan: Plan) -> Plan:
        """The rule's plan at a tick, with the sizes that the autoscaler's arithmetic gives.

        Both go by the same demand; where nodes are of several kinds, or work does not pack, what
        the autoscaler rehearses may be another number.
        """
        sizes = self.sizes
        if not snapshot.state.rows[0]["scaling_open"] or sizes == Sized():
            return plan
        return Plan((*sizes_of(copy_snapshot(snapshot), sizes), *plan.actions))

    def _is_canary(self, entry: int, share: float) -> bool:
        """Whether the candidate decides at this entry: a draw that everybody can repeat."""
        drawn = hashlib.blake2b(f"{self._seed} {entry}".encode(), digest_size=8).digest()
        return int.from_bytes(drawn, "big") < share * 2**64

    # --- what is seen of it ----------------------------------------------------------------------

    def _compare(
        self, candidate: _Candidate, mine: Snapshot, rule: Plan, thought: Considered | None
    ) -> None:
        """Estimate what the candidate would gain here, if that is due."""
        comparer = self._comparer
        if thought is None or comparer is None or not comparer.due:
            return
        comparer.compare(mine, rule, thought.plan)
        breach = comparer.breach(self.guards)
        if breach and self.mode in (Mode.CANARY, Mode.ACTIVE):
            self._give_up(candidate, breach)

    def _note(
        self,
        candidate: _Candidate,
        snapshot: Snapshot,
        answer: Answer,
        mode: Mode,
        rule: Plan | None = None,
    ) -> None:
        """Count a decision, keep it, and take the candidate out if it was one too many."""
        verdict, thought = answer.verdict, answer.considered
        if mode == Mode.SHADOW and verdict == Verdict.TAKEN:
            verdict = Verdict.SHADOWED
        agreed = None
        if thought is not None and rule is not None:
            agreed = essence_of(thought.plan) == essence_of(rule)
        with self._lock:
            candidate.latencies_ms.append(1000 * answer.seconds)
            if agreed is not None:
                candidate.points += 1
                candidate.agreed += agreed
            breach = candidate.conduct.note(verdict, answer.detail)
        if self._log is not None:
            self._log.add(_record(candidate, snapshot, answer, mode, verdict, agreed))
        if breach:
            self._give_up(candidate, breach)

    def _give_up(self, candidate: _Candidate, reason: str) -> None:
        """Have the rule decide from now on: a guard says so."""
        with self._lock:
            if self._candidate is not candidate:
                return  # it is gone already
            before = self._setting
            self._become(self._rule_alone(self._now_ms, reason), None)
        _log.warning("the policy of %s is taken out of charge: %s", before.bundle, reason)
        self._keep_later()

    def _become(self, setting: _Setting, candidate: _Candidate | None) -> None:
        """Change the mode, and have it told; the lock is held."""
        gone, self._candidate = self._candidate, candidate
        if not (self._setting.by_rule and setting.by_rule):
            self._completions.forget()  # somebody else decides
        self._setting = setting
        self._comparer = None if candidate is None else Comparer(candidate.play, self._share)
        if gone is not None and gone is not candidate:
            gone.asker.stop()
        told = setting.since_ms, setting.mode.value, setting.bundle, setting.reason
        self.events.append(PolicyEvent(*told))

    def _rule_alone(self, now_ms: int, reason: str) -> _Setting:
        return _Setting(since_ms=now_ms, reason=reason, baseline=self._baseline)

    @property
    def _baseline(self) -> float | None:
        """The mean under the rule: now if it decides and enough jobs have ended, else before."""
        now = self._completions.mean if self._setting.by_rule else None
        return self._setting.baseline if now is None else now

    async def _keep(self) -> None:
        """Have it kept who decides now, unless it is."""
        async with self._keeping:
            setting = self._setting
            if setting is not self._kept:
                await self._tell(setting)
                self._kept = setting

    async def _tell(self, setting: _Setting) -> None:
        if self._remember is not None:
            await self._remember({**setting.as_dict(), "rule": self._rule_name})

    def _keep_later(self) -> None:
        """Have it kept in the event loop, from any thread."""
        if self._loop is not None and not self._loop.is_closed():
            asyncio.run_coroutine_threadsafe(self._keep_surely(), self._loop)

    async def _keep_surely(self) -> None:
        """The same, where nobody waits for it: tried again until somebody else leads."""
        while True:
            try:
                return await self._keep()
            except NotLeaderError:
                return None
            except Exception:
                _log.exception("it cannot be kept yet who decides")
            await asyncio.sleep(_AGAIN_S)

    # --- what people ask for ---------------------------------------------------------------------

    async def open(
        self,
        remember: Remember | None = None,
        known: Mapping[str, Any] | None = None,
    ) -> None:
        """Begin, or go on as it was before a restart.

        Parameters
        ----------
        remember : coroutine function or None, optional
            Keeps what is set over restarts, and tells of it; called in this event loop.
        known : mapping or None, optional
            What was kept last. Its bundle is loaded again, and if it is gone or another one now,
            the rule decides: the one that did before, unless this was made with one.
        """
        self._loop, self._remember = asyncio.get_running_loop(), remember
        known = known or {}
        named = known.get("rule")
        if self._own_rule and named != self._rule_name:
            await self._keep()
        else:
            self._setting = replace(self._setting, baseline=known.get("baseline"))
            if not self._own_rule and named in RULES:
                self.fallback = policy_of(RULES[named])
        mode = Mode(known.get("mode", Mode.FALLBACK.value))
        if mode == Mode.FALLBACK:
            return
        bundle, digest = str(known["bundle"]), str(known["digest"])
        told, share = f"as before the restart: {bundle}", float(known.get("share", 0.0))
        wanted = _Setting(mode, bundle, digest, share, reason=told)
        try:
            await self._install(wanted, exactly=True)
        except Exception as error:
            await self.fall_back(f"the bundle {bundle} does not go on after a restart: {error}")

    async def attach(self, orchestrator: InfrastructureOrchestrator) -> None:
        """Go on as the log of an orchestrator says, and have changes told and kept there."""

        async def tell(setting: dict[str, Any]) -> None:
            await orchestrator.announce("policy", setting["mode"], **setting)

        self._orchestrator = orchestrator
        await self.open(tell, orchestrator.announced("policy"))

    async def shadow(self, bundle: str, reason: str = "") -> dict[str, Any]:
        """Ask the policy of a bundle beside the rule; nothing is done about its answers.

        Raises
        ------
        QuartermasterError
            If the bundle cannot be loaded, or does not fit; who decided before goes on.
        """
        told = reason or f"shadow of {bundle}"
        return await self._install(_Setting(Mode.SHADOW, bundle, reason=told))

    async def canary(self, bundle: str, share: float, reason: str = "") -> dict[str, Any]:
        """Let the policy of a bundle decide at a share of the decision points."""
        if not 0.0 < share < 1.0:
            raise ConfigurationError(
                f"canary: 'share' is {share}; give more than 0 and less than 1, or activate it"
            )
        told = reason or f"{share:.0%} of the decisions go to {bundle}"
        return await self._install(_Setting(Mode.CANARY, bundle, share=share, reason=told))

    async def activate(self, bundle: str, reason: str = "") -> dict[str, Any]:
        """Let the policy of a bundle decide."""
        told = reason or f"{bundle} is in charge"
        return await self._install(_Setting(Mode.ACTIVE, bundle, share=1.0, reason=told))

    async def fall_back(self, reason: str) -> dict[str, Any]:
        """Let the rule decide, at once: a bundle that is being loaded is not put in charge.

        If it cannot be kept over a restart now, that is tried again until it is.
        """
        self._loop = asyncio.get_running_loop()
        with self._lock:
            self._recalls += 1
            self._become(self._rule_alone(self._time_ms(), reason), None)
        try:
            await self._keep()
        except NotLeaderError:
            raise
        except Exception:
            _log.exception("it cannot be kept yet that the rule decides")
            self._keep_later()
        return self.status()

    async def _install(self, wanted: _Setting, *, exactly: bool = False) -> dict[str, Any]:
        """Load a bundle and put it where it is wanted; exactly the one of that digest, or none."""
        recalls = self._recalls
        async with self._changing:
            self._loop = asyncio.get_running_loop()
            candidate = await asyncio.to_thread(self._candidate_of, wanted.bundle, self._samples())
            if exactly and candidate.digest != wanted.digest:
                raise ConfigurationError(
                    f"it is another one than before the restart: {candidate.digest}, "
                    f"not {wanted.digest}"
                )
            setting = replace(
                wanted,
                digest=candidate.digest,
                since_ms=self._time_ms(),
                baseline=self._baseline,
            )
            async with self._keeping:  # whoever wants the rule meanwhile has it kept after this
                self._require_wanted(setting, recalls)
                try:
                    await self._tell(setting)
                except BaseException:
                    self._kept = None  # it may be in the log: who decides is told once more
                    self._keep_later()
                    raise
                with self._lock:
                    self._require_wanted(setting, recalls)
                    self._become(setting, candidate)
                    self._kept = setting
        return self.status()

    def _require_wanted(self, setting: _Setting, recalls: int) -> None:
        if self._recalls != recalls:
            raise ConfigurationError(
                f"policy: bundle '{setting.bundle}' was not put in charge: somebody wanted the "
                "rule to decide while it was loaded; ask again"
            )

    def _samples(self) -> list[Snapshot]:
        """The cluster as it is, for whoever has to get used to its size."""
        if self._orchestrator is None:
            return []
        return [self._orchestrator.engine.snapshot() for _ in range(2)]

    def _candidate_of(self, bundle: str, samples: Sequence[Snapshot]) -> _Candidate:
        if self._load is None:
            raise ConfigurationError(
                "policy: this server has nobody who loads bundles; start it with 'load_policy'"
            )
        try:
            policy, twin = self._load(bundle), self._load(bundle)
        except (ConfigurationError, SchemaMismatchError):
            raise
        except Exception as error:
            raise ConfigurationError(
                f"policy: bundle '{bundle}' cannot be put in charge: {error}"
            ) from error
        for one in (policy, twin):
            if isinstance(one, LeavesJobs):
                one.leave_jobs_to(self.fallback)
        semantics = getattr(policy, "config", None)
        for one in (policy, twin):  # the first decision of each loads kernels: not to be late
            load_kernels(one, semantics)
        for one, snapshot in zip((policy, twin), samples, strict=False):
            one.decide(snapshot)  # and asks for memory as large as the cluster
        rule = self.fallback.rule if isinstance(self.fallback, RulePolicy) else RULES["priority"]
        play = ForwardPlay(rule, twin)
        play.load(semantics)
        return _Candidate(policy, twin, self.guards, play)

    def _time_ms(self) -> int:
        return self._clock.now_ms() if self._clock is not None else self._now_ms

    # --- what is told ----------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """Who decides, since when and why; of a candidate how it does, beside the rule."""
        with self._lock:
            setting, candidate, comparer = self._setting, self._candidate, self._comparer
            told = {
                **setting.as_dict(),
                "rule": self._rule_name,
                "guards": self.guards.as_dict(),
                "completions": self._completions.total,
                "mean_bounded_slowdown": self._completions.mean,
                "results_guard": _ON if self._baseline is not None else _NO_BASELINE,
                "decisions_dropped": 0 if self._log is None else self._log.dropped,
                "decision_bytes": 0 if self._log is None else self._log.bytes,
                "events": [vars(event) for event in self.events],
            }
            if candidate is None or comparer is None:
                return {**told, "candidate": None}
            latencies = np.array(candidate.latencies_ms)
            counts = {verdict.value: n for verdict, n in candidate.conduct.counts.items()}
            points, agreed = candidate.points, candidate.agreed
        p50, p99 = np.percentile(latencies, (50, 99)).tolist() if len(latencies) else (None, None)
        gains = comparer.gains
        told["candidate"] = {
            "name": candidate.name,
            "digest": candidate.digest,
            "verdicts": counts,
            "latency_ms": {"p50": p50, "p99": p99},
            "points": points,
            "agreement": agreed / points if points else None,
            "passed_over": self._beside.passed_over,
            "gain": {k: None if gain is None else gain.as_dict() for k, gain in gains.items()},
        }
        return told

    def decisions(self, limit: int = 100, before: int | None = None) -> list[LoggedDecision]:
        """Logged decisions, newest first; those with numbers below ``before``."""
        return [] if self._log is None else self._log.last(limit, before)

    def drain(self, timeout_s: float = 10.0) -> bool:
        """Wait until all decisions so far are compared and written; whether they are."""
        compared = self._beside.drain(timeout_s)
        return compared and (self._log is None or self._log.flush(timeout_s))

    def close(self) -> None:
        """Ask and compare no more; the log is closed by whoever opened it."""
        self._beside.stop()
        if self._candidate is not None:
            self._candidate.asker.stop()


def _digest_of(policy: Policy) -> str:
    return policy.digest if isinstance(policy, LearnedPolicy) else ""


def _record(
    candidate: _Candidate,
    snapshot: Snapshot,
    answer: Answer,
    mode: Mode,
    verdict: Verdict,
    agreed: bool | None,
) -> DecisionRecord:
    thought = answer.considered or Considered(Plan())
    return DecisionRecord(
        entry=snapshot.entry,
        time_ms=snapshot.now_ms,
        point=snapshot.point,
        state=state_digest(snapshot),
        mode=mode.value,
        policy=candidate.name,
        digest=candidate.digest,
        verdict=verdict.value,
        latency_us=round(1e6 * answer.seconds),
        agreed=agreed,
        plan=tuple(text_of(action) for action in thought.plan.actions),
        detail=answer.detail,
        choices=thought.choices,
    )
