"""The command line against a real node: what it prints, what it takes, how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.acceptance.conftest import Run, Said, Start
from trivet.cli.local import free_base_port


def said(run: Said) -> dict[str, object]:
    assert run.returncode == 0, run.stderr
    answer: dict[str, object] = json.loads(run.stdout)
    return answer


def test_a_message_from_the_first_command_to_the_last(dev: Start, trivet: Run) -> None:
    nodes = dev(nodes=1).apis

    def run(*arguments: str, stdin: str = "") -> Said:
        return trivet(*arguments, nodes=nodes, stdin=stdin)

    created = run(
        "queue", "create", "mail", "max_attempts=2", 'backoff={"type":"fixed","base_ms":1}', "-o", "json"
    )
    assert said(created)["queue"] == "mail"
    assert said(run("enqueue", "mail", '{"to":"ada"}', "--priority", "5", "-o", "json"))["state"] == "ready"
    assert said(run("enqueue", "mail", "-", "--as", "text", "-o", "json", stdin="hello"))["state"] == "ready"

    first = said(run("lease", "mail", "--max", "2", "-o", "json"))["messages"]
    assert isinstance(first, list) and [one["body"] for one in first] == [{"to": "ada"}, "hello"]
    tokens = [one["lease_token"] for one in first]
    assert said(run("ack", tokens[0], "-o", "json"))["results"] == [{"status": "acked"}]
    again = said(run("ack", tokens[0], "-o", "json"))["results"]
    assert again == [{"status": "acked", "repeated": True}]
    nacked = run("nack", tokens[1], "--error", "no such address", "--dead-letter")
    assert nacked.returncode == 0 and "dead" in nacked.stdout

    table = run("dead", "list", "mail")
    assert "rejected" in table.stdout and "no such address" in table.stdout
    assert said(run("dead", "redrive", "mail", "-o", "json"))["redriven"] == 1
    assert said(run("queue", "show", "mail", "-o", "json"))["ready"] == 1

    refused = run("ack", tokens[1])
    assert refused.returncode == 1 and "stale_lease" in refused.stderr
    missing = run("queue", "show", "nothing", "-o", "json")
    assert missing.returncode == 1
    assert json.loads(missing.stderr)["error"]["code"] == "queue_not_found"
    invalid = run("queue", "create", "mail", "max_atempts=2")
    assert invalid.returncode == 1 and "max_atempts" in invalid.stderr

    status = run("cluster", "status")
    assert status.returncode == 0 and "n1" in status.stdout and "leader" in status.stdout
    assert trivet("health", "--url", nodes).returncode == 0


def test_recover_makes_a_new_cluster_of_what_is_left(dev: Start, trivet: Run, tmp_path: Path) -> None:
    old = dev(nodes=1)
    for n in range(3):
        assert trivet("enqueue", "mail", str(n), nodes=old.apis).returncode == 0
    data = str(old.data / "n1")
    locked = trivet("recover", "--inspect", data)
    assert locked.returncode == 1 and "error" in locked.stderr, "a running node's directory is locked"
    assert old.end() == 0
    looked = trivet("recover", "--inspect", data)
    assert looked.returncode == 0 and "recoverable" in looked.stdout
    assert trivet("recover", "--from", data, "--to", f"n1={tmp_path}/x").returncode == 2, "loss not accepted"
    home = tmp_path / "new"
    made = trivet("recover", "--from", data, "--to", f"n1={home / 'n1'}", "--accept-loss")
    assert made.returncode == 0 and "new cluster" in made.stdout, made.stderr
    new = dev(nodes=1, data=home)
    assert said(trivet("queue", "show", "mail", "-o", "json", nodes=new.apis))["ready"] == 3
    assert said(trivet("lease", "mail", "-o", "json", nodes=new.apis))["messages"]
    assert said(trivet("enqueue", "mail", "x", "-o", "json", nodes=new.apis))["state"] == "ready"


def test_a_shell_sees_output_errors_and_exit_codes(dev: Start, shell: Run) -> None:
    nodes = dev(nodes=1).apis
    piped = shell("enqueue", "mail", "-", "-o", "json", nodes=nodes, stdin='{"to": "ada"}')
    assert piped.returncode == 0 and json.loads(piped.stdout)["state"] == "ready" and not piped.stderr
    refused = shell("queue", "show", "nothing", nodes=nodes)
    assert refused.returncode == 1 and not refused.stdout and "queue_not_found" in refused.stderr


def test_nobody_there_is_exit_3(trivet: Run) -> None:
    nobody = f"http://127.0.0.1:{free_base_port(1)}"
    run = trivet("queue", "list", "--timeout", "0.3", nodes=nobody)
    assert run.returncode == 3 and "unreachable" in run.stderr and "trivet dev" in run.stderr
    assert trivet("health", "--url", nobody).returncode == 3


@pytest.mark.parametrize(
    "arguments",
    [("lease",), ("queue", "list", "-o", "xml"), ("nonsense",), ("enqueue", "q", "x", "--set", "bare")],
)
def test_wrong_usage_is_exit_2(trivet: Run, arguments: tuple[str, ...]) -> None:
    assert trivet(*arguments, nodes="http://127.0.0.1:1").returncode == 2


def test_init_makes_a_node_that_serves(trivet: Run, tmp_path: Path) -> None:
    home = tmp_path / "node"
    port = free_base_port(1)
    assert trivet("init", str(home), "--api", f"127.0.0.1:{port}").returncode == 0
    assert (home / "trivet.toml").exists()
    assert trivet("init", str(home)).returncode == 2, "what is there is never overwritten"
    assert (
        trivet("init", str(tmp_path / "other"), "--members", "n1=127.0.0.1:1,n2=127.0.0.1:2").returncode == 2
    )
    assert trivet("init", str(tmp_path / "other"), "--api", "0.0.0.0:80").returncode == 2, "R36"
    bad = trivet("serve", "--config", str(home / "trivet.toml"), "--set", "api.lissten=x")
    assert bad.returncode == 2 and 'did you mean "api.listen"' in bad.stderr
