"""``python -m agents.cli``: the console script where it is not installed."""

from __future__ import annotations

import sys

from agents.cli.program import main

if __name__ == "__main__":
    sys.exit(main())
