"""Identities of the entities in tables of fixed size."""

from __future__ import annotations

from orchestrator.errors import CapacityError, UnknownEntityError

__all__ = ["Names", "Slots"]


class Slots:
    """Which row of a table belongs to whom.

    Parameters
    ----------
    kind : str
        What is in the table, for messages.
    size : int
        Rows.
    """

    def __init__(self, kind: str, size: int) -> None:
        self.kind = kind
        self.size = size
        self.ids: list[str] = []
        self._index: dict[str, int] = {}

    def __contains__(self, name: str) -> bool:
        """Whether somebody has a row."""
        return name in self._index

    @property
    def full(self) -> bool:
        """Whether every row has been used."""
        return len(self.ids) == self.size

    def find(self, name: str) -> int:
        """The row of somebody who has one.

        Raises
        ------
        UnknownEntityError
            If they have none.
        """
        try:
            return self._index[name]
        except KeyError:
            raise UnknownEntityError(
                f"no {self.kind} '{name}'; {len(self._index)} are known"
            ) from None

    def assign(self, row: int, name: str) -> str:
        """Give somebody a row, the next unused one or one that is used; who had it, or ``""``."""
        if row == len(self.ids):
            before = ""
            self.ids.append(name)
        else:
            before = self.ids[row]
            del self._index[before]
            self.ids[row] = name
        self._index[name] = row
        return before if before != name else ""


class Names:
    """Numbers for names, from 0, in the order in which they come up.

    Parameters
    ----------
    kind : str
        What is named, for messages.
    limit : int
        Most names.
    """

    def __init__(self, kind: str, limit: int) -> None:
        self._kind = kind
        self._limit = limit
        self._numbers: dict[str, int] = {}

    def require_room(self, name: str) -> None:
        """Raise :class:`CapacityError` if there is no number for a name."""
        if name not in self._numbers and len(self._numbers) >= self._limit:
            raise CapacityError(
                f"{self._kind} '{name}' would be one more than the {self._limit} that there may be"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """All names, in the order of their numbers."""
        return tuple(self._numbers)

    def number(self, name: str) -> int:
        """The number of a name, a new one if need be."""
        self.require_room(name)
        return self._numbers.setdefault(name, len(self._numbers))
