"""Documents into a vector index: a flow with fan-out and fan-in on a real cluster whose leader is killed.

    python examples/rag_ingestion/main.py [--documents 12] [--nodes 3] [--kills 2]

Each document is a flow: fetch → split → one step for each chunk → index. The last step is given the vectors of all
chunks and writes them under an effect, so that no document is indexed twice. Embedding is flaky (some calls fail once)
and one document cannot be fetched. In the end the index must hold exactly the vectors of the others. Exit code 0 if it
does. (The embedding is a toy: letters counted. Put your model in the place of `embed`.)
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sqlite3
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from trivet.cli.local import LocalCluster, free_base_port
from trivet.client import Client, Happened, Lease, Reject, RetryPolicy, Worker

PATIENT = RetryPolicy(total_s=45)
WAIT_S = 120.0
BROKEN = 3
"""This document cannot be fetched."""


def text_of(document: int) -> str:
    return " ".join(f"word{document * 7 + n} of page {document}" for n in range(40))


def chunks_of(document: int) -> int:
    """How many chunks the document is cut into: the width of its fan."""
    return 2 + document % 5


def split(text: str, count: int) -> list[str]:
    size = -(-len(text) // count)
    return [text[at * size : (at + 1) * size] for at in range(count)]


def embed(text: str) -> list[int]:
    return [text.count(letter) for letter in "aeiou0123456789"]


class Index:
    """The vector store: a table without a unique key, so that what is written twice is there twice."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path)
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute("CREATE TABLE vectors (document INTEGER, chunk INTEGER, vector TEXT)")

    def add(self, document: int, vectors: list[list[int]]) -> None:
        rows = [(document, at, json.dumps(vector)) for at, vector in enumerate(vectors)]
        with self._database:
            self._database.executemany("INSERT INTO vectors VALUES (?, ?, ?)", rows)

    def of(self, document: int) -> list[tuple[int, list[int]]]:
        found = self._database.execute(
            "SELECT chunk, vector FROM vectors WHERE document = ? ORDER BY chunk, rowid", (document,)
        )
        return [(chunk, json.loads(vector)) for chunk, vector in found]


class Pipeline:
    """The handlers of the steps, by the first word of their names."""

    def __init__(self, client: Client, index: Index) -> None:
        self._client = client
        self._index = index
        self.retried = 0

    async def handle(self, lease: Lease) -> Any:
        verb = str(lease.data["step_id"]).partition("-")[0]
        return await getattr(self, verb)(lease)

    async def fetch(self, lease: Lease) -> str:
        if lease.body["document"] == BROKEN:
            raise Reject("404: there is no such document")
        return text_of(lease.body["document"])

    async def split(self, lease: Lease) -> list[str]:
        return split(lease.parents["fetch"], lease.body["chunks"])

    async def embed(self, lease: Lease) -> list[int]:
        chunk = lease.body["chunk"]
        if lease.attempt == 1 and (lease.body["document"] + chunk) % 4 == 0:
            self.retried += 1
            raise RuntimeError("the model is overloaded")
        return embed(lease.parents["split"][chunk])

    async def index(self, lease: Lease) -> dict[str, int]:
        document = lease.body["document"]
        vectors = [lease.parents[f"embed-{chunk}"] for chunk in range(lease.body["chunks"])]

        async def look(_: str) -> Happened | None:
            return Happened() if self._index.of(document) else None

        async with self._client.effect(
            f"index:{document}", lease=lease, with_ack=True, reconcile=look
        ) as effect:
            if not effect.done:
                self._index.add(document, vectors)
        return {"vectors": len(vectors)}


async def ingest(client: Client, document: int) -> str:
    flow = client.flow(run_id=f"document-{document}")
    body = {"document": document, "chunks": chunks_of(document)}
    fetched = flow.step("fetch", "ingestion", body)
    cut = flow.step("split", "ingestion", body, after=[fetched])
    embedded = [
        flow.step(f"embed-{chunk}", "embeddings", {**body, "chunk": chunk}, after=[cut])
        for chunk in range(chunks_of(document))
    ]
    flow.step("index", "ingestion", body, after=embedded)
    return str((await flow.create())["id"])


async def disturb(cluster: LocalCluster, kills: int) -> int:
    """Kill the leader, wait for another one, start it again; answers how often that was done."""
    for _ in range(kills):
        await asyncio.sleep(0.4)
        await cluster.bounce_leader()
    return kills


def judge(documents: int, states: dict[int, str], index: Index) -> list[str]:
    """What is wrong, in words."""
    wrong = []
    for document in range(documents):
        broken = document == BROKEN
        pieces = [] if broken else split(text_of(document), chunks_of(document))
        if index.of(document) != [(at, embed(piece)) for at, piece in enumerate(pieces)]:
            wrong.append(f"document {document} is indexed as {index.of(document)}")
        if states.get(document) != ("failed" if broken else "done"):
            wrong.append(f"the flow of document {document} is {states.get(document)}")
    return wrong


async def run(documents: int, nodes: int, kills: int, directory: Path) -> int:
    cluster = LocalCluster(directory, nodes, free_base_port(nodes))
    index = Index(directory / "index.db")
    await cluster.start()
    try:
        await cluster.wait_for_leader()
        async with Client(cluster.apis, retry=PATIENT) as client:
            for queue in ("ingestion", "embeddings"):
                await client.put_queue(queue, max_attempts=20, backoff={"type": "fixed", "base_ms": 100})
            pipeline = Pipeline(client, index)
            workers = [
                Worker(client, queue, pipeline.handle, wait_ms=2000) for queue in ("ingestion", "embeddings")
            ]
            async with asyncio.TaskGroup() as tasks:
                for worker in workers:
                    tasks.create_task(worker.run())
                try:
                    struck, states = await watched(cluster, client, documents, kills)
                finally:
                    for worker in workers:
                        await worker.stop(grace_s=5)
    finally:
        await cluster.stop()
    wrong = judge(documents, states, index)
    if struck < kills or not pipeline.retried:
        wrong.append(
            f"the leader was killed {struck} times, {pipeline.retried} embeddings failed once: too few"
        )
    vectors = sum(len(index.of(document)) for document in range(documents))
    print(
        f"{documents} documents, {vectors} vectors, {pipeline.retried} retries, leader killed {struck} times"
    )
    for one in wrong[:20]:
        print(f"  {one}")
    print("VERDICT: " + ("FAILED" if wrong else "every document that can be fetched is indexed, once"))
    return 1 if wrong else 0


async def watched(
    cluster: LocalCluster, client: Client, documents: int, kills: int
) -> tuple[int, dict[int, str]]:
    """Start the flows while the leader is killed again and again; wait for their ends."""
    chaos = asyncio.create_task(disturb(cluster, kills))
    flows = {document: await ingest(client, document) for document in range(documents)}
    struck = await chaos
    until = time.monotonic() + WAIT_S
    states = {}
    for document, flow_id in flows.items():
        flow = await client.wait_flow(flow_id, timeout_s=max(0.0, until - time.monotonic()))
        states[document] = str(flow["state"])
    return struck, states


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--documents", type=int, default=12)
    parser.add_argument("--nodes", type=int, choices=(1, 3, 5), default=3)
    parser.add_argument("--kills", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="trivet-rag-") as directory:
        return asyncio.run(run(options.documents, options.nodes, options.kills, Path(directory)))


if __name__ == "__main__":
    sys.exit(main())
