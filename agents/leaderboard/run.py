"""From configs to verdicts and the board: who plays which cells, and what is written of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from agents.files import write_text
from agents.leaderboard.cells import Cell, FixedSuite, make_cells
from agents.leaderboard.contenders import Contender, bundled, own
from agents.leaderboard.picture import draw_board
from agents.leaderboard.store import (
    Entry,
    Kind,
    Record,
    check_fresh,
    check_replay,
    read_record,
    write_record,
)
from agents.leaderboard.verdict import board_table, judge, print_verdicts
from agents.program import plain
from agents.settings import check_kind
from orchestrator.errors import (
    ConfigurationError,
    QuartermasterError,
    SchemaMismatchError,
    TraceError,
)

__all__ = ["run_leaderboard"]

_ALL = "all"

_HEAD = """# Leaderboard

Mean cost relative to the best rule of each cell on the same windows, with 95 % bootstrap intervals
over windows: less than 1 is better. The best rule is the one of the lowest mean, in hindsight.
Written by `python scripts/leaderboard.py`; the costs on each window, and the digests of what was
played, are in the JSON files beside it.

![Ratios to the best rule](table.png)"""


def run_leaderboard(cfg: DictConfig, console: Console) -> None:
    """Let somebody play the fixed suites, say how it did, and keep the board.

    Parameters
    ----------
    cfg : DictConfig
        Of ``conf/leaderboard.yaml``.
    console : Console

    Raises
    ------
    ConfigurationError
        When nobody is to play, or what the board knows is stale.
    """
    begun = time.monotonic()
    board, fixed = Path(cfg.board), _fixed(cfg)
    chosen = _chosen(fixed, plain(cfg.suites))
    renew, enter = _flag(cfg, "renew"), _flag(cfg, "enter")
    with _contender(cfg) as mine:
        if mine is None and not renew:
            raise ConfigurationError(
                "leaderboard: nobody plays; give policy=module:Class or bundle=FOLDER, or renew "
                "what the board knows by renew=true"
            )
        changed = renew
        for cell in _cells(chosen, console):
            kept = None if renew else _kept(board, cell)
            record = _renewed(board, cell, console) if kept is None else kept
            changed |= kept is None
            entry = None if mine is None else _played(mine, cell, console)
            if entry is not None:
                print_verdicts(entry, record, judge(entry, record), console)
            if entry is not None and enter:
                write_record(board, record.with_entry(entry))
                changed = True
    if changed:
        _write_board(board, fixed)
    said = "entered on the board, " if mine is not None and enter else ""
    console.print(f"\n{said}{time.monotonic() - begun:.1f} s; the board is {board / 'table.md'}")


def _flag(cfg: DictConfig, name: str) -> bool:
    check_kind("leaderboard", name, cfg[name], bool)
    return bool(cfg[name])


def _fixed(cfg: DictConfig) -> list[FixedSuite]:
    """The suites of the board."""
    return [FixedSuite.from_config(name, said) for name, said in plain(cfg.fixed).items()]


def _chosen(fixed: Sequence[FixedSuite], wanted: Any) -> list[FixedSuite]:
    """Those of the suites that are asked for, by name or by group."""
    names = [wanted] if isinstance(wanted, str) else list(wanted or [])
    known = [_ALL, *dict.fromkeys(suite.group for suite in fixed), *(one.name for one in fixed)]
    for name in names or ["nothing"]:
        if name not in known:
            raise ConfigurationError(
                f"leaderboard: 'suites' has {name!r}; choose from {', '.join(known)}"
            )
    return [one for one in fixed if {_ALL, one.group, one.name} & set(names)]


@contextmanager
def _contender(cfg: DictConfig) -> Iterator[Contender | None]:
    """Who plays, if anybody does."""
    given = [name for name in ("policy", "bundle") if cfg[name] is not None]
    for name in (*given, *(["name"] if cfg.name is not None else [])):
        check_kind("leaderboard", name, cfg[name], str)
    if len(given) == 2:
        raise ConfigurationError("leaderboard: both 'policy' and 'bundle' are given; choose one")
    if not given:
        yield None
        return
    isolated = _flag(cfg, "isolated")
    if given == ["bundle"]:
        yield bundled(cfg.bundle, cfg.name)
        return
    with closing(own(cfg.policy, cfg.name, isolated=isolated)) as mine:
        yield mine


def _cells(suites: Sequence[FixedSuite], console: Console) -> Iterator[Cell]:
    """The cells of suites; of those that need traces that are not there, it is said."""
    for suite in suites:
        try:
            cells = make_cells(suite)
        except TraceError as error:
            console.print(f"[dim]{suite.name} is left out: {error}[/]", soft_wrap=True)
            continue
        yield from cells


def _kept(board: Path, cell: Cell) -> Record | None:
    """What the board knows of a cell; None: nothing."""
    kept = read_record(board, cell.name)
    if kept is not None:
        check_fresh(board, kept, cell)
        check_replay(board, kept, cell)
    return kept


def _renewed(board: Path, cell: Cell, console: Console) -> Record:
    """Let the rules play a cell, and all policies that the board knows there; keep the costs."""
    before = _read_any(board, cell.name)
    with console.status(f"{cell.name}: rules"):
        entries = [Entry(name, Kind.RULE, name, "", cell.rule_costs(name)) for name in cell.rules]
    record = Record(cell.name, cell.group, cell.metric, cell.about, cell.made_of, entries)
    for entry in [] if before is None else before.learned:
        again = _again(entry, cell, console)
        record = record if again is None else record.with_entry(again)
    write_record(board, record)
    return record


def _read_any(board: Path, cell: str) -> Record | None:
    """What is kept, if it can be read: what cannot is written anew."""
    try:
        return read_record(board, cell)
    except ConfigurationError:
        return None


def _again(entry: Entry, cell: Cell, console: Console) -> Entry | None:
    """Somebody who is on the board plays again; None: it is gone, is broken, or does not fit."""
    try:
        with closing(_remade(entry)) as contender:
            return _played(contender, cell, console)
    except Exception as error:  # code of others: nobody else's costs are lost by it
        why = error if isinstance(error, QuartermasterError) else repr(error)
        said = f"{entry.name} leaves {cell.name}: {why}"
        console.print(said, style="dim", markup=False, soft_wrap=True)
        return None


def _remade(entry: Entry) -> Contender:
    """Somebody who is on the board, as it was when it played."""
    if entry.kind == Kind.BUNDLE:
        return bundled(entry.source, entry.name)
    return own(entry.source, entry.name, isolated=entry.isolated)


def _played(contender: Contender, cell: Cell, console: Console) -> Entry | None:
    """Play a cell; None: the policy is of another environment."""
    try:
        policy = contender.policy(cell.schema)
    except SchemaMismatchError as error:
        console.print(f"[dim]{cell.name} is left out: {error}[/]", soft_wrap=True)
        return None
    if contender.name in cell.rules:
        raise ConfigurationError(
            f"leaderboard: '{contender.name}' is what a rule is called; give another 'name'"
        )
    with console.status(f"{cell.name}: {contender.name}"):
        costs = cell.policy_costs(policy)
    who = (contender.name, contender.kind, contender.source, contender.digest)
    return Entry(*who, costs, contender.isolated)


def _write_board(board: Path, fixed: Sequence[FixedSuite]) -> None:
    """Write ``table.md`` and ``table.png``, of all that the board knows."""
    names = sorted(path.stem for path in board.glob("*.json"))
    records = [record for name in names if (record := _read_any(board, name)) is not None]
    parts, groups = [_HEAD], dict.fromkeys(suite.group for suite in fixed)
    shown = []
    for group in groups:
        found = [record for record in records if record.group == group]
        if found:
            parts += [f"## {group}", board_table(found)]
            shown += found
    if not shown:
        return
    write_text(board / "table.md", "\n\n".join(parts) + "\n")
    draw_board(board / "table.png", shown)
