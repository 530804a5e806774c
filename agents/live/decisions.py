"""A live log and what was decided on it: every decision made again, and the jobs as a trace.

The log says how the cluster was at every decision, to the last bit. The same bundle then sees and
thinks the same, so that whoever asks why something was done can ask again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from agents.deploy import BundlePolicy
from agents.files import write_csv, write_json
from agents.live.fit import FittedCosts, fit_costs, work_done_ms
from agents.live.record import LiveRecord, read_log
from agents.live.replay import PolicyOutcome, compare
from envs.workloads import Trace
from envs.workloads.trace import unplaceable
from orchestrator.clock import VirtualClock
from orchestrator.deployment import DecisionRecord, LearnedPolicy, read_decisions
from orchestrator.deployment.records import state_digest
from orchestrator.engine.engine import Engine, Outcome
from orchestrator.engine.records import request_record
from orchestrator.engine.snapshot import Snapshot
from orchestrator.errors import ConfigurationError, QuartermasterError
from orchestrator.foundations.sqlite import SQLiteLog
from orchestrator.happenings import ANNOUNCED
from orchestrator.kernels.state.codes import JobKind
from orchestrator.kernels.state.records import REQUEST_DTYPE
from orchestrator.live.journal import Journal, settings_in
from orchestrator.messages import Configure, Entry, Register

__all__ = ["ReplayRun", "Reproduction", "live_trace", "reproduce", "run_replay"]


_MS_PER_HOUR = 3_600_000
_COLUMNS = (
    *("entry", "time_ms", "mode", "policy", "verdict", "choices", "result"),
    *("same_state", "same_observations", "same_scores", "same_choices"),
)

Load = Callable[[str], LearnedPolicy]


@dataclass(frozen=True)
class Reproduction:
    """A logged decision, made again.

    Parameters
    ----------
    record : DecisionRecord
        The decision as it was logged.
    result : str
        ``same``; ``differs``; ``no answer``, where nothing came in time; or why it could not be
        made again: ``cut`` (the log begins later) or ``no bundle`` (of that digest).
    state, observations, scores, choices : bool
        Whether these were the same, bit for bit.
    """

    record: DecisionRecord
    result: str
    state: bool = False
    observations: bool = False
    scores: bool = False
    choices: bool = False

    def row(self) -> tuple[Any, ...]:
        """As the table has it; see ``_COLUMNS``."""
        one = self.record
        told = (one.entry, one.time_ms, one.mode, one.policy, one.verdict, len(one.choices))
        same = (self.state, self.observations, self.scores, self.choices)
        return (*told, self.result, *(int(each) for each in same))


@dataclass
class _Bundles:
    """Policies by their digest, of the bundles that the log names and of those that are given."""

    load: Load
    given: tuple[str, ...]
    found: dict[str, LearnedPolicy | None] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)

    def note(self, body: object) -> None:
        """An entry of the log may say where a bundle is."""
        if not (isinstance(body, Configure) and body.subject == f"{ANNOUNCED}:policy"):
            return
        if isinstance(body.value, Mapping) and body.value.get("bundle"):
            self.places[str(body.value["digest"])] = str(body.value["bundle"])

    def of(self, digest: str) -> LearnedPolicy | None:
        """The policy of a digest; None: nobody has it."""
        if digest not in self.found:
            self.found[digest] = None
            for place in (*self.given, self.places.get(digest, "")):
                if place and (policy := self._loaded(place)) is not None:
                    self.found[policy.digest] = policy
        return self.found[digest]

    def _loaded(self, place: str) -> LearnedPolicy | None:
        try:
            return self.load(place)
        except QuartermasterError:
            if place in self.given:
                raise
            return None  # it is gone, or another one now


def _again(policy: LearnedPolicy | None, snapshot: Snapshot, one: DecisionRecord) -> Reproduction:
    if not one.choices:
        same = state_digest(snapshot) == one.state
        return Reproduction(one, "no answer" if same else "differs", same)
    if policy is None:
        return Reproduction(one, "no bundle", state_digest(snapshot) == one.state)
    state = state_digest(snapshot) == one.state
    try:
        now = policy.consider(snapshot).choices
    except QuartermasterError:
        return Reproduction(one, "differs", state)
    pairs = list(zip(one.choices, now, strict=False))
    even = len(one.choices) == len(now)
    observations = even and all(then.digest == again.digest for then, again in pairs)
    scores = even and all(then.same_scores(again) for then, again in pairs)
    choices = even and all(then.chosen == again.chosen for then, again in pairs)
    whole = state and observations and scores and choices
    return Reproduction(one, "same" if whole else "differs", state, observations, scores, choices)


def reproduce(
    log: Path, decisions: Path, load: Load, given: tuple[str, ...] = ()
) -> list[Reproduction]:
    """Make every logged decision again: replay the log up to it, and ask the same bundle.

    Parameters
    ----------
    log, decisions : Path
        Of a live cluster.
    load : callable
        Makes the policy of a bundle.
    given : tuple of str, optional
        Bundles besides those that the log names, as when they were moved.

    Returns
    -------
    list of Reproduction
        In the order of the decisions.
    """
    known = [one.record for one in read_decisions(decisions)]
    waiting: dict[int, list[int]] = {}
    for at, one in enumerate(known):
        waiting.setdefault(one.entry, []).append(at)
    found: dict[int, Reproduction] = {}
    bundles = _Bundles(load, given)
    if not log.is_file():
        raise ConfigurationError(f"log: there is no file {log}; give the log of a live cluster")
    with SQLiteLog(log) as entries:
        settings = settings_in(entries)
        if settings is None:
            raise ConfigurationError(f"{log} holds no cluster; give one that a server wrote")
        engine = Engine.of(settings)

        def observe(at: int, entry: Entry, outcome: Outcome) -> None:
            bundles.note(entry.body)
            for number in waiting.pop(at + 1, ()):
                one, snapshot = known[number], engine.snapshot()
                found[number] = _again(bundles.of(one.digest), snapshot, one)

        Journal(entries, engine, VirtualClock(), lambda outcome: None, observe)
    return [found.get(at) or Reproduction(one, "cut") for at, one in enumerate(known)]


def live_trace(record: LiveRecord, name: str = "live") -> Trace:
    """The jobs of a live run as a trace, with the work that they have really done.

    Jobs that have not ended are left out, and so are services and who does not fit the nodes that
    the cluster had.

    Raises
    ------
    ConfigurationError
        If no job is left.
    """
    try:
        fitted = fit_costs(record)
    except ConfigurationError:  # nobody says how long they work: what starting them costs counts
        fitted = FittedCosts({})
    specs = [body.spec for _, body in record.happenings if isinstance(body, Register)]
    nodes = {spec.node_id: spec for spec in (*record.settings.nodes, *specs)}
    models = list(dict.fromkeys(node.gpu_model for node in nodes.values()))
    ended = [
        job
        for job in record.jobs.values()
        if job.end_ms is not None and job.runs and job.spec.kind != JobKind.SERVICE
    ]
    tenants = list(dict.fromkeys(job.spec.tenant for job in ended))
    requests = []
    for number, job in enumerate(ended):
        spec = replace(job.spec, duration_hours=work_done_ms(job, fitted) / _MS_PER_HOUR)
        submit_ms = job.submit_ms - record.begin_ms
        request = request_record(spec, submit_ms, tenants.index(spec.tenant), models)
        request["source_id"] = number
        requests.append(request)
    fit = np.concatenate(requests) if requests else np.zeros(0, REQUEST_DTYPE)
    fit = fit[~unplaceable(fit, tuple(nodes.values()))]
    if len(fit) == 0:
        raise ConfigurationError(
            "the log holds no jobs that have run and ended; let some end first"
        )
    return Trace(name, fit, tuple(tenants), tuple(nodes.values()))


@dataclass(frozen=True)
class ReplayRun:
    """What is asked for.

    Parameters
    ----------
    log : Path
        Of a live cluster.
    decisions : Path or None
        File of its decisions; None: where servers keep it, beside the log.
    bundles : tuple of str
        Where bundles are that were moved.
    trace : bool
        Whether the jobs are written as a trace, too.
    rules : tuple of str
        Rules under which the run is simulated again.
    at_most : float or None
        The run fails if jobs take longer under one of them, by this factor of the live policy's
        mean; None: it does not.
    """

    log: Path
    decisions: Path | None = None
    bundles: tuple[str, ...] = ()
    trace: bool = True
    rules: tuple[str, ...] = ()
    at_most: float | None = None

    @property
    def decided(self) -> Path:
        """File of the decisions."""
        return self.decisions or self.log.parent / "decisions" / "decisions.sqlite"


def run_replay(run: ReplayRun, folder: Path, console: Console) -> bool:
    """Make decisions again, write the trace, and tell; whether all that could be were the same."""
    fine = True
    if run.decisions is not None or run.decided.is_file():
        found = reproduce(run.log, run.decided, BundlePolicy.load, run.bundles)
        write_csv(folder / "decisions.csv", _COLUMNS, [one.row() for one in found])
        results = Counter(one.result for one in found)
        write_json(folder / "summary.json", dict(sorted(results.items())))
        console.print(_table(found))
        fine = results["differs"] == 0
    else:
        console.print(f"no decisions of candidates are beside {run.log}", highlight=False)
    if run.trace:
        trace = live_trace(read_log(run.log))
        path = folder / "trace.csv"
        trace.write_table(path)
        console.print(
            f"{len(trace)} jobs are in {path}; train on them: "
            f"scripts/train.py workload=live_log workload.path={path}",
            highlight=False,
            soft_wrap=True,
        )
    if run.rules:
        fine &= _under_others(run, folder, console)
    return fine


def _under_others(run: ReplayRun, folder: Path, console: Console) -> bool:
    """Simulate the run under other rules, and tell; whether none is worse than it may be."""
    found = compare(read_log(run.log), run.rules)
    columns = [one.name for one in fields(PolicyOutcome)]
    write_csv(folder / "policies.csv", columns, [list(vars(one).values()) for one in found])
    table = Table(box=SIMPLE_HEAD, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("policy")
    for column in ("jobs", "wait", "until the end", "95 %", "slowdown", "preempted", "sooner"):
        table.add_column(column, justify="right")
    table.add_column("later", justify="right")
    for one in found:
        seconds = (f"{value:,.1f} s" for value in (one.wait_s, one.completion_s, one.late_s))
        counts = (f"{one.preemptions}", f"{one.sooner}", f"{one.later}")
        table.add_row(escape(one.name), f"{one.jobs}", *seconds, f"{one.slowdown:.2f}", *counts)
    console.print(table)
    simulated = found[1].completion_s
    worse = [
        one.name
        for one in found[2:]
        if run.at_most is not None and one.completion_s > run.at_most * simulated
    ]
    for name in worse:
        console.print(f"{name}: above {run.at_most:g} times {simulated:,.1f} s", style="red")
    return not worse


def _table(found: list[Reproduction]) -> Table:
    table = Table(box=SIMPLE_HEAD, header_style="dim", padding=(0, 1, 0, 0))
    for column in ("policy", "mode", "result"):
        table.add_column(column)
    for column in ("decisions", "choices", "state", "observations", "scores", "choice"):
        table.add_column(column, justify="right")
    groups: dict[tuple[str, str, str], list[Reproduction]] = {}
    for one in found:
        groups.setdefault((one.record.policy, one.record.mode, one.result), []).append(one)
    for key, group in sorted(groups.items()):
        counts = [len(group), sum(len(one.record.choices) for one in group)]
        same = ("state", "observations", "scores", "choices")
        counts += [sum(getattr(one, name) for one in group) for name in same]
        table.add_row(*(escape(text) for text in key), *(f"{count:,}" for count in counts))
    return table
