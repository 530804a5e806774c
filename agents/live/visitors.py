"""Who visits a live run: clients of its services, and a browser that takes a picture."""

from __future__ import annotations

import asyncio
import shutil
import statistics
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import httpx

from agents.serve import Serving

__all__ = ["Caller", "photograph"]


_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_PICTURE_S = 30.0
_EVERY_S = 0.05
_PATIENCE_S = 30.0  # for the first replica: whoever asks before that is early
_TIMEOUT_S = 10.0


class Caller:
    """Sends requests to a service, through its port, from its first answer on.

    Parameters
    ----------
    server : Serving
        Where the service is.
    service : str
        Its job's identity; replicas answer ``POST /infer``.
    """

    def __init__(self, server: Serving, service: str) -> None:
        self.service = service
        self.took_ms: list[float] = []
        self.failed = 0
        self.last_error = ""
        self._url = f"{server.parts.proxy.url}/{service}/infer"
        self._headers = {"Authorization": f"Bearer {server.endpoint.token}"}
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Send no more."""
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    def story(self) -> str:
        """How requests were answered."""
        if not self.took_ms:
            return f"{self.service}: nobody has answered; {self.last_error}"
        why = f" ({self.last_error})" if self.failed else ""
        return (
            f"{self.service}: {len(self.took_ms)} requests answered, {self.failed} failed{why}, "
            f"{statistics.median(self.took_ms):.1f} ms at the median, {max(self.took_ms):.0f} ms "
            "at most"
        )

    async def _run(self) -> None:
        begun_s, number = time.monotonic(), 0
        async with httpx.AsyncClient(headers=self._headers, timeout=_TIMEOUT_S) as client:
            while True:
                sent_s = time.perf_counter()
                problem = await self._ask(client, number)
                if not problem:
                    self.took_ms.append(1000 * (time.perf_counter() - sent_s))
                elif self.took_ms or time.monotonic() - begun_s > _PATIENCE_S:
                    self.failed += 1
                self.last_error = problem or self.last_error
                number += 1
                await asyncio.sleep(_EVERY_S)

    async def _ask(self, client: httpx.AsyncClient, number: int) -> str:
        """Ask once; what went wrong, or an empty text."""
        key = {"Idempotency-Key": f"{self.service}-{number}"}  # the mesh may send it again
        try:
            answer = await client.post(self._url, json=number, headers=key)
        except httpx.HTTPError as error:
            return f"{type(error).__name__}: {error}"
        if answer.status_code != httpx.codes.OK:
            return f"{answer.status_code}: {answer.text[:200]}"
        return ""


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
            "--virtual-time-budget=8000",  # the page is never done: it listens
            f"--screenshot={path.absolute()}",
            url,
        ]
        with suppress(subprocess.TimeoutExpired, OSError):
            quiet = subprocess.DEVNULL
            subprocess.run(command, stdout=quiet, stderr=quiet, timeout=_PICTURE_S, check=False)
    return "" if path.exists() else f"{program} has taken none"
