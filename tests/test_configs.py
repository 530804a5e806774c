"""Every config is composed, and makes what it is for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException, InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from agents.autoscaling.study import Study
from agents.build import (
    build_packing_suite,
    build_problem,
    build_speed_suite,
    build_suite,
    env_config,
    fewer_machines,
    file_or_generator,
    judging_suite,
    scenario_config,
)
from agents.distill.train import DistillTrainer
from agents.evaluation.outcomes import METRICS
from agents.evaluation.suite import Suite
from agents.evolved.search import EvolvedTrainer
from agents.leaderboard.cells import FixedSuite
from agents.linear.train import CMATrainer
from agents.planning.lookahead import advised_scorer
from agents.ppo.train import PPOTrainer
from agents.problem import Problem
from agents.program import config_dir, plain
from agents.speed.table import SpeedSuite
from envs.config import CLUSTER, JOB_ORDERING, PLACEMENT, EnvConfig
from envs.reward import RewardConfig
from envs.scenario import Scenario
from envs.workloads import Trace
from envs.workloads.failures import FAILURE_MODELS
from orchestrator.errors import ConfigurationError, TraceError, ValidationError
from orchestrator.kernels.state.codes import JobKind, QuotaMode
from orchestrator.scheduling.ahead import LookaheadConfig
from orchestrator.scheduling.rules import rule_named

GROUPS = {
    *("workload", "env", "reward", "agent", "tracker", "suite", "experiment", "entry"),
    *("failures", "services", "fleet", "scenario", "forecaster", "rules", "live", "lookahead"),
}
ROOTS = {
    "train",
    "evaluate",
    "benchmark",
    "forecast",
    "live",
    "fidelity",
    "soak",
    "serve",
    "replay",
    "record",
    "leaderboard",
    "trace",
    "report",
    "backtest",
}
NEEDS_TRACES = {
    "lublin_256",
    "nasa_ipsc",
    "openb",
    "openb_times",
    "philly",
    "philly_curves",
    "philly_curves_unseen",
    "philly_elastic",
    "philly_elastic_unseen",
    "philly_predicted",
    "philly_quarter",
    "tiresias",
}
SMALL = {
    "lublin",
    "lublin_mixture",
    "lublin_unseen",
    "gpu_cluster",
    "gpu_cluster_elastic",
    "gpu_cluster_full",
}


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (config_dir() / group).glob("*.yaml"))


def composed(root: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose(root, list(overrides))


@pytest.fixture
def made_without_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRACES_DIR", raising=False)


def test_groups_and_roots_are_those_that_are_tested_here() -> None:
    assert {path.name for path in config_dir().iterdir() if path.is_dir()} == GROUPS
    assert {path.stem for path in config_dir().glob("*.yaml")} == ROOTS
    assert all(options(group) for group in GROUPS)


@pytest.mark.parametrize("root", sorted(ROOTS))
def test_roots_compose(root: str) -> None:
    cfg = composed(root)
    of_roots = {
        "suite",
        "agent",
        "forecaster",
        "live",
        "log",
        "soak",
        "serve",
        "fixed",
        "runs",
        "cells",
        "rule",
        "workload",
    }
    assert of_roots & set(cfg)


@pytest.mark.parametrize("name", list(composed("leaderboard").fixed))
def test_the_leaderboard_plays_suites_that_there_are(name: str) -> None:
    """Whose rules, variants and lists are there; cells are made in tests/agents/leaderboard."""
    fixed = FixedSuite.from_config(name, plain(composed("leaderboard").fixed[name]))
    cfg = composed("evaluate", *fixed.config)
    if cfg.suite.kind == "packing":
        assert len(fixed.lists) == 4
        assert list(cfg.suite.seeds) == [42, 43]
        return
    suite = build_suite(cfg.suite)
    assert suite.rules
    assert METRICS[suite.metric] == -1
    assert fixed.group in {"ordering", "cluster", "services"}


def test_the_live_run_is_made_of_jobs_that_there_are() -> None:
    run = instantiate(composed("live").live)
    kinds = [spec.kind for _, spec, _ in run.specs()]
    assert (len(kinds), kinds.count(JobKind.SERVICE)) == (13, 1)
    assert {spec.job_id for _, spec, expect in run.specs() if expect == "failed"} == {
        "answers",
        "broken",
    }
    assert [at_s for at_s, _, _ in run.specs()] == sorted(at_s for at_s, _, _ in run.specs())
    with pytest.raises(InstantiationException, match="choose from north, east, west"):
        instantiate(composed("live", "live.lose.node=south").live)


def test_the_live_run_for_fidelity_is_drawn_by_its_seed() -> None:
    first, again, other = (
        instantiate(composed("live", "live=fidelity", f"live.jobs.seed={seed}").live).specs()
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other
    assert len(first) == 41
    assert all(spec.duration_hours for _, spec, _ in first)
    with pytest.raises(InstantiationException, match="'scale' names job 'nobody'"):
        instantiate(composed("live", "live=fidelity", "live.scale.0.job=nobody").live)


@pytest.mark.parametrize("name", options("workload"))
def test_workloads(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    if name in NEEDS_TRACES:
        monkeypatch.setenv("TRACES_DIR", str(request.getfixturevalue("traces_dir")))
    else:
        monkeypatch.delenv("TRACES_DIR", raising=False)
    fewer = ["workload.jobs=2000"] if name in SMALL else []
    fewer += ["workload.orders=2"] if name == "openb" else []
    if name == "live_log":
        path = tmp_path / "trace.csv"
        instantiate(
            composed("train", "workload=gpu_cluster", "workload.jobs=50").workload
        ).write_table(path)
        fewer = [f"workload.path={path}"]
    trace = instantiate(composed("train", f"workload={name}", *fewer).workload)
    assert isinstance(trace, Trace)
    assert trace.nodes


@pytest.mark.parametrize("root", ["evaluate", "benchmark"])
@pytest.mark.parametrize("name", options("lookahead"))
def test_lookaheads(root: str, name: str) -> None:
    cfg = composed(root, f"lookahead={name}")
    if name == "none":
        assert cfg.lookahead is None
        return
    settings = instantiate(cfg.lookahead)
    assert isinstance(settings, LookaheadConfig)
    assert {str(key) for key in cfg.lookahead if not str(key).startswith("_")} == {
        field.name for field in fields(LookaheadConfig)
    }


@pytest.mark.parametrize("name", options("env"))
def test_environments(name: str) -> None:
    assert isinstance(instantiate(composed("train", f"env={name}").env), EnvConfig)


def test_environments_are_the_registered_ones() -> None:
    plain = ["reward.reference=null", "env.skip_forced=false"]
    ordering = instantiate(composed("train", *plain).env)
    assert ordering == JOB_ORDERING
    filled = instantiate(composed("train", "env=job_ordering_backfill", *plain).env)
    assert filled == replace(JOB_ORDERING, backfill=True)
    cluster = composed("train", "env=cluster", "reward=completion_time", *plain)
    assert instantiate(cluster.env) == CLUSTER
    placement = composed("train", "env=placement", "reward=allocation", *plain)
    assert instantiate(placement.env) == PLACEMENT


@pytest.mark.parametrize("name", options("reward"))
def test_rewards(name: str) -> None:
    assert isinstance(instantiate(composed("train", f"reward={name}").reward), RewardConfig)


@pytest.mark.parametrize("name", options("failures"))
@pytest.mark.parametrize("root", ["train", "evaluate"])
def test_failures(root: str, name: str) -> None:
    scenario = instantiate(composed(root, f"failures={name}").scenario)
    assert scenario == Scenario(failures=FAILURE_MODELS[name])
    if name != "none":
        cfg = composed(root, f"failures={name}", "failures.rate_scale=3", "+failures.frailty=1.5")
        model = instantiate(cfg.scenario).failures
        assert (model.rate_scale, model.frailty) == (3, 1.5)


@pytest.mark.parametrize("name", options("services"))
def test_services(name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    if name == "servegen":
        monkeypatch.setenv("TRACES_DIR", str(request.getfixturevalue("traces_dir")))
    fewer = ["services.demand.days=3"] if name == "generated" else []
    services = instantiate(composed("train", f"services={name}", *fewer).scenario).services
    if name in ("none", "replicas"):
        assert services is None
        return
    assert len(services.specs) == 4
    assert services.forecast.shape == services.series.rates.shape
    second_day = services.forecast[:, 1500:]
    assert (second_day > 0).mean() > 0.9
    assert 0.4 < (second_day >= services.series.rates[:, 1500:]).mean() < 1.0


@pytest.mark.parametrize("name", options("fleet"))
def test_fleets(name: str) -> None:
    fleet = instantiate(composed("train", f"fleet={name}").scenario).fleet
    assert (fleet is None) == (name == "fixed")
    if fleet is not None:
        assert fleet.spare > 0


def test_own_parts_stand_in_configs() -> None:
    folder = Path(__file__).parents[1] / "examples" / "own_parts"
    cfg = composed(
        "train",
        f"workload.kind={folder}/generator.py:two_kinds",
        f"env.features=['{folder}/feature.py:TenantsCrowd']",
        f"++reward.terms={{{folder}/reward.py\\:late_hours: 5.0}}",
        "scenario=own",
        f"scenario.name={folder}/scenario.py:bad_week",
        "+scenario.faults=3",
    )
    assert instantiate(cfg.env).schema.queue[-1] == "tenants_crowd"
    assert set(instantiate(cfg.reward).own_terms.values()) == {5.0}
    assert instantiate(cfg.scenario).failures.faults_per_node_day == 3
    with pytest.raises(InstantiationException, match="unknown option 'processors'"):
        instantiate(cfg.workload)


@pytest.mark.parametrize("name", sorted(set(options("scenario")) - {"own"}))
def test_scenarios(name: str) -> None:
    scenario = instantiate(composed("train", f"scenario={name}", "failures=weibull").scenario)
    assert isinstance(scenario, Scenario)
    assert scenario.failures == FAILURE_MODELS["weibull"]
    expected = scenario_config(**PLAIN[name])
    for field in ("curves", "quota_mode", "uplinks_gbps"):
        assert getattr(scenario, field) == getattr(expected, field)
    assert sum(tenant.quota for tenant in scenario.tenants) in (0, 128)


PLAIN = {
    "none": {},
    "borrowing": {"quota_mode": "borrow", "tenants": {"a": {"quota": 1}}},
    "curves": {"curves": ["bert", "cifar10", "deepspeech2", "imagenet", "ncf", "yolov3"]},
    "everything": {
        "quota_mode": "borrow",
        "tenants": {"a": {"quota": 1}},
        "curves": ["bert", "cifar10", "deepspeech2", "imagenet", "ncf", "yolov3"],
    },
}


@pytest.mark.usefixtures("made_without_traces")
def test_problems_bring_their_scenario() -> None:
    cfg = composed(
        "train",
        "experiment=philly_cma",
        "failures=infinitehbd",
        "workload=gpu_cluster_full",
        "scenario=everything",
        "workload.jobs=3000",
    )
    problem = build_problem(cfg)
    assert problem.scenario.failures == FAILURE_MODELS["infinitehbd"]
    assert problem.scenario.quota_mode == QuotaMode.BORROW
    assert len(problem.scenario.curves) == problem.trace.requests["curve"].max() == 6
    session = problem.training_session(1, 16)
    assert len(session.source.episode.tenants) == len(problem.trace.tenants)
    assert len(session.source.episode.curves) == 7


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tenant": {}}, "scenario: unknown field 'tenant'; known: failures, failure_seed"),
        ({"failures": {"rate_scale": 2.0}}, "failures: 'kind' is missing; choose from none"),
        ({"failures": {"kind": "often"}}, "'kind' is 'often'; choose from none, infinitehbd"),
        (
            {"failures": {"kind": "none", "rate": 1}},
            "failures: unknown field 'rate'; known: faults",
        ),
        ({"failures": {"kind": "weibull", "shape": -1}}, "failures: 'shape' is -1"),
        ({"quota_mode": "soft"}, "'quota_mode' is 'soft'; choose from none, hard, borrow"),
        ({"curves": ["gpt"]}, "unknown application 'gpt'; measured are bert"),
        ({"tenants": {"a": {"share": 1}}}, "tenant 'a': unknown field 'share'; known: weight"),
        ({"tenants": ["a"]}, "'tenants' is .*; give a mapping"),
        ({"uplinks_gbps": [1.0, -2.0]}, "'uplinks_gbps' of rack 1 is -2.0"),
    ],
)
def test_wrong_scenario_fields_name_the_choices(fields, message) -> None:
    with pytest.raises(ConfigurationError, match=message):
        scenario_config(**fields)
    with pytest.raises(ValidationError, match="'quota'"):
        scenario_config(tenants={"a": {"quota": -1.0}})


@pytest.mark.parametrize("name", options("agent"))
def test_agents(name: str) -> None:
    trainer = instantiate(composed("train", f"agent={name}").agent)
    assert isinstance(trainer.train, Callable)  # type: ignore[arg-type]
    assert trainer.budget_seconds > 0


def test_agents_are_the_default_trainers_unless_they_say_otherwise() -> None:
    assert instantiate(composed("train", "agent=cma").agent) == CMATrainer()
    assert instantiate(composed("train", "agent=ppo").agent) == PPOTrainer()
    assert instantiate(composed("train", "agent=distill").agent) == DistillTrainer()
    assert instantiate(composed("train", "agent=evolved").agent) == EvolvedTrainer()
    # A prior replaces the default one; it is not added to it.
    for name in ("cma_cluster", "cma_autoscaling", "cma_full", "ppo_cluster"):
        assert instantiate(composed("train", f"agent={name}").agent).prior == {"advice": 1.0}
    assert composed("train", "agent.windows=3", "agent.threads=1").agent.windows == 3


@pytest.mark.parametrize("name", options("rules"))
def test_rules(name: str) -> None:
    evaluation = composed("train", f"rules@evaluation={name}").evaluation
    assert set(evaluation.baselines) <= set(evaluation.rules)
    assert all(rule_named(rule) for rule in evaluation.rules)


def test_the_folder_of_traces_is_said_once() -> None:
    paths = [p for p in config_dir().rglob("*.yaml") if "oc.env:TRACES_DIR" in p.read_text()]
    assert [path.name for path in paths] == ["in_place.yaml"]


@pytest.mark.parametrize("name", options("forecaster"))
def test_forecasters(name: str) -> None:
    cfg = composed("forecast", f"forecaster={name}")
    forecasters = instantiate(cfg.forecaster)
    assert next(one.name for one in forecasters) == "persistence"
    study = instantiate(cfg.study)
    assert isinstance(study, Study)
    assert study.delays == {600: (1, 2), 3600: (1, 2)}


@pytest.mark.parametrize("name", options("tracker"))
def test_trackers(name: str, tmp_path: Path) -> None:
    quiet = ["tracker.mode=disabled"] if name == "wandb" else []
    cfg = composed("train", f"tracker={name}", f"output={tmp_path}", *quiet)
    tracker = instantiate(cfg.tracker)
    tracker.log(1, {"loss": 0.5})
    tracker.close()


def test_wandb_is_offline_unless_asked() -> None:
    assert composed("train", "tracker=wandb").tracker.mode == "offline"


@pytest.mark.parametrize("name", options("suite"))
def test_suites(name: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    cfg = composed("benchmark", f"suite={name}")
    kind = cfg.suite.kind
    if kind == "speed":
        suite = build_speed_suite(cfg.suite)
        assert isinstance(suite, SpeedSuite)
    elif kind == "packing":
        monkeypatch.setenv("TRACES_DIR", str(request.getfixturevalue("traces_dir")))
        suite, _ = build_packing_suite(composed("benchmark", f"suite={name}").suite)
    else:
        suite = build_suite(cfg.suite)
        assert isinstance(suite, Suite)
        for changes in suite.variants.values():
            replace(instantiate(cfg.env), **changes)
        for rule in suite.ahead if suite.ahead_by else ():
            assert advised_scorer(rule, suite.ahead_by, instantiate(cfg.env)).name == rule
        if cfg.services.kind == "generated":
            cfg.services.demand.days = 3  # forecasts of two months take half a minute
        assert isinstance(instantiate(cfg.scenario), Scenario)
        cfg = composed("benchmark", f"suite={name}")
        # The same in both scripts.
        other = composed("evaluate", f"suite={name}")
        for group in ("suite", "workload", "env", "reward", "failures", "scenario"):
            assert other[group] == cfg[group]
    assert suite.name == name


def test_rlscheduler_suite_is_the_published_one() -> None:
    suite = build_suite(composed("evaluate", "suite=rlscheduler").suite)
    starts = [1981, 2756, 4299, 8850, 3316, 2714, 5228, 7762, 4022, 7085]
    assert list(suite.starts) == starts
    assert suite.length == 1024
    assert suite.variants == {"": {"backfill": False}, "backfill": {"backfill": True}}
    assert {"wfp3", "wfp3_compat", "unicep", "unicep_compat"} <= set(suite.rules)


@pytest.mark.usefixtures("made_without_traces")
@pytest.mark.parametrize("name", options("experiment"))
def test_experiments(name: str) -> None:
    # What needs public traces runs on generated jobs as well.
    other = ["workload=gpu_cluster_elastic"] if name.startswith("philly") else []
    size = {"demo": "otherwise.jobs"}.get(name, "jobs")
    if name == "placement_cma":
        other, size = ["workload=gpu_pods", "~workload.keep_every", "~workload.orders"], "pods"
    jobs = f"workload.{size}=20000"
    cfg = composed("train", f"experiment={name}", *other, jobs)
    assert cfg.name == name
    if cfg.services.kind == "generated":
        cfg.services.demand.days = 30  # forecasts of two months take half a minute
    problem = build_problem(cfg)
    assert isinstance(problem, Problem)
    assert problem.config.backfill == name.endswith("_backfill")
    suite = judging_suite(cfg, problem)
    assert len(suite.starts) == cfg.evaluation.windows
    # Test windows lie behind everything that was trained or validated on.
    assert min(suite.starts) >= problem.parts.region("validation")[1]
    assert instantiate(cfg.agent).budget_seconds <= 600


def test_experiments_can_be_changed() -> None:
    cfg = composed("train", "experiment=demo", "agent=ppo", "seed=3")
    assert cfg.agent._target_.endswith("PPOTrainer")
    assert cfg.output == "results/demo"
    assert composed("train", "experiment=lublin_ppo", "seed=3").output.endswith("lublin_ppo/3")


def test_file_or_generator(tmp_path: Path) -> None:
    file = {"kind": "swf", "path": "swf/missing.swf"}
    otherwise = {"kind": "lublin", "jobs": 50, "seed": 1}
    assert len(file_or_generator(None, file, otherwise)) == 50
    with pytest.raises(TraceError, match=r"missing\.swf: no such file"):
        file_or_generator(str(tmp_path), file, otherwise)


def test_fewer_machines() -> None:
    options = {"kind": "gpu_cluster", "jobs": 50, "seed": 1, "nodes": 10}
    assert len(fewer_machines(1, **options).nodes) == 10
    assert len(fewer_machines(4, **options).nodes) == 3
    with pytest.raises(ConfigurationError, match="'keep_every' is 0"):
        fewer_machines(0, **options)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"encoding": "rich"}, "'encoding' is 'rich'; choose from published, default, cluster"),
        ({"placements": ["first_fit", "here"]}, "'placements' is 'here'; choose from first_fit"),
        ({"windows": 3}, "unknown field 'windows'; known: commitment"),
    ],
)
def test_wrong_environment_fields_name_the_choices(fields, message) -> None:
    with pytest.raises(ConfigurationError, match=message):
        env_config(**fields)


def test_wrong_suite_fields_name_the_choices() -> None:
    with pytest.raises(ConfigurationError, match="unknown field 'measures'; known: name"):
        build_suite(composed("benchmark", "suite=speed_short").suite)
    with pytest.raises(ConfigurationError, match="unknown field 'rules'; known: name"):
        build_speed_suite(composed("evaluate", "suite=demo").suite)


@pytest.mark.parametrize("group", sorted(GROUPS - {"entry", "suite", "rules"}))
def test_unknown_config_names_list_the_choices(group: str) -> None:
    root = {"forecaster": "forecast", "lookahead": "evaluate"}.get(group, "train")
    with pytest.raises(HydraException) as caught:
        composed(root, f"{group}=nonsense")
    for name in options(group):
        assert name in str(caught.value)
