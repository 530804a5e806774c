from __future__ import annotations

import json

import numpy as np
import pytest

from agents.files import markdown_table, replacing, versions, write_csv, write_json, write_text


def test_a_file_appears_whole(tmp_path):
    path = tmp_path / "new" / "table.csv"
    write_text(path, "a\n")
    assert path.read_text() == "a\n"
    assert [item.name for item in path.parent.iterdir()] == ["table.csv"]


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")

    def fail_half_way() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half of the n")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        fail_half_way()
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["table.csv"]


def test_the_suffix_is_kept(tmp_path):
    with replacing(tmp_path / "picture.png") as temporary:
        assert temporary.suffix == ".png"
        temporary.write_bytes(b"x")


def test_json_is_plain(tmp_path):
    content = {"a": [1, 2.5, -3e-9], "b": "[\n 1\n]", "c": [], "d": [[1], ["x", 2]], "e": None}
    write_json(tmp_path / "s.json", content)
    text = (tmp_path / "s.json").read_text()
    assert json.loads(text) == content
    assert '"a": [ 1, 2.5, -3e-09 ]' in text


def test_json_refuses_what_json_lacks(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "s.json", {"a": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_missing_cells_are_empty(tmp_path):
    write_csv(tmp_path / "t.csv", ["a", "b"], [[1, None], [2.5, "x"]])
    assert (tmp_path / "t.csv").read_text() == "a,b\n1,\n2.5,x\n"


def test_markdown_tables_to_the_letter():
    assert markdown_table(["a", "b"], [["x|y", "1"]]) == "| a | b |\n| --- | --- |\n| x\\|y | 1 |"
    numbers = markdown_table(["a", "b", "c"], [["x", "1", "2"]], text_columns=1)
    assert numbers.splitlines()[1:] == ["| --- | ---: | ---: |", "| x | 1 | 2 |"]


def test_versions_are_of_what_is_installed():
    found = versions()
    assert found["numpy"] == np.__version__
    assert found["python"].startswith("3.")
