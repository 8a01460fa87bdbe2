"""The workflows that measure: their commands are ones that there are, and who may write what is as it should be."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

import bench.cli
from bench.report.markdown import GATE_MARK

ROOT = Path(__file__).parents[3]
WORKFLOWS = ROOT / ".github" / "workflows"
_COMMAND = re.compile(r"\.venv/bin/pilotlight (bench .*)")
_END = re.compile(r"\s(?:\||>>?|;|&&)\s.*")


def workflow(name: str) -> dict[str, Any]:
    # `on` is a boolean in YAML 1.1, which PyYAML reads.
    loaded = yaml.safe_load((WORKFLOWS / f"{name}.yml").read_text())
    return {"on" if key is True else key: value for key, value in loaded.items()}


def scripts(name: str) -> list[str]:
    return [step["run"] for job in workflow(name)["jobs"].values() for step in job["steps"] if "run" in step]


def commands() -> list[str]:
    """Each `pilotlight bench ...` of benchmarks.yml, up to where the shell takes over."""
    found = [match for script in scripts("benchmarks") for match in _COMMAND.findall(script)]
    return [_END.sub("", command) for command in found]


@pytest.mark.parametrize("command", commands())
def test_each_command_parses(command: str) -> None:
    parser = argparse.ArgumentParser(prog="pilotlight", exit_on_error=False)
    bench.cli.add_parser(parser.add_subparsers(dest="command"))
    assert parser.parse_args(shlex.split(command)).command == "bench"


def test_what_is_measured_is_compared_kept_and_judged() -> None:
    started = {" ".join(command.split()[1:3]) for command in commands()}
    assert {"gate HEAD^1", "gate HEAD~1", "report gate.json", "history add", "history check"} == started


def test_each_target_of_make_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text().replace("$(VENV)", ".venv")
    wanted = [
        word
        for script in scripts("benchmarks")
        for line in re.findall(r"^make (.*)", script, re.MULTILINE)
        for word in line.split()
        if "=" not in word
    ]
    assert {"bench", "otava", ".venv/.dev"} == set(wanted)
    for target in wanted:
        assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), target


def test_a_part_of_a_pipe_that_fails_is_seen() -> None:
    assert workflow("benchmarks")["defaults"]["run"]["shell"] == "bash"


def test_what_runs_the_code_of_others_may_write_nothing() -> None:
    measuring = workflow("benchmarks")
    assert measuring["permissions"] == {"contents": "read"}
    writing = {name: job["permissions"] for name, job in measuring["jobs"].items() if "permissions" in job}
    assert writing == {"history": {"contents": "write"}}
    assert measuring["jobs"]["history"]["if"] == "github.event_name == 'push'"
    assert set(measuring["on"]) == {"push", "pull_request"}


def test_what_comments_runs_no_code_of_others() -> None:
    commenting = workflow("benchmarks-comment")
    assert commenting["on"]["workflow_run"]["workflows"] == [workflow("benchmarks")["name"]]
    assert commenting["permissions"] == {}
    (job,) = commenting["jobs"].values()
    assert job["permissions"] == {"actions": "read", "pull-requests": "write"}
    assert [step["uses"].partition("@")[0] for step in job["steps"]] == [
        "actions/download-artifact",
        "actions/github-script",
    ]
    script = job["steps"][1]["with"]["script"]
    assert "${{" not in script  # what others wrote would become code
    assert f'"{GATE_MARK}"' in script


def test_no_script_has_the_words_of_others_put_into_it() -> None:
    for script in scripts("benchmarks"):
        assert "${{" not in script, script
