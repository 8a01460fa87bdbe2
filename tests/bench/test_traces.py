from __future__ import annotations

from pathlib import Path

import pytest

import bench.load
from bench.errors import BenchError
from bench.traces import TraceFormat, TraceRequest, read_trace

BURSTGPT = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,ChatGPT,1087,0,1087,Conversation log
118.5,GPT-4,417,276,693,API log
"""
AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:15:51.2225670,879,55
"""


def written(directory: Path, text: str) -> Path:
    path = directory / "trace.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_burstgpt(tmp_path: Path) -> None:
    rows = read_trace(written(tmp_path, BURSTGPT), "burstgpt", 1000.0)
    assert rows.requests == (
        TraceRequest(at_s=0.0, prompt_tokens=472, output_tokens=18),
        TraceRequest(at_s=113.5, prompt_tokens=417, output_tokens=276),
    )
    assert rows.num_unanswered == 1


def test_azure_with_seven_digits_of_a_second(tmp_path: Path) -> None:
    rows = read_trace(written(tmp_path, AZURE), "azure", 1000.0)
    assert [row.at_s for row in rows.requests] == [0.0, pytest.approx(4.314579), pytest.approx(4.541977)]
    assert [(row.prompt_tokens, row.output_tokens) for row in rows.requests] == [(374, 44), (396, 109), (879, 55)]


def test_azure_of_2024_names_its_zone(tmp_path: Path) -> None:
    text = (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00.009930+00:00,1,2\n2024-05-10 00:00:01+00:00,3,4\n"
    )
    rows = read_trace(written(tmp_path, text), "azure", 1000.0)
    assert [row.at_s for row in rows.requests] == [0.0, pytest.approx(0.99007)]


def test_only_the_first_seconds_are_read(tmp_path: Path) -> None:
    assert len(read_trace(written(tmp_path, AZURE), "azure", 4.4).requests) == 2


def test_our_own_sample_is_of_burstgpts_format() -> None:
    rows = read_trace(Path(bench.load.__file__).parent / "sample_trace.csv", "burstgpt", 1e9)
    assert len(rows.requests) > 30
    assert rows.num_unanswered == 1


@pytest.mark.parametrize(("text", "trace_format", "message"), [
    (BURSTGPT, "azure", "has no column 'TIMESTAMP', so it is not of the format azure"),
    (AZURE.replace(",44", ",many"), "azure", "line 2: invalid literal"),
    (AZURE.replace("2023-11-16 18:15:51", "yesterday"), "azure", "line 4: Invalid isoformat"),
    (AZURE.replace("18:15:51", "17:15:51"), "azure", "line 4: it is earlier"),
    ("TIMESTAMP,ContextTokens,GeneratedTokens\n", "azure", "has no answered request"),
    ("", "burstgpt", "has no column 'Timestamp'"),
])  # fmt: skip
def test_what_is_no_such_trace_is_refused(tmp_path: Path, text: str, trace_format: TraceFormat, message: str) -> None:
    with pytest.raises(BenchError, match=message):
        read_trace(written(tmp_path, text), trace_format, 1000.0)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"trace: .* cannot be read"):
        read_trace(tmp_path / "none.csv", "azure", 1.0)
