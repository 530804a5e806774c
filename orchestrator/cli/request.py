"""What jobs ask for, from flags and from YAML files, in one set of names."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.client.forms import JobFields
from orchestrator.errors import ConfigurationError

__all__ = ["JobFlags", "documents_in", "hours", "job_of", "jobs_in"]


_SIZE, _SHAPE, _RUN = "What it needs", "How it may be treated", "How it runs"


def _flag(group: str, about: str, *names: str, metavar: str | None = None) -> Any:
    return typer.Option(
        *names, help=about, metavar=metavar, rich_help_panel=group, show_default=False
    )


@dataclass(frozen=True)
class JobFlags:
    """A job as flags. What is None is left to the file, or to the server."""

    name: Annotated[str | None, _flag(_RUN, "Name for people.", "--name", "-n")] = None
    id: Annotated[str | None, _flag(_RUN, "Identity; otherwise one is made from the name.")] = None
    workers: Annotated[int | None, _flag(_SIZE, "Workers.", "--workers", "-w")] = None
    gpus_per_worker: Annotated[
        int | None, _flag(_SIZE, "GPUs of one worker.", "--gpus-per-worker", "-g")
    ] = None
    gpu_fraction: Annotated[float | None, _flag(_SIZE, "Share of each GPU, up to 1.")] = None
    gpu_memory_gb: Annotated[float | None, _flag(_SIZE, "Memory on each GPU, GiB.")] = None
    gpu_model: Annotated[
        list[str] | None,
        _flag(_SIZE, "A GPU model that will do; may be repeated.", metavar="MODEL"),
    ] = None
    cpus: Annotated[float | None, _flag(_SIZE, "CPU cores of one worker.")] = None
    memory_gb: Annotated[float | None, _flag(_SIZE, "Memory of one worker, GiB.")] = None
    network_gbps: Annotated[float | None, _flag(_SIZE, "Bandwidth between nodes, Gbit/s.")] = None
    topology: Annotated[
        str | None,
        _flag(
            _SIZE,
            "Domain that all workers must share: any, spine, rack, node or island.",
            metavar="DOMAIN",
        ),
    ] = None
    priority: Annotated[
        str | None,
        _flag(_SHAPE, "critical, production, batch or best_effort.", "--priority", "-p"),
    ] = None
    kind: Annotated[str | None, _flag(_SHAPE, "training, batch or service.")] = None
    tenant: Annotated[str | None, _flag(_SHAPE, "Who pays.", "--tenant", "-t")] = None
    elastic: Annotated[
        bool | None,
        _flag(_SHAPE, "The number of workers may change while it runs.", "--elastic/--no-elastic"),
    ] = None
    min_workers: Annotated[int | None, _flag(_SHAPE, "Bounds of an elastic job.")] = None
    max_workers: Annotated[int | None, _flag(_SHAPE, "Bounds of an elastic job.")] = None
    preemptible: Annotated[
        bool | None,
        _flag(_SHAPE, "Others may take its place.", "--preemptible/--no-preemptible"),
    ] = None
    gang: Annotated[
        bool | None, _flag(_SHAPE, "All workers start together, or none.", "--gang/--no-gang")
    ] = None
    time_limit: Annotated[
        str | None, _flag(_SHAPE, "For how long it may run: 2h30m, 90s, 1d.", metavar="TIME")
    ] = None
    deadline: Annotated[
        str | None, _flag(_SHAPE, "When it should be done, from now: 6h.", metavar="TIME")
    ] = None
    env: Annotated[
        list[str] | None,
        _flag(_RUN, "A variable; may be repeated.", "--env", "-e", metavar="NAME=VALUE"),
    ] = None
    workdir: Annotated[
        str | None, _flag(_RUN, "Folder that it runs in; otherwise one of its own.")
    ] = None


_UNITS = {"d": 24.0, "h": 1.0, "m": 1 / 60, "min": 1 / 60, "s": 1 / 3600, "ms": 1 / 3_600_000}
_SPAN = re.compile(r"(?:\d+(?:\.\d+)?\s*(?:d|h|min|ms|m|s)\s*)+")


def hours(text: object, field: str) -> float:
    """A time span in hours.

    Raises
    ------
    ConfigurationError
        If it has no units: nobody knows whether ``90`` is minutes.
    """
    given = str(text).strip().lower()
    if not _SPAN.fullmatch(given):
        raise ConfigurationError(
            f"{field} '{text}': it is no time with units; write it like 2h30m, 45m, 90s or 1d"
        )
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*(d|h|min|ms|m|s)", given)
    return sum(float(count) * _UNITS[unit] for count, unit in parts)


def _variables(given: object, field: str) -> dict[str, str]:
    if isinstance(given, Mapping):
        return {str(name): _plain(value) for name, value in given.items()}
    found = {}
    for pair in given if isinstance(given, list | tuple) else [given]:
        name, equals, value = str(pair).partition("=")
        if not equals or not name:
            raise ConfigurationError(f"{field} '{pair}': it sets no variable; write NAME=VALUE")
        found[name] = value
    return found


def _plain(value: object) -> str:
    """A value of YAML as a variable's text."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _many(given: object, field: str) -> list[str]:
    return [str(one) for one in given] if isinstance(given, list | tuple) else [str(given)]


def _vector(given: object, field: str) -> list[str]:
    if not isinstance(given, list | tuple):
        raise ConfigurationError(
            f"{field} {given!r}: it is no list; write ['python', 'train.py'], or "
            "['sh', '-c', 'a line for the shell']"
        )
    return [str(part) for part in given]


def _as_given(given: object, field: str) -> object:
    return given


_Convert = Callable[[Any, str], Any]
_FIELDS: dict[str, tuple[str, _Convert]] = {
    "id": ("job_id", _as_given),
    "workers": ("num_workers", _as_given),
    "gpu_model": ("gpu_models", _many),
    "cpus": ("cpus_per_worker", _as_given),
    "memory_gb": ("memory_per_worker_gb", _as_given),
    "gang": ("gang_schedule", _as_given),
    "time_limit": ("max_duration_hours", hours),
    "deadline": ("deadline_hours", hours),
    "env": ("environment", _variables),
    "workdir": ("working_dir", _as_given),
    "command": ("command", _vector),
}
"""Names that differ from those of the server, and values that people write differently."""


_OWN = {each.name for each in dataclasses.fields(JobFlags)} | {"command"}
_THEIRS = set(JobFields.__annotations__)


def job_of(given: Mapping[str, Any], where: str) -> JobFields:
    """A job from the names that people use; names of the server's fields will do, too.

    Parameters
    ----------
    given : mapping
        By name, with ``-`` or ``_``; what is None is left out.
    where : str
        For errors: where it was given.

    Raises
    ------
    ConfigurationError
        If a name is unknown, or a value cannot be read.
    """
    job: dict[str, Any] = {}
    for name, value in given.items():
        plain = str(name).replace("-", "_")
        if value is None:
            continue
        if plain not in _OWN | _THEIRS:
            known = ", ".join(sorted(each.replace("_", "-") for each in _OWN))
            raise ConfigurationError(f"{where}: '{name}' is no field of jobs; use one of {known}")
        field, convert = _FIELDS.get(plain, (plain, _as_given))
        job[field] = convert(value, f"{where}: {name}")
    return typing.cast(JobFields, job)


def jobs_in(path: Path) -> list[JobFields]:
    """Jobs of a YAML file, one for each document; raises as :func:`documents_in` does."""
    found = documents_in(path)
    many = len(found) > 1
    return [
        job_of(fields, f"file '{path}'" + (f", document {k + 1}" if many else ""))
        for k, fields in enumerate(found)
    ]


def documents_in(path: Path) -> list[dict[str, Any]]:
    """Fields of each document of a YAML file.

    Raises
    ------
    ConfigurationError
        If the file cannot be read, or holds something else.
    """
    import yaml

    try:
        documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigurationError(f"file '{path}': {error.strerror}; give a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        said = " ".join(str(error).split())
        raise ConfigurationError(f"file '{path}': it is no YAML ({said}); mend it") from error
    documents = [document for document in documents if document is not None]
    if not documents:
        raise ConfigurationError(f"file '{path}': it is empty; write fields into it")
    for k, document in enumerate(documents):
        if not isinstance(document, Mapping) or not all(isinstance(name, str) for name in document):
            where = f"file '{path}'" + (f", document {k + 1}" if len(documents) > 1 else "")
            raise ConfigurationError(f"{where}: it has no fields; write 'name: ...' and others")
    return [dict(document) for document in documents]
