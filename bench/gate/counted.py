"""Micro paths, one after the other, for whoever counts instructions: `python -m bench.gate.counted PATH=CALLS ...`.

Each path is made and called until the interpreter has settled on its fast forms; then `os.getppid`, of which nobody
else makes use, says where the counting of its calls begins, and again where it ends.
"""

from __future__ import annotations

import gc
import itertools
import os
import sys

from bench.micro.paths import PATHS

_WARM_SHARE = 0.25


def main() -> None:
    """Call each path so many times."""
    for argument in sys.argv[1:]:
        name, _, calls = argument.partition("=")
        path = PATHS[name]()
        for _ in itertools.repeat(None, 1 + int(int(calls) * _WARM_SHARE)):
            path()
        gc.collect()
        gc.disable()
        os.getppid()
        for _ in itertools.repeat(None, int(calls)):
            path()
        os.getppid()
        gc.enable()


if __name__ == "__main__":
    main()
