"""Questions to the twin: when a job starts and ends, why it waits, and what would be if."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.cli.request import jobs_in
from orchestrator.cli.terminal import AsJson, At, connect, line, show_json, table, with_flags
from orchestrator.errors import ConfigurationError

__all__ = ["add_twin"]


_JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's identity.")]
_Futures = Annotated[int, typer.Option("--futures", min=2, help="How many futures are played.")]
_MS_PER_HOUR = 3_600_000


def add_twin(app: typer.Typer) -> None:
    """Add the commands to a program."""
    app.command()(when)
    app.command()(why)
    app.command("what-if")(with_flags(ChangeFlags)(what_if))


def when(job_id: _JobId, futures: _Futures = 200, at: At = None, as_json: AsJson = False) -> None:
    """Say when a job will start and end: 8 of 10 futures are between the first and the last time.

    Example: quartermaster when train-4f2a91
    """
    with connect(at) as client:
        told = client.when(job_id, futures)
    if as_json:
        show_json(told)
        return
    _show_when(told)


def _show_when(told: dict[str, Any]) -> None:
    from orchestrator.cli.tables import since

    now_ms = told["now_ms"]
    columns = ("", "10 %", "50 %", "90 %", "NEVER")
    rows = list[tuple[object, ...]]()
    for name in ("start", "end"):
        band = told[name]
        if band is not None:
            times = (since(band[level], now_ms) for level in ("p10", "p50", "p90"))
            rows.append((f"{name}s", *times, f"{band['never']:.0%}"))
    if told["by_estimates_ms"] is not None:
        by_estimates = since(told["by_estimates_ms"], now_ms)
        rows.append(("starts, by all estimates", "", by_estimates, "", ""))
    table(columns, rows, f"job {told['job_id']} neither starts nor ends in any future")
    if told["waits_for"] is not None:
        line(f"it waits: {told['waits_for']['text'] or told['waits_for']['reason']}")
    _show_sources(told)


def _show_sources(told: dict[str, Any]) -> None:
    sources = told["sources"]
    line(
        f"{sources['futures']} futures under '{told['rule']}'; run times of "
        f"{sources['ended_jobs']} jobs that have ended and {sources['running_jobs']} that run; "
        f"arrivals: {_arrivals(sources)}; failures of nodes: {_failures(sources)}"
    )
    line(f"not modelled: {', '.join(told['not_modelled'])}")


def _failures(sources: dict[str, Any]) -> str:
    if not sources.get("failures"):  # a server of before tells of none
        return "none, there are too few to tell"
    return f"as often as {sources['failures']} were, repaired as {sources['repairs']} were"


def _arrivals(sources: dict[str, Any]) -> str:
    if sources["same_time_of"] == "none":
        return "none, there is no past to take them from"
    which = {"week": "same time of the week", "day": "same time of the day", "any": "any time"}
    return (
        f"of the last {sources['arrivals_of_hours']:.0f} h, {which[sources['same_time_of']]}, for "
        f"the next {sources['hours_ahead']:.0f} h"
    )


def why(job_id: _JobId, at: At = None, as_json: AsJson = False) -> None:
    """Say why a job waits, who holds what it needs, and what would start it at once.

    Example: quartermaster why train-4f2a91
    """
    with connect(at) as client:
        told = client.why(job_id)
    if as_json:
        show_json(told)
        return
    from orchestrator.cli.tables import since

    line(f"{job_id} waits: {told['waits_for']['text'] or told['waits_for']['reason']}")
    note = told["preempted"]
    if note is not None:
        whom = f" for {note['by']}" if note.get("by") else ""
        line(f"it was {note['what']} {since(note['time_ms'], told['now_ms'])}{whom}")
    held = [
        (
            *(one["job_id"], one["tenant"], one["priority"].lower(), f"{one['units']:g}"),
            since(one["expected_end_ms"], told["now_ms"]),
            "yes" if one["preemptible"] else "no",
        )
        for one in told["held_by"]
    ]
    columns = ("HELD BY", "TENANT", "PRIORITY", "UNITS", "EXPECTED END", "PREEMPTIBLE")
    table(columns, held, "nobody holds what it needs")
    for one in told["changes"]:
        for_whom = f", preempting {', '.join(one['displaces'])}" if one["displaces"] else ""
        line(f"would start it at once ({one['by']}): {one['text']}{for_whom}")
    if not told["changes"]:
        line(f"none of {told['tried']} changes that were tried would start it at once")


@dataclass(frozen=True)
class ChangeFlags:
    """What is supposed to be done, as flags."""

    cancel: Annotated[list[str] | None, typer.Option("--cancel", help="This job.")] = None
    drain: Annotated[list[str] | None, typer.Option("--drain", help="This node.")] = None
    fail: Annotated[list[str] | None, typer.Option("--fail", help="This node.")] = None
    move: Annotated[
        list[str] | None, typer.Option("--move", metavar="JOB", help="To a tighter place.")
    ] = None
    nodes: Annotated[
        list[str] | None,
        typer.Option("--nodes", metavar="NODE=N", help="N more nodes like this one."),
    ] = None
    quota: Annotated[
        list[str] | None, typer.Option("--quota", metavar="TENANT=N", help="A quota of N.")
    ] = None
    priority: Annotated[
        list[str] | None, typer.Option("--priority", metavar="JOB=CLASS", help="Another class.")
    ] = None
    submit: Annotated[
        Path | None, typer.Option("--submit", metavar="FILE", help="The job of this YAML file.")
    ] = None
    policy: Annotated[
        str | None,
        typer.Option("--policy", help="This rule decides, or bundle that is tried or in charge."),
    ] = None

    def given(self) -> dict[str, Any]:
        """What the server is asked to suppose: only what was said."""
        nodes, quota = _pairs(self.nodes, "--nodes"), _pairs(self.quota, "--quota")
        supposed: dict[str, Any] = {
            "cancel": self.cancel,
            "drain": self.drain,
            "fail": self.fail,
            "move": self.move,
            "nodes": {name: int(_number(n, "--nodes")) for name, n in nodes},
            "quota": {name: _number(n, "--quota") for name, n in quota},
            "priority": dict(_pairs(self.priority, "--priority")),
            "submit": None if self.submit is None else _job_in(self.submit),
            "policy": self.policy,
        }
        return {name: value for name, value in supposed.items() if value}


def what_if(
    futures: _Futures = 100, at: At = None, as_json: AsJson = False, *, flags: ChangeFlags
) -> None:
    """Say what would be if something were done now. Nothing is done.

    Example: quartermaster what-if --drain node-2
    """
    with connect(at) as client:
        told = client.what_if(**flags.given(), futures=futures)
    if as_json:
        show_json(told)
        return
    _show_what_if(told)


def _job_in(path: Path) -> Any:
    found = jobs_in(path)
    if len(found) != 1:
        raise ConfigurationError(f"--submit {path}: it holds {len(found)} jobs; give one with one")
    return {"name": path.stem, **found[0]}


def _pairs(given: list[str] | None, flag: str) -> list[tuple[str, str]]:
    found = []
    for text in given or ():
        name, equals, value = text.rpartition("=")
        if not (equals and name and value):
            raise ConfigurationError(f"{flag} '{text}': write it as NAME=VALUE")
        found.append((name, value))
    return found


def _number(text: str, flag: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigurationError(f"{flag}: '{text}' is no number; give one") from None


def _show_what_if(told: dict[str, Any]) -> None:
    line(f"if {told['change']}:")
    rows = list[tuple[object, ...]]()
    if told["total"] is not None:
        rows.append(("all that are here", *_difference(told["total"])))
    rows += [(f"tenant {name}", *_difference(one)) for name, one in told["tenants"].items()]
    rows += [(name, *_difference(one)) for name, one in told["jobs"].items()]
    if told["others"] is not None:
        rows.append(("waits of those to come", *_difference(told["others"])))
    columns = ("", "BEFORE", "AFTER", "DIFFERENCE", "80 %")
    table(columns, rows, "nobody is there whom it could concern")
    if told["new_job"] is not None:
        _show_when(told["new_job"])
    elif told["sources"] is not None:
        _show_sources(told)


def _difference(one: dict[str, float]) -> tuple[str, ...]:
    from orchestrator.cli.tables import duration

    def signed(hours: float) -> str:
        return f"{'-' if hours < 0 else '+'}{duration(abs(hours) * _MS_PER_HOUR)}"

    before, after = (duration(one[name] * _MS_PER_HOUR) for name in ("before", "after"))
    return before, after, signed(one["mean"]), f"{signed(one['low'])} to {signed(one['high'])}"
