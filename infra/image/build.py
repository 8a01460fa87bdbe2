"""Builds the image: `python infra/image/build.py [--tag T] [--build-arg KEY=VALUE ...]` at the top of the checkout.

With Docker where an engine answers, else with Buildah on a base made by debootstrap. pip's configuration of this
machine goes along as a secret: it is in no layer.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from engines import engine_here

TAG = "pilotlight"


def main() -> None:
    """Build, and say how large it is."""
    parser = argparse.ArgumentParser(description="Builds the container image.")
    parser.add_argument("--tag", default=TAG)
    parser.add_argument("--build-arg", action="append", default=[], metavar="KEY=VALUE", help="of the Dockerfile")
    args = parser.parse_args()
    arguments = dict(each.split("=", 1) for each in args.build_arg)
    arguments.setdefault("IMAGE", args.tag)
    engine = engine_here()
    with tempfile.NamedTemporaryFile("w", prefix="pip-", suffix=".conf") as pip_conf:
        pip_conf.write(_pip_configuration())
        pip_conf.flush()
        engine.build(args.tag, arguments, Path(pip_conf.name))
    total_bytes = 0
    for made_by, size_bytes in engine.layers(args.tag):
        total_bytes += size_bytes
        print(f"{size_bytes / 1e6:9.1f} MB  {' '.join(made_by.split())[:100]}")
    print(f"{total_bytes / 1e6:9.1f} MB  {args.tag}")


def _pip_configuration() -> str:
    """What pip is told here, in files and in the environment, as one file; a name given twice means the last."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    values = {}
    for line in listed.stdout.splitlines():
        name, _, value = line.partition("=")
        section, _, key = name.rpartition(".")
        if section in {"global", "install", ":env:", "user", "site"}:
            values[key] = value.strip("'")
    return "[global]\n" + "".join(f"{key} = {value}\n" for key, value in sorted(values.items()))


if __name__ == "__main__":
    main()
