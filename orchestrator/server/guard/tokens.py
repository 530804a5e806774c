"""Tokens: who holds one, what that allows, and until when.

A token is 256 random bits, so its SHA-256 on disk gives nothing away: there is no list of likely
ones to try, as there is for passwords, and a slow hash would only make every request slow.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import Any

import msgspec

from orchestrator.errors import (
    ConfigurationError,
    StorageError,
    UnknownEntityError,
    ValidationError,
)
from orchestrator.ports import Clock
from orchestrator.server.guard.files import write_private

__all__ = ["LENGTH", "Principal", "Role", "TokenStore"]


_BYTES = 32
LENGTH = 43
"""Characters of a token: 32 bytes in base 64."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MOST = 1000
_HOUR_MS = 3_600_000


class Role(IntEnum):
    """What somebody may do; each may do what those below it may."""

    VIEWER = 0
    SUBMITTER = 1
    OPERATOR = 2


@dataclass(frozen=True)
class Principal:
    """Whoever holds a token.

    Parameters
    ----------
    name : str
        As in the log.
    role : Role
    created_ms : int
        Milliseconds since 1970.
    expires_ms : int or None
        None: never.
    """

    name: str
    role: Role
    created_ms: int = 0
    expires_ms: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "name": self.name,
            "role": self.role.name.lower(),
            "created_ms": self.created_ms,
            "expires_ms": self.expires_ms,
        }


class _Stored(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A token on disk."""

    name: str
    role: str
    sha256: str
    created_ms: int
    expires_ms: int | None


class TokenStore:
    """Tokens by their hashes, in a file that only its owner can read.

    Parameters
    ----------
    path : Path or None
        The file; made if it does not exist. None: they are kept in memory only.
    clock : Clock
        Says when one expires.

    Raises
    ------
    ConfigurationError
        If the file is damaged.
    """

    def __init__(self, path: Path | None, clock: Clock) -> None:
        self._path, self._clock = path, clock
        self._held: dict[bytes, Principal] = {}
        if path is not None and path.exists():
            self._read(path)

    def __len__(self) -> int:
        """Count those that are known, expired ones included."""
        return len(self._held)

    def _read(self, path: Path) -> None:
        try:
            stored = msgspec.json.decode(path.read_bytes(), type=list[_Stored])
            for one in stored:
                role = Role[one.role.upper()]
                held = Principal(one.name, role, one.created_ms, one.expires_ms)
                self._held[bytes.fromhex(one.sha256)] = held
        except (msgspec.MsgspecError, KeyError, ValueError) as error:
            remedy = "restore it from a copy, or remove it to have new tokens made"
            raise ConfigurationError(f"{path}: it is damaged ({error}); {remedy}") from error

    def _keep(self, held: dict[bytes, Principal]) -> None:
        """Write tokens down, and only then let them hold."""
        if self._path is not None:
            stored = [
                _Stored(who.name, who.role.name.lower(), key.hex(), who.created_ms, who.expires_ms)
                for key, who in held.items()
            ]
            try:
                write_private(self._path, msgspec.json.format(msgspec.json.encode(stored)))
            except OSError as error:
                problem = f"{self._path}: {error.strerror}; see to the disk"
                raise StorageError(problem) from error
        self._held = held

    def create(self, name: str, role: Role, expires_hours: float | None = None) -> str:
        """Make a token; its text, which nobody can be told again.

        Parameters
        ----------
        name : str
            Of whoever gets it; letters, digits, ``.``, ``_`` and ``-``.
        role : Role
        expires_hours : float or None
            None: it never expires.

        Raises
        ------
        ValidationError
            If the name is not one, is taken, or there are too many tokens.
        StorageError
            If it cannot be written down; there is no such token then.
        """
        if not _NAME.fullmatch(name):
            remedy = "use up to 64 letters, digits, '.', '_' and '-', the first a letter or digit"
            raise ValidationError("token", "name", f"is {name!r}", remedy)
        return self._add(dict(self._held), name, role, expires_hours)

    def _add(
        self, held: dict[bytes, Principal], name: str, role: Role, expires_hours: float | None
    ) -> str:
        """Make a token besides others, and keep them all; its text."""
        now_ms = self._clock.now_ms()
        for key, who in list(held.items()):
            if who.name != name:
                continue
            if who.expires_ms is None or who.expires_ms > now_ms:
                remedy = "choose another one, or delete that token first"
                raise ValidationError("token", "name", f"'{name}' is taken", remedy)
            del held[key]
        if len(held) >= _MOST:
            raise ValidationError("token", "name", f"is one too many ({_MOST})", "delete old ones")
        text = secrets.token_urlsafe(_BYTES)
        until_ms = None if expires_hours is None else now_ms + round(expires_hours * _HOUR_MS)
        held[_hashed(text)] = Principal(name, role, now_ms, until_ms)
        self._keep(held)
        return text

    def _others(self, name: str) -> dict[bytes, Principal]:
        return {key: who for key, who in self._held.items() if who.name != name}

    def revoke(self, name: str) -> None:
        """Delete a token; from now on nobody gets in with it.

        Raises
        ------
        UnknownEntityError
            If there is none of that name.
        StorageError
            If that cannot be written down; the token holds then.
        """
        kept = self._others(name)
        if len(kept) == len(self._held):
            known = ", ".join(who.name for who in self._held.values())
            raise UnknownEntityError(f"unknown token '{name}'; known: {known}")
        self._keep(kept)

    def renew(self, name: str, role: Role) -> str:
        """Make a token anew, whether there is one of that name or not; its text."""
        return self._add(self._others(name), name, role, None)

    def holds(self, who: Principal) -> bool:
        """Whether a token that was good once still is."""
        return who in self._held.values() and self._is_good(who)

    def _is_good(self, who: Principal) -> bool:
        return who.expires_ms is None or self._clock.now_ms() < who.expires_ms

    def listing(self) -> list[Principal]:
        """Who holds tokens, in the order in which they were made."""
        return [replace(who) for who in self._held.values()]

    def principal(self, text: str) -> Principal | None:
        """Whose token a text is; None: nobody's, or it has expired.

        All tokens are compared, each in a time that does not depend on how much of it fits.
        """
        given, found = _hashed(text), None
        for key, who in self._held.items():
            if hmac.compare_digest(key, given):
                found = who
        return found if found is not None and self._is_good(found) else None


def _hashed(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogateescape")).digest()
