"""Puts a load on in processes of their own, and adds up what they found."""

from __future__ import annotations

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from bench.children import OWN_MODULE, own_environment, run_script
from bench.errors import BenchError
from bench.load.plan import LoadAnswer, LoadSpec, Share
from bench.load.raw import read_records, write_records
from bench.load.summary import answer_of

_GRACE_S = 60.0
"""For a process to begin, to read its trace and to add up."""
_LEAD_S = 5.0
"""Until several processes begin at once: each has to be there by then, and its dispatch delays show if it is not."""


def run_load(spec: LoadSpec, num_processes: int = 1) -> LoadAnswer:
    """The answer to the load, which `num_processes` put on together.

    Raises:
        BenchError: a process failed or did not end in time, or a processor was named for several of them.
    """
    if num_processes == 1:
        return _run(spec)
    if spec.core is not None:
        raise BenchError("core: several processes have to have a processor each")
    with tempfile.TemporaryDirectory(prefix="pilotlight-bench-") as directory:
        begins_at = time.time() + _LEAD_S
        parts = [
            msgspec.structs.replace(
                spec,
                raw=str(Path(directory) / f"{index}.jsonl"),
                share=Share(index=index, count=num_processes, begins_at_unix_s=begins_at),
            )
            for index in range(num_processes)
        ]
        with ThreadPoolExecutor(num_processes) as pool:
            answers = list(pool.map(_run, parts))
        records = [record for part in parts if part.raw is not None for record in read_records(Path(part.raw))]
    if spec.raw is not None:
        write_records(Path(spec.raw), records)
    return answer_of(records, spec, max(answer.load_cpu_share for answer in answers))


def _run(spec: LoadSpec) -> LoadAnswer:
    timeout_s = spec.window.end_s + spec.timeout_s + _GRACE_S
    answer = run_script("the load", [*OWN_MODULE, "bench.load.running"], spec, own_environment(), timeout_s)
    return msgspec.convert(answer, LoadAnswer)
