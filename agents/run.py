"""What scripts run: suites by kind, and the judging that a training ends with.

Here results are shown, written and drawn; what makes them knows nothing of files and pictures.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console

from agents.build import (
    Evaluation,
    build_evaluation,
    build_packing_suite,
    build_problem,
    build_speed_suite,
    build_trainer,
    judging_suite,
)
from agents.bundle import (
    EvaluationCard,
    load_bundle,
    read_manifest,
    restore_environment,
    write_card,
)
from agents.evaluation.pods import (
    PackingResult,
    PackingSuite,
    packing_card,
    print_packing,
    run_packing,
    write_packing,
)
from agents.evaluation.report import (
    Report,
    add_to_card,
    card_tables,
    make_report,
    print_report,
    training_card,
    write_report,
)
from agents.evaluation.series import rule_series
from agents.evaluation.suite import Suite, label, run_suite
from agents.files import write_json
from agents.linear.policy import LinearScorer
from agents.live import LiveRun, run_live
from agents.planning.annealed import AnnealedSchedule, Annealing
from agents.planning.lookahead import LookaheadPolicy, advised_scorer
from agents.plots.results import draw_comparison, draw_outcomes, draw_pictures, draw_speed
from agents.plots.series import draw_packing, draw_series
from agents.problem import BatchPolicy, Problem, RowPolicy
from agents.program import choices, command_line, plain, resume_command, run_folder
from agents.seeing.show import show_window
from agents.settings import check_kind, check_number, check_seed
from agents.speed.table import print_speed, run_speed_suite, write_speed
from agents.training import Compilation, Stopped, TableTracker, TrainingResult, compilation
from envs.config import PLACEMENT, EnvConfig
from envs.workloads import Trace
from orchestrator.errors import ConfigurationError
from orchestrator.scheduling.ahead import LookaheadConfig
from orchestrator.scheduling.rules import Rule, rule_named

__all__ = ["SuiteKind", "evaluate", "run_benchmark", "train"]

_SCRIPT = "scripts/train.py"
_JUDGING = "scripts/evaluate.py"
_WORTH_SAYING_S = 1.0


class SuiteKind(StrEnum):
    """What a suite does, as its ``kind`` says."""

    EVALUATION = "evaluation"
    PACKING = "packing"
    SPEED = "speed"


class _Judge(Protocol):
    """Judges a trained policy; writes what it finds to ``output``, and the bundle's card."""

    def __call__(self, result: TrainingResult, output: Path, console: Console) -> None:
        """Judge."""
        ...


# --- Training ------------------------------------------------------------------------------------


def train(cfg: DictConfig, console: Console) -> float:
    """Train the agent of a config, then judge it on what it never saw.

    Parameters
    ----------
    cfg : DictConfig
        Of ``conf/train.yaml``. Results are written to ``output``, which no other run writes to.
        With a ``suite`` of packing it is that suite's orders that judge, else the test windows of
        the problem, unless ``evaluation`` is null.
    console : Console

    Returns
    -------
    float
        The policy's score in validation, its relative cost: what sweepers minimise.

    Raises
    ------
    Stopped
        When a signal ended training; the best so far is kept.
    SystemExit
        With code 1, if there is a ``live`` run and not all of its jobs ended as they should.
    """
    check_seed("config", cfg.seed)
    live = instantiate(cfg.live) if cfg.get("live") else None
    resume = bool(cfg.agent.get("resume"))
    taken = run_folder(cfg, _SCRIPT, record=True, resume=resume)
    with taken as output, compilation() as compiled:
        problem = build_problem(cfg)
        judge = _judge_of(cfg, problem)
        trainer = build_trainer(cfg.agent)
        jobs = f"{problem.trace.name}, {len(problem.trace):,} jobs"
        console.print(f"[bold]{cfg.name}[/]: {jobs}, seed {cfg.seed}, results in {output}")
        tracker = TableTracker(output / "history.csv", instantiate(cfg.tracker), resume)
        try:
            tracker.describe(plain(cfg), [f"{group}={name}" for group, name in choices().items()])
            result = trainer.train(problem, tracker, output)
            _say_how(result, compiled, console)
            _write_result(result, compiled, output)
            _check_stopped(result, output, console)
            judge(result, output, console)
            tracker.publish(output)
        except KeyboardInterrupt:
            if any(output.glob("checkpoint.*")):
                command = resume_command(_SCRIPT, output)
                console.print(f"go on with: {command}", markup=False, soft_wrap=True)
            raise
        finally:
            tracker.close()
        console.print(f"written to {output}: the bundle, tables (.csv, .json), pictures (.png)")
        if live is not None:
            _go_live(live, result, output, console)
        return result.score


def _say_how(result: TrainingResult, compiled: Compilation, console: Console) -> None:
    """Say what a reader of the score has to know of the training."""
    if compiled.seconds >= _WORTH_SAYING_S:
        console.print(
            f"kernels were compiled for {compiled.seconds:.0f} s, which no budget counts: the next "
            "run does without"
        )
    if result.updates == 0:
        console.print(
            "[bold]not trained[/]: the budget was spent before the first update, so the policy is "
            "as it began; raise 'agent.budget_seconds'"
        )


def _write_result(result: TrainingResult, compiled: Compilation, output: Path) -> None:
    """Write what came of a training, for whoever compares it with others."""
    last = result.history[-1]
    content = {
        "score": result.score,
        "seconds": last["seconds"],
        "steps": last["steps"],
        "updates": result.updates,
        "compiled_seconds": round(compiled.seconds, 1),
        "stopped": result.stopped,
    }
    write_json(output / "result.json", content)


def _go_live(run: LiveRun, result: TrainingResult, output: Path, console: Console) -> None:
    """Let what was learned decide for real jobs."""
    console.print("\n[bold]live[/]: the policy decides for real jobs on agents of this machine")
    bundle = str(result.bundle)
    if not run_live(run, output / "live", console, bundle=bundle, pictures=output):
        console.print("[bold red]not all jobs ended as they should[/]")
        sys.exit(1)


def _check_stopped(result: TrainingResult, output: Path, console: Console) -> None:
    """End the run where its training was stopped."""
    if result.stopped is not None:
        steps = int(result.history[-1]["steps"])
        console.print(f"stopped at step {steps:,}; the best so far is kept in {result.bundle}")
        raise Stopped(result.stopped)


def _judge_of(cfg: DictConfig, problem: Problem) -> _Judge:
    """The judge of a training, before it begins: what is wrong in a suite is said then."""
    if cfg.get("suite") is not None:
        suite, trace = build_packing_suite(cfg.suite)
        return partial(_judge_packing, cfg, problem, suite, trace)
    if cfg.evaluation is None:
        return _judge_nothing
    return partial(_judge_windows, cfg, problem, judging_suite(cfg, problem))


def _judge_nothing(result: TrainingResult, output: Path, console: Console) -> None:
    console.print("not judged: 'evaluation' is null")


def _judge_windows(
    cfg: DictConfig,
    problem: Problem,
    suite: Suite,
    result: TrainingResult,
    output: Path,
    console: Console,
) -> None:
    judged = problem.judged
    outcomes = run_suite(suite, judged, [result.policy], console)
    report = make_report(suite, judged, outcomes)
    print_report(report, console)
    write_report(report, output, plain(cfg))
    draw_pictures(output, report, result.history, f"{cfg.name}, seed {cfg.seed}")
    card = training_card(report, cfg.name, command_line(_SCRIPT), [_origin(cfg, problem)])
    write_card(result.bundle, card)


def _judge_packing(
    cfg: DictConfig,
    problem: Problem,
    suite: PackingSuite,
    trace: Trace,
    result: TrainingResult,
    output: Path,
    console: Console,
) -> None:
    with console.status("packing"):
        results = run_packing(suite, trace, None, [result.policy], problem.config)
    print_packing(suite, trace, results, console)
    _publish_packing(suite, trace, results, output)
    tables, notes = (packing_card(suite, trace, results),), (_origin(cfg, problem),)
    write_card(result.bundle, EvaluationCard(cfg.name, command_line(_SCRIPT), tables, notes))


def _origin(cfg: DictConfig, problem: Problem) -> str:
    """What a policy was trained on, for its card."""
    jobs = f"{problem.trace.name}, {len(problem.trace):,} jobs"
    return f"Trained on the first {cfg.task.train:.0%} of {jobs}."


# --- Suites --------------------------------------------------------------------------------------


def run_benchmark(cfg: DictConfig, console: Console) -> bool:
    """Run a suite of any kind, ``suite.kind``: an evaluation unless it says otherwise.

    Parameters
    ----------
    cfg : DictConfig
        Of ``conf/benchmark.yaml``. Results are written to ``output``, unless it is null.
    console : Console

    Returns
    -------
    bool
        Whether all holds that the suite demands.

    Raises
    ------
    ConfigurationError
        If there are no suites of that kind.
    """
    kind = cfg.suite.get("kind", SuiteKind.EVALUATION)
    if kind not in _RUNNERS:
        raise ConfigurationError(f"suite: 'kind' is '{kind}'; choose from {', '.join(_RUNNERS)}")
    return _RUNNERS[kind](cfg, console)


def evaluate(cfg: DictConfig, console: Console) -> bool:
    """Play a suite's windows under its rules and under the policies of bundles.

    ``cfg`` has ``suite``, ``workload``, ``env``, ``scenario``, ``bundle``, ``card``,
    ``processes`` and ``output``, and may have ``history`` and ``lookahead``: each policy is then
    played as it is, and thinking ahead as are the rules of ``suite.ahead``, with the training part
    of the history, or else of the workload, as its record. With ``annealed``, schedules that know
    all jobs to come stand beside. ``animate`` and ``explain`` show one window, see
    :func:`agents.seeing.show.show_window`.
    """
    with _results_folder(cfg) as folder:
        check_number("config", "processes", cfg.processes, 1)
        bundles = _bundles(cfg)
        schema = instantiate(cfg.env).schema  # before a trace is read: what is wrong is said soon
        loaded = [load_bundle(path, schema) for path in bundles]
        made = build_evaluation(cfg)
        suite, problem = made.suite, made.problem
        policies = _by_variant(cfg, made, list(zip(bundles, loaded, strict=True)))
        results = run_suite(suite, problem, policies, console, made.history, cfg.processes)
        report = make_report(suite, problem, results)
        print_report(report, console)
        if folder is not None:
            write_report(report, folder, plain(cfg))
            _draw(report, problem, folder)
            console.print(f"written to {folder}: tables (.csv, .md), summary.json, pictures (.png)")
        show_window(cfg, made, policies, folder, console)
        if cfg.card:
            for path in bundles:
                add_to_card(path, card_tables(report))
    return True


def _by_variant(
    cfg: DictConfig, made: Evaluation, bundles: Sequence[tuple[Path, BatchPolicy]]
) -> dict[str, list[BatchPolicy | RowPolicy]]:
    """Who plays a variant: policies as they are, these and rules thinking ahead, who knows all."""
    suite, found = made.suite, dict[str, list[BatchPolicy | RowPolicy]]()
    known = list[RowPolicy]()
    if cfg.get("annealed") is not None:
        known = [AnnealedSchedule(Annealing(check_number("config", "annealed", cfg.annealed, 0)))]
    for variant in suite.variants:
        here = [policy for path, policy in bundles if _is_played(suite, variant, path)]
        rules = [_who_is_ahead(name, suite, made.problem.config) for name in suite.ahead]
        found[variant] = [*here, *_thinking_ahead(cfg, made, [*here, *rules]), *known]
    return found


def _who_is_ahead(name: str, suite: Suite, config: EnvConfig) -> Rule | LinearScorer:
    """A rule that tries placements or, by ``ahead_by``, actions of all kinds."""
    if suite.ahead_by:
        return advised_scorer(name, suite.ahead_by, config)
    return rule_named(name)


def _is_played(suite: Suite, variant: str, bundle: Path) -> bool:
    """Whether a bundle's policy is played in a variant: at home, or wherever it can be."""
    if not suite.at_home:
        return True
    return suite.is_home(variant, restore_environment(read_manifest(bundle).environment))


def _thinking_ahead(
    cfg: DictConfig, made: Evaluation, policies: Sequence[BatchPolicy | Rule]
) -> list[LookaheadPolicy]:
    """The same policies, thinking ahead as ``lookahead`` says; none without it.

    Their record is the training part of the history or, without one, of the workload.
    """
    if not cfg.get("lookahead"):
        return []
    past = made.problem.trace if made.history is None else made.history
    first, stop = made.suite.split_of(len(past)).region("train")
    settings: LookaheadConfig = instantiate(cfg.lookahead)
    record, before = past.requests[first:stop], made.history is None
    return [LookaheadPolicy(one, settings, record, before=before) for one in policies]


def _bundles(cfg: DictConfig) -> list[Path]:
    """The folders of ``bundle``: none, one or several."""
    given = plain(cfg.bundle)
    paths = given if isinstance(given, list) else [] if given is None else [given]
    for path in paths:
        check_kind("config", "bundle", path, str)
    return [Path(path) for path in paths]


@contextmanager
def _results_folder(cfg: DictConfig) -> Iterator[Path | None]:
    """The folder of an evaluation's results, its alone; None: they are shown only."""
    if cfg.output is None:
        yield None
        return
    with run_folder(cfg, _JUDGING) as folder:
        yield folder


def _draw(report: Report, problem: Problem, folder: Path) -> None:
    """Pictures of an evaluation; of every variant, those that a suite has the data for."""
    suite = report.suite
    for variant, pairs in report.comparisons.items():
        end = f"_{variant}.png" if variant else ".png"
        if pairs:
            draw_comparison(folder / f"comparison{end}", report, variant)
        if suite.columns:
            draw_outcomes(folder / f"outcomes{end}", report, variant)
        if suite.series:
            _draw_course(report, variant, problem, folder / f"series{end}")


def _draw_course(report: Report, variant: str, problem: Problem, path: Path) -> None:
    suite, group = report.suite, report.results[variant]
    windows = suite.windows_of(variant, problem)
    wanted = label(suite.series[0], variant)
    shown = next((result for result in group if result.policy == wanted), group[0])
    # The window in the middle: neither the easiest nor the hardest.
    window = int(np.argsort(shown.values[suite.metric])[len(windows) // 2])
    series = [rule_series(rule, windows, window) for rule in suite.series]
    draw_series(path, series, f"suite {suite.name}, window {window} of {len(windows)}")


def _pack(cfg: DictConfig, console: Console) -> bool:
    with _results_folder(cfg) as folder:
        suite, trace = build_packing_suite(cfg.suite)
        bundles = _bundles(cfg)
        schema = PLACEMENT.for_nodes(len(trace.nodes)).schema
        policies = [load_bundle(path, schema) for path in bundles]
        with console.status("packing") as status:
            results = run_packing(
                suite, trace, lambda policy: status.update(f"packing by {policy}"), policies
            )
        print_packing(suite, trace, results, console)
        if folder is not None:
            _publish_packing(suite, trace, results, folder)
        if cfg.card:
            for path in bundles:
                add_to_card(path, [packing_card(suite, trace, results)])
    return True


def _publish_packing(
    suite: PackingSuite, trace: Trace, results: list[PackingResult], folder: Path
) -> None:
    write_packing(suite, trace, results, folder)
    published = suite.published_for(trace)
    draw_packing(folder / "allocation.png", results, {} if published is None else published.means)


def _measure(cfg: DictConfig, console: Console) -> bool:
    with _results_folder(cfg) as folder:
        suite = build_speed_suite(cfg.suite)
        outcomes = []
        with console.status("measuring") as status:
            for outcome in run_speed_suite(suite):
                outcomes.append(outcome)
                status.update(f"measuring, {len(outcomes)} of {len(suite.measures)} done")
        holds = print_speed(suite, outcomes, console)
        if folder is not None:
            write_speed(suite, outcomes, folder)
            if any(item.measure is not None and item.name in suite.targets for item in outcomes):
                draw_speed(folder / "speed.png", suite, outcomes)
    return holds


_RUNNERS: Mapping[str, Callable[[DictConfig, Console], bool]] = {
    SuiteKind.EVALUATION: evaluate,
    SuiteKind.PACKING: _pack,
    SuiteKind.SPEED: _measure,
}
