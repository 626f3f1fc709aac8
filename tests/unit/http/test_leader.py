"""What a node does with calls only the leader may answer, and what it tells on losing office."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from tests.loopback import Loopback, serving
from trivet.consensus.port import NotProposed, Unknown
from trivet.http.app import Settings


async def call(
    session: aiohttp.ClientSession, method: str, url: str, body: Any = None, **headers: str
) -> tuple[int, Any, Any]:
    sent = None if body is None else json.dumps(body).encode()
    if sent is not None:
        headers.setdefault("Content-Type", "application/json")
    async with session.request(method, url, data=sent, headers=headers, allow_redirects=False) as answer:
        raw = await answer.read()
        return answer.status, answer.headers, json.loads(raw) if raw else None


def run(test: Callable[[aiohttp.ClientSession], Awaitable[None]]) -> None:
    async def main() -> None:
        async with aiohttp.ClientSession() as session:
            await test(session)

    asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - bounded by the test's timeout
            await asyncio.sleep(0.005)


def follow(follower: Loopback, leader: Loopback) -> None:
    follower.urls[leader.node_id] = leader.urls[leader.node_id]
    follower.change(role="follower", leader=leader.node_id)


def test_a_follower_redirects() -> None:
    async def test(session: aiohttp.ClientSession) -> None:
        leader, follower = Loopback("n1"), Loopback("n2")
        async with serving(leader) as home, serving(follower) as there:
            follow(follower, leader)
            for method, path in (
                ("PUT", "/v1/queues/q"),
                ("GET", "/v1/queues/q?consistency=leader"),
                ("GET", "/v1/effects/a%2Fb"),
            ):
                status, headers, body = await call(session, method, there + path, {})
                assert (status, body) == (307, None)
                assert headers["Location"] == home + path
                assert headers["Trivet-Leader"] == home
                assert headers["Cache-Control"] == "no-store"
                assert headers["Trivet-Role"] == "follower"
                assert headers["Trivet-Node"] == "n2"

    run(test)


def test_a_follower_answers_what_is_its_own() -> None:
    async def test(session: aiohttp.ClientSession) -> None:
        leader, follower = Loopback("n1"), Loopback("n2")
        async with serving(leader), serving(follower) as there:
            follow(follower, leader)
            status, _, told = await call(session, "GET", there + "/v1/queues?consistency=local")
            assert (status, told["queues"], told["leader_contact_age_ms"]) == (200, [], 17)
            assert "as_of" in told
            assert (await call(session, "GET", there + "/follower?max_lag=0"))[0] == 200
            assert (await call(session, "GET", there + "/leader"))[0] == 503
            assert (await call(session, "GET", there + "/v1/cluster"))[0] == 200
            assert (await call(session, "GET", there + "/nowhere"))[0] == 404

    run(test)


def test_a_follower_forwards_when_asked_or_configured() -> None:
    async def test(session: aiohttp.ClientSession) -> None:
        leader, follower, third = Loopback("n1"), Loopback("n2"), Loopback("n3")
        async with (
            serving(leader),
            serving(follower) as asked,
            serving(third, Settings(follower_mode="forward")) as configured,
        ):
            follow(follower, leader)
            follow(third, leader)
            key = {"Idempotency-Key": "k"}
            status, headers, first = await call(
                session,
                "POST",
                asked + "/v1/queues/q/messages",
                {"body": 1},
                **key,
                **{"Trivet-Follower": "forward"},
            )
            assert status == 201
            assert headers["Trivet-Node"] == "n2"
            assert headers["Content-Type"] == "application/json"
            _, _, again = await call(
                session, "POST", configured + "/v1/queues/q/messages", {"body": 1}, **key
            )
            assert again == {**first, "repeated": True}
            status, headers, told = await call(session, "GET", configured + "/v1/queues/none")
            assert (status, told["code"]) == (404, "queue_not_found")
            assert headers["Content-Type"] == "application/problem+json"
            status, _, _ = await call(
                session, "GET", configured + "/v1/queues/q", **{"Trivet-Follower": "redirect"}
            )
            assert status == 307

    run(test)


def test_a_forwarded_request_goes_one_hop() -> None:
    async def test(session: aiohttp.ClientSession) -> None:
        one, two = Loopback("n1"), Loopback("n2")
        settings = Settings(follower_mode="forward")
        async with serving(one, settings), serving(two, settings) as there:
            follow(one, two)
            follow(two, one)
            status, _, told = await call(session, "PUT", there + "/v1/queues/q", {})
            assert (status, told["code"], told["retry"]) == (503, "no_leader", "elsewhere")

    run(test)


def test_a_leader_that_cannot_be_reached() -> None:
    async def test(session: aiohttp.ClientSession) -> None:
        node = Loopback("n2")
        async with serving(node, Settings(follower_mode="forward")) as there:
            reached: list[None] = []

            def close(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                reached.append(None)
                writer.close()

            silent = await asyncio.start_server(close, "127.0.0.1", 0)
            node.urls["n1"] = "http://127.0.0.1:1"  # nothing listens: the request never left
            node.change(role="follower", leader="n1")
            status, _, told = await call(session, "PUT", there + "/v1/queues/q", {})
            assert (status, told["code"]) == (503, "no_leader")
            node.urls["n1"] = f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}"
            for method in ("PUT", "POST", "DELETE"):  # it left and no answer came
                path = "/v1/ack" if method == "POST" else "/v1/queues/q"
                status, _, told = await call(session, method, there + path, {})
                assert (status, told["code"], told["retry"]) == (504, "outcome_unknown", "same_key")
            assert len(reached) == 3, "each was sent once (R35)"
            status, _, told = await call(session, "GET", there + "/v1/queues/q")
            assert (status, told["code"]) == (503, "no_leader")
            silent.close()
            await silent.wait_closed()

    run(test)


def test_a_leader_that_left_office_without_a_word_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """R34: a lost machine sends no reset. One that is still there ends what waits by itself."""
    monkeypatch.setattr("trivet.http.leader.LEFT_OFFICE_S", 0.2)

    async def test(session: aiohttp.ClientSession) -> None:
        node = Loopback("n2")
        async with serving(node, Settings(follower_mode="forward")) as there:
            writers: list[asyncio.StreamWriter] = []
            silent = await asyncio.start_server(lambda _, writer: writers.append(writer), "127.0.0.1", 0)
            node.urls["n1"] = f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}"
            for method, path, expected in (
                ("POST", "/v1/queues/q/lease", (504, "outcome_unknown", "same_key")),
                ("GET", "/v1/queues/q", (503, "no_leader", "elsewhere")),
            ):
                node.change(role="follower", leader="n1")
                asked = asyncio.create_task(call(session, method, there + path, {"consumer": "c"}))
                await asyncio.sleep(0.4)
                assert not asked.done(), "it leads: its answer may take its time"
                node.change(role="follower", leader=None)
                async with asyncio.timeout(5):
                    status, _, told = await asked
                assert (status, told["code"], told["retry"]) == expected
            for writer in writers:
                writer.close()
            silent.close()
            await silent.wait_closed()

    run(test)


def test_without_a_leader_a_request_waits_then_fails() -> None:
    async def test(session: aiohttp.ClientSession) -> None:
        node = Loopback()
        async with serving(node, Settings(election_wait_ms=150)) as there:
            node.change(role="candidate", leader=None)
            began = asyncio.get_running_loop().time()
            status, headers, told = await call(session, "PUT", there + "/v1/queues/q", {})
            assert asyncio.get_running_loop().time() - began >= 0.14
            assert (status, told["code"], told["retry"]) == (503, "no_leader", "elsewhere")
            assert headers["Retry-After"] == "1"
            assert "Trivet-Leader" not in headers

    run(test)


def test_a_request_parked_through_an_election() -> None:
    async def test(session: aiohttp.ClientSession) -> None:
        node = Loopback()
        async with serving(node, Settings(election_wait_ms=10_000)) as there:
            node.change(role="candidate", leader=None)
            parked = asyncio.create_task(call(session, "PUT", there + "/v1/queues/q", {}))
            await asyncio.sleep(0.1)
            assert not parked.done()
            node.change(role="leader", leader="n1")
            assert (await parked)[0] == 201

    run(test)


def test_a_leader_without_its_first_commit_is_waited_for() -> None:
    async def test(session: aiohttp.ClientSession) -> None:
        node = Loopback()
        async with serving(node, Settings(election_wait_ms=10_000)) as there:
            node.can_commit = False
            parked = asyncio.create_task(call(session, "GET", there + "/v1/queues"))
            await asyncio.sleep(0.05)
            assert not parked.done()
            node.can_commit = True
            node.broker.role_changed()
            assert (await parked)[0] == 200

    run(test)


def test_a_deposed_leader_answers_no_read() -> None:
    async def test(session: aiohttp.ClientSession) -> None:
        node = Loopback()
        async with serving(node) as there:
            await call(session, "PUT", there + "/v1/queues/q", {})
            node.reads_fail = True
            for path in ("/v1/queues", "/v1/queues/q"):
                status, _, told = await call(session, "GET", there + path)
                assert (status, told["code"], told["retry"]) == (503, "lost_leadership", "elsewhere")
            status, _, told = await call(session, "POST", there + "/v1/queues/q/lease", {"consumer": "c"})
            assert (status, told["code"]) == (503, "lost_leadership"), "nor does it say that a queue is empty"

    run(test)


def test_a_recovering_node_answers_no_local_read() -> None:
    async def test(session: aiohttp.ClientSession) -> None:
        node = Loopback()
        async with serving(node, Settings(election_wait_ms=0)) as there:
            node.recovering = "the log was damaged"
            node.change(role="follower", leader=None)
            for path in ("/v1/queues?consistency=local", "/v1/queues"):
                status, headers, told = await call(session, "GET", there + path)
                assert (status, told["code"], told["retry"]) == (503, "recovering", "elsewhere")
                assert headers["Trivet-Role"] == "recovering"
            assert (await call(session, "GET", there + "/readyz"))[0] == 503
            assert (await call(session, "GET", there + "/livez"))[0] == 200

    run(test)


def test_outcomes_are_told_honestly() -> None:
    async def test(session: aiohttp.ClientSession) -> None:
        node = Loopback()
        async with serving(node) as there:
            await until(lambda: node.applied_index == 1)
            for outcome, status, code, retry in (
                (NotProposed("not_leader"), 503, "lost_leadership", "elsewhere"),
                (NotProposed("discarded"), 503, "lost_leadership", "elsewhere"),
                (NotProposed("draining"), 503, "draining", "elsewhere"),
                (NotProposed("overloaded"), 429, "overloaded", "later"),
                (Unknown("lost_leadership"), 504, "outcome_unknown", "same_key"),
                (Unknown("deadline"), 504, "outcome_unknown", "same_key"),
            ):
                node.hold = True
                write = asyncio.create_task(call(session, "PUT", there + "/v1/queues/q", {}))
                await until(lambda: bool(node.held))
                node.decide(outcome)
                got, _, told = await write
                assert (got, told["code"], told["retry"]) == (status, code, retry)

    run(test)


def test_parked_polls_end_when_the_office_is_lost() -> None:
    async def test(session: aiohttp.ClientSession) -> None:
        node = Loopback()
        async with serving(node) as there:
            await call(session, "PUT", there + "/v1/queues/q", {})
            _, _, sent = await call(session, "POST", there + "/v1/queues/q/messages", {"delay_ms": 600_000})
            message = sent["messages"][0]["id"]
            ask = {"consumer": "c", "wait_ms": 30_000}
            polls = [
                asyncio.create_task(call(session, "POST", there + "/v1/queues/q/lease", ask)),
                asyncio.create_task(call(session, "GET", f"{there}/v1/messages/{message}?wait_ms=30000")),
            ]
            await until(lambda: node.waiters.parked == 2)
            node.change(role="follower", leader="n2")
            for poll in polls:
                status, _, told = await poll
                assert (status, told["code"], told["retry"]) == (503, "lost_leadership", "elsewhere")
            assert node.waiters.parked == 0

    run(test)


def test_a_poll_with_a_lease_under_way_has_an_unknown_end() -> None:
    async def test(session: aiohttp.ClientSession) -> None:
        node = Loopback()
        async with serving(node) as there:
            await call(session, "PUT", there + "/v1/queues/q", {})
            ask = {"consumer": "c", "wait_ms": 30_000}
            poll = asyncio.create_task(call(session, "POST", there + "/v1/queues/q/lease", ask))
            await until(lambda: node.waiters.parked == 1)
            await call(session, "POST", there + "/v1/queues/q/messages", {}, X="1")
            # The lease is committed by the loopback at once; hold the next one instead.
            assert (await poll)[0] == 200
            node.hold = True
            sending = asyncio.create_task(call(session, "POST", there + "/v1/queues/q/messages", {}))
            await until(lambda: len(node.held) == 1)
            poll = asyncio.create_task(call(session, "POST", there + "/v1/queues/q/lease", ask))
            await until(lambda: node.waiters.parked == 1)
            held, node.held = node.held, []
            node.commit(*held[0])
            assert (await sending)[0] == 201
            await until(lambda: len(node.held) == 1)
            node.change(role="follower", leader="n2")
            node.decide(Unknown("lost_leadership"))
            status, _, told = await poll
            assert (status, told["code"]) == (504, "outcome_unknown")

    run(test)


def test_pressure_refuses_enqueues_and_nothing_else() -> None:
    async def test(session: aiohttp.ClientSession) -> None:
        node = Loopback()
        async with serving(node) as there:
            path = there + "/v1/queues/q"
            key = {"Idempotency-Key": "k"}
            await call(session, "POST", path + "/messages", {"body": 1}, **key)
            await call(session, "POST", path + "/messages", {"body": 2, "idempotency_key": "i"})
            for pressed, status, code in (("memory", 429, "memory_pressure"), ("disk", 507, "disk_full")):
                node.pressed = pressed
                got, headers, told = await call(session, "POST", path + "/messages", {"body": 3})
                assert (got, told["code"], told["retry"]) == (status, code, "later")
                assert int(headers["Retry-After"]) >= 1
                # R12: look-ups of request and key come before every refusal.
                assert (await call(session, "POST", path + "/messages", {"body": 1}, **key))[2][
                    "repeated"
                ] is True
                again = await call(session, "POST", path + "/messages", {"body": 2, "idempotency_key": "i"})
                assert again[2]["messages"][0]["duplicate"] is True
                _, _, leased = await call(session, "POST", path + "/lease", {"consumer": "c"})
                token = leased["messages"][0]["lease_token"]
                follow_up = {"acks": [{"lease_token": token}], "enqueue": [{"queue": "q"}]}
                assert (await call(session, "POST", there + "/v1/ack", follow_up))[0] == status
                acked = await call(session, "POST", there + "/v1/ack", {"acks": [{"lease_token": token}]})
                assert acked[2]["results"] == [{"status": "acked"}]

    run(test)


def test_a_draining_node_takes_no_new_work() -> None:
    async def test(session: aiohttp.ClientSession) -> None:
        node = Loopback()
        async with serving(node) as there:
            path = there + "/v1/queues/q"
            await call(session, "POST", path + "/messages", {})
            _, _, leased = await call(session, "POST", path + "/lease", {"consumer": "c"})
            token = leased["messages"][0]["lease_token"]
            node.draining = True
            for where, body in (
                ("/messages", {}),
                ("/lease", {"consumer": "c"}),
                ("/lease", {"consumer": "c", "wait_ms": 9000}),
            ):
                status, _, told = await call(session, "POST", path + where, body)
                assert (status, told["code"], told["retry"]) == (503, "draining", "elsewhere")
            acked = await call(session, "POST", there + "/v1/ack", {"acks": [{"lease_token": token}]})
            assert acked[2]["results"] == [{"status": "acked"}]
            status, _, told = await call(session, "GET", there + "/readyz?verbose")
            assert (status, told["checks"]["not_draining"]) == (503, False)

    run(test)


def test_queues_are_not_created_when_forbidden() -> None:
    async def test(session: aiohttp.ClientSession) -> None:
        node = Loopback(auto_create_queues=False)
        async with serving(node) as there:
            status, _, told = await call(session, "POST", there + "/v1/queues/q/messages", {})
            assert (status, told["code"]) == (404, "queue_not_found")

    run(test)
