"""What commands have in common: the server they ask, what they print, and how they end."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.client.problems import AuthError, ServerUnreachableError
from orchestrator.errors import ConfigurationError, QuartermasterError, UnknownEntityError

if TYPE_CHECKING:
    from orchestrator.client import Client

__all__ = [
    "AsJson",
    "At",
    "Exit",
    "connect",
    "exit_of",
    "job_exit",
    "line",
    "show_json",
    "table",
    "told",
]


class Exit(IntEnum):
    """How a command ends, where it does not end as its job did."""

    FINE = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    NO_RIGHT = 4
    UNREACHABLE = 5
    TIME_IS_UP = 124
    NO_CODE = 125
    """A job that was cancelled, or has failed without a code."""
    INTERRUPTED = 130


At = Annotated[
    Path | None,
    typer.Option(
        "--endpoint",
        metavar="FILE",
        help="endpoint.json of the server's folder, or that folder; otherwise the environment says "
        "where it is.",
        show_default=False,
    ),
]


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, as the server says it.")]


_HASTY_S, _PATIENT_S = 5.0, 120.0


@dataclass
class _Common:
    """What was given before the command's name."""

    endpoint: Path | None = None


common = _Common()
"""Options of the whole program; set anew by each start of it."""


def connect(at: Path | None, *, patient: bool = False) -> Client:
    """A client of the server that is meant.

    Parameters
    ----------
    at : Path or None
        What was given to the command.
    patient : bool, optional
        Whether it is to outlast a restart of the server, and not only a hiccup.
    """
    _load_httpx()
    from orchestrator.client import Client, Retry

    retry = Retry(_PATIENT_S if patient else _HASTY_S, begin_s=_HASTY_S)
    return Client(at or common.endpoint, retry=retry)


def _load_httpx() -> None:
    """Load httpx without its own command line: click, rich and pygments, a fifth of our start."""
    if "httpx" in sys.modules:
        return

    def main() -> None:
        raise SystemExit("httpx's command line is not loaded here; run 'httpx' by itself")

    stub = types.ModuleType("httpx._main")
    stub.__dict__["main"] = main
    sys.modules[stub.__name__] = stub
    try:
        importlib.import_module("httpx")
    finally:
        del sys.modules[stub.__name__]


_CODES: tuple[tuple[type[QuartermasterError], Exit], ...] = (
    (UnknownEntityError, Exit.NOT_FOUND),
    (AuthError, Exit.NO_RIGHT),
    (ServerUnreachableError, Exit.UNREACHABLE),
    (ConfigurationError, Exit.USAGE),
)


def exit_of(error: QuartermasterError) -> Exit:
    """How a command ends that an error has stopped."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), Exit.FAILED)


def job_exit(status: Mapping[str, Any]) -> int:
    """How a command ends that has waited for a job: as the job did, by a shell's rules."""
    code = status.get("exit_code")
    if status.get("state") == "completed":
        return int(code or 0)
    first = str(status.get("reason") or "").partition("\n")[0]  # then comes the job's output
    if not code or first == "cancelled" or first.startswith("cancelled: "):
        return Exit.NO_CODE
    return int(code) if code > 0 else 128 - int(code)


def line(text: str = "") -> None:
    """Print a line of output."""
    typer.echo(text)


def told(text: str) -> None:
    """Say something that is no output: to people, not to pipes."""
    typer.echo(text, err=True)


def show_json(value: Any, *, compact: bool = False) -> None:
    """Print JSON; ``compact``: on one line, where many follow each other."""
    typer.echo(json.dumps(value, indent=None if compact else 2, ensure_ascii=False))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """Print a table for people; ``empty`` is said if it has no rows."""
    from orchestrator.cli.tables import make_table, print_table

    lines = list(rows)
    if lines:
        print_table(make_table(columns, lines))
    else:
        told(empty)


def with_flags(kind: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Have a command take the fields of a dataclass as options; it gets them as ``flags``.

    Parameters
    ----------
    kind : type
        A dataclass whose fields are annotated with typer's options.
    """
    hints = typing.get_type_hints(kind, include_extras=True)
    only = inspect.Parameter.KEYWORD_ONLY
    flags = [
        inspect.Parameter(each.name, only, default=each.default, annotation=hints[each.name])
        for each in dataclasses.fields(kind)
    ]

    def decorated(run: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(run, eval_str=True)
        mine = [p.replace(kind=only) for p in own.parameters.values() if p.name != "flags"]

        def command(**given: Any) -> None:
            named = {each.name: given.pop(each.name) for each in flags}
            run(flags=kind(**named), **given)

        command.__doc__, command.__name__ = run.__doc__, run.__name__
        command.__annotations__ = {p.name: p.annotation for p in (*flags, *mine)}
        command.__dict__["__signature__"] = own.replace(parameters=[*flags, *mine])
        return command

    return decorated
