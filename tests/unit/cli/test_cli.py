"""Parsing, printing and exit codes, without a cluster (tests/acceptance has the real one)."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from trivet.cli.local import ClusterFailed, LocalCluster, toml_of
from trivet.cli.main import main
from trivet.cli.messages import read_body
from trivet.cli.output import Exit, cell, exit_code, to_json
from trivet.cli.queues import settings
from trivet.client.errors import Draining, NoLeader, OutcomeUnknown, QueueFull, Unreachable
from trivet.config import load


def run(*arguments: str, **more: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, arguments, **more)  # type: ignore[arg-type]
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (QueueFull("queue_full", "x"), Exit.REFUSED),
        (NoLeader("no_leader", "x"), Exit.UNREACHABLE),
        (Draining("draining", "x"), Exit.UNREACHABLE),
        (Unreachable("x"), Exit.UNREACHABLE),
        (OutcomeUnknown("outcome_unknown", "x"), Exit.UNKNOWN),
    ],
)
def test_exit_codes(error: QueueFull, code: Exit) -> None:
    assert exit_code(error) is code


def test_the_api_description_is_printed_without_a_node() -> None:
    code, text = run("openapi")
    assert code == 0 and json.loads(text)["openapi"].startswith("3.1")
    code, text = run("openapi", "--page")
    assert code == 0 and text.startswith("<!doctype html>")


def test_the_help_names_every_exit_code() -> None:
    code, text = run("--help")
    assert code == 0 and all(f"{one.value} " in text for one in Exit)


def test_every_command_has_help() -> None:
    for name, command in main.commands.items():
        assert command.help, name
        assert run(name, "--help")[0] == 0


def test_bodies(tmp_path: Path) -> None:
    assert read_body('{"a": 1}', "auto") == {"a": 1}
    assert read_body("hello", "auto") == "hello"
    assert read_body("5", "text") == "5"
    assert read_body("\u00e9", "bytes") == b"\xc3\xa9"
    file = tmp_path / "body"
    file.write_bytes(b"[1]")
    assert read_body(f"@{file}", "json") == [1]
    with pytest.raises(ValueError, match="not JSON"):
        read_body("hello", "json")
    with pytest.raises(ValueError, match="the result cannot be read"):
        read_body(f"@{file}.none", "auto", "result")


def test_settings() -> None:
    assert settings(("max_attempts=3", "on_full=reject", "ttl_ms=null", 'backoff={"type":"fixed"}')) == {
        "max_attempts": 3,
        "on_full": "reject",
        "ttl_ms": None,
        "backoff": {"type": "fixed"},
    }
    with pytest.raises(ValueError, match="field=value"):
        settings(("bare",))


def test_bytes_are_printed_as_base64_under_their_own_name() -> None:
    assert json.loads(to_json({"body": b"\x00\xff", "n": [b"x"]})) == {"body_base64": "AP8=", "n": ["eA=="]}
    assert cell(b"abc") == "<3 bytes>" and cell(None) == "-" and cell({"a": 1}) == '{"a":1}'


def test_toml_is_toml() -> None:
    sections = {"a": {"text": 'q"uo\\te\u00e9', "n": 5, "yes": True, "list": ["x", "y"]}, "b": {"empty": []}}
    assert tomllib.loads(toml_of(sections)) == sections


@pytest.mark.parametrize("count", [1, 3, 5])
def test_dev_writes_configurations_that_load(tmp_path: Path, count: int) -> None:
    cluster = LocalCluster(tmp_path, count, 7480)
    cluster.prepare()
    for at, node in enumerate(cluster.nodes):
        config = load(node.config)
        assert config.node.id == node.id and config.cluster.bootstrap
        assert config.api_url == f"http://127.0.0.1:{7480 + 2 * at}"
        assert len(config.members) == (0 if count == 1 else count)
    cluster.prepare()
    with pytest.raises(ClusterFailed, match=f"cluster of {count} nodes"):
        LocalCluster(tmp_path, 3 if count != 3 else 5, 7480).prepare()


def test_init_writes_what_serve_reads(tmp_path: Path) -> None:
    members = "n1=127.0.0.1:1,n2=127.0.0.1:2,n3=127.0.0.1:3"
    code, text = run(
        "init", str(tmp_path / "n2"), "--id", "n2", "--members", members, "--api", "127.0.0.1:9000"
    )
    assert code == 0, text
    config = load(tmp_path / "n2" / "trivet.toml")
    assert config.node.id == "n2" and list(config.members) == ["n1", "n2", "n3"]
    assert config.node.data_dir == str(tmp_path / "n2" / "data")
    assert run("init", str(tmp_path / "n2"))[0] == 2
    assert run("init", str(tmp_path / "x"), "--id", "n9", "--members", members)[0] == 2
    assert not (tmp_path / "x").exists()


def test_a_wrong_address_is_a_usage_error() -> None:
    code, text = run("queue", "list", "--nodes", "ftp://x")
    assert code == 2 and "not an address" in text


def test_destructive_commands_ask() -> None:
    for command in (("queue", "delete", "q"), ("queue", "purge", "q"), ("dead", "purge", "q")):
        code, text = run(*command, input="n\n")
        assert code == 1 and "?" in text
