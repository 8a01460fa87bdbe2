from __future__ import annotations

import argparse
from pathlib import Path

import msgspec
import pytest

import bench.report.arguments
import bench.report.command
from bench.errors import BenchError
from bench.report.reading import read_result
from bench.result import write_result
from handler.errors import ConfigurationError
from handler.settings import Settings
from tests.bench.report.results import comparison, gate

RESULTS = sorted((Path(bench.__file__).parent / "results").glob("*.json"))


def report(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    bench.report.arguments.add_parser(parser.add_subparsers())
    return bench.report.command.run(parser.parse_args(["report", *arguments]), settings())


def settings() -> Settings:
    return Settings.from_env({})


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_result(comparison(num_rounds=1, stacks=("pilotlight", "fastapi")), tmp_path / "result.json")
    return tmp_path


def test_the_page_lies_beside_its_result(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(str(directory)) == 0
    page = (directory / "report.html").read_text()
    assert "Pilotlight beside FastAPI" in page
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"wrote {directory / 'report.html'}\n")
    assert report(str(directory / "result.json"), "--out", str(directory / "other.html")) == 0
    assert (directory / "other.html").read_text() == page


def test_markdown_is_printed_and_the_page_is_written_only_on_demand(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_result(gate(), directory / "gate.json")
    assert report(str(directory / "gate.json"), "--markdown") == 0
    assert capsys.readouterr().out.startswith("<!-- pilotlight-gate -->\n")
    assert not (directory / "report.html").exists()
    assert report(str(directory / "gate.json"), "--markdown", "--out", str(directory / "gate.html")) == 0
    assert "Slower" in (directory / "gate.html").read_text()


def test_a_result_survives_its_file(directory: Path) -> None:
    write_result(gate(), directory / "gate.json")
    assert read_result(directory / "gate.json") == gate()
    assert read_result(directory) == comparison(num_rounds=1, stacks=("pilotlight", "fastapi"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_results_of_other_benchmarks_are_refused_by_name(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="a report shows those of `bench compare` and `bench gate`"):
        report(str(path))


def test_other_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "file.json"
    with pytest.raises(ConfigurationError, match=r"file\.json cannot be read: No such file"):
        read_result(file)
    for content, message in (
        (b"no JSON", "no result of a benchmark"),
        (b"[]", "no result of a benchmark"),
        (b"{}", "names no benchmark"),
        (b'{"benchmark": "compare", "format_version": 7}', "has format 7; a report reads format 1"),
        (b"\xff", "no result of a benchmark"),
    ):
        file.write_bytes(content)
        with pytest.raises(ConfigurationError, match=message):
            read_result(file)


def test_a_damaged_result_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    fields = msgspec.to_builtins(gate())
    del fields["metrics"]
    file.write_bytes(msgspec.json.encode(fields))
    with pytest.raises(BenchError, match=r"is damaged: .*metrics"):
        read_result(file)
