"""What a backtest found, for people and for programs: tables, lines, files and pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agents.backtest.changes import KINDS, Told
from agents.backtest.moves import Asked, Made
from agents.backtest.pictures import draw_calibration, draw_changes
from agents.backtest.replay import ANSWER_DTYPE, ASKED_OF, of_kind
from agents.backtest.score import DifferenceScore, Score, score_differences, scores
from agents.files import markdown_table, write_csv, write_text
from orchestrator.kernels.state.codes import NEVER
from orchestrator.twin.answers import LEVELS

__all__ = ["Findings", "said_of", "said_of_all", "write_report"]


_ALL = "all cells"
_FIGURES = ("total", "others", "job")


@dataclass
class Findings:
    """What was asked and what came, cell by cell.

    Parameters
    ----------
    answers : dict of str to ANSWER_DTYPE [answers]
    changes : dict of str to list of Told
    moves : dict of str to list of Asked
    """

    answers: dict[str, NDArray[np.void]] = field(default_factory=dict)
    changes: dict[str, list[Told]] = field(default_factory=dict)
    moves: dict[str, list[Asked]] = field(default_factory=dict)

    def add(self, cell: str, answers: NDArray[np.void], first: int) -> None:
        """Note answers of a cell; its moments are counted from ``first`` on."""
        answers["moment"] += first
        before = self.answers.get(cell, np.zeros(0, ANSWER_DTYPE))
        self.answers[cell] = np.concatenate([before, answers])

    @property
    def everything(self) -> NDArray[np.void]:
        """Answers of all cells."""
        none = np.zeros(0, ANSWER_DTYPE)
        found: NDArray[np.void] = np.concatenate([none, *self.answers.values()])
        return found

    @property
    def differences(self) -> list[Told]:
        """Figures of the changes of all cells."""
        return [one for told in self.changes.values() for one in told]

    def starts(self) -> dict[str, Score]:
        """Scores of starts by horizon, over all cells."""
        return scores(of_kind(self.everything, 0))


def write_report(found: Findings, output: Path) -> None:
    """Write tables, answers and pictures into a folder."""
    parts = list[str]()
    everything = found.everything
    if len(everything):
        rows = _rows({**found.answers, _ALL: everything})
        parts.append(
            "## Starts, ends, and starts of jobs that are not submitted yet\n\n" + _table(rows)
        )
        _write_answers(output / "answers.csv", found.answers)
        draw_calibration(output / "calibration.png", found.answers, everything)
    if found.differences:
        parts.append("## Changes that were then made\n\n" + _change_table(found.differences))
        _write_changes(output / "changes.csv", found.changes)
        draw_changes(output / "changes.png", found.differences)
    if found.moves:
        parts.append("## Moves that let gangs in\n\n" + _move_table(found.moves))
        _write_moves(output / "moves.csv", found.moves)
    write_text(output / "table.md", "\n\n".join(parts) + "\n")


# --- in words ------------------------------------------------------------------------------------


def said_of(found: Findings, cell: str) -> str:
    """What came of a cell, in a line."""
    parts = list[str]()
    starts = scores(of_kind(found.answers.get(cell, np.zeros(0, ANSWER_DTYPE)), 0)).get("all")
    if starts is not None:
        parts.append(_in_words(starts))
    totals = [one for one in found.changes.get(cell, []) if one.figure == "total"]
    if totals:
        parts.append("changes, total: " + _changes_in_words(score_differences(totals)))
    gangs = found.moves.get(cell, [])
    if gangs:
        made = [one.made for one in gangs if one.made is not None]
        parts.append(
            f"{len(gangs)} gangs wait, {sum(one.room for one in gangs)} of them for a place; moves "
            f"are offered to {len(made)} and let {sum(one.at_once for one in made)} in at once"
        )
    return "; ".join(parts) or "nobody waits"


def said_of_all(found: Findings) -> Iterator[str]:
    """What came of all cells together, line by line."""
    everything = found.everything
    for kind, said in enumerate(ASKED_OF):
        for horizon, one in scores(of_kind(everything, kind)).items():
            yield f"all cells, {said}, {horizon}: {_in_words(one)}"
    for figure in _FIGURES:
        mine = [one for one in found.differences if one.figure == figure]
        if mine:
            yield f"all cells, changes, {figure}: {_changes_in_words(score_differences(mine))}"


def _in_words(one: Score) -> str:
    return (
        f"{one.answers} answers at {one.moments} moments; 80 % interval holds {one.coverage:.1%} "
        f"({one.coverage_low:.1%} to {one.coverage_high:.1%}); median error {one.error_h:.2f} h, "
        f"by estimates {one.reserved_error_h:.2f} h; pinball {one.pinball_h:.3f} h"
    )


def _changes_in_words(one: DifferenceScore) -> str:
    return (
        f"{one.answers} figures at {one.moments} moments, {one.changed} with a true difference; "
        f"sign right in {one.signs:.1%}, in {one.clear_signs:.1%} of the {one.clear} clear ones; "
        f"80 % interval holds {one.coverage:.1%} ({one.coverage_low:.1%} to "
        f"{one.coverage_high:.1%}), {one.changed_coverage:.1%} of the true differences"
    )


# --- tables --------------------------------------------------------------------------------------


def _rows(found: Mapping[str, NDArray[np.void]]) -> list[tuple[object, ...]]:
    return [
        (name, said, horizon, *asdict(one).values())
        for name, answers in found.items()
        for kind, said in enumerate(ASKED_OF)
        for horizon, one in scores(of_kind(answers, kind)).items()
    ]


def _table(rows: Sequence[Sequence[object]]) -> str:
    head = (
        *("cell", "of", "horizon", "answers", "moments", "coverage of 80 %", "95 %", "pinball h"),
        *("median error h", "by estimates h", "width h"),
    )
    lines = []
    for row in rows:
        *named, held, low, high, pinball, error, reserved, width = row
        told = f"{held:.1%}", f"{low:.1%} to {high:.1%}", f"{pinball:.3f}", f"{error:.2f}"
        lines.append((*map(str, named), *told, f"{reserved:.2f}", f"{width:.2f}"))
    return markdown_table(head, lines)


def _change_table(told: Sequence[Told]) -> str:
    head = (
        *("figure", "change", "answers", "truly different", "sign right", "clear"),
        *("sign right of clear", "coverage of 80 %", "95 %", "of true differences"),
        *("median error h", "median size h"),
    )
    lines = []
    for figure in _FIGURES:
        for kind in ("all", *KINDS):
            mine = [o for o in told if o.figure == figure and kind in ("all", o.kind)]
            if not mine:
                continue
            one = score_differences(mine)
            count = str(one.answers), str(one.changed), _percent(one.signs), str(one.clear)
            held = f"{one.coverage:.1%}", f"{one.coverage_low:.1%} to {one.coverage_high:.1%}"
            sizes = f"{one.error_h:.3f}", f"{one.size_h:.3f}"
            shares = _percent(one.clear_signs), *held, _percent(one.changed_coverage)
            lines.append((figure, kind, *count, *shares, *sizes))
    return markdown_table(head, lines)


def _move_table(found: Mapping[str, Sequence[Asked]]) -> str:
    head = (
        *("cell", "gangs asked", "of them: enough GPUs free", "moves offered", "let in at once"),
        *("let in without", "moves each", "GPU s each", "start sooner by h: median", "mean"),
        *("moved jobs end later by h", "all end later by h"),
    )
    lines = []
    for name, asked in {**found, _ALL: [one for some in found.values() for one in some]}.items():
        made = [one.made for one in asked if one.made is not None]
        counts = len(asked), sum(one.room for one in asked), len(made)
        let_in = sum(one.at_once for one in made), sum(one.saved_h == 0.0 for one in made)
        told = list[str]()
        if made:
            saved = [one.saved_h for one in made]
            told += [f"{np.mean([one.moves for one in made]):.2f}"]
            told += [f"{np.mean([one.costs_gpu_s for one in made]):.0f}"]
            told += [f"{np.median(saved):.2f}", f"{np.mean(saved):.2f}"]
            told += [f"{np.mean([one.lost_h for one in made]):.3f}"]
            told += [f"{np.mean([one.total_h for one in made]):.3f}"]
        lines.append((name, *map(str, (*counts, *let_in)), *(told or [""] * 6)))
    return markdown_table(head, lines)


def _percent(share: float) -> str:
    return "" if np.isnan(share) else f"{share:.1%}"


# --- for programs --------------------------------------------------------------------------------


def _write_answers(path: Path, found: Mapping[str, NDArray[np.void]]) -> None:
    named = [f"p{round(100 * level)}_ms" for level in LEVELS]
    head = ("cell", "moment", "now_ms", "job", "tenant", "of", "true_ms", *named, "reserved_ms")
    rows = []
    for name, answers in found.items():
        for one in answers:
            times = [*one["quantiles_ms"].tolist(), int(one["reserved_ms"])]
            told = [None if time >= NEVER else time for time in times]
            said = ASKED_OF[int(one["kind"])]
            first = (name, int(one["moment"]), int(one["now_ms"]), int(one["job"]))
            rows.append((*first, int(one["tenant"]), said, int(one["true_ms"]), *told))
    write_csv(path, head, rows)


def _write_changes(path: Path, found: Mapping[str, Sequence[Told]]) -> None:
    head = (
        "cell",
        "moment",
        "kind",
        "change",
        "figure",
        "of",
        "mean_h",
        "low_h",
        "high_h",
        "true_h",
    )
    rows = list[tuple[object, ...]]()
    for name, told in found.items():
        for one in told:
            difference = one.told.mean, one.told.low, one.told.high
            said = name, one.moment, one.kind, one.change, one.figure, one.of
            rows.append((*said, *difference, one.true))
    write_csv(path, head, rows)


def _write_moves(path: Path, found: Mapping[str, Sequence[Asked]]) -> None:
    names = [one.name for one in fields(Made)]
    rows = list[tuple[object, ...]]()
    for name, asked in found.items():
        for one in asked:
            made = [None] * len(names) if one.made is None else asdict(one.made).values()
            rows.append((name, one.moment, one.job, one.gpus, one.room, *made))
    write_csv(path, ("cell", "moment", "job", "gpus", "room", *names), rows)
