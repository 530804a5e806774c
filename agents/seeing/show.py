"""What an evaluation shows of a window besides its numbers: a page, the events, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from agents.build import Evaluation
from agents.evaluation.suite import Suite, informed, labels
from agents.files import write_csv, write_text
from agents.problem import BatchPolicy, RowPolicy, Windows
from agents.seeing.watch import watch
from agents.settings import check_number
from envs.viewing.episode import EpisodeView, Explanation
from envs.viewing.page import episode_page
from orchestrator.errors import ConfigurationError
from orchestrator.scheduling.log import EVENT_COLUMNS, Event

__all__ = [
    "events_table",
    "explanation_table",
    "show_window",
    "write_events",
    "write_page",
]

_Played = Sequence[BatchPolicy | RowPolicy]

_SHOWN = 12  # alternatives on the terminal
_PARTS = 4  # of each


def write_page(path: Path, episodes: Sequence[EpisodeView]) -> None:
    """Write a page that plays episodes: one file, which needs no other."""
    write_text(path, episode_page(episodes))


def write_events(path: Path, episodes: Sequence[EpisodeView]) -> None:
    """Write the event logs of episodes as one table: ``events.csv``.

    Its columns are ``policy`` and :data:`orchestrator.scheduling.log.EVENT_COLUMNS`.
    """
    rows = ((seen.policy, *_cells(event)) for seen in episodes for event in seen.events)
    write_csv(path, ("policy", *EVENT_COLUMNS), rows)


def events_table(events: Sequence[Event]) -> Table:
    """Events for the terminal."""
    table = Table(header_style="dim", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in EVENT_COLUMNS:
        table.add_column(name, justify="right" if name in ("time", "job") else "left")
    for event in events:
        table.add_row(*(escape(str(cell)) for cell in _cells(event)))
    return table


def _cells(event: Event) -> tuple[str | float, ...]:
    """An event as a line of a table: its time in seconds."""
    return event.time_ms // 1000 if event.time_ms % 1000 == 0 else event.time_ms / 1000, *event[1:]


def explanation_table(why: Explanation) -> Table:
    """Why an action, for the terminal: the one that is taken is bold."""
    table = Table(header_style="dim", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("action", no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True)
    notes = any(one.note for one in why.alternatives)
    parts = any(one.parts for one in why.alternatives)
    if notes:
        table.add_column("")
    if parts:
        table.add_column("made of")
    for k, one in enumerate(why.alternatives[:_SHOWN]):
        said = ", ".join(f"{name} {value:+.3g}" for name, value in one.parts[:_PARTS])
        more = f", {len(one.parts) - _PARTS} more" if len(one.parts) > _PARTS else ""
        score = "–" if math.isnan(one.score) else f"{one.score:.5g}"
        cells = [escape(one.action), score, *[escape(one.note)] * notes, *[said + more] * parts]
        table.add_row(*cells, style="bold" if k == 0 else "")
    return table


def show_window(
    cfg: DictConfig,
    made: Evaluation,
    policies: Mapping[str, _Played],
    folder: Path | None,
    console: Console,
) -> None:
    """Play one window of an evaluation again under all who played it, and show it.

    Parameters
    ----------
    cfg : DictConfig
        Its ``animate`` is the number of the window; None: it is window 0, and no page is written.
        Its ``explain`` is the number of a decision that is explained on the terminal, from 1 on;
        None: none is.
    made : Evaluation
    policies : mapping of str to sequence of BatchPolicy or RowPolicy
        Who played beside the suite's rules, by variant.
    folder : Path or None
        Where ``episode.html`` and ``events.csv`` are written, of each variant; None: nowhere.
    console : Console
    """
    animate, explained = cfg.get("animate"), cfg.get("explain")
    if animate is None and explained is None:
        return
    window = 0 if animate is None else check_number("config", "animate", animate, 0)
    problem = informed(made.suite, made.problem, made.history)
    for variant in made.suite.variants:
        windows = made.suite.windows_of(variant, problem)
        if window >= len(windows):
            raise ConfigurationError(
                f"config: 'animate' is {window} of {len(windows)} windows; give a number below"
            )
        episodes = _watched(made.suite, windows, policies[variant], window, variant)
        if explained is not None:
            _explain(episodes, check_number("config", "explain", explained, 1), console)
        if animate is not None and folder is not None:
            end = f"_{variant}" if variant else ""
            write_page(folder / f"episode{end}.html", episodes)
            write_events(folder / f"events{end}.csv", episodes)
            console.print(f"window {window} to look at: {folder / f'episode{end}.html'}")


def _watched(
    suite: Suite, windows: Windows, policies: _Played, window: int, variant: str
) -> list[EpisodeView]:
    """A window under the policies, then the rules, then those of the zoo that played it."""
    zoo = [name for name in suite.zoo if window < suite.zoo_windows.get(name, len(windows))]
    title = f"{suite.name}, {windows.trace.name}, window {window}"
    found = [watch(one, windows, window, title=title) for one in (*policies, *suite.rules, *zoo)]
    names = labels([seen.policy for seen in found], variant)
    return [replace(seen, policy=name) for seen, name in zip(found, names, strict=True)]


def _explain(episodes: Sequence[EpisodeView], number: int, console: Console) -> None:
    """Show why every policy did what it did at one of its decisions."""
    for seen in episodes:
        count = len(seen.explanations)
        if number > count:
            console.print(f"{seen.policy}: there is no decision {number}, of {count} explained")
            continue
        why = seen.explanations[number - 1]
        when = f"decision {number} of {count} that are explained, t = {why.time_ms / 1000:.0f} s"
        console.print(f"\n[bold]{escape(seen.policy)}[/]: {when}", highlight=False)
        console.print(f"[dim]{escape(why.by)}[/]", highlight=False)
        console.print(explanation_table(why))
