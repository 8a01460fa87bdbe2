from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest

from handler.cli import logs
from handler.errors import ConfigurationError
from handler.requestlog.boot_record import BOOT_COLUMNS
from handler.requestlog.database import LogDatabase
from handler.requestlog.embedded import EmbeddedPostgres
from handler.requestlog.line import Entry, encode
from handler.requestlog.record import COLUMNS, Status
from handler.settings import Settings
from tests.postgres import postgres_server, postgres_url
from tests.requestlog.conftest import empty_home, home, initialised_home
from tests.requestlog.records import full_record, make_boot, make_record

__all__ = ["empty_home", "home", "initialised_home", "postgres_server", "postgres_url"]

COMMAND = """
import argparse, os, sys
from handler.cli import logs
from handler.settings import Settings
parser = argparse.ArgumentParser()
logs.add_parser(parser.add_subparsers())
args = parser.parse_args(["logs", *sys.argv[1:]])
sys.exit(args.run(args, Settings.from_env(os.environ)))
"""


def write(url: str, *records: Entry) -> None:
    async def fill() -> None:
        database = await LogDatabase.open(url, pool_size=1, connect_timeout_s=10, timeout_s=10)
        assert not (await database.write([encode(records)])).refused
        await database.close()

    with asyncio.Runner() as runner:
        runner.run(fill())


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    logs.add_parser(parser.add_subparsers())
    return parser.parse_args(["logs", *words])


def call(url: str, *words: str) -> int:
    args = parse(*words)
    settings = Settings.from_env({"DATABASE_URL": url})
    code = args.run(args, settings)
    assert isinstance(code, int)
    return code


def test_json_has_every_column_and_the_newest_row_last(postgres_url, capsysbinary):
    record = full_record()
    write(postgres_url, record, make_record(8), make_record(6))
    assert call(postgres_url, "--json", "--last", "2") == 0
    first, second = [json.loads(line) for line in capsysbinary.readouterr().out.splitlines()]
    assert list(first) == list(COLUMNS)
    assert first["id"] == str(record.id)
    assert first["created_at"] == "2026-05-04T12:00:00.130456Z"
    assert first["metadata"] == record.metadata
    assert first["prompt"] == record.prompt
    assert (first["status"], first["ttft_ms"]) == ("timeout", 40.5)
    assert second["request_id"] == "req-8"
    assert second["ttft_ms"] is None


def test_the_table_names_what_happened(postgres_url, capsys):
    write(postgres_url, full_record(), make_record(8))
    assert call(postgres_url) == 0
    header, first, second = capsys.readouterr().out.splitlines()
    assert header.split()[:4] == ["created_at", "request_id", "endpoint", "model"]
    local = full_record().created_at.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    assert first.startswith(local)
    for text in ("req-7", "/v1/chat/completions", "smollm2-135m", "timeout", "504", "120/80", "1/40/900"):
        assert text in first
    assert "timeout: took longer than 300 s" in first
    assert "-/-/-" in second


def test_what_a_client_wrote_cannot_play_with_the_terminal(postgres_url, capsys):
    write(postgres_url, make_record(1, error_message="[bold]\x1b[2J\n\u202e", request_id="[/]"))
    assert call(postgres_url) == 0
    output = capsys.readouterr().out
    assert "\x1b" not in output
    assert "\u202e" not in output
    assert "[bold]" in output
    assert len(output.splitlines()) == 2


def test_rows_of_one_status(postgres_url, capsysbinary):
    write(postgres_url, make_record(1), make_record(2, status=Status.CANCELLED))
    assert call(postgres_url, "--json", "--status", "cancelled") == 0
    (line,) = capsysbinary.readouterr().out.splitlines()
    assert json.loads(line)["request_id"] == "req-2"


def test_an_empty_log_is_a_good_answer(postgres_url, capsysbinary):
    assert call(postgres_url, "--json") == 0
    assert capsysbinary.readouterr().out == b""


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--status", "fine"], "invalid choice: 'fine' (choose from 'success',"),
        (["--last=-1"], "must be a whole number"),
        (["--last", "x"], "must be a whole number"),
    ],
)
def test_bad_usage_is_refused(words, reason, capsys):
    with pytest.raises(SystemExit) as error:
        parse(*words)
    assert error.value.code == 2
    assert reason in capsys.readouterr().err


def test_twenty_rows_unless_told_otherwise(postgres_url, capsysbinary):
    write(postgres_url, *(make_record(number) for number in range(30)))
    assert call(postgres_url, "--json") == 0
    assert len(capsysbinary.readouterr().out.splitlines()) == 20


def test_no_database_is_a_configuration_error():
    with pytest.raises(ConfigurationError) as error:
        call("none")
    assert error.value.key == "DATABASE_URL"


def test_a_database_that_cannot_be_reached_is_one_line_without_the_password(capsys):
    assert call("postgresql://user:hunter2@127.0.0.1:1/db") == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert captured.err.startswith("pilotlight logs: ")
    assert "hunter2" not in captured.err


def test_following_shows_new_rows_once_until_ctrl_c(postgres_url):
    write(postgres_url, make_record(1), make_record(2))
    environ = os.environ | {"DATABASE_URL": postgres_url}
    command = [sys.executable, "-c", COMMAND, "--follow", "--json", "--last", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environ, text=True) as process:
        assert process.stdout is not None
        try:
            assert json.loads(process.stdout.readline())["request_id"] == "req-2"
            write(postgres_url, make_record(4), make_record(3))
            assert json.loads(process.stdout.readline())["request_id"] == "req-3"
            assert json.loads(process.stdout.readline())["request_id"] == "req-4"
            write(postgres_url, make_record(0))
            assert json.loads(process.stdout.readline())["request_id"] == "req-0"
            process.send_signal(signal.SIGINT)
            assert process.stdout.read() == ""
            assert process.wait(20) == 0
        finally:
            process.kill()


def test_following_a_database_that_goes_away_is_a_finding(postgres_url):
    write(postgres_url, make_record(1))
    environ = os.environ | {"DATABASE_URL": postgres_url}
    command = [sys.executable, "-c", COMMAND, "--follow"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ, text=True) as process:
        assert process.stdout is not None
        try:
            header, row = process.stdout.readline(), process.stdout.readline()
            assert header.startswith("created_at")
            assert "req-1" in row
            with asyncio.Runner() as runner:
                runner.run(disconnect_others(postgres_url))
            _, errors = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 1
    assert len(errors.splitlines()) == 1


async def disconnect_others(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = current_database() and pid <> pg_backend_pid()"
    )
    await connection.close()


def test_the_reader_of_a_pipe_may_leave_early(postgres_url):
    write(postgres_url, *(make_record(number, error_message="x" * 1000) for number in range(500)))
    environ = os.environ | {"DATABASE_URL": postgres_url}
    command = [sys.executable, "-c", COMMAND, "--json", "--last", "500"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
        assert process.wait(20) == 0


def test_the_embedded_server_is_started_for_the_command_and_shared_with_a_function(home: Path, capsysbinary):
    settings = Settings.from_env({"PILOTLIGHT_HOME": str(home)})
    function = EmbeddedPostgres(home)
    args = parse("--json")
    try:
        write(function.start(), make_record(1))
        assert args.run(args, settings) == 0  # the function is running
        write(function.start(), make_record(2))
    finally:
        function.stop()
    assert args.run(args, settings) == 0  # nobody is running
    names = [json.loads(line)["request_id"] for line in capsysbinary.readouterr().out.splitlines()]
    assert names == ["req-1", "req-1", "req-2"]
    assert not (home / "postgres" / "data" / "postmaster.pid").exists()


def test_boots_are_rows_of_their_own(postgres_url, capsys):
    boot = make_boot()
    write(postgres_url, make_record(1), boot, make_boot(ready_s=None, error="no room", is_cold=None, phases=[]))
    assert call(postgres_url, "--boots") == 0
    header, first, second = capsys.readouterr().out.splitlines()
    assert header.split()[:4] == ["started_at", "instance_id", "model", "image"]
    for text in ("i-1", "smollm2-135m", "pilotlight:1", "cpu", "memory", "1.25", "interpreter 0.10, weights cpu 0.50"):
        assert text in first
    assert "no room" in second
    assert call(postgres_url, "--json", "--boots", "--last", "2") == 0
    shown = json.loads(capsys.readouterr().out.splitlines()[0])
    assert list(shown) == list(BOOT_COLUMNS)
    assert shown["id"] == str(boot.id)
    assert shown["phases"][1] == {"name": "weights", "start_s": 0.5, "end_s": 1.0, "device": "cpu"}
    assert call(postgres_url) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2  # the header, and the one request


def test_what_is_of_requests_does_not_go_with_boots(postgres_url):
    for option in (["--follow"], ["--status", "error"]):
        with pytest.raises(ConfigurationError, match="are of requests"):
            call(postgres_url, "--boots", *option)


def test_a_database_that_has_no_boots_yet_shows_none(postgres_url, capsys):
    assert call(postgres_url, "--boots", "--json") == 0
    assert capsys.readouterr().out == ""
