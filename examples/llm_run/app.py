"""An application around an LLM, as one would write it on Trivet: an HTTP API, a worker, a stream of tokens.

    POST /answers {"prompt": …}          202 {"run_id", "stream"}: the work is durable, nobody has to wait for it
    GET  /answers/{run_id}/stream        the tokens as server-sent events; `Last-Event-ID` goes on where one was
    GET  /                               a page that asks and shows

The API may have many instances, and so may the worker: neither keeps anything. What was told so far is in the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
from collections.abc import AsyncIterator

import msgspec
from aiohttp import ClientConnectionResetError, web

from trivet.client import Client, Lease, RunNotFound, Worker

QUEUE = "llm"
WORDS = [
    "a",
    "trivet",
    "has",
    "three",
    "legs",
    "and",
    "does",
    "not",
    "wobble",
    "any",
    "one",
    "leg",
    "may",
    "fall",
    "off",
    "mid",
    "work",
    "and",
    "nothing",
    "is",
    "lost",
]

PAGE = """<!doctype html><meta charset="utf-8"><title>Trivet and a model</title>
<form><input name="prompt" size="60" value="Why three legs?"><button>Ask</button></form><p id="answer"></p>
<script>
document.forms[0].onsubmit = async asked => {
  asked.preventDefault()
  const answer = document.getElementById("answer")
  const made = await fetch("/answers", {method: "POST", body: JSON.stringify({prompt: asked.target.prompt.value})})
  const source = new EventSource((await made.json()).stream)  // reconnects by itself, with Last-Event-ID
  source.addEventListener("begin", () => answer.textContent = "")
  source.addEventListener("token", token => answer.append(JSON.parse(token.data)))
  source.addEventListener("end", () => source.close())
}
</script>"""


class Model:
    """Fake: it takes its time and says the same words to the same prompt. All else is real."""

    def __init__(self, tokens: int, seconds_each: float) -> None:
        self.tokens = tokens
        self.seconds_each = seconds_each

    def words(self, prompt: str) -> list[str]:
        start = int(hashlib.sha256(prompt.encode()).hexdigest(), 16)
        return [f"{WORDS[(start + n) % len(WORDS)]} " for n in range(self.tokens)]

    async def answer(self, prompt: str) -> AsyncIterator[str]:
        for word in self.words(prompt):
            await asyncio.sleep(self.seconds_each)
            yield word


def worker(client: Client, model: Model) -> Worker:
    async def write(lease: Lease) -> dict[str, str]:
        told = ""
        async for token in model.answer(lease.body["prompt"]):
            told += token
            await lease.emit("token", token)
        return {"text": told}

    return Worker(client, QUEUE, write, concurrency=50, lease_ms=15_000, wait_ms=5000)


def api(client: Client) -> web.Application:
    async def ask(request: web.Request) -> web.Response:
        prompt = (await request.json())["prompt"]
        run_id = f"answer-{secrets.token_hex(8)}"
        await client.enqueue(QUEUE, {"prompt": prompt}, run_id=run_id, step_id="write")
        told = {"run_id": run_id, "stream": f"/answers/{run_id}/stream"}
        return web.json_response(told, status=202)

    async def stream(request: web.Request) -> web.StreamResponse:
        """What users see of the run: `begin` for each attempt (what came before is void), `token`, `end`."""
        after = int(request.headers.get("Last-Event-ID", "0"))
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        )
        await response.prepare(request)
        shown = {"token": "token", "message.leased": "begin", "message.done": "end", "message.dead": "end"}
        try:
            async with contextlib.aclosing(
                client.run_events(request.match_info["run"], after=after)
            ) as events:
                async for event in events:
                    if event.type in shown:
                        data = msgspec.json.encode(event.data).decode()
                        text = f"id: {event.id}\nevent: {shown[event.type]}\ndata: {data}\n\n"
                        await response.write(text.encode())
                    if event.type in ("message.done", "message.dead"):
                        break
        except RunNotFound:
            await response.write(b"event: end\ndata: null\n\n")
        except ClientConnectionResetError:
            pass  # the reader went away; it comes again with `Last-Event-ID`
        return response

    async def page(_request: web.Request) -> web.Response:
        return web.Response(text=PAGE, content_type="text/html")

    app = web.Application()
    app.add_routes(
        [web.get("/", page), web.post("/answers", ask), web.get("/answers/{run}/stream", stream)],
    )
    return app
