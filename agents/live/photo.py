"""A picture of a page, by a browser without a window, where there is one."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import tempfile
from pathlib import Path

__all__ = ["photograph"]


_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_MOST_S = 30.0


async def photograph(url: str, path: Path) -> str:
    """Take a picture of a page.

    Parameters
    ----------
    url : str
    path : Path
        Of the picture, PNG.

    Returns
    -------
    str
        Why there is none; empty: there is.
    """
    return await asyncio.to_thread(_photograph, url, path)


def _photograph(url: str, path: Path) -> str:
    program = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if program is None:
        return "there is no Chromium; install it (Debian: chromium)"
    path.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [
            program,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={profile}",
            "--window-size=1280,1800",
            "--virtual-time-budget=3000",  # the page is never done: it listens
            f"--screenshot={path.absolute()}",
            url,
        ]
        with contextlib.suppress(subprocess.TimeoutExpired, OSError):
            quiet = subprocess.DEVNULL
            subprocess.run(command, stdout=quiet, stderr=quiet, timeout=_MOST_S, check=False)
    return "" if path.exists() else f"{program} has taken none"
