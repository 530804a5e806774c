"""The leaderboard: who plays gets a paired verdict, and what is stale is refused."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf
from rich.console import Console

from agents.build import build_packing_suite
from agents.bundle import Origin, PolicyParts, save_bundle
from agents.leaderboard.cells import FixedSuite, PackingCell, make_cells
from agents.leaderboard.contenders import own
from agents.leaderboard.isolation import IsolatedPolicy
from agents.leaderboard.run import _again, run_leaderboard
from agents.leaderboard.store import Entry, Kind, Record, read_record, write_record
from agents.leaderboard.verdict import judge
from agents.linear.policy import named_weights
from agents.program import config_dir
from envs.config import JOB_ORDERING
from orchestrator.errors import ConfigurationError

OWN = Path(__file__).with_name("own.py")
SMALL = ["suite=ordering", "suite.starts=[0,64,128]", "suite.length=64", "workload.jobs=192"]
FIXED = {"small": {"group": "ordering", "about": "a few jobs", "config": SMALL}}
CELLS = ("small", "small_backfill")


def play(board: Path, fixed: dict[str, Any] | None = None, **changes: Any) -> str:
    """What the program says."""
    cfg = OmegaConf.load(config_dir() / "leaderboard.yaml")
    cfg.fixed, cfg.board = FIXED if fixed is None else fixed, str(board)
    for name, value in changes.items():
        cfg[name] = value
    console = Console(record=True, width=150)
    run_leaderboard(cfg, console)
    return console.export_text()


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A board that knows the rules, and a policy that plays as one of them."""
    folder = tmp_path_factory.mktemp("board")
    said = play(folder, policy=f"{OWN}:Shortest", name="mine", enter=True)
    assert "mine: bounded slowdown" in said
    return folder


def copied(board: Path, tmp_path: Path) -> Path:
    for path in board.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.mark.parametrize("name", CELLS)
def test_a_policy_that_plays_as_a_rule_costs_what_the_rule_does(board: Path, name: str) -> None:
    """So it is asked about the same windows, whatever it does to what it was given."""
    record = read_record(board, name)
    assert record is not None
    by_name = {entry.name: entry for entry in record.entries}
    np.testing.assert_allclose(by_name["mine"].costs, by_name["sjf"].costs, rtol=1e-9)
    assert len(by_name["sjf"].costs) == 3
    assert record.best.mean == min(entry.mean for entry in record.rules)
    first = judge(by_name["mine"], record)[0]
    assert first.against == record.best.name
    assert first.ratio.value == pytest.approx(by_name["sjf"].mean / record.best.mean)
    assert {"better", "worse", "not clear"} > {judge(by_name["fcfs"], record)[-1].word}


def test_the_board_is_a_table_and_a_picture(board: Path) -> None:
    table = (board / "table.md").read_text()
    assert "| mine | own |" in table
    assert "**small backfill**: a few jobs, backfill; 3 windows" in table
    assert (board / "table.png").stat().st_size > 10_000


def test_who_is_not_entered_leaves_no_trace(board: Path) -> None:
    before = {path.name: path.read_bytes() for path in board.iterdir() if path.suffix != ".png"}
    said = play(board, policy=f"{OWN}:Shortest", name="other")
    assert "other: bounded slowdown" in said
    assert "mine" in said.split("other: bounded slowdown")[1]
    after = {path.name: path.read_bytes() for path in board.iterdir() if path.suffix != ".png"}
    assert after == before


CHANGES = {"suite.length=63": "windows", "workload.seed=5": "trace", "env.window=64": "environment"}


def changed(*changes: str) -> dict[str, Any]:
    return {"small": {**FIXED["small"], "config": [*SMALL, *changes]}}


@pytest.mark.parametrize("change", CHANGES)
def test_costs_of_another_game_are_refused(board: Path, tmp_path: Path, change: str) -> None:
    folder = copied(board, tmp_path)
    with pytest.raises(ConfigurationError, match=rf"is stale, '{CHANGES[change]}.*renew=true"):
        play(folder, changed(change), policy=f"{OWN}:Shortest")


def test_costs_are_renewed(board: Path, tmp_path: Path) -> None:
    folder, fixed = copied(board, tmp_path), changed(*CHANGES)
    play(folder, fixed, renew=True)
    before, after = read_record(board, "small"), read_record(folder, "small")
    assert before is not None
    assert after is not None
    differ = {name for name in after.made_of if after.made_of[name] != before.made_of[name]}
    assert differ >= set(CHANGES.values())
    assert [entry.name for entry in after.learned] == ["mine"]
    assert "mine" in play(folder, fixed, policy=f"{OWN}:Shortest")


def test_costs_of_another_engine_are_refused(board: Path, tmp_path: Path) -> None:
    folder = copied(board, tmp_path)
    path = folder / "small.json"
    content = json.loads(path.read_text())
    for entry in content["entries"].values():
        entry["costs"][0] *= 1.0001
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigurationError, match=r"small\.json.*the engine has changed; .*renew"):
        play(folder, policy=f"{OWN}:Shortest")
    path.write_text("{}")
    with pytest.raises(ConfigurationError, match=r"small\.json: cannot be read"):
        play(folder, policy=f"{OWN}:Shortest")


def test_a_policy_apart_answers_the_same_and_knows_less(
    board: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACES_DIR", os.environ.get("TRACES_DIR", str(tmp_path)))
    cell = make_cells(FixedSuite.from_config("small", FIXED["small"]))[0]
    known = read_record(board, "small")
    assert known is not None
    costs = {entry.name: entry.costs for entry in known.entries}
    found = {}
    for isolated in (True, False):
        contender = own(f"{OWN}:Curious", isolated=isolated)
        found[isolated] = cell.policy_costs(contender.policy(cell.schema))
        again = cell.policy_costs(contender.policy(cell.schema))
        np.testing.assert_array_equal(again, found[isolated])
        contender.close()
    np.testing.assert_allclose(found[True], costs["sjf"], rtol=1e-9)
    assert (found[False] != found[True]).any()


@pytest.mark.parametrize(
    ("policy", "isolated", "message"),
    [
        ("nowhere:Policy", False, "there is no such module; give module:Name with its folder"),
        ("nowhere.py:Policy", True, "there is no such module"),
        ("own.py", False, "there is no such module"),
        (f"{OWN}:Nobody", False, "has no 'Nobody'; "),
        (f"{OWN}:Needy", False, r"cannot be made \(.*weights"),
        (f"{OWN}:Mute", False, "has no method 'actions'; see agents.BatchPolicy"),
        (f"{OWN}:Short", False, r"answered int64 of shape \(2,\); give one whole number for each"),
        (f"{OWN}:Short", True, "its process has ended"),
        (f"{OWN}:Dying", True, "its process has ended"),
        (f"{OWN}:Mute", True, "its process has ended"),
    ],
)
def test_what_is_wrong_with_a_policy_is_said(
    board: Path, policy: str, isolated: bool, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        play(board, policy=policy, isolated=isolated)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "nobody plays; give policy=module:Class or bundle=FOLDER"),
        ({"policy": "a:B", "bundle": "c"}, "both 'policy' and 'bundle'"),
        ({"policy": "a:B", "suites": ["large"]}, "'suites' has 'large'; choose from all, ordering"),
        ({"policy": 5}, "'policy' is 5; give a text"),
        ({"policy": f"{OWN}:Shortest", "name": "sjf"}, "'sjf' is what a rule is called"),
    ],
)
def test_what_is_wrong_with_a_question_is_said(board: Path, changes: dict, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        play(board, **changes)


def test_bundles_play_where_they_fit(board: Path, tmp_path: Path) -> None:
    weights = named_weights({"log_request": -1.0}).astype(np.float32)
    parts = PolicyParts("linear_ranker", {"weights": weights})
    save_bundle(tmp_path / "ranker", parts, Origin(JOB_ORDERING, 0))
    said = play(copied(board, tmp_path), bundle=str(tmp_path / "ranker"), enter=True)
    assert "ranker: bounded slowdown" in said
    record = read_record(tmp_path, "small_backfill")
    assert record is not None
    costs = {entry.name: entry.costs for entry in record.entries}
    np.testing.assert_allclose(costs["ranker"], costs["sjf"], rtol=1e-9)
    other = {"other": {**FIXED["small"], "config": [*SMALL, "env=job_ordering_published"]}}
    said = play(tmp_path, other, bundle=str(tmp_path / "ranker"))
    assert "other is left out: policy 'linear_ranker' does not fit" in said


def test_the_example_is_short_and_plays(board: Path) -> None:
    example = config_dir().parent / "examples" / "leaderboard" / "policy.py"
    assert len(example.read_text().splitlines()) <= 20
    said = play(board, policy=f"{example}:SmallWork")
    assert said.count("SmallWork: bounded slowdown") == len(CELLS)


def test_suites_without_their_traces_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACES_DIR", str(tmp_path / "nowhere"))
    needs = {"group": "ordering", "about": "ten", "config": ["suite=rlscheduler"]}
    said = play(tmp_path, {"ten": needs, **FIXED}, policy=f"{OWN}:Shortest")
    assert "ten is left out" in said
    assert "no such file" in said
    assert "small_backfill" in said


class FirstNode:
    """The first node that a pod fits on."""

    name = "first"

    def actions(self, observation: Any, mask: Any) -> Any:
        return mask.argmax(axis=1)


class TurnsAway:
    """Waits, the last action: nobody gets a place."""

    name = "turns away"

    def actions(self, observation: Any, mask: Any) -> Any:
        return np.full(len(mask), mask.shape[1] - 1)


def test_pods_are_packed_by_rules_and_policies() -> None:
    cfg = OmegaConf.load(config_dir() / "suite" / "openb.yaml").suite
    cfg.workload = {"_target_": "envs.workloads.gpu_pods", "pods": 300, "seed": 1, "nodes": 4}
    cfg.seeds, cfg.ratio = [3, 4, 5], 1.2
    suite, trace = build_packing_suite(cfg)
    about = FixedSuite("pods", "placement", "a few pods", [])
    cell = PackingCell(about, suite, [trace, trace])
    costs = cell.rule_costs("FGD")
    assert costs.shape == (6,)
    np.testing.assert_array_equal(costs[:3], costs[3:])
    np.testing.assert_array_equal(cell.rule_costs("FGD", 4), costs[:4])
    assert ((costs >= 0) & (costs < 100)).all()
    mine = cell.policy_costs(FirstNode())
    np.testing.assert_array_equal(mine[:3], mine[3:])
    assert ((mine >= 0) & (mine < 50)).all()
    assert cell.policy_costs(TurnsAway()).tolist() == [100.0] * 6
    assert PackingCell(about, suite, [trace]).made_of != cell.made_of
    fewer = replace(suite, policies={"FGD": suite.policies["FGD"]}, published=())
    other = PackingCell(about, fewer, [trace, trace]).made_of
    assert [name for name in other if other[name] != cell.made_of[name]] == ["rules"]


class Breaks:
    """A cell in which nobody's play goes well."""

    name, group, metric, about = "broken", "g", "m", "a"
    rules, made_of, schema = (), {}, JOB_ORDERING.schema

    def policy_costs(self, policy: Any) -> Any:
        self.played = type(policy)
        raise RuntimeError("[/] is no tag")


@pytest.mark.parametrize("isolated", [False, True])
def test_a_broken_entrant_leaves_the_cell_alone(tmp_path: Path, isolated: bool) -> None:
    entry = Entry("mine", Kind.OWN, f"{OWN}:Shortest", "", np.ones(2), isolated)
    rule = Entry("sjf", Kind.RULE, "sjf", "", np.ones(2))
    write_record(tmp_path, Record("broken", "g", "m", "a", {}, [rule, entry]))
    kept = read_record(tmp_path, "broken")
    assert kept is not None
    cell, console = Breaks(), Console(record=True, width=150)
    assert _again(kept.learned[0], cell, console) is None  # type: ignore[arg-type]
    assert "mine leaves broken: RuntimeError('[/] is no tag')" in console.export_text()
    assert (cell.played is IsolatedPolicy) == isolated


def test_a_process_that_died_is_closed_without_another_error() -> None:
    policy = IsolatedPolicy("gone", f"{OWN}:Nobody")
    policy._process.wait()
    with pytest.raises(ConfigurationError, match="policy 'gone': its process has ended"):
        policy.actions({"seen": np.zeros(9)}, np.ones((1, 3), bool))
    policy.close()
    assert policy._process.stdout is not None
    assert policy._process.stdout.closed
