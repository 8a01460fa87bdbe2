"""Slowdowns of known size, put into a copy of the function's source: what a gate has to find. Pure."""

from __future__ import annotations

import ast

import msgspec

from bench.gate.metrics import COLD_START, EVENTS, LOG_ROWS, PEAK_RSS, REQUEST_CPU, STEP_1, STEP_16, Metric, micro

MICRO_SHARE = 0.05
END_TO_END_SHARE = 0.10

_NAMED = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_LOOP = "for _ in range({amount}): pass"


class Injection(msgspec.Struct, frozen=True, kw_only=True):
    """A statement that is put at the beginning of a function.

    Attributes:
        name: of the injection.
        metric: that must fail.
        duel: of the gate, that it is measured in.
        file: of the function.
        function: its qualified name in the file.
        probe: an amount that surely shows, about a third of what the metric measures.
        statement: with `{amount}`, which is loops, or bytes; None for so many assignments, which cost a nanosecond
            each where a loop would take a hundred to begin with.
        share: by how much it is to get slower, or larger.
    """

    name: str
    metric: Metric
    duel: str
    file: str
    function: str
    probe: int
    statement: str | None = _LOOP
    share: float = END_TO_END_SHARE

    def apply(self, source: str, amount: int) -> str:
        """The source with the statement in it."""
        statement = "; ".join(["_ = 0"] * amount) if self.statement is None else self.statement.format(amount=amount)
        return insert(source, self.function, statement)


def insert(source: str, function: str, statement: str) -> str:
    """Put a statement before the first one of a function, after its docstring.

    Raises:
        ValueError: the source has no such function.
    """
    body: list[ast.stmt] = ast.parse(source).body
    for name in function.split("."):
        named = [node for node in body if isinstance(node, _NAMED) and node.name == name]
        if not named:
            raise ValueError(f"no {function} in the source")
        has_docstring = ast.get_docstring(named[0]) is not None
        body = named[0].body
    first = body[1] if has_docstring and len(body) > 1 else body[0]
    lines = source.splitlines(keepends=True)
    lines.insert(first.lineno - 1, f"{' ' * first.col_offset}{statement}\n")
    return "".join(lines)


END_TO_END = (
    Injection(
        name="requests",
        metric=REQUEST_CPU,
        duel="stub",
        file="handler/formats/chat.py",
        function="ChatFormat.decode",
        probe=5_000,
    ),
    Injection(name="events", metric=EVENTS, duel="stub", file="handler/sse.py", function="ChunkFrames.text", probe=550),
    Injection(
        name="step, 1",
        metric=STEP_1,
        duel="model",
        file="handler/engine/core.py",
        function="EngineCore.step",
        probe=140_000,
    ),
    Injection(
        name="step, 16",
        metric=STEP_16,
        duel="model",
        file="handler/engine/core.py",
        function="EngineCore.step",
        probe=740_000,
        # Else steps of one sequence, which take a third as long, would be slower by three times as much, and be found.
        statement="for _ in range({amount} if len(self._scheduler.running) > 8 else 0): pass",
    ),
    Injection(
        name="cold start",
        metric=COLD_START,
        duel="model",
        file="handler/cli/serve.py",
        function="calm_collector",
        probe=50_000_000,
    ),
    Injection(
        name="log rows",
        metric=LOG_ROWS,
        duel="log",
        file="handler/requestlog/shipper.py",
        function="_transactions",
        probe=800,
        statement="for _ in range({amount} * b''.join(payloads).count(b'\\n')): pass",  # a line is a record
    ),
    Injection(
        name="memory",
        metric=PEAK_RSS,
        duel="model",
        file="handler/cli/serve.py",
        function="calm_collector",
        probe=150_000_000,
        statement="gc.ballast = b'x' * {amount}",
    ),
)


def _micro(path: str, file: str, function: str, probe: int, statement: str | None = _LOOP) -> Injection:
    return Injection(
        name=path,
        metric=micro(path, "counted"),
        duel="micro",
        file=file,
        function=function,
        probe=probe,
        statement=statement,
        share=MICRO_SHARE,
    )


MICRO = (
    _micro("decode", "handler/formats/chat.py", "ChatFormat.decode", 700),
    _micro("validation", "handler/params.py", "ParamsFactory.build", 4_000, None),
    _micro("refusal", "handler/formats/chat.py", "ChatFormat.decode", 4_000, None),
    _micro("sse", "handler/sse.py", "ChunkFrames.text", 180, None),
    _micro("spool", "handler/requestlog/spool.py", "Spool.append", 1_800, None),
    _micro("scheduler", "handler/engine/scheduler.py", "Scheduler.schedule", 600),
    _micro("encode", "handler/engine/tokenizer.py", "Tokenizer.encode", 5_000),
    _micro("incremental_decode", "handler/engine/tokenizer.py", "TextStream.push", 800, None),
)
