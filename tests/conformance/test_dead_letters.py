"""api.md, Dead letters (R23)."""

from __future__ import annotations

import uuid

from tests.conformance.client import Api, Queue


def test_a_dead_message_keeps_everything(api: Api, q: Queue) -> None:
    message = q.send({"a": 1}, headers={"h": "1"}, max_attempts=2, run_id="r")
    q.nack(q.take()["lease_token"], error="one", delay_ms=0)
    q.nack(q.take()["lease_token"], error="two", delay_ms=0)
    told = api.get(q.path + "/dead").ok().told
    assert told["next"] is None
    (dead,) = told["messages"]
    assert (dead["id"], dead["body"], dead["headers"], dead["run_id"]) == (message, {"a": 1}, {"h": "1"}, "r")
    assert [attempt["error"] for attempt in dead["attempts"]] == ["one", "two"]
    assert (dead["state"], dead["dead_reason"]) == ("dead", "max_attempts")
    assert isinstance(dead["dead_at_ms"], int)


def test_list_by_reason_and_page(api: Api, q: Queue) -> None:
    killed = [q.kill(n) for n in range(3)]
    q.send("x", max_attempts=1)
    q.nack(q.take()["lease_token"])
    rejected = api.get(q.path + "/dead?reason=rejected&limit=2").ok().told
    assert [one["id"] for one in rejected["messages"]] == killed[:2]
    following = api.get(q.path + f"/dead?reason=rejected&after={rejected['next']}").ok().told
    assert [one["id"] for one in following["messages"]] == killed[2:]
    api.get(q.path + "/dead?reason=bored").refused(400, "invalid_argument", "/reason")


def test_redrive_all(api: Api, q: Queue) -> None:
    killed = [q.kill(n) for n in range(3)]
    told = api.post(q.path + "/dead/redrive").ok()
    assert (told["redriven"], told["ids"]) == (3, killed)
    found = q.lease(10)
    assert [one["id"] for one in found] == killed
    assert [one["attempt"] for one in found] == [1, 1, 1]
    shown = q.message(killed[0])
    assert shown["origin"]
    assert shown["attempts"][0]["outcome"] == "nacked"


def test_redrive_some(api: Api, q: Queue) -> None:
    killed = [q.kill(n) for n in range(4)]
    assert api.post(q.path + "/dead/redrive", {"ids": [killed[2]]}).ok()["ids"] == [killed[2]]
    assert api.post(q.path + "/dead/redrive", {"limit": 1}).ok()["ids"] == [killed[0]]
    assert api.post(q.path + "/dead/redrive", {"reason": "expired"}).ok()["redriven"] == 0
    assert api.post(q.path + "/dead/redrive", {"reason": "rejected"}).ok()["redriven"] == 2
    assert q.state()["dead"] == 0


def test_dry_run_changes_nothing(api: Api, q: Queue) -> None:
    killed = [q.kill(n) for n in range(2)]
    told = api.post(q.path + "/dead/redrive", {"dry_run": True}).ok()
    assert (told["redriven"], told["ids"]) == (2, killed)
    assert q.state()["dead"] == 2


def test_redrive_to_another_queue(api: Api, q: Queue, name: str) -> None:
    killed = q.kill()
    for dry_run in (True, False):
        api.post(q.path + "/dead/redrive", {"to": name, "dry_run": dry_run}).refused(
            404, "queue_not_found", "/to"
        )
    api.put(f"/v1/queues/{name}", {}).ok(201)
    assert api.post(q.path + "/dead/redrive", {"to": name}).ok()["ids"] == [killed]
    assert Queue(api, name).take()["id"] == killed
    assert q.state()["dead"] == 0


def test_redrive_more_than_one_command_takes(api: Api, q: Queue) -> None:
    ids: list[str] = []
    for _ in range(3):
        ids += q.send_all([{"body": n} for n in range(800)])
    for _ in range(3):
        tokens = [one["lease_token"] for one in q.lease(800)]
        api.post("/v1/nack", {"nacks": [{"lease_token": t, "dead_letter": True} for t in tokens]}).ok()
    assert q.state()["dead"] == 2400
    assert api.post(q.path + "/dead/redrive", {"dry_run": True}).ok()["redriven"] == 2400
    asked = {"request_id": uuid.uuid4().hex}
    told = api.post(q.path + "/dead/redrive", asked).ok()
    assert (told["redriven"], told["ids"]) == (2400, ids)
    again = api.post(q.path + "/dead/redrive", asked).ok()
    assert (again["redriven"], again["ids"], again["repeated"]) == (2400, ids, True)
    assert q.state()["ready"] == 2400


def test_remove_the_dead(api: Api, q: Queue) -> None:
    killed = q.kill()
    q.kill()
    assert api.delete(q.path + "/dead").ok()["removed"] == 2
    assert api.get(q.path + "/dead").ok()["messages"] == []
    api.get(f"/v1/messages/{killed}").refused(404, "message_not_found")


def test_no_queue(api: Api, name: str) -> None:
    path = f"/v1/queues/{name}/dead"
    api.get(path).refused(404, "queue_not_found")
    api.delete(path).refused(404, "queue_not_found")
    api.post(path + "/redrive").refused(404, "queue_not_found")
    api.post(path + "/redrive", {"dry_run": True}).refused(404, "queue_not_found")


def test_what_redrive_refuses(api: Api, q: Queue) -> None:
    path = q.path + "/dead/redrive"
    api.post(path, {"limit": 0}).refused(400, "invalid_argument", "/limit")
    api.post(path, {"reason": "bored"}).refused(400, "invalid_argument", "/reason")
    api.post(path, {"ids": ["nonsense"]}).refused(404, "message_not_found", "/ids/0")
    api.post(path, {"ids": ["m000000000001"] * 1001}).refused(413, "batch_too_large", "/ids", 1000)
