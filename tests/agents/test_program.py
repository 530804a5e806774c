"""A run's folder is its own, and holds a record from the beginning."""

import json

import pytest
from omegaconf import OmegaConf

from agents import program
from agents.program import command_line, resume_command, run_folder
from orchestrator.errors import ConfigurationError


@pytest.fixture
def given(monkeypatch):
    overrides = []
    monkeypatch.setattr(program, "_overrides", lambda: overrides)
    monkeypatch.setattr(program.sys, "argv", ["train.py", "--config-dir", "my configs", "a=1"])
    return overrides


def run(folder, text="1", **options):
    cfg = OmegaConf.create({"output": str(folder), "overwrite": False, **options})
    with run_folder(cfg, "scripts/train.py", record=True) as taken:
        (taken / "summary.json").write_text(text)
    assert cfg.output == str(taken)
    return taken


def test_reruns_get_folders_of_their_own(tmp_path, given):
    wanted = tmp_path / "runs" / "0"
    names = [run(wanted, str(k)).name for k in range(3)]
    assert names == ["0", "0-2", "0-3"]
    texts = [(tmp_path / "runs" / name / "summary.json").read_text() for name in names]
    assert texts == ["0", "1", "2"]


def test_a_named_folder_with_results_is_refused_unless_they_may_go(tmp_path, given):
    given.append(f"output={tmp_path}")
    run(tmp_path)
    with pytest.raises(ConfigurationError, match=r"holds the results.*overwrite=true"):
        run(tmp_path, "2")
    assert (tmp_path / "summary.json").read_text() == "1"
    assert run(tmp_path, "3", overwrite=True) == tmp_path
    assert (tmp_path / "summary.json").read_text() == "3"


@pytest.mark.parametrize("name", ["manifest.json", "checkpoint.pt", "checkpoint.pkl", "runs.csv"])
def test_whatever_a_run_leaves_counts_as_results(tmp_path, given, name):
    given.append(f"output={tmp_path}")
    (tmp_path / name).touch()
    with pytest.raises(ConfigurationError, match="holds the results"):
        run(tmp_path)


def test_resuming_goes_on_in_the_latest_folder(tmp_path, given):
    for _ in range(2):
        run(tmp_path / "0")
    cfg = OmegaConf.create({"output": str(tmp_path / "0")})
    with run_folder(cfg, "scripts/train.py", resume=True) as taken:
        assert taken.name == "0-2"


def test_what_ends_before_it_wrote_leaves_nothing(tmp_path, given):
    cfg = OmegaConf.create({"output": str(tmp_path / "runs" / "0")})
    for error in (ConfigurationError("wrong"), KeyboardInterrupt()):
        with pytest.raises(type(error)), run_folder(cfg, "scripts/train.py", record=True):
            raise error
        assert list(tmp_path.iterdir()) == []


def test_what_ends_before_it_wrote_leaves_an_earlier_history(tmp_path, given):
    given += [f"output={tmp_path}"]
    (tmp_path / "history.csv").write_text("seconds\n5\n")
    cfg = OmegaConf.create({"output": str(tmp_path), "overwrite": True})
    with pytest.raises(KeyboardInterrupt), run_folder(cfg, "scripts/train.py", record=True):
        raise KeyboardInterrupt
    assert (tmp_path / "history.csv").read_text() == "seconds\n5\n"
    cfg.overwrite = False
    with run_folder(cfg, "scripts/train.py", record=True, resume=True):
        assert (tmp_path / "history.csv").read_text() == "seconds\n5\n"


def test_what_an_earlier_run_came_to_is_not_this_ones(tmp_path, given):
    given += [f"output={tmp_path}"]
    outcome = [tmp_path / "result.json", tmp_path / "summary.json"]
    for path in outcome:
        path.write_text("old")

    def begin(error, overwrite):
        cfg = OmegaConf.create({"output": str(tmp_path), "overwrite": overwrite})
        with run_folder(cfg, "scripts/train.py", record=True, resume=not overwrite):
            assert not any(path.exists() for path in outcome)
            raise error

    for overwrite in (True, False):
        with pytest.raises(KeyboardInterrupt):
            begin(KeyboardInterrupt(), overwrite)
        assert [path.read_text() for path in outcome] == ["old", "old"]  # nothing was written
    with pytest.raises(RuntimeError):
        begin(RuntimeError(), True)
    assert not any(path.exists() for path in outcome)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, given):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"output: cannot make .*file"):
        run(tmp_path / "file" / "0")


def test_the_record_is_there_first_and_has_config_versions_and_command(tmp_path, given):
    given += ["agent=cma", f"output={tmp_path}"]
    cfg = OmegaConf.create({"output": str(tmp_path), "seed": 3, "name": "n${seed}"})
    with run_folder(cfg, "scripts/train.py", record=True):
        assert OmegaConf.load(tmp_path / "config.yaml").name == "n3"
        assert (tmp_path / "history.csv").read_text().startswith("seconds,steps,validation")
        said = json.loads((tmp_path / "run.json").read_text())
    start = "python scripts/train.py --config-dir 'my configs' agent=cma"
    assert said["command"] == f"{start} output={tmp_path}"
    assert "numpy" in said["versions"]
    assert command_line("scripts/train.py") == start
    again = resume_command("scripts/train.py", tmp_path / "0")
    assert again == f"{start} agent.resume=true output={tmp_path / '0'}"
