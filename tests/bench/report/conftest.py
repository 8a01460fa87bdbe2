"""Reports that several modules look at: each is made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.gate.result import GateResult
from bench.report.writing import write_report
from bench.result import Result
from tests.bench.report.results import comparison, everything, gate


@pytest.fixture(scope="session")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Directories by name."""
    results: dict[str, Result | GateResult] = {
        "compare": everything(),
        "sparse": comparison(num_rounds=1, stacks=("pilotlight",), with_points=False),
        "gate": gate(),
    }
    directories = {name: tmp_path_factory.mktemp(name) for name in results}
    for name, result in results.items():
        write_report(result, directories[name] / "new")
    return {name: directory / "new" for name, directory in directories.items()}
