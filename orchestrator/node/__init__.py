"""The node agent: one process per node that starts workers, watches them, and reports.

It stands below the runtimes, imports nothing of the engine, and starts in a fraction of a second.
"""

from __future__ import annotations
