"""`trivet flow …` against a real node."""

from __future__ import annotations

import json
from pathlib import Path

from tests.acceptance.conftest import Run, Start
from tests.acceptance.test_cli import said

STEPS = [
    {"step_id": "pay", "queue": "payments", "body": 1, "compensate": {"queue": "refunds"}},
    {"step_id": "ship", "queue": "parcels", "depends_on": ["pay"]},
]


def test_a_flow_from_the_first_command_to_the_last(dev: Start, trivet: Run, tmp_path: Path) -> None:
    nodes = dev(nodes=1).apis
    file = tmp_path / "flow.json"
    file.write_text(json.dumps({"steps": STEPS, "run_id": "order-7"}))
    made = said(trivet("flow", "create", f"@{file}", "-o", "json", nodes=nodes))
    assert made["run_id"] == "order-7"
    flow_id = str(made["id"])
    table = trivet("flow", "create", "-", "--run-id", "order-8", nodes=nodes, stdin=json.dumps(STEPS))
    assert table.returncode == 0 and "ship" in table.stdout and "order-8" in table.stdout + table.stderr

    for queue, reject in (("payments", False), ("parcels", True)):
        (lease,) = said(trivet("lease", queue, "-o", "json", nodes=nodes))["messages"]  # type: ignore[misc]
        token = str(lease["lease_token"])
        if reject:
            assert lease["parents"] == {"pay": {"receipt": 1}}
            assert trivet("nack", token, "--dead-letter", nodes=nodes).returncode == 0
        else:
            assert trivet("ack", token, "--result", '{"receipt":1}', nodes=nodes).returncode == 0
    shown = trivet("flow", "show", flow_id, nodes=nodes)
    assert shown.returncode == 0 and "compensating" in shown.stdout + shown.stderr and "pay" in shown.stdout
    (refund,) = said(trivet("lease", "refunds", "-o", "json", nodes=nodes))["messages"]  # type: ignore[misc]
    assert trivet("ack", str(refund["lease_token"]), nodes=nodes).returncode == 0
    ended = said(trivet("flow", "show", flow_id, "--wait", "10", "-o", "json", nodes=nodes))
    assert ended["state"] == "compensated"
    listed = trivet("flow", "list", "--state", "compensated", nodes=nodes)
    assert flow_id in listed.stdout and "order-8" not in listed.stdout
    assert "order-8" in trivet("flow", "list", "--state", "running", nodes=nodes).stdout


def test_what_is_no_flow_is_refused(dev: Start, trivet: Run, tmp_path: Path) -> None:
    nodes = dev(nodes=1).apis
    for document in ("7", '{"step":[]}', f"@{tmp_path}/nothing"):
        assert trivet("flow", "create", document, nodes=nodes).returncode == 2, document
    cycle = json.dumps([{"step_id": "a", "queue": "q", "depends_on": ["a"]}])
    refused = trivet("flow", "create", cycle, nodes=nodes)
    assert refused.returncode == 1 and "/steps/0/depends_on" in refused.stderr
    missing = trivet("flow", "show", "f000000000000", nodes=nodes)
    assert missing.returncode == 1 and "flow_not_found" in missing.stderr
