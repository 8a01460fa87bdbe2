"""`python -m bench engine ...` is `pilotlight bench engine ...`, for a checkout that is not installed."""

from __future__ import annotations

import sys

import bench.cli
from handler.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["bench", *sys.argv[1:]], {"bench": bench.cli}))
