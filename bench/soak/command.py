"""`pilotlight bench soak`: runs it and shows the balance sheet. Exit codes: 0 balanced, 1 not, 2 bad usage."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections import Counter
from pathlib import Path

import msgspec
from rich.table import Table
from rich.text import Text

from bench.environment import Environment, look_around
from bench.outcome import give_out
from bench.soak.balance import Line, balance_sheet, is_balanced
from bench.soak.plan import Plan
from bench.soak.samples import Sample
from bench.soak.soak import run_soak
from bench.tables import describe, open_console
from handler.cli.serve import ensure_snapshot
from handler.settings import Settings

_MARKS = {True: "yes", False: "NO", None: ""}


class SoakResult(msgspec.Struct, frozen=True, kw_only=True):
    """The file that a soak leaves.

    Attributes:
        environment: of the machine.
        plan: what was done.
        sheet: the balance.
        kinds: how many requests of each kind had which fate and status.
        outages: of the database, by kind.
        samples: of the process.
        balanced: whether no line is bad.
    """

    environment: Environment
    plan: Plan
    sheet: tuple[Line, ...]
    kinds: dict[str, dict[str, int]]
    outages: dict[str, int]
    samples: tuple[Sample, ...]
    balanced: bool


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Soak and show.

    Raises:
        BenchError: the function did not start or did not come to rest, or the result cannot be written.
    """
    seconds = args.minutes * 60
    plan = Plan(
        seconds=seconds,
        clients=args.clients,
        seed=args.seed,
        outage_pause_s=min(20.0, seconds / 15),
        sample_s=max(0.2, seconds / 400),
    )
    environment = look_around()
    snapshot = ensure_snapshot(settings).directory.absolute()
    with tempfile.TemporaryDirectory(prefix="pilotlight-soak-") as directory:
        home = Path(directory)
        home.chmod(0o711)  # the embedded PostgreSQL may have to run under another account
        outcome = asyncio.run(run_soak(plan, home, snapshot))
    sheet = balance_sheet(outcome.sent, outcome.rows, outcome.samples, outcome.before, outcome.after, outcome.rest)
    kinds: dict[str, Counter[str]] = {}
    for sent in outcome.sent:
        kinds.setdefault(sent.kind, Counter())[f"{sent.fate} {sent.status or ''}".strip()] += 1
    result = SoakResult(
        environment=environment,
        plan=plan,
        sheet=tuple(sheet),
        kinds={kind: dict(counts) for kind, counts in sorted(kinds.items())},
        outages=outcome.outages,
        samples=outcome.samples,
        balanced=is_balanced(sheet),
    )
    give_out(result, args, _show)
    return 0 if result.balanced else 1


def _show(result: SoakResult) -> None:
    console = open_console()
    plan = result.plan
    console.print(
        f"{describe(result.environment)}; {plan.seconds / 60:g} minutes, {plan.clients} clients, seed {plan.seed}",
        markup=False,
    )
    outages = ", ".join(f"{count} x {kind}" for kind, count in sorted(result.outages.items()))
    console.print(f"database outages: {outages or 'none'}", markup=False)
    sheet = Table("", "", "good", title="balance", title_justify="left", box=None, pad_edge=False)
    for line in result.sheet:
        sheet.add_row(Text(line.name), Text(line.value), _MARKS[line.is_good])
    console.print(sheet)
    kinds = Table("", "", title="by kind", title_justify="left", box=None, pad_edge=False)
    for kind, counts in result.kinds.items():
        kinds.add_row(Text(kind), ", ".join(f"{count} {end}" for end, count in sorted(counts.items())))
    console.print(kinds)
