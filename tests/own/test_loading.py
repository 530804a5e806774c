"""Own parts by name: what is found, and what is said of what is not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from orchestrator.errors import ConfigurationError
from orchestrator.own.loading import is_part_name, load_part, make_part, part_name
from orchestrator.scheduling.rules import RULES, Rule, rule_named

_SOURCE = """
from dataclasses import dataclass
from orchestrator import Rule, RuleKey

@dataclass
class Thing:
    size: int = 3
    def __call__(self): return self.size
    class Inner: pass

class Needy:
    def __init__(self, what): pass

MINE = Rule("mine", RuleKey.SJF)
def made(): return MINE
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "things.py"
    path.write_text(_SOURCE, encoding="utf-8")
    return path


def test_files_are_loaded_once_and_found_by_any_spelling(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    thing = load_part(f"{file}:Thing", "thing")
    monkeypatch.chdir(file.parent)
    assert load_part("things.py:Thing", "thing") is thing
    assert load_part("things.py:Thing.Inner", "thing") is thing.Inner
    assert make_part("things.py:Thing", "thing", "nowhere")() == 3


def test_modules_of_the_working_folder_are_found_behind_all_others(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.rename(file.parent / "things_of_the_folder.py")
    (file.parent / "json.py").write_text("Thing = 3", encoding="utf-8")
    monkeypatch.chdir(file.parent)
    before = list(sys.path)
    assert load_part("things_of_the_folder:Thing", "thing").__name__ == "Thing"
    with pytest.raises(ConfigurationError, match="has no 'Thing'"):
        load_part("json:Thing", "thing")
    assert sys.path == before


def test_modules_are_imported_and_their_parts_named(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(file.parent))
    thing = load_part("things:Thing", "thing")
    assert part_name(thing, "thing") == "things:Thing"
    assert part_name(thing.Inner, "thing") == "things:Thing.Inner"
    assert part_name("any:Text", "thing") == "any:Text"
    del sys.modules["things"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Thing", "is no name of one's own part; give package.module:Name"),
        ("no.such:Thing", "there is no module 'no'; have its folder in PYTHONPATH"),
        ("json.no_such:Thing", "there is no module 'json.no_such'"),
        ("json:JSONDecodr", "module 'json' has no 'JSONDecodr'; did you mean JSONDecoder"),
        ("json:Thing", "has no 'Thing'; check the name"),
        ("no_such.py:Thing", "there is no file"),
        ("{folder}/broken.py:Thing", r"cannot be imported \(ZeroDivisionError: division by zero\)"),
        ("{folder}/lost.py:Thing", r"cannot be imported \(ModuleNotFoundError: No module named"),
        ("{folder}/things.py:Needy", "cannot be made .*; give a class that needs no arguments"),
        ("{folder}/things.py:MINE", "thing '.*': cannot be called; see the protocol"),
    ],
)
def test_what_is_wrong_is_said(file: Path, name: str, words: str) -> None:
    (file.parent / "broken.py").write_text("1 / 0", encoding="utf-8")
    (file.parent / "lost.py").write_text("import nothing_of_that_name", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=words):
        make_part(name.format(folder=file.parent), "thing", "the protocol")


@pytest.mark.parametrize("part", [3, lambda: None, RULES["sjf"]])
def test_what_nobody_would_find_again_has_no_name(part: object) -> None:
    with pytest.raises(ConfigurationError, match="has no name by which others find it"):
        part_name(part, "thing")


def test_names_are_told_from_other_texts() -> None:
    assert is_part_name("a:B")
    assert not is_part_name("sjf")
    assert not is_part_name(3)


def test_rules_of_one_s_own_stand_where_rules_are_named(file: Path) -> None:
    mine = rule_named(f"{file}:MINE")
    assert isinstance(mine, Rule)
    assert rule_named(f"{file}:made") is mine
    scaled = rule_named(f"{file}:MINE+reactive")
    assert (scaled.name, scaled.key) == ("mine+reactive", mine.key)
    with pytest.raises(ConfigurationError, match=r"is <class .*; give a Rule, or a function"):
        rule_named("orchestrator.scheduling.rules:RulePolicy")
    with pytest.raises(ConfigurationError, match=r"unknown rule 'sfj'; known: .* and one's own"):
        rule_named("sfj")
