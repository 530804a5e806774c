"""The server's own log: a JSON object a line, who did what, and never a token."""

from __future__ import annotations

import datetime as dt
import json
import logging
import logging.handlers
import os
import re
import traceback
from pathlib import Path
from typing import Any

__all__ = ["JsonLines", "log_to"]


# What looks like a token in a text that came from elsewhere.
_SECRET = re.compile(r"(?i)(bearer\s+|token[=:]\s*)[A-Za-z0-9_\-.~+/]{16,}=*")
_BYTES, _FILES = 16 << 20, 5


class JsonLines(logging.Formatter):
    """A record as one line of JSON, with the fields that it brings."""

    def format(self, record: logging.LogRecord) -> str:
        """As a line."""
        moment = dt.datetime.fromtimestamp(record.created, dt.UTC)
        told: dict[str, Any] = {
            "time": moment.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": hidden(record.getMessage()),
        }
        told |= getattr(record, "fields", {})
        if record.exc_info is not None and record.exc_info[1] is not None:
            told["error"] = hidden("".join(traceback.format_exception(record.exc_info[1])))
        return json.dumps(told, default=repr)


class _Plain(logging.Formatter):
    """A record for people."""

    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", {})
        more = " ".join(f"{name}={value}" for name, value in fields.items())
        return hidden(f"{super().format(record)} {more}".rstrip())


def hidden(text: str) -> str:
    """A text without what looks like a token."""
    return _SECRET.sub(lambda found: f"{found[1]}***", text)


class _PrivateFile(logging.handlers.RotatingFileHandler):
    """A rotated file that only its owner can read."""

    def _open(self) -> Any:
        handle = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        return os.fdopen(handle, self.mode, encoding=self.encoding, errors=self.errors)


def log_to(
    path: Path, level: int = logging.INFO, *, console: bool = True, json_console: bool = False
) -> list[logging.Handler]:
    """Write all that is logged to a file, and warnings to the terminal.

    Parameters
    ----------
    path : Path
        The file; rotated at 16 MiB, and four former ones are kept.
    level : int
        Least level.
    console : bool
        Whether the terminal is told, too.
    json_console : bool
        Whether it is told everything, as the file is.

    Returns
    -------
    list of logging.Handler
        To be removed and closed at the end.
    """
    file = _PrivateFile(path, maxBytes=_BYTES, backupCount=_FILES - 1, encoding="utf-8")
    file.setFormatter(JsonLines())
    handlers: list[logging.Handler] = [file]
    if console:
        terminal = logging.StreamHandler()
        terminal.setLevel(level if json_console else max(level, logging.WARNING))
        plain = _Plain("%(asctime)s %(levelname)-8s %(message)s", "%H:%M:%S")
        terminal.setFormatter(JsonLines() if json_console else plain)
        handlers.append(terminal)
    root = logging.getLogger()
    root.setLevel(level)
    for handler in handlers:
        root.addHandler(handler)
    for noisy in ("uvicorn.error", "httpx"):
        logging.getLogger(noisy).setLevel(max(level, logging.WARNING))
    return handlers
