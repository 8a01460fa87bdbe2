from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.environment import Environment, look_around
from bench.errors import BenchError
from bench.gate.result import GateResult, MetricVerdict, Revision
from bench.history.sources import entry_of

HEAD = "b" * 40
HERE = msgspec.structs.replace(look_around(), commit=HEAD, cpu_model="Some Processor", is_modified=False)


def metric(name: str, unit: str, head_median: float) -> MetricVerdict:
    return MetricVerdict(
        name=name,
        label=name,
        unit=unit,
        kind="sampled",
        base_median=1.0,
        head_median=head_median,
        slowdown=1.0,
        interval=None,
        confidence=0.95,
        p_value=None,
        limit=1.1,
        margin=1.05,
        num_rounds=1,
        verdict="pass",
        base=(1.0,),
        head=(head_median,),
    )


def gate_file(path: Path, environment: Environment = HERE, commit: str = HEAD) -> Path:
    result = GateResult(
        base=Revision(name="HEAD~1", commit="a" * 40, subject="before"),
        head=Revision(name="HEAD", commit=commit, subject="after"),
        verdict="pass",
        metrics=(metric("requests_per_s", "1/s", 900.0), metric("ttft_p99", "ms", 12.5)),
        errors=(),
        notes=(),
        num_rounds=1,
        duration_s=1.0,
        environment=environment,
        arguments=(),
        plan={},
    )
    path.write_bytes(msgspec.json.encode(result))
    return path


def micro_file(path: Path, environment: Environment = HERE, names: tuple[str, ...] = ("test_decode",)) -> Path:
    benchmarks: list[dict[str, Any]] = [
        {"name": name, "group": None, "stats": {"min": 4e-5, "median": 5e-5, "data": [4e-5, 6e-5]}} for name in names
    ]
    path.write_bytes(msgspec.json.encode({"benchmarks": benchmarks, "environment": environment, "version": "5.3.1"}))
    return path


def test_both_kinds_make_one_entry(tmp_path: Path) -> None:
    names = ("test_decode", "test_sampler[top_p-16]")
    entry = entry_of([gate_file(tmp_path / "gate.json"), micro_file(tmp_path / "micro.json", names=names)])
    assert (entry.commit, entry.cpu_model) == (HEAD, "Some Processor")
    assert {name: (each.value, each.unit, each.better) for name, each in entry.metrics.items()} == {
        "gate.requests_per_s": (900.0, "1/s", "higher"),
        "gate.ttft_p99": (12.5, "ms", "lower"),
        "micro.decode": (4e-5, "s", "lower"),
        "micro.sampler[top_p-16]": (4e-5, "s", "lower"),
    }


def test_results_of_two_commits_or_processors_are_refused(tmp_path: Path) -> None:
    micro = micro_file(tmp_path / "micro.json")
    with pytest.raises(BenchError, match="one commit"):
        entry_of([micro, gate_file(tmp_path / "gate.json", commit="c" * 40)])
    elsewhere = msgspec.structs.replace(HERE, cpu_model="Another Processor")
    with pytest.raises(BenchError, match="one processor"):
        entry_of([micro, gate_file(tmp_path / "gate.json", elsewhere)])


def test_a_result_that_does_not_say_of_which_commit_it_is_is_refused(tmp_path: Path) -> None:
    nameless = msgspec.structs.replace(HERE, commit=None)
    with pytest.raises(BenchError, match="one commit"):
        entry_of([micro_file(tmp_path / "micro.json", nameless)])


def test_a_checkout_with_changes_is_no_commit(tmp_path: Path) -> None:
    modified = msgspec.structs.replace(HERE, is_modified=True)
    with pytest.raises(BenchError, match="changes"):
        entry_of([micro_file(tmp_path / "micro.json", modified)])


def test_the_same_metric_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"micro\.decode"):
        entry_of([micro_file(tmp_path / "1.json"), micro_file(tmp_path / "2.json")])


@pytest.mark.parametrize("content", [b"{}", b"no JSON", b'{"benchmarks": []}'])
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.json"
    path.write_bytes(content)
    with pytest.raises(BenchError, match=r"other\.json: neither"):
        entry_of([path])
