"""Record demonstrations as a config says: who is watched, in what, and where it is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gymnasium.envs.registration import EnvSpec
from omegaconf import DictConfig
from rich.console import Console

from agents.build import build_problem
from agents.bundle import describe_environment, load_bundle
from agents.offline.dataset import Recording, write_dataset
from agents.offline.demonstrations import demonstrate
from agents.problem import BatchPolicy, Problem, Windows
from agents.program import command_line, plain, run_folder
from agents.settings import check_number
from envs.scenario import Scenario
from orchestrator.errors import ConfigurationError
from orchestrator.scheduling.rules import Rule, rule_named

__all__ = ["record"]

_SCRIPT = "scripts/record.py"
_LOADER = "envs.load_workload"
_PARTS = ("train", "validation", "test")


def record(cfg: DictConfig, console: Console) -> None:
    """Play windows of a problem under a rule or a bundle, and write a data set of Minari's.

    Parameters
    ----------
    cfg : DictConfig
        Of ``conf/record.yaml``.
    console : Console
    """
    with run_folder(cfg, _SCRIPT, record=True) as output:
        problem = build_problem(cfg)
        demonstrator = _demonstrator(cfg, problem)
        windows = _windows(cfg, problem)
        recording = Recording(
            name=cfg.name,
            policy=demonstrator.name,
            config=windows.config,
            spec=_spec(cfg, windows),
            command=command_line(_SCRIPT),
            storage=cfg.storage,
        )
        found = demonstrate(demonstrator, windows)
        episodes, steps, unseen = write_dataset(output, recording, found)
        console.print(f"{episodes:,} episodes, {steps:,} steps of {demonstrator.name} in {output}")
        if unseen:
            console.print(
                f"at {unseen:,} of them ({unseen / steps:.1%}) the rule wanted what is not shown, "
                f"and the first legal action was taken"
            )
        if recording.spec is None:
            console.print("the environment cannot be made from plain values: no 'env_spec' in it")


def _demonstrator(cfg: DictConfig, problem: Problem) -> Rule | BatchPolicy:
    """The rule, or the policy of the bundle, that is watched."""
    if (cfg.rule is None) == (cfg.bundle is None):
        raise ConfigurationError("record: give either 'rule' or 'bundle', and null for the other")
    if cfg.rule is not None:
        return rule_named(cfg.rule)
    return load_bundle(cfg.bundle, problem.config.schema)


def _windows(cfg: DictConfig, problem: Problem) -> Windows:
    """What is played: windows of one part of the trace, of the environment's own length."""
    if cfg.part not in _PARTS:
        raise ConfigurationError(f"record: 'part' is {cfg.part!r}; choose from {', '.join(_PARTS)}")
    count = check_number("record", "windows", cfg.windows, 1)
    starts = problem.parts.starts(cfg.part, count, problem.config.length, problem.seed)
    # What each decision is worth is recorded as it is: who learns from it may scale it.
    reward = replace(problem.config.reward, reference=None)
    return Windows(problem.trace, replace(problem.config, reward=reward), starts, problem.scenario)


def _spec(cfg: DictConfig, windows: Windows) -> EnvSpec | None:
    """How Gymnasium makes the environment, if plain values can say it."""
    workload = plain(cfg.workload)
    if workload.pop("_target_", None) != _LOADER or windows.scenario != Scenario():
        return None
    workload.pop("_convert_", None)
    options = _plain_config(windows)
    options["workload"] = {"name": workload.pop("kind"), **workload}
    options["starts"] = windows.starts.tolist()
    return EnvSpec(
        id="quartermaster/Cluster-v0",
        entry_point="envs.gym.single:cluster_env",
        vector_entry_point="envs.gym.vector:cluster_vector_env",
        disable_env_checker=True,
        kwargs=options,
    )


def _plain_config(windows: Windows) -> dict[str, Any]:
    """Every field of the environment but those that follow from others."""
    described: Mapping[str, Any] = describe_environment(windows.config)
    derived = ("nodes", "resize", "quota_mode")
    return {name: value for name, value in described.items() if name not in derived}
