"""Prints what the function depends on, a requirement a line, so that an image can install it before the function.

`python requirements.py [--base] [--extra NAME[,NAME]]` beside pyproject.toml. Standard library only.
"""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path


def main() -> None:
    """Print them."""
    parser = argparse.ArgumentParser(description="Prints the requirements that pyproject.toml names.")
    parser.add_argument("--base", action="store_true", help="what everybody needs")
    parser.add_argument("--extra", default="", help="names of extras, separated by commas")
    args = parser.parse_args()
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = list(project["dependencies"]) if args.base else []
    for extra in filter(None, args.extra.split(",")):
        if extra not in project["optional-dependencies"]:
            parser.error(f"pyproject.toml has no extra {extra!r}")
        wanted += project["optional-dependencies"][extra]
    print("\n".join(wanted))


if __name__ == "__main__":
    main()
