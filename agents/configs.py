"""From Hydra configs to objects: where the configs are, and what scripts build from them."""

from __future__ import annotations

import functools
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from enum import IntEnum
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from agents.evaluation.packing import PackingSuite
from agents.evaluation.suite import Published, Suite
from agents.speed import Ratio, SpeedSuite, Target, Workbench
from agents.task import Task
from envs.config import EnvConfig
from envs.scenario import playable
from envs.workloads import Enrichment, Trace, WindowSplit, enrich, load_workload, of_tenants
from orchestrator.errors import ConfigurationError, QuartermasterError
from orchestrator.kernels.codes import Information, Placement, RuleKey, Scaling
from orchestrator.kernels.features import Encoding
from orchestrator.kernels.session import Sampling

__all__ = [
    "build_packing_suite",
    "build_speed_suite",
    "build_suite",
    "build_task",
    "check_fields",
    "command_line",
    "config_dir",
    "elastic_workload",
    "entry_point",
    "enum_member",
    "env_config",
    "fewer_machines",
    "file_or_generator",
    "judging_suite",
    "plain",
]

_HERE = Path(__file__).resolve().parent
_WRONG_INPUT = 2
_E = TypeVar("_E", bound=IntEnum)

_ENUMS: Mapping[str, type[IntEnum]] = {
    "window_order": RuleKey,
    "information": Information,
    "encoding": Encoding,
    "sampling": Sampling,
    "autoscale": Scaling,
}


def config_dir() -> Path:
    """Folder of the configs: inside the package when installed, else ``conf`` of the checkout."""
    for folder in (_HERE / "_conf", _HERE.parent / "conf"):
        if folder.is_dir():
            return folder
    raise ConfigurationError(
        f"no configs: neither {_HERE / '_conf'} nor {_HERE.parent / 'conf'} exists; "
        "install the package anew"
    )


def entry_point(config_name: str) -> Callable[[Callable[[DictConfig], None]], Callable[[], None]]:
    """Make a script's main function a Hydra program.

    Errors that this project raises on purpose end it with exit code 2 and one line that says what
    to do; anything else is a bug and shows its traceback.

    Parameters
    ----------
    config_name : str
        Root config, for example ``"train"``.
    """

    def decorate(main: Callable[[DictConfig], None]) -> Callable[[], None]:
        @functools.wraps(main)
        def guarded(cfg: DictConfig) -> None:
            try:
                main(cfg)
            except (QuartermasterError, InstantiationException) as error:
                ours = _on_purpose(error)
                if ours is None:
                    raise
                sys.stderr.write(f"error: {ours}\n")
                sys.exit(_WRONG_INPUT)

        start = hydra.main(
            version_base="1.3", config_path=str(config_dir()), config_name=config_name
        )
        return start(guarded)

    return decorate


def _on_purpose(error: BaseException | None) -> QuartermasterError | None:
    """The first error of ours in a chain of causes: Hydra wraps what a config's target raises."""
    while error is not None and not isinstance(error, QuartermasterError):
        error = error.__cause__
    return error


def enum_member(kind: type[_E], subject: str, field: str, name: Any) -> _E:
    """A member of an enumeration by its name in small letters, as configs have it."""
    try:
        return kind[str(name).upper()]
    except KeyError:
        known = ", ".join(member.name.lower() for member in kind)
        raise ConfigurationError(f"{subject}: '{field}' is '{name}'; choose from {known}") from None


def env_config(**options: Any) -> EnvConfig:
    """Make an environment's config from plain values, with enumerations by name.

    Parameters
    ----------
    **options
        Fields of :class:`envs.config.EnvConfig`.

    Returns
    -------
    EnvConfig

    Raises
    ------
    ConfigurationError
        For an unknown field or value, listing the known ones.
    """
    check_fields("environment", EnvConfig, options)
    values: dict[str, Any] = {}
    for name, value in options.items():
        if name in _ENUMS:
            value = enum_member(_ENUMS[name], "environment", name, value)
        elif name == "placements":
            value = tuple(enum_member(Placement, "environment", name, item) for item in value)
        values[name] = value
    return EnvConfig(**values)


def file_or_generator(
    folder: str | None, file: Mapping[str, Any], otherwise: Mapping[str, Any]
) -> Trace:
    """Load a public trace if the folder of traces is known, else generate jobs.

    Parameters
    ----------
    folder : str or None
        Folder of public traces.
    file, otherwise : mapping
        Arguments of :func:`envs.workloads.load_workload`; the path of ``file`` is relative to
        ``folder``.

    Returns
    -------
    Trace
    """
    if not folder:
        return load_workload(**otherwise)
    return load_workload(**{**file, "path": str(Path(folder) / file["path"])})


def fewer_machines(keep_every: int, **workload: Any) -> Trace:
    """Load a workload and leave it every so many-th machine of its cluster.

    A cluster that is never short of anything leaves nothing to decide.

    Parameters
    ----------
    keep_every : int
        1 keeps all.
    **workload
        Arguments of :func:`envs.workloads.load_workload`.

    Returns
    -------
    Trace
    """
    if keep_every < 1:
        raise ConfigurationError(f"workload: 'keep_every' is {keep_every}; at least 1")
    trace = load_workload(**workload)
    name = f"{trace.name} on 1/{keep_every} of its machines" if keep_every > 1 else trace.name
    return replace(trace, name=name, nodes=trace.nodes[::keep_every])


def elastic_workload(
    *,
    keep_every: int = 1,
    enrichment: Mapping[str, Any] | None = None,
    only_tenants: Sequence[str] | None = None,
    without_tenants: Sequence[str] = (),
    **workload: Any,
) -> Trace:
    """Load a workload on fewer machines, add what it does not record, and choose its tenants.

    Parameters
    ----------
    keep_every : int, optional
        As for :func:`fewer_machines`; jobs that do not fit what is left are dropped.
    enrichment : mapping or None, optional
        Fields of :class:`envs.workloads.Enrichment`; None: nothing is added.
    only_tenants, without_tenants : sequence of str, optional
        See :func:`envs.workloads.of_tenants`.
    **workload
        Arguments of :func:`envs.workloads.load_workload`.

    Returns
    -------
    Trace
        What is drawn for a job does not depend on the choice of tenants.
    """
    trace = fewer_machines(keep_every, **workload)
    if enrichment is not None:
        check_fields("enrichment", Enrichment, enrichment)
        trace = enrich(trace, Enrichment(**enrichment))
    return of_tenants(trace, only_tenants, without_tenants)


def build_task(cfg: DictConfig) -> Task:
    """Make a config's learning task, of ``workload``, ``env``, ``scenario``, ``task``, ``seed``."""
    trace = hydra.utils.instantiate(cfg.workload)
    options = plain(cfg.task)
    length = options.pop("evaluation_jobs")
    options["exclude"] = tuple((int(start), int(stop)) for start, stop in options["exclude"])
    config, scenario = hydra.utils.instantiate(cfg.env), hydra.utils.instantiate(cfg.scenario)
    return Task(
        trace=trace,
        config=config,
        split=WindowSplit(playable(trace, config, scenario), **options),
        evaluation_jobs=length,
        seed=cfg.seed,
        scenario=scenario,
    )


def build_suite(cfg: Any) -> Suite:
    """Make a suite of evaluation from plain values."""
    options = plain(cfg)
    options.pop("kind", None)
    check_fields("suite of evaluation", Suite, options)
    options["published"] = tuple(Published(**row) for row in options.get("published", ()))
    return Suite(**options)


def build_speed_suite(cfg: Any, traces: str | None) -> SpeedSuite:
    """Make a suite of measurements from plain values, and the folder of public traces."""
    options = plain(cfg)
    options.pop("kind", None)
    check_fields("suite of measurements", SpeedSuite, options)
    check_fields("suite of measurements, 'bench'", Workbench, options["bench"])
    options["bench"] = Workbench(**options["bench"], traces=traces)
    targets = options.get("targets", {})
    options["targets"] = {name: Target(**target) for name, target in targets.items()}
    options["ratios"] = [Ratio(**ratio) for ratio in options.get("ratios", ())]
    return SpeedSuite(**options)


def build_packing_suite(cfg: Any) -> tuple[PackingSuite, Trace]:
    """Make a suite of packing from plain values, and load what it packs."""
    options = plain(cfg)
    options.pop("kind")
    workload = options.pop("workload")
    check_fields("suite of packing", PackingSuite, options)
    suite = PackingSuite(**options)
    trace: Trace = hydra.utils.instantiate(workload)
    return suite, trace


def check_fields(
    subject: str, kind: type, options: Mapping[str, Any], without: Sequence[str] = ()
) -> None:
    """Refuse options that are no fields of a dataclass, but for those ``without``."""
    known = [field.name for field in fields(kind) if field.name not in without]
    for name in options:
        if name not in known:
            raise ConfigurationError(
                f"{subject}: unknown field '{name}'; known: {', '.join(known)}"
            )


def judging_suite(cfg: DictConfig, task: Task) -> Suite:
    """The suite that judges a trained policy: the test windows of its own task."""
    options = plain(cfg.evaluation)
    starts = task.evaluation_starts("test", options.pop("windows"))
    parts = {name: getattr(task.split, name) for name in ("train", "validation", "test")}
    return Suite(cfg.name, task.evaluation_jobs, starts=starts.tolist(), split=parts, **options)


def command_line(script: str) -> str:
    """The command that started this run, but for where its results went."""
    given = HydraConfig.get().overrides.task
    overrides = [item for item in given if not item.startswith("output=")]
    return " ".join(["python", script, *(shlex.quote(item) for item in overrides)])


def plain(cfg: Any) -> Any:
    """A config as dicts, lists and values, every interpolation resolved."""
    return OmegaConf.to_container(cfg, resolve=True) if OmegaConf.is_config(cfg) else cfg
