"""`pilotlight serve` over an engine that computes nothing: `python -m tests.requestlog.stub_server`.

Everything but the engine is the real thing. STUB_SHIPPING holds arguments of Shipping as JSON: its limits are made
for production, and a test has not that much time.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import Any

import msgspec

from bench.stub_engine import StubEngine
from bench.stub_model import stub_model, stub_snapshot
from handler.__main__ import main
from handler.cli import serve
from handler.requestlog.shipper import Shipping

STEP_S = 0.002


def stub_engine(snapshot: Any, *_: object) -> StubEngine:
    return StubEngine(snapshot, stub_model(), STEP_S)


if __name__ == "__main__":
    vars(serve).update(
        ensure_snapshot=lambda _: stub_snapshot(),
        EnginePool=stub_engine,
        Shipping=partial(Shipping, **msgspec.json.decode(os.environ.get("STUB_SHIPPING", "{}"))),
    )
    sys.exit(main(["serve", *sys.argv[1:]]))
