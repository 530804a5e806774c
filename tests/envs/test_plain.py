"""Environments from plain values: workloads and clusters by name, and specs that travel as JSON."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import warnings
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env

from envs import Illegal, RewardConfig, SchedulingVectorEnv, gpu_cluster, lublin_feitelson
from envs.sb3 import make_sb3
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.run.buffers import RewardForm
from orchestrator.kernels.state.codes import Information

_PLAIN: dict[str, dict[str, Any]] = {
    "JobOrdering": {
        "workload": {"name": "lublin", "jobs": 400, "seed": 3, "processors": 64, "load": 1.2},
        "reward": {"wait": 1.0, "bounded_slowdown": 0.5},
        "backfill": True,
        "information": "oracle",
        "window_order": "sjf",
    },
    "Cluster": {
        "workload": {"name": "gpu_cluster", "jobs": 300, "load": 1.3},
        "nodes": 4,
        "placements": ["best_fit", "spread"],
        "reward": {"terms": {"completion_time": 1.0}, "form": "terminal", "reference": "sjf"},
        "illegal": "penalty",
        "starts": [0, 20, 40],
        "step_limit": 500,
    },
    "Placement": {"workload": {"name": "gpu_pods", "pods": 500}, "nodes": 6},
    "Autoscaling": {"nodes": {"count": 3, "gpus": 8}, "episode_ticks": 20},
}
_NOWHERE = replace(gpu_cluster(30, 1), nodes=())
every = pytest.mark.parametrize("name", _PLAIN)


def _first_steps(env: Any) -> list[Any]:
    told = [env.reset(seed=3)]
    for _ in range(3):
        told.append(env.step(int(told[-1][0]["action_mask"].argmax())))
    return told


def _make(name: str, **more: Any) -> Any:
    options = {**_PLAIN[name], "episode_jobs": 16, **more}
    if name == "Autoscaling":
        del options["episode_jobs"]
    return gymnasium.make(f"quartermaster/{name}-v0", **options)


@every
def test_specs_of_plain_values_travel(name: str) -> None:
    env = _make(name)
    expected = _first_steps(env)
    text = env.spec.to_json()
    assert json.loads(text)["kwargs"]["nodes" if name != "JobOrdering" else "backfill"]
    again = gymnasium.make(EnvSpec.from_json(text))
    np.testing.assert_equal(_first_steps(again), expected)
    assert again.unwrapped.config == env.unwrapped.config
    assert again.unwrapped.session.trace == env.unwrapped.session.trace
    pickled = gymnasium.make(pickle.loads(pickle.dumps(env.spec)))
    np.testing.assert_equal(_first_steps(pickled), expected)
    options = json.loads(text)["kwargs"]
    many: Any = gymnasium.make_vec(f"quartermaster/{name}-v0", num_envs=2, **options)
    assert isinstance(many, SchedulingVectorEnv)
    seen, _ = many.reset(seed=[3, 3])
    for part, value in expected[0][0].items():
        np.testing.assert_array_equal(seen[part][1], value)
    assert json.loads(many.spec.to_json())["kwargs"]["num_envs"] == 2
    rows = make_sb3(f"quartermaster/{name}-v0", 2, **options)
    assert rows.config == env.unwrapped.config


@every
def test_gymnasiums_checker_is_content_with_them(name: str) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(_make(name).unwrapped)
    said = [str(warning.message) for warning in caught]
    known = ("infinity", "unconventional shape")
    assert [text for text in said if not any(word in text for word in known)] == []


def test_workloads_by_name_are_those_of_their_functions() -> None:
    env = _make("JobOrdering").unwrapped
    assert env.session.trace == lublin_feitelson(400, 3, processors=64, load=1.2)
    assert env.config.reward == RewardConfig({"wait": 1.0, "bounded_slowdown": 0.5})
    assert env.config.information is Information.ORACLE
    env = _make("Cluster").unwrapped
    assert env.session.trace == gpu_cluster(300, 1, nodes=4, load=1.3)
    assert env.config.reward.form is RewardForm.TERMINAL
    assert env.config.illegal is Illegal.PENALTY
    by_name = gymnasium.make("quartermaster/Cluster-v0", workload="gpu_cluster").unwrapped
    assert (
        by_name.session.trace == gymnasium.make("quartermaster/Cluster-v0").unwrapped.session.trace
    )


def test_files_are_read_as_their_names_say(tmp_path: Path) -> None:
    trace = gpu_cluster(40, 2, nodes=2)
    trace.write_table(tmp_path / "jobs.csv")
    for workload in (
        str(tmp_path / "jobs.csv"),
        {"name": "table", "path": str(tmp_path / "jobs.csv")},
    ):
        env = gymnasium.make(
            "quartermaster/Cluster-v0", workload=workload, episode_jobs=8, part="all"
        ).unwrapped
        np.testing.assert_array_equal(env.session.trace.requests, trace.requests)
        assert env.session.trace.nodes == trace.nodes


def test_clusters_of_other_nodes() -> None:
    def nodes(**given: Any) -> Any:
        return _make("Cluster", **given).unwrapped.session.trace.nodes

    drawn_for = nodes(nodes=6)
    assert len(drawn_for) == 6
    trace = gpu_cluster(300, 1, nodes=4)
    more = nodes(workload=None, trace=trace, nodes=6)
    assert [node.node_id for node in more] == [f"node-{n}" for n in range(6)]
    assert {node.gpus for node in more} == {8}
    mixed = nodes(nodes=[{"count": 20, "gpus": 8}, {"gpus": 4, "gpu_model": "A10", "rack": 1}])
    assert [(node.gpus, node.gpu_model, node.rack) for node in mixed[19:]] == [
        (8, mixed[0].gpu_model, 0),
        (4, "A10", 1),
    ]
    assert mixed[20].cpu_cores == trace.nodes[0].cpu_cores
    with pytest.raises(ConfigurationError, match=r"can never fit into its cluster .*'nodes'"):
        nodes(nodes={"gpus": 1})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"workload": "lubin"}, "'workload' is 'lubin', which is no known name.*lublin"),
        ({"workload": 3}, "'workload' is a int; give a name, a path, or a dict"),
        ({"workload": {"jobs": 3}}, "'workload' has no 'name'"),
        ({"workload": {"name": "lubin"}}, "unknown workload kind 'lubin'; known are"),
        ({"workload": {"name": "lublin", "job": 3}}, "workload 'lublin': unknown option 'job'"),
        ({"workload": "philly"}, "workload 'philly': option 'path' is missing"),
        ({"workload": "absent.swf"}, "absent.swf"),
        ({"workload": "lublin", "trace": gpu_cluster(30, 1)}, "'trace' and 'workload' are given"),
        ({"trace": _NOWHERE, "nodes": 2}, "has no nodes of its own, .*; give a trace that has"),
        ({"trace": _NOWHERE, "nodes": {"gpus": 8}}, "has no nodes of its own"),
        ({"nodes": 0}, "'nodes' is 0; give a whole number that is at least 1"),
        ({"nodes": "four"}, "an entry of 'nodes' is a str|'nodes' is a str; give a number"),
        ({"nodes": []}, "'nodes' is empty"),
        ({"nodes": {"gpu": 4}}, "'nodes' has an unknown field 'gpu'; known: count"),
        ({"nodes": {"count": 0}}, "'count' of 'nodes' is 0"),
        ({"nodes": {"gpus": 99}}, "'gpus'"),
        ({"reward": {"waiting": 1.0}}, "reward: unknown term 'waiting'; known: bounded_slowdown"),
        ({"reward": {"terms": {"wait": 1.0}, "shape": 1}}, "reward: unknown field 'shape'"),
        ({"reward": "wait"}, "'reward' is a str; give a RewardConfig, or weights"),
        ({"reward": {}}, "'terms' is empty"),
        (
            {"illegal": "ignore"},
            "'illegal' is 'ignore'; choose from noop, penalty, fallback, raise",
        ),
        ({"illegal_penalty": -1.0}, "'illegal_penalty' is -1"),
        ({"strict": True}, "'strict'; give illegal='raise'"),
    ],
)
def test_plain_values_that_make_no_sense_are_named(given: dict[str, Any], words: str) -> None:
    for make in (gymnasium.make, gymnasium.make_vec):
        with pytest.raises(Exception, match=words) as caught:
            make("quartermaster/Cluster-v0", **given)
        assert type(caught.value).__module__ == "orchestrator.errors"


def test_reward_terms_may_be_any_mapping() -> None:
    with pytest.raises(ConfigurationError, match="weight of 'wait' is 'much'"):
        RewardConfig.of({"wait": "much"})
    given = RewardConfig.of({"form": "terminal"})
    assert given == RewardConfig(form="terminal")  # type: ignore[arg-type]
    assert RewardConfig.of(given) is given


def test_ids_exist_where_only_gymnasium_is_imported(tmp_path: Path) -> None:
    """By the module's name in the id; Gymnasium itself reads no entry points any more."""
    code = (
        "import gymnasium, json, sys\n"
        "env = gymnasium.make('envs:quartermaster/JobOrdering-v0', workload={'name': 'lublin', "
        "'jobs': 200}, episode_jobs=8)\n"
        "env.reset(seed=0)\n"
        "print(env.spec.to_json())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    code = (
        "import gymnasium, sys\n"
        "from gymnasium.envs.registration import EnvSpec\n"
        "env = gymnasium.make(EnvSpec.from_json(sys.stdin.read()))\n"
        "print(env.reset(seed=0)[0]['action_mask'].sum() > 0)"
    )
    spec = done.stdout
    done = subprocess.run(
        [sys.executable, "-c", code], input=spec, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "True"


def test_the_entry_point_registers_once() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    named = text.split('[project.entry-points."gymnasium.envs"]')[1].splitlines()[1]
    name, value = (part.strip().strip('"') for part in named.split("="))
    register = EntryPoint(name, value, "gymnasium.envs").load()
    kept = {
        env: gymnasium.registry.pop(env) for env in list(gymnasium.registry) if "quarter" in env
    }
    try:
        register()
        assert {env for env in gymnasium.registry if "quarter" in env} == set(kept)
        again = gymnasium.registry["quartermaster/Cluster-v0"]
        register()
        assert gymnasium.registry["quartermaster/Cluster-v0"] is again
    finally:
        gymnasium.registry.update(kept)
