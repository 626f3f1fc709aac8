"""What README.md and docs/start.md show, run as they show it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import Dev, Start

ROOT = Path(__file__).resolve().parents[2]
SHOWN_PORTS = (7480, 7482, 7484)


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)


def at_cluster(text: str, dev: Dev) -> str:
    """The page's addresses replaced by the running cluster's."""
    for shown, node in zip(SHOWN_PORTS, dev.nodes, strict=True):
        text = text.replace(f"http://127.0.0.1:{shown}", node["api"])
    return text


def until_queue_is_served(dev: Dev, queue: str, seconds: float = 20) -> None:
    """Until every message of the queue is finished; reads as an operator would."""
    deadline = time.monotonic() + seconds
    seen = None
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(
                f"{dev.nodes[0]['api']}/v1/queues/{queue}?consistency=local"
            ) as answer:
                seen = json.load(answer)
        except urllib.error.HTTPError as error:
            assert error.code == 404, error
        if seen and not any(seen[state] for state in ("ready", "leased", "delayed", "dead")):
            return
        time.sleep(0.05)
    raise AssertionError(f"{queue} was not served: {seen}")


@pytest.mark.parametrize(("page", "queue"), [("README.md", "mail"), ("docs/start.md", "payments")])
def test_the_python_of_the_page_runs(page: str, queue: str, dev: Start, tmp_path: Path) -> None:
    cluster = dev(nodes=3)
    (code,) = blocks(page, "python")
    worker = subprocess.Popen(
        [sys.executable, "-u", "-c", at_cluster(code, cluster)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        until_queue_is_served(cluster, queue)
        assert worker.poll() is None, worker.communicate()[0].decode()
    finally:
        worker.kill()
        worker.communicate()


def test_the_curl_of_the_readme_runs(dev: Start) -> None:
    cluster = dev(nodes=3)
    shown = next(block for block in blocks("README.md", "") if block.startswith("curl"))
    enqueue, lease, ack = re.split(r"\n(?=curl)", at_cluster(shown, cluster).strip())

    def run(command: str) -> Any:
        done = subprocess.run(
            ["bash", "-c", command.replace("curl -L", "curl -sS -L --fail-with-body")], capture_output=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    assert run(enqueue)["messages"][0]["state"] == "ready"
    assert run(enqueue)["messages"][0]["duplicate"] is True
    (message,) = run(lease)["messages"]
    assert message["body"] == {"to": "ada"}
    assert run(ack.replace("…", message["lease_token"]))["results"] == [{"status": "acked"}]
