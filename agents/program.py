"""How a script becomes a program: its configs, what is refused before it begins, how it ends."""

from __future__ import annotations

import functools
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import InstantiationException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from agents.training import Stopped, stoppable
from envs.checks import check_whole
from orchestrator.errors import ConfigurationError, QuartermasterError

__all__ = ["config_dir", "entry_point", "plain"]


_HERE = Path(__file__).resolve().parent


_WRONG_INPUT = 2


_NAMED = re.compile(r".*[^\d.,eE+-].*", re.DOTALL)
"""What may be the name of a choice: anything but a number, or nothing."""


_NO_NAMES = ("null", "~", "true", "false", "''", '""')


_SECTIONS = dict.fromkeys(
    ("workload", "env", "reward", "failures", "services", "fleet", "scenario", "agent", "task"),
    False,
) | dict.fromkeys(("evaluation", "suite", "history"), True)
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


def entry_point(
    config_name: str,
) -> Callable[[Callable[[DictConfig], float | None]], Callable[[], None]]:
    """Make a script's main function a Hydra program.

    What it returns is what Hydra's sweepers minimise. Errors that this project raises on purpose
    end it with exit code 2 and one line that says what to do; SIGINT and SIGTERM end it with a line
    and 128 and the signal's number; anything else is a bug and shows its traceback.

    Parameters
    ----------
    config_name : str
        Root config, for example ``"train"``.
    """

    def decorate(main: Callable[[DictConfig], float | None]) -> Callable[[], None]:
        @functools.wraps(main)
        def guarded(cfg: DictConfig) -> float | None:
            try:
                _check_seeds(cfg, "")
                _check_sections(cfg)
                with stoppable():
                    return main(cfg)
            except (QuartermasterError, InstantiationException, OmegaConfBaseException) as error:
                ours = _on_purpose(error)
                if ours is None:
                    raise
                sys.stderr.write(f"error: {ours}\n")
                sys.exit(_WRONG_INPUT)
            except KeyboardInterrupt as error:
                number = error.number if isinstance(error, Stopped) else signal.SIGINT
                sys.stderr.write(f"stopped by {signal.Signals(number).name}\n")
                sys.exit(128 + number)

        start = hydra.main(
            version_base="1.3", config_path=str(config_dir()), config_name=config_name
        )
        program: Callable[[], None] = start(guarded)

        @functools.wraps(main)
        def begin() -> None:
            try:
                _check_groups(sys.argv[1:])
            except ConfigurationError as error:
                sys.stderr.write(f"error: {error}\n")
                sys.exit(_WRONG_INPUT)
            program()

        return begin

    return decorate


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
        choice = _NAMED.fullmatch(value.strip())
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
