"""An async LLM run behind an HTTP API, whose token stream survives reconnects and killed leaders (`app.py`).

    python examples/llm_run/main.py [--users 6] [--tokens 400] [--nodes 3] [--kills 2]
    python examples/llm_run/main.py --serve        a page to try it by hand

A real cluster, two instances of the API, a worker; the model alone is fake. Every user asks, follows the tokens, hangs
up again and again and goes on at the other instance, while leaders are killed. Exit code 0 if each user got each token
of the answer once, in order, and the same text that is kept as the result.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import msgspec
from aiohttp import web
from app import QUEUE, Model, api, worker

from trivet.cli.local import LocalCluster, free_base_port
from trivet.client import Client, RetryPolicy

PATIENT = RetryPolicy(total_s=45)


@dataclass
class User:
    """Asks once and reads the answer to its end, over many connections."""

    number: int
    instances: list[str]
    rng: random.Random
    run_id: str = ""
    tokens: list[str] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    connections: int = 0
    attempts: int = 0
    ended: bool = False

    @property
    def prompt(self) -> str:
        return f"question {self.number}"

    async def live(self, http: aiohttp.ClientSession) -> None:
        async with http.post(self.instances[0] + "/answers", json={"prompt": self.prompt}) as made:
            assert made.status == 202, await made.text()
            self.run_id = (await made.json())["run_id"]
        while not self.ended:
            instance = self.instances[self.connections % len(self.instances)]
            self.connections += 1
            await self._read(http, instance, self.rng.randrange(20, 120))

    async def _read(self, http: aiohttp.ClientSession, instance: str, most: int) -> None:
        """At most so many events; then it hangs up, as somebody in a train does."""
        headers = {"Last-Event-ID": str(self.ids[-1])} if self.ids else {}
        fields: dict[str, str] = {}
        async with http.get(f"{instance}/answers/{self.run_id}/stream", headers=headers) as response:
            async for line in response.content:
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name:
                    fields[name] = value
                    continue
                self._take(int(fields["id"]), fields["event"], fields["data"])
                most -= 1
                if self.ended or not most:
                    return

    def _take(self, number: int, event: str, data: str) -> None:
        self.ids.append(number)
        if event == "begin":
            self.tokens.clear()  # another attempt: the model begins anew
            self.attempts += 1
        elif event == "token":
            self.tokens.append(msgspec.json.decode(data))
        else:
            self.ended = True


async def disturb(cluster: LocalCluster, kills: int, users: list[User]) -> int:
    """Kill a leader while everybody reads; answers how often."""
    for struck in range(kills):
        while sum(len(user.tokens) for user in users) < (struck + 1) * 20 * len(users):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        await cluster.bounce_leader()
    return kills


async def judge(client: Client, model: Model, users: list[User]) -> list[str]:
    """What is wrong, in words."""
    wrong = []
    for user in users:
        if user.tokens != model.words(user.prompt):
            wrong.append(
                f"user {user.number} read {len(user.tokens)} tokens, not the answer's {model.tokens}"
            )
        if user.ids != sorted(set(user.ids)):
            wrong.append(f"user {user.number} read an event twice, or out of order")
        if user.connections < 2:
            wrong.append(f"user {user.number} never reconnected")
        step = (await client.run(user.run_id))["steps"][0]
        kept = await client.result(step["message_id"], 10)
        if kept["text"] != "".join(user.tokens):
            wrong.append(f"user {user.number} read another text than the result")
    return wrong


async def run(options: argparse.Namespace, directory: Path) -> int:
    cluster = LocalCluster(directory, options.nodes, free_base_port(options.nodes))
    model = Model(options.tokens, options.seconds_each)
    await cluster.start()
    runners: list[web.AppRunner] = []
    try:
        await cluster.wait_for_leader()
        async with Client(cluster.apis, retry=PATIENT) as client, aiohttp.ClientSession() as http:
            await client.put_queue(QUEUE, max_attempts=20, backoff={"type": "fixed", "base_ms": 100})
            instances = []
            for _ in range(2):
                runners.append(web.AppRunner(api(client), handler_cancellation=True, shutdown_timeout=1))
                await runners[-1].setup()
                await web.TCPSite(runners[-1], "127.0.0.1", options.port if not instances else 0).start()
                instances.append(f"http://127.0.0.1:{runners[-1].addresses[0][1]}")
            working = worker(client, model)
            workers = asyncio.create_task(working.run())
            try:
                if options.serve:
                    print(
                        f"ask at {instances[0]}/ (Ctrl-C ends it); cluster: {','.join(cluster.apis)}",
                        flush=True,
                    )
                    await workers
                users = [User(n, instances, random.Random(n)) for n in range(options.users)]
                async with asyncio.timeout(150), asyncio.TaskGroup() as tasks:
                    struck = tasks.create_task(disturb(cluster, options.kills, users))
                    for user in users:
                        tasks.create_task(user.live(http))
            finally:
                await working.stop(grace_s=5)
                await workers
            wrong = await judge(client, model, users)
            unknown = client.stats.unknown_attempts
    finally:
        for runner in runners:
            await runner.cleanup()
        await cluster.stop()
    tokens = sum(len(user.tokens) for user in users)
    connections = sum(user.connections for user in users)
    print(
        f"{len(users)} users, {tokens} tokens over {connections} connections, leader killed {struck.result()} times, "
        f"{max(user.attempts for user in users)} attempts at most, {unknown} requests without an answer"
    )
    for one in wrong[:20]:
        print(f"  {one}")
    print("VERDICT: " + ("FAILED" if wrong else "every user read every token once, in order"))
    return 1 if wrong else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--users", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--seconds-each", type=float, default=0.03, help="of the fake model, for a token")
    parser.add_argument("--nodes", type=int, choices=(1, 3, 5), default=3)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--port", type=int, default=0, help="of the API (0: any)")
    parser.add_argument("--serve", action="store_true", help="no users, no kills: a page to try it by hand")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="trivet-llm-") as directory:
        try:
            return asyncio.run(run(options, Path(directory)))
        except KeyboardInterrupt:
            return 0


if __name__ == "__main__":
    sys.exit(main())
