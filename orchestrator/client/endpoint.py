"""Where a server is, and the token that it knows us by."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from orchestrator.errors import ConfigurationError

__all__ = ["Endpoint", "Finder", "find_endpoint"]


URL, TOKEN, FILE = "QUARTERMASTER_URL", "QUARTERMASTER_TOKEN", "QUARTERMASTER_ENDPOINT"


_LOCAL = ("127.", "localhost", "::1")


@dataclass(frozen=True)
class Endpoint:
    """A server's address.

    Parameters
    ----------
    url : str
        Where it answers, ``http://HOST:PORT``.
    token : str
        Who asks. It is not shown where the endpoint is printed.
    mesh_url : str, optional
        Where services answer, if that is known.

    Raises
    ------
    ConfigurationError
        If the address is none.
    """

    url: str
    token: str = field(repr=False)
    mesh_url: str = ""

    def __post_init__(self) -> None:
        """Refuse what cannot be asked."""
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigurationError(
                f"server address '{self.url}': it is no address; give http://HOST:PORT"
            )
        if not self.token.isprintable() or not self.token.isascii() or " " in self.token:
            raise ConfigurationError(
                "token: it holds characters that no token has; copy it again, without line ends"
            )

    @property
    def local(self) -> bool:
        """Whether it is on this machine: no proxy is asked then."""
        return (urlsplit(self.url).hostname or "").startswith(_LOCAL)

    @classmethod
    def read(cls, path: Path) -> Endpoint:
        """The address that ``quartermaster serve`` has written.

        Parameters
        ----------
        path : Path
            ``endpoint.json`` of the server's folder, or that folder.

        Raises
        ------
        ConfigurationError
            If the file cannot be read, or says something else.
        """
        place = path / "endpoint.json" if path.is_dir() else path
        try:
            told = json.loads(place.read_text(encoding="utf-8"))
            url, token, mesh_url = told["url"], told["token"], told.get("mesh_url") or ""
        except OSError as error:
            raise ConfigurationError(
                f"endpoint file '{place}': {error.strerror}; start a server with 'quartermaster "
                "serve --dir DIR', which writes DIR/endpoint.json"
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigurationError(
                f"endpoint file '{place}': it has no 'url' and 'token'; give the endpoint.json "
                "that a server has written"
            ) from error
        return cls(url, token, mesh_url)


Finder = Callable[[], Endpoint]
"""Says where the server is now: one that was started again may be elsewhere."""


def find_endpoint(path: str | Path | None = None, given: Mapping[str, str] | None = None) -> Finder:
    """Where the server is: the file that is given, or what the environment says.

    Parameters
    ----------
    path : str, Path or None, optional
        ``endpoint.json``, or the folder that it lies in. None: ``QUARTERMASTER_URL`` and
        ``QUARTERMASTER_TOKEN``; where they are not set, the file ``QUARTERMASTER_ENDPOINT``.
    given : mapping or None, optional
        Environment variables; None: those of the process.

    Returns
    -------
    callable
        Says it each time anew. What is said first was tried.

    Raises
    ------
    ConfigurationError
        If nothing says where the server is, or what says so is wrong.
    """
    known = os.environ if given is None else given
    if path is None and known.get(URL):
        told = Endpoint(known[URL].rstrip("/"), known.get(TOKEN, ""))
        return lambda: told
    place = path or known.get(FILE)
    if not place:
        raise ConfigurationError(
            f"server: nothing says where it is; give --endpoint FILE (endpoint.json of the "
            f"server's folder), or set {URL} and {TOKEN}, or {FILE}"
        )
    file = Path(place)
    Endpoint.read(file)
    return lambda: Endpoint.read(file)
