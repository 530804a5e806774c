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

from orchestrator.errors import ConfigurationError, UnknownEntityError, ValidationError
from orchestrator.ports import Clock
from orchestrator.server.guard.files import write_private

__all__ = ["Principal", "Role", "TokenStore"]


_BYTES = 32
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

    def _write(self) -> None:
        if self._path is None:
            return
        stored = [
            _Stored(who.name, who.role.name.lower(), key.hex(), who.created_ms, who.expires_ms)
            for key, who in self._held.items()
        ]
        write_private(self._path, msgspec.json.format(msgspec.json.encode(stored)))

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
        """
        if not _NAME.fullmatch(name):
            remedy = "use up to 64 letters, digits, '.', '_' and '-', the first a letter or digit"
            raise ValidationError("token", "name", f"is {name!r}", remedy)
        now_ms = self._clock.now_ms()
        for key, who in list(self._held.items()):
            expired = who.expires_ms is not None and who.expires_ms <= now_ms
            if who.name == name and not expired:
                remedy = "choose another one, or delete that token first"
                raise ValidationError("token", "name", f"'{name}' is taken", remedy)
            if expired and who.name == name:
                del self._held[key]
        if len(self._held) >= _MOST:
            raise ValidationError("token", "name", f"is one too many ({_MOST})", "delete old ones")
        text = secrets.token_urlsafe(_BYTES)
        until_ms = None if expires_hours is None else now_ms + round(expires_hours * _HOUR_MS)
        self._held[_hashed(text)] = Principal(name, role, now_ms, until_ms)
        self._write()
        return text

    def revoke(self, name: str) -> None:
        """Delete a token; from now on nobody gets in with it.

        Raises
        ------
        UnknownEntityError
            If there is none of that name.
        """
        kept = {key: who for key, who in self._held.items() if who.name != name}
        if len(kept) == len(self._held):
            known = ", ".join(who.name for who in self._held.values())
            raise UnknownEntityError(f"unknown token '{name}'; known: {known}")
        self._held = kept
        self._write()

    def renew(self, name: str, role: Role) -> str:
        """Make a token anew, whether there is one of that name or not; its text."""
        self._held = {key: who for key, who in self._held.items() if who.name != name}
        return self.create(name, role)

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
        if found is None or found.expires_ms is None or self._clock.now_ms() < found.expires_ms:
            return found
        return None


def _hashed(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogateescape")).digest()
