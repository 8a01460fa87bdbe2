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
        file: of the function.
        function: its qualified name in the file.
        calls: of the function for what the metric measures once.
        statement: with `{amount}`, which is loops, or bytes.
        share: by how much it is to get slower, or larger.
    """

    name: str
    metric: Metric
    file: str
    function: str
    calls: int = 1
    statement: str = _LOOP
    share: float = END_TO_END_SHARE

    def amount(self, base: float, loop_s: float) -> int:
        """How much it takes, where the metric's figure is `base` and a turn of an empty loop takes `loop_s`."""
        if self.metric.unit == "bytes":
            return round(base * self.share)
        cost_s = {"1/s": lambda: 1 / base, "us": lambda: base / 1e6, "ms": lambda: base / 1e3, "s": lambda: base}
        return max(1, round(cost_s[self.metric.unit]() * self.share / loop_s / self.calls))

    def apply(self, source: str, amount: int) -> str:
        """The source with the statement in it."""
        return insert(source, self.function, self.statement.format(amount=amount))


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
    Injection(name="requests", metric=REQUEST_CPU, file="handler/formats/chat.py", function="ChatFormat.decode"),
    Injection(name="events", metric=EVENTS, file="handler/sse.py", function="ChunkFrames.text"),
    Injection(name="step, 1", metric=STEP_1, file="handler/engine/core.py", function="EngineCore.step"),
    Injection(name="step, 16", metric=STEP_16, file="handler/engine/core.py", function="EngineCore.step"),
    Injection(name="cold start", metric=COLD_START, file="handler/cli/serve.py", function="calm_collector"),
    Injection(
        name="log rows",
        metric=LOG_ROWS,
        file="handler/requestlog/shipper.py",
        function="_transactions",
        statement="for _ in range({amount} * b''.join(payloads).count(b'\\n')): pass",  # a line is a record
    ),
    Injection(
        name="memory",
        metric=PEAK_RSS,
        file="handler/cli/serve.py",
        function="calm_collector",
        statement="gc.ballast = b'x' * {amount}",
    ),
)


def micro_injections(calls: dict[str, int]) -> tuple[Injection, ...]:
    """One for each path.

    Args:
        calls: of the injected function for one call of a path, where it is not called once.
    """
    places = {
        "decode": ("handler/formats/chat.py", "ChatFormat.decode"),
        "validation": ("handler/params.py", "ParamsFactory.build"),
        "refusal": ("handler/formats/chat.py", "ChatFormat.decode"),
        "sse": ("handler/sse.py", "ChunkFrames.text"),
        "spool": ("handler/requestlog/spool.py", "Spool.append"),
        "scheduler": ("handler/engine/scheduler.py", "Scheduler.schedule"),
        "encode": ("handler/engine/tokenizer.py", "Tokenizer.encode"),
        "incremental_decode": ("handler/engine/tokenizer.py", "TextStream.push"),
    }
    return tuple(
        Injection(
            name=path,
            metric=msgspec.structs.replace(micro(path, "counted"), unit="us"),
            file=file,
            function=function,
            calls=calls.get(path, 1),
            share=MICRO_SHARE,
        )
        for path, (file, function) in places.items()
    )
