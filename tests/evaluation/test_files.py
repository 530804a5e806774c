from __future__ import annotations

import json

import pytest

from agents.evaluation.files import replacing, write_json, write_text


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
