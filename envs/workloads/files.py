"""Read the text of trace files, compressed or not, with errors that say what to do."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from orchestrator.errors import TraceError

__all__ = ["read_text"]


def read_text(path: Path) -> str:
    """Read a text file; a name that ends in ``.gz`` is decompressed.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    str
        Its text.

    Raises
    ------
    TraceError
        When it is absent, cannot be read, is not valid gzip or is not text.
    """
    name = str(path)
    data = b""
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        return data.decode("utf-8-sig")
    except FileNotFoundError:
        raise TraceError(name, "no such file", "check the path of the trace") from None
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        problem = f"is not text (byte {error.start})"
        raise TraceError(name, problem, "give a UTF-8 text file", line) from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        problem = f"cannot be decompressed ({error})"
        raise TraceError(name, problem, "the file is damaged or not gzip: fetch it again") from None
    except OSError as error:
        raise TraceError(name, f"cannot be read ({error})", "check the path and rights") from None
