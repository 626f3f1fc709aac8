"""`trivet run` and what belongs to it against a real node."""

from __future__ import annotations

import json

from tests.acceptance.conftest import Run, Said, Start


def test_a_run_from_its_first_message_to_its_replay(dev: Start, trivet: Run) -> None:
    nodes = dev(nodes=1).apis

    def told(*arguments: str, stdin: str = "") -> dict[str, object]:
        run: Said = trivet(*arguments, "-o", "json", nodes=nodes, stdin=stdin)
        assert run.returncode == 0, run.stderr
        answer: dict[str, object] = json.loads(run.stdout)
        return answer

    made = told("enqueue", "work", '"write"', "--run-id", "r1", "--set", "step_id=a")
    message = str(made["id"])
    lease = told("lease", "work", "--consumer", "w")["messages"][0]  # type: ignore[index]
    shown = told("message", "progress", message, lease["lease_token"], "--percent", "40", "--note", "on it")
    assert shown["state"] == "leased"
    assert told("message", "show", message)["progress"]["percent"] == 40  # type: ignore[index]
    told("message", "cancel", message)
    assert told("message", "progress", message, lease["lease_token"])["cancelled"] is True
    assert told("run", "append", "r1", "token", "hel", "--event-id", "t1")["id"] == 3
    again = told("run", "append", "r1", "token", "-", "--event-id", "t1", stdin='{"n": 1}')
    assert (again["id"], again["duplicate"]) == (3, True)
    told("ack", lease["lease_token"], "--result", '{"text": "hello"}')
    assert told("message", "wait", message)["result"] == {"text": "hello"}

    run = told("run", "show", "r1")
    assert run["counts"]["done"] == 1 and run["steps"][0]["step_id"] == "a"  # type: ignore[index,call-overload]
    table = trivet("run", "show", "r1", nodes=nodes)
    assert table.returncode == 0 and "message.leased" in table.stdout and "done=1" in table.stdout
    events = trivet("run", "events", "r1", "-o", "json", nodes=nodes)
    lines = [json.loads(line) for line in events.stdout.splitlines()]
    assert [one["type"] for one in lines] == ["message.ready", "message.leased", "token", "message.done"]
    rest = trivet("run", "events", "r1", "--after", "2", nodes=nodes)
    assert rest.stdout.splitlines()[0].split() == ["3", "token", "hel"]

    replayed = told("run", "replay", "r1", "--step", "a")
    assert replayed["messages"][0]["origin"]["message_id"] == message  # type: ignore[index]
    assert [one["run_id"] for one in told("run", "list")["runs"]] == ["r1"]  # type: ignore[attr-defined]
    listed = trivet("run", "list", nodes=nodes)
    assert "r1" in listed.stdout and "done=1" in listed.stdout
    missing = trivet("run", "show", "nope", nodes=nodes)
    assert (
        missing.returncode == 1 and "run_not_found" in missing.stderr and "trivet run list" in missing.stderr
    )
