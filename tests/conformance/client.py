"""A plain HTTP client for the black-box tests: what it shows is what is on the wire."""

from __future__ import annotations

import http.client
import json as jsonlib
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import msgspec

from tests.conformance.described import Described

JSON = "application/json"
MSGPACK = "application/msgpack"


@dataclass
class Answer:
    status: int
    headers: dict[str, str]  # names in lower case
    raw: bytes

    @property
    def told(self) -> Any:
        if self.headers.get("content-type", "").startswith(MSGPACK):
            return msgspec.msgpack.decode(self.raw)
        return jsonlib.loads(self.raw)

    def __getitem__(self, name: str) -> Any:
        return self.told[name]

    def ok(self, status: int = 200) -> Answer:
        assert self.status == status, (self.status, self.raw[:500])
        return self

    def refused(self, status: int, code: str, field: str | None = None, limit: int | None = None) -> Answer:
        """A problem details answer with this code; `field` and `limit` compared when given."""
        assert self.status == status, (self.status, self.raw[:500])
        assert self.headers["content-type"] == "application/problem+json"
        told = self.told
        assert told["code"] == code, told
        assert told["status"] == status
        assert {"type", "title", "detail", "retry"} <= told.keys()
        if field is not None:
            assert told.get("field") == field, told
        if limit is not None:
            assert told.get("limit") == limit, told
        return self


class Api:
    """Calls against a base URL, following 307 to the leader. Safe for several threads."""

    def __init__(self, urls: list[str]) -> None:
        self.urls = urls
        self._described: Described | None = None

    @property
    def described(self) -> Described:
        """The description that the node gives of itself; every answer is held against it."""
        if self._described is None:
            self._described = Described(
                self._once(self.urls[0], "GET", "/v1/openapi.json", None, {}, 30).ok().told
            )
        return self._described

    def call(
        self,
        method: str,
        path: str,
        json: Any = None,
        *,
        data: bytes | None = None,
        headers: dict[str, str] | None = None,
        url: str | None = None,
        follow: bool = True,
        timeout: float = 30,
    ) -> Answer:
        sent = dict(headers or {})
        if json is not None:
            data = jsonlib.dumps(json).encode()
            sent.setdefault("Content-Type", JSON)
        base = url or self.urls[0]
        for _ in range(5):
            answer = self._once(base, method, path, data, sent, timeout)
            self.described.check(method, path, answer.status, answer.headers, answer.raw)
            if answer.status != 307 or not follow:
                return answer
            target = urlsplit(answer.headers["location"])
            base = f"{target.scheme}://{target.netloc}"
        raise AssertionError("redirected in circles")

    def _once(
        self, base: str, method: str, path: str, data: bytes | None, headers: dict[str, str], timeout: float
    ) -> Answer:
        parts = urlsplit(base)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)
        try:
            connection.request(method, path, body=data, headers=headers)
            got = connection.getresponse()
            raw = got.read()
            return Answer(got.status, {name.lower(): value for name, value in got.getheaders()}, raw)
        finally:
            connection.close()

    def get(self, path: str, **more: Any) -> Answer:
        return self.call("GET", path, **more)

    def put(self, path: str, json: Any = None, **more: Any) -> Answer:
        return self.call("PUT", path, json, **more)

    def patch(self, path: str, json: Any = None, **more: Any) -> Answer:
        return self.call("PATCH", path, json, **more)

    def post(self, path: str, json: Any = None, **more: Any) -> Answer:
        return self.call("POST", path, json, **more)

    def delete(self, path: str, json: Any = None, **more: Any) -> Answer:
        return self.call("DELETE", path, json, **more)

    def packed(self, method: str, path: str, value: Any, **headers: str) -> Answer:
        """The same in MessagePack, both ways."""
        data = msgspec.msgpack.encode(value)
        return self.call(
            method, path, data=data, headers={"Content-Type": MSGPACK, "Accept": MSGPACK, **headers}
        )

    def soon(self, method: str, path: str, json: Any = None, **more: Any) -> Future[Answer]:
        """The call in a thread of its own."""
        future: Future[Answer] = Future()

        def run() -> None:
            try:
                future.set_result(self.call(method, path, json, **more))
            except BaseException as error:  # noqa: BLE001 - handed to the test
                future.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        return future


class Queue:
    """Short names for what most tests do with one queue."""

    def __init__(self, api: Api, name: str) -> None:
        self.api = api
        self.name = name
        self.path = f"/v1/queues/{name}"

    def put(self, **config: Any) -> Answer:
        return self.api.put(self.path, config)

    def send(self, body: Any = None, **more: Any) -> str:
        """Enqueue one message; its id."""
        answer = self.api.post(self.path + "/messages", {"body": body, **more}).ok(201)
        found: str = answer["messages"][0]["id"]
        return found

    def send_all(self, messages: list[dict[str, Any]]) -> list[str]:
        answer = self.api.post(self.path + "/messages", {"messages": messages}).ok(201)
        return [one["id"] for one in answer["messages"]]

    def lease(self, most: int = 1, **more: Any) -> list[dict[str, Any]]:
        ask = {"consumer": "c", "max_messages": most, **more}
        found: list[dict[str, Any]] = self.api.post(self.path + "/lease", ask).ok()["messages"]
        return found

    def take(self, **more: Any) -> dict[str, Any]:
        """Lease one; there must be one within two seconds."""
        found = self.lease(1, **{"wait_ms": 2000, **more})
        assert len(found) == 1
        return found[0]

    def ack(self, token: str, **more: Any) -> dict[str, Any]:
        found: dict[str, Any] = self.api.post("/v1/ack", {"acks": [{"lease_token": token, **more}]}).ok()[
            "results"
        ][0]
        return found

    def nack(self, token: str, **more: Any) -> dict[str, Any]:
        found: dict[str, Any] = self.api.post("/v1/nack", {"nacks": [{"lease_token": token, **more}]}).ok()[
            "results"
        ][0]
        return found

    def extend(self, token: str, **more: Any) -> dict[str, Any]:
        found: dict[str, Any] = self.api.post(
            "/v1/extend", {"extensions": [{"lease_token": token, **more}]}
        ).ok()["results"][0]
        return found

    def release(self, token: str) -> dict[str, Any]:
        found: dict[str, Any] = self.api.post("/v1/release", {"leases": [{"lease_token": token}]}).ok()[
            "results"
        ][0]
        return found

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = self.api.get(self.path).ok().told
        return found

    def message(self, message_id: str, **more: Any) -> dict[str, Any]:
        found: dict[str, Any] = self.api.get(f"/v1/messages/{message_id}", **more).ok().told
        return found

    def kill(self, body: Any = None, **more: Any) -> str:
        """A message that is dead, as rejected."""
        message_id = self.send(body, **more)
        token = self.take()["lease_token"]
        assert self.nack(token, dead_letter=True)["status"] == "dead"
        return message_id
