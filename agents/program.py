"""A run as a program: how it begins and ends, its folder, and its record.

What is wrong with a config is said in one line before anything begins. A run's folder is the run's
alone: nothing that an earlier one left there is overwritten unless that is asked for. A folder that
the program chose gets a number at the end of its name; one that a person named is refused. The
record is the config, versions and the exact command.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from agents.distill.settings import DistillSettings
from agents.evolved.settings import EvolvedSettings
from agents.files import versions, write_csv, write_json, write_text
from agents.linear.settings import CMASettings
from agents.ppo.settings import PPOSettings
from agents.training import HISTORY_COLUMNS, Stopped, stoppable
from envs.checks import check_whole
from orchestrator.errors import ConfigurationError, QuartermasterError

__all__ = [
    "choices",
    "command_line",
    "config_dir",
    "entry_point",
    "plain",
    "resume_command",
    "run_folder",
]


_HERE = Path(__file__).resolve().parent


_WRONG_INPUT = 2


_A_NAME = re.compile(r".*[^\d.,eE+-].*", re.DOTALL)
"""What may be the name of a choice: anything but a number, or nothing."""


_NO_NAMES = ("null", "~", "true", "false", "''", '""')


_SECTIONS = dict.fromkeys(
    ("workload", "env", "reward", "failures", "services", "fleet", "scenario", "agent", "task"),
    False,
) | dict.fromkeys(("evaluation", "suite", "history", "live", "soak"), True)
"""Parts of a config that are mappings, and whether null stands for none."""


def config_dir() -> Path:
    """Folder of the configs: inside the package when installed, else ``conf`` of the checkout."""
    for folder in (_HERE / "_conf", _HERE.parent / "conf"):
        if folder.is_dir():
            return folder
    raise ConfigurationError(
        f"no configs: neither {_HERE / '_conf'} nor {_HERE.parent / 'conf'} exists; "
        "install the package anew"
    )


def _offer_settings() -> None:
    """Let ``conf/agent`` name the settings of trainers: each field a key, with its default."""
    store = ConfigStore.instance()
    trainers: dict[str, PPOSettings | CMASettings | DistillSettings | EvolvedSettings] = {
        "ppo_settings": PPOSettings(),
        "cma_settings": CMASettings(),
        "distill_settings": DistillSettings(),
        "evolved_settings": EvolvedSettings(),
    }
    for name, settings in trainers.items():
        store.store(name, asdict(settings), group="agent")


# Beside `config_dir`: whoever finds the configs can compose them.
_offer_settings()


def entry_point(
    config_name: str, rest: str | None = None
) -> Callable[[Callable[[DictConfig], float | None]], Callable[[], None]]:
    """Make a script's main function a Hydra program.

    What it returns is what Hydra's sweepers minimise. Errors that this project raises on purpose
    end it with exit code 2 and one line that says what to do; SIGINT and SIGTERM end it with a line
    and 128 and the signal's number; anything else is a bug and shows its traceback. In a sweep
    (``--multirun``) an error ends its own job: the others run, and the sweep ends with code 2.

    Parameters
    ----------
    config_name : str
        Root config, for example ``"train"``.
    rest : str or None, optional
        Field of the config that is the list of all arguments that set nothing, such as folders.
    """

    def decorate(main: Callable[[DictConfig], float | None]) -> Callable[[], None]:
        @functools.wraps(main)
        def guarded(cfg: DictConfig) -> float | None:
            return _guarded(main, cfg)

        start = hydra.main(
            version_base="1.3", config_path=str(config_dir()), config_name=config_name
        )
        program: Callable[[], None] = start(guarded)

        @functools.wraps(main)
        def begin() -> None:
            _failed.clear()
            try:
                sys.argv[1:] = sys.argv[1:] if rest is None else _named(sys.argv[1:], rest)
                _check_groups(sys.argv[1:])
                program()
            except ConfigurationError as error:
                sys.stderr.write(f"error: {error}\n")
                sys.exit(_WRONG_INPUT)
            except (SystemExit, JobFailed):
                if not _failed:
                    raise
                sys.stderr.write(f"jobs of the sweep that failed: {', '.join(_failed)}\n")
                sys.exit(_WRONG_INPUT)

        return begin

    return decorate


def _guarded(main: Callable[[DictConfig], float | None], cfg: DictConfig) -> float | None:
    """Run a script's main function; what goes wrong on purpose ends it with a line."""
    try:
        _check_seeds(cfg, "")
        _check_sections(cfg)
        with stoppable():
            return main(cfg)
    except (QuartermasterError, InstantiationException, OmegaConfBaseException) as error:
        ours = _on_purpose(error)
        if ours is None:
            raise
        raise _ended(f"error: {ours}", _WRONG_INPUT) from None
    except SystemExit as error:
        raise _ended("", error.code) from None
    except KeyboardInterrupt as error:
        number = error.number if isinstance(error, Stopped) else signal.SIGINT
        sys.stderr.write(f"stopped by {signal.Signals(number).name}\n")
        sys.exit(128 + number)


def _named(arguments: Sequence[str], field: str) -> list[str]:
    """Arguments of which those that set nothing have become the list of a field."""
    options: list[str] = []
    values: list[str] = []
    follows = False  # the value of an option of Hydra's
    for item in arguments:
        sets = item.startswith(("-", "~")) or "=" in item
        (options if sets or follows else values).append(item)
        follows = item in _OF_HYDRA
    if not values:
        return options
    quoted = (value.replace("\\", "\\\\").replace("'", "\\'") for value in values)
    listed = ",".join(f"'{value}'" for value in quoted)
    return [*options, f"{field}=[{listed}]"]


class JobFailed(CompactHydraException):
    """A job of a sweep ended with an error, which has been told; sweepers go on with the others."""


_failed: list[str] = []
"""Numbers of the jobs of a sweep in this process that failed."""


def _ended(line: str, code: Any) -> BaseException:
    """How a run ends that went wrong: the process with it or, in a sweep, its own job."""
    sweeps = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    if sweeps and code not in (None, 0):
        number = str(HydraConfig.get().job.num)
        _failed.append(number)
        sys.stderr.write(f"job {number}: {line or f'ended with code {code}'}\n")
        return JobFailed(f"job {number} failed")
    if line:
        sys.stderr.write(f"{line}\n")
    return SystemExit(code)


def _check_seeds(cfg: Any, path: str) -> None:
    """Refuse seeds that are none, wherever they stand in a config; null is for whoever reads it."""
    keys: list[Any] = list(cfg) if isinstance(cfg, DictConfig) else list(range(len(cfg)))
    for key in keys:
        if OmegaConf.is_missing(cfg, key) or OmegaConf.is_interpolation(cfg, key):
            continue  # what it stands for is checked where it stands
        value, name = cfg[key], str(key)
        within = f"{path}.{name}" if path else name
        if name == "seed" or name.endswith("_seed"):
            if value is not None:
                check_whole(f"config: '{within}'", value, 0)
        elif name == "seeds" and isinstance(value, ListConfig):
            for seed in value:
                check_whole(f"config: '{within}'", seed, 0)
        elif OmegaConf.is_config(value):
            _check_seeds(value, within)


def _check_groups(arguments: Sequence[str]) -> None:
    """Refuse ``GROUP=null``, or a number, on the command line: Hydra itself ends in a traceback."""
    for argument in arguments:
        key, equals, value = argument.partition("=")
        group = key.lstrip("+").partition("@")[0]
        folder = config_dir() / group
        if not (equals and group and folder.is_dir()):
            continue
        choice = _A_NAME.fullmatch(value.strip())
        if choice is None or choice[0].lower() in _NO_NAMES:
            known = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
            raise ConfigurationError(
                f"config: '{group}' is {value.strip() or 'empty'}; choose from {known}"
            )


def _check_sections(cfg: DictConfig) -> None:
    """Refuse a section without which there is nothing to do, or that is a mere value."""
    for name, optional in _SECTIONS.items():
        value = cfg.get(name)
        missing = value is None and (optional or name not in cfg)
        if not missing and not OmegaConf.is_dict(value):
            raise ConfigurationError(
                f"config: '{name}' is {value!r}; give it its fields, or leave it out"
            )


def _on_purpose(error: BaseException) -> str | None:
    """What the first error of ours, or of a config's values, in a chain of causes says.

    Hydra wraps what a config's target raises.
    """
    chain: list[BaseException] = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    for link in chain:
        if isinstance(link, QuartermasterError):
            return str(link)
        if isinstance(link, OmegaConfBaseException):
            return f"config: {' '.join(str(link).split())}; give another value"
    in_full = os.environ.get("HYDRA_FULL_ERROR") == "1"
    if in_full or not isinstance(error.__cause__, TypeError | ValueError | OSError):
        return None
    key = str(error).rsplit("full_key: ", 1)[-1].strip()
    said = " ".join(str(error.__cause__).split())
    return (
        f"{key}: {said}; give other values of '{key}' (HYDRA_FULL_ERROR=1 shows where they were "
        "used)"
    )


def plain(cfg: Any) -> Any:
    """A config as dicts, lists and values, every interpolation resolved."""
    return OmegaConf.to_container(cfg, resolve=True) if OmegaConf.is_config(cfg) else cfg


# --- folders and records of runs


_CONFIG, _RUN, _HISTORY = "config.yaml", "run.json", "history.csv"
_RECORD = (_CONFIG, _RUN, _HISTORY)
_OUTCOME = ("result.json", "summary.json")  # says that a run has ended, and how
# What runs leave behind: a folder with one of these holds results.
_RESULTS = (
    *_RECORD, "bundle", "manifest.json", "checkpoint.pkl", "checkpoint.pt",
    "summary.json", "table.csv", "table.md", "jobs.csv", "runs.csv",
    "comparisons.csv", "speed.json", "result.json", "groups.csv",
)  # fmt: skip
# Options of Hydra that change where configs are read from, all with a value.
_OF_HYDRA = ("--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn")
_SEARCH_PATH = "hydra.searchpath="
_OUTPUT = ("output=", "+output=", "++output=")


@contextmanager
def run_folder(
    cfg: DictConfig, script: str, *, record: bool = False, resume: bool = False
) -> Iterator[Path]:
    """Take the folder ``cfg.output`` for a run, and set ``cfg.output`` to the one that it got.

    What ends before it has written anything leaves nothing behind.

    Parameters
    ----------
    cfg : DictConfig
        Its ``overwrite`` says whether results that are there may be replaced.
    script : str
        Path of the script, for the command.
    record : bool, optional
        Whether ``config.yaml``, ``run.json`` and the head of ``history.csv`` are written, before
        all else, and what an earlier run there came to is taken away: it is not this one's.
    resume : bool, optional
        Whether the run goes on with what it finds there.

    Yields
    ------
    Path

    Raises
    ------
    ConfigurationError
        If the folder was named by a person and holds results, or cannot be made.
    """
    claim = _Claim.of(Path(cfg.output), bool(cfg.get("overwrite")), resume)
    cfg.output = str(claim.folder)
    try:
        if record:
            for name in _OUTCOME:
                (claim.folder / name).unlink(missing_ok=True)
            _write_record(cfg, script, claim.folder)
            if not (resume and (claim.folder / _HISTORY).is_file()):
                write_csv(claim.folder / _HISTORY, HISTORY_COLUMNS, ())
        yield claim.folder
    except (QuartermasterError, InstantiationException, KeyboardInterrupt):
        claim.release()
        raise


@dataclass
class _Claim:
    """A folder that was taken, and how it was before."""

    folder: Path
    made: list[Path] = field(default_factory=list)
    before: dict[str, str] = field(default_factory=dict)
    since: int = field(default_factory=time.time_ns)

    @classmethod
    def of(cls, wanted: Path, overwrite: bool, resume: bool) -> _Claim:
        """Take a folder, or one beside it with a number."""
        named = any(item.startswith(_OUTPUT) for item in _overrides())
        if overwrite:
            return cls._take(wanted)
        if resume:
            return cls._take(wanted if named else _latest(wanted))
        if named:
            if _holds_results(wanted):
                raise ConfigurationError(
                    f"output: '{wanted}' holds the results of an earlier run; name another folder "
                    "(in a sweep, 'output=DIR/${hydra:job.num}'), go on with a training by "
                    "agent.resume=true, or replace them by overwrite=true"
                )
            return cls._take(wanted)
        for folder in _numbered(wanted):
            if not folder.exists():
                try:
                    return cls._take(folder, anew=True)
                except FileExistsError:  # taken a moment ago by another run
                    continue
        raise AssertionError("numbers do not end")

    @classmethod
    def _take(cls, folder: Path, anew: bool = False) -> _Claim:
        absent = [path for path in (folder, *folder.parents) if not path.exists()]
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(exist_ok=not anew)
        except OSError as error:
            if anew and isinstance(error, FileExistsError) and folder.exists():
                raise
            raise ConfigurationError(
                f"output: cannot make '{folder}' ({error.strerror}); name a folder that can be "
                "written to"
            ) from None
        if not os.access(folder, os.W_OK):
            raise ConfigurationError(f"output: '{folder}' cannot be written to; name another one")
        kept = [path for name in (*_RECORD, *_OUTCOME) if (path := folder / name).is_file()]
        return cls(folder, absent, {path.name: path.read_text("utf-8") for path in kept})

    def release(self) -> None:
        """Leave the folder as it was, if the run has written its record only."""
        others = [path for path in self.folder.iterdir() if path.name not in _RECORD]
        if any(path.stat().st_mtime_ns > self.since for path in others):
            return
        for name in _RECORD:
            if name in self.before:
                write_text(self.folder / name, self.before[name])
            else:
                (self.folder / name).unlink(missing_ok=True)
        for name in _OUTCOME:
            if name in self.before and not (self.folder / name).exists():
                write_text(self.folder / name, self.before[name])
        for folder in self.made:
            if any(folder.iterdir()):
                return
            folder.rmdir()


def command_line(script: str) -> str:
    """The command that started this run, but for where its results went."""
    given = [item for item in _overrides() if not item.startswith((*_OUTPUT, "overwrite="))]
    return _command(script, given)


def resume_command(script: str, folder: Path) -> str:
    """The command that goes on with the training of a folder."""
    dropped = (*_OUTPUT, "overwrite=", "agent.resume=")
    given = [item for item in _overrides() if not item.startswith(dropped)]
    return _command(script, [*given, "agent.resume=true", f"output={folder}"])


def _command(script: str, overrides: list[str]) -> str:
    """A command with such overrides, and with the options that say where configs are."""
    return shlex.join(["python", script, *_config_options(), *overrides])


def _config_options() -> list[str]:
    """What the command line said of where configs are."""
    found: list[str] = []
    arguments = sys.argv[1:]
    joined = (*(f"{name}=" for name in _OF_HYDRA), _SEARCH_PATH)
    for at, item in enumerate(arguments):
        if item in _OF_HYDRA:
            found += arguments[at : at + 2]
        elif item.startswith(joined):
            found.append(item)
    return found


def choices() -> dict[str, str]:
    """What this run's config was composed of: the choice of each group, such as ``agent: cma``."""
    if not HydraConfig.initialized():
        return {}
    chosen = HydraConfig.get().runtime.choices
    return {
        str(group): str(choice)
        for group, choice in sorted(chosen.items())
        if choice is not None and not str(group).startswith(("hydra/", "entry"))
    }


def _overrides() -> list[str]:
    """The values that were given for this run's config."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def _write_record(cfg: DictConfig, script: str, folder: Path) -> None:
    write_text(folder / _CONFIG, OmegaConf.to_yaml(cfg, resolve=True))
    known = ("TRACES_DIR", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS")
    content = {
        "command": _command(script, _overrides()),
        "arguments": sys.argv,
        "choices": choices(),
        "working_folder": str(Path.cwd()),
        "environment": {name: os.environ[name] for name in known if name in os.environ},
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
    }
    write_json(folder / _RUN, content)


def _holds_results(folder: Path) -> bool:
    return any((folder / name).exists() for name in _RESULTS)


def _numbered(wanted: Path) -> Iterator[Path]:
    """A folder, then the same with 2, 3 and so on at the end of its name."""
    yield wanted
    for number in count(2):
        yield wanted.with_name(f"{wanted.name}-{number}")


def _latest(wanted: Path) -> Path:
    """The last of the numbered folders that exist."""
    latest = wanted
    for folder in _numbered(wanted):
        if not folder.exists():
            return latest
        latest = folder
    return latest
