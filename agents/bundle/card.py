"""Evaluation cards: how good a policy was found to be, and the command that regenerates it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["CardTable", "EvaluationCard"]

Cell = str | int | float | None


@dataclass(frozen=True)
class CardTable:
    """A table of a card.

    Parameters
    ----------
    title : str
        What was measured, on what.
    columns : sequence of str
    rows : sequence of sequences
        Text and numbers; None: not measured.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def __post_init__(self) -> None:
        """Check that every row has all columns."""
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"table '{self.title}': a row has {len(row)} cells, but there are "
                    f"{len(self.columns)} columns"
                )

    def to_markdown(self) -> str:
        """The table in Markdown, numbers to four significant digits."""
        lines = [f"**{self.title}**", "", _line(self.columns), _line(["---"] * len(self.columns))]
        lines += [_line([_text(cell) for cell in row]) for row in self.rows]
        return "\n".join(lines)


@dataclass(frozen=True)
class EvaluationCard:
    """What is known of a policy.

    Parameters
    ----------
    title : str
    command : str
        The one command that trains and evaluates the policy anew.
    tables : sequence of CardTable
    notes : sequence of str, optional
        What a reader must know to judge the tables, such as the data that was trained on.
    """

    title: str
    command: str
    tables: Sequence[CardTable] = ()
    notes: Sequence[str] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> EvaluationCard:
        """The inverse of :meth:`as_dict`."""
        tables = tuple(CardTable(**table) for table in content["tables"])
        return cls(content["title"], content["command"], tables, tuple(content["notes"]))

    def to_markdown(self) -> str:
        """The card for people."""
        parts = [f"# {self.title}"]
        parts += [table.to_markdown() for table in self.tables]
        if self.notes:
            parts.append("\n".join(f"- {note}" for note in self.notes))
        parts.append(f"Regenerate with:\n\n```\n{self.command}\n```")
        return "\n\n".join(parts) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _text(cell: Cell) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, float):
        return f"{cell:.4g}" if abs(cell) < 1000 else f"{cell:,.0f}"
    return str(cell)
