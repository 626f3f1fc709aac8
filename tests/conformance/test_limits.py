"""Bad input: every limit of api.md and R31 just inside and just outside; each refusal names its field and
its limit, and changes nothing."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgpack
import pytest

from tests.conformance.client import MSGPACK, Api, Queue

KIB, MIB, DAY_MS = 1024, 1024 * 1024, 86_400_000
LONG_MS = 400 * DAY_MS


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


# field, the last value inside, the first outside, code, limit
MESSAGE_LIMITS = [
    ("body", "x" * (MIB - 2), "x" * (MIB - 1), "payload_too_large", MIB),
    (
        "body_base64",
        base64.b64encode(b"x" * MIB).decode(),
        base64.b64encode(b"x" * (MIB + 1)).decode(),
        "payload_too_large",
        MIB,
    ),
    ("body", nested(64), nested(65), "invalid_argument", 64),
    ("body", 2**63 - 1, 2**63, "invalid_argument", 2**63 - 1),
    ("body", -(2**63), -(2**63) - 1, "invalid_argument", -(2**63)),
    ("headers", {"h": "x" * (16 * KIB - 1)}, {"h": "x" * (16 * KIB)}, "payload_too_large", 16 * KIB),
    ("headers", {f"h{n}": "" for n in range(64)}, {f"h{n}": "" for n in range(65)}, "invalid_argument", 64),
    ("content_type", "x" * 256, "x" * 257, "invalid_argument", 256),
    ("priority", 1000, 1001, "invalid_argument", 1000),
    ("priority", -1000, -1001, "invalid_argument", -1000),
    ("delay_ms", LONG_MS, LONG_MS + 1, "invalid_argument", LONG_MS),
    ("delay_ms", 0, -1, "invalid_argument", 0),
    ("ttl_ms", LONG_MS, LONG_MS + 1, "invalid_argument", LONG_MS),
    ("ttl_ms", 1, 0, "invalid_argument", 1),
    ("group", "g" * 256, "g" * 257, "invalid_argument", 256),
    ("group", "ü" * 128, "ü" * 128 + "g", "invalid_argument", 256),
    ("group", "g", "", "invalid_argument", 256),
    ("idempotency_key", "k" * 256, "k" * 257, "invalid_argument", 256),
    ("idempotency_key", "k", "", "invalid_argument", 256),
    ("run_id", "r" * 256, "r" * 257, "invalid_argument", 256),
    ("step_id", "r" * 256, "r" * 257, "invalid_argument", 256),
    ("parent_step_id", "r" * 256, "r" * 257, "invalid_argument", 256),
    ("tenant_id", "r" * 256, "r" * 257, "invalid_argument", 256),
    ("user_id", "r" * 256, "r" * 257, "invalid_argument", 256),
    ("traceparent", "r" * 256, "r" * 257, "invalid_argument", 256),
    ("max_attempts", 1_000_000, 1_000_001, "invalid_argument", 1_000_000),
    ("max_attempts", 0, -1, "invalid_argument", 0),
    ("lease_ms", 43_200_000, 43_200_001, "invalid_argument", 43_200_000),
    ("lease_ms", 1, 0, "invalid_argument", 1),
    ("retention_ms", LONG_MS, LONG_MS + 1, "invalid_argument", LONG_MS),
]


@pytest.mark.parametrize(("field", "inside", "outside", "code", "limit"), MESSAGE_LIMITS)
def test_limits_of_a_message(
    api: Api, q: Queue, name: str, field: str, inside: Any, outside: Any, code: str, limit: int
) -> None:
    status = 413 if code == "payload_too_large" else 400
    api.post(q.path + "/messages", {field: inside}).ok(201)
    untouched = f"/v1/queues/{name}"
    api.post(untouched + "/messages", {field: outside}).refused(status, code, "/" + field, limit)
    batch = {"messages": [{"body": 0}, {field: outside}]}
    api.post(untouched + "/messages", batch).refused(status, code, f"/messages/1/{field}", limit)
    api.get(untouched).refused(404, "queue_not_found")  # a refusal changes nothing, creates no queue


def test_a_deep_body_is_refused_however_deep(api: Api, q: Queue) -> None:
    for depth in (65, 900, 5000, 100_000):
        data = b'{"body": ' + b"[" * depth + b"]" * depth + b"}"
        api.post(q.path + "/messages", data=data).refused(400, "invalid_argument", limit=64)
        packed = b"\x81\xa4body" + b"\x91" * depth + b"\xc0"
        api.post(q.path + "/messages", data=packed, headers={"Content-Type": MSGPACK}).refused(
            400, "invalid_argument", limit=64
        )
    wide = {"body": [[n] for n in range(500)]}
    api.post(q.path + "/messages", wide).ok(201)


def test_a_batch_has_at_most_1000_messages(api: Api, q: Queue) -> None:
    api.post(q.path + "/messages", {"messages": [{}] * 1000}).ok(201)
    api.post(q.path + "/messages", {"messages": [{}] * 1001}).refused(
        413, "batch_too_large", "/messages", 1000
    )
    assert q.state()["ready"] == 1000


def test_a_batch_has_at_most_8_mib(api: Api, q: Queue) -> None:
    whole = [{"body": "x" * (MIB - 2)}] * 8
    api.post(q.path + "/messages", {"messages": whole}).ok(201)
    api.post(q.path + "/messages", {"messages": [*whole, {"body": 1}]}).refused(
        413, "batch_too_large", "/messages", 8 * MIB
    )
    assert q.state()["ready"] == 8
    api.delete(q.path).ok()


def test_a_request_has_at_most_12_mib(api: Api, q: Queue) -> None:
    spaces = b" " * (12 * MIB - len(b'{"body":1}'))
    api.post(q.path + "/messages", data=b'{"body":1' + spaces + b"}").ok(201)
    refused = api.post(q.path + "/messages", data=b'{"body":1' + spaces + b" }")
    refused.refused(413, "payload_too_large", limit=12 * MIB)


def test_a_body_counts_as_its_compact_form(api: Api, q: Queue) -> None:
    many = b'{"body": [' + b"1 , " * 400_000 + b"1]}"
    assert len(many) > MIB
    api.post(q.path + "/messages", data=many).ok(201)


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (b"", ""),
        (b"{", ""),
        (b"[]", ""),
        (b"null", ""),
        (b'"x"', ""),
        (b'{"body": 1,}', ""),
        (b'{"body": 1} x', ""),
        (b"\xef\xbb\xbf{}", ""),
        (b'{"body": "\xff"}', ""),
        (b"{'body': 1}", ""),
        (b'{"body": NaN}', "/body"),
        (b'{"body": [Infinity]}', "/body/0"),
        (b'{"body": -Infinity}', "/body"),
        (b'{"body": 1e400}', "/body"),
        (b'{"body": "\\ud800"}', "/body"),
        (b'{"body": {"a": ["\\udfff x"]}}', "/body/a/0"),
        (b'{"headers": {"a": "\\ud800"}}', "/headers/a"),
        (b'{"body": 18446744073709551616}', "/body"),
        (b'{"body": ' + b"9" * 400 + b"}", "/body"),
        (b'{"priority": "1"}', "/priority"),
        (b'{"priority": 1.0}', "/priority"),
        (b'{"priority": true}', "/priority"),
        (b'{"priority": 1e3}', "/priority"),
        (b'{"priority": 99999999999999999999}', "/priority"),
        (b'{"headers": []}', "/headers"),
        (b'{"headers": {"a": 1}}', "/headers"),
        (b'{"group": 5}', "/group"),
        (b'{"depends_on": "m1"}', "/depends_on"),
        (b'{"depends_on": [1]}', "/depends_on/0"),
        (b'{"on_dependency_failure": "cry"}', "/on_dependency_failure"),
        (b'{"body_base64": "!"}', "/body_base64"),
        (b'{"body_base64": "QUI"}', "/body_base64"),
        (b'{"body_base64": "\xc3\xbc"}', "/body_base64"),
        (b'{"body": 1, "body_base64": ""}', "/body_base64"),
        (b'{"messages": {}}', "/messages"),
        (b'{"messages": [1]}', "/messages/0"),
        (b'{"messages": [{"messages": []}]}', "/messages/0/messages"),
        (b'{"backoff": {"type": "random"}}', "/backoff/type"),
        (b'{"backoff": {"colour": 1}}', "/backoff/colour"),
        (b'{"idempotency_window_ms": 5}', "/idempotency_window_ms"),
        (b'{"request_id": 5}', "/request_id"),
    ],
)
def test_wrong_json(api: Api, name: str, data: bytes, field: str) -> None:
    api.post(f"/v1/queues/{name}/messages", data=data).refused(400, "invalid_argument", field)
    api.get(f"/v1/queues/{name}").refused(404, "queue_not_found")


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (b"", ""),
        (b"\xc1", ""),
        (b"\x81", ""),
        (b"\x81\xa4body", ""),
        (b"\x81\xa4body\x01\x01", ""),
        (b"\x90", ""),
        (msgpack.packb({1: 2}), None),
        (msgpack.packb({b"body": 2}), None),
        (msgpack.packb({"body": {1: 2}}), "/body"),
        (msgpack.packb({"body": {b"a": 2}}), "/body"),
        (msgpack.packb({"body": [b"x"]}), "/body"),
        (msgpack.packb({"body": msgpack.ExtType(5, b"x")}), "/body"),
        (msgpack.packb({"body": msgpack.Timestamp(1, 2)}), "/body"),
        (msgpack.packb({"body": float("nan")}), "/body"),
        (msgpack.packb({"body": [float("inf")]}), "/body"),
        (msgpack.packb({"body": 2**64 - 1}), "/body"),
        (msgpack.packb({"body": {"a": 2**63}}), "/body"),
        (msgpack.packb({"group": b"g"}), "/group"),
        (b"\x81\xa4body\xa2\xff\xff", ""),
        (b"\x81\xa4body\xa3\xed\xa0\x80", ""),
        (b"\x81\xa4body\xdd\xff\xff\xff\xff", ""),
        (b"\x81\xa4body\xc6\xff\xff\xff\xff", ""),
    ],
)
def test_wrong_messagepack(api: Api, name: str, data: bytes, field: str | None) -> None:
    answer = api.post(f"/v1/queues/{name}/messages", data=data, headers={"Content-Type": MSGPACK})
    answer.refused(400, "invalid_argument", field)
    api.get(f"/v1/queues/{name}").refused(404, "queue_not_found")


def test_a_result_has_at_most_256_kib(api: Api, q: Queue) -> None:
    q.send_all([{"run_id": "r"}, {}])
    tokens = [one["lease_token"] for one in q.lease(2)]
    api.post("/v1/ack", {"acks": [{"lease_token": tokens[1], "result": "x" * (256 * KIB - 1)}]}).refused(
        413, "payload_too_large", "/acks/0/result", 256 * KIB
    )
    assert q.ack(tokens[0], result="x" * (256 * KIB - 2))["status"] == "acked"
    assert q.extend(tokens[1])["status"] == "extended"
    packed = {"acks": [{"lease_token": tokens[1], "result": b"binary"}]}
    api.packed("POST", "/v1/ack", packed).refused(400, "invalid_argument", "/acks/0/result")


def test_a_note_has_at_most_1_kib(api: Api, q: Queue) -> None:
    message = q.send()
    given = {"lease_token": q.take()["lease_token"], "note": "x" * KIB}
    api.post(f"/v1/messages/{message}/progress", given).ok()
    given["note"] += "x"
    api.post(f"/v1/messages/{message}/progress", given).refused(400, "invalid_argument", "/note", KIB)


def test_depends_on_has_at_most_100(api: Api, q: Queue) -> None:
    ids = q.send_all([{} for _ in range(101)])
    api.post(q.path + "/messages", {"depends_on": ids[:100]}).ok(201)
    api.post(q.path + "/messages", {"depends_on": ids}).refused(400, "invalid_argument", "/depends_on", 100)


@pytest.mark.parametrize(
    ("field", "inside", "outside", "limit"),
    [
        ("max_messages", 1000, 1001, 1000),
        ("max_messages", 1, 0, 1),
        ("wait_ms", 0, -1, 0),
        ("lease_ms", 43_200_000, 43_200_001, 43_200_000),
        ("lease_ms", 1, 0, 1),
        ("max_bytes", 8 * MIB, 8 * MIB + 1, 8 * MIB),
        ("max_bytes", 1, 0, 1),
    ],
)
def test_limits_of_a_lease(api: Api, q: Queue, field: str, inside: int, outside: int, limit: int) -> None:
    api.post(q.path + "/lease", {"consumer": "c", field: inside}).ok()
    api.post(q.path + "/lease", {"consumer": "c", field: outside}).refused(
        400, "invalid_argument", "/" + field, limit
    )


def test_a_wait_has_at_most_60_seconds(api: Api, q: Queue) -> None:
    q.send()
    api.post(q.path + "/lease", {"consumer": "c", "wait_ms": 60_000}).ok()
    api.post(q.path + "/lease", {"consumer": "c", "wait_ms": 60_001}).refused(
        400, "invalid_argument", "/wait_ms", 60_000
    )


def test_a_lease_names_at_most_64_queues(api: Api, name: str) -> None:
    names = [f"{name}-{n}" for n in range(65)]
    for each in names:
        api.put(f"/v1/queues/{each}", {}).ok(201)
    api.post("/v1/lease", {"queues": names[:64], "consumer": "c"}).ok()
    api.post("/v1/lease", {"queues": names, "consumer": "c"}).refused(400, "invalid_argument", "/queues", 64)
    for each in names:
        api.delete(f"/v1/queues/{each}").ok()


@pytest.mark.parametrize(
    ("field", "inside", "outside", "limit"),
    [
        ("lease_ms", 1, 0, 1),
        ("lease_ms", 43_200_000, 43_200_001, 43_200_000),
        ("max_attempts", 0, -1, 0),
        ("max_attempts", 1_000_000, 1_000_001, 1_000_000),
        ("ttl_ms", LONG_MS, LONG_MS + 1, LONG_MS),
        ("ttl_ms", 1, 0, 1),
        ("dead_retention_ms", LONG_MS, LONG_MS + 1, LONG_MS),
        ("dead_retention_ms", 0, -1, 0),
        ("max_dead", 10_000_000, 10_000_001, 10_000_000),
        ("max_dead", 0, -1, 0),
        ("idempotency_window_ms", LONG_MS, LONG_MS + 1, LONG_MS),
        ("retention_ms", LONG_MS, LONG_MS + 1, LONG_MS),
        ("result_retention_ms", LONG_MS, LONG_MS + 1, LONG_MS),
        ("max_messages", 1, 0, 1),
        ("max_messages", 2**63 - 1, 2**63, 2**63 - 1),
        ("max_bytes", 1, 0, 1),
        ("max_leased", 1, 0, 1),
        ("max_leased_per_group", 1, 0, 1),
    ],
)
def test_limits_of_a_queue(api: Api, q: Queue, field: str, inside: int, outside: int, limit: int) -> None:
    assert q.put(**{field: inside}).ok()[field] == inside
    for method in ("PUT", "PATCH"):
        api.call(method, q.path, {field: outside}).refused(400, "invalid_argument", "/" + field, limit)
    assert q.state()[field] == inside


@pytest.mark.parametrize(
    ("backoff", "field"),
    [
        ({"type": "linear"}, "/backoff/type"),
        ({"type": "list"}, "/backoff/delays_ms"),
        ({"type": "list", "delays_ms": []}, "/backoff/delays_ms"),
        ({"type": "list", "delays_ms": [0] * 101}, "/backoff/delays_ms"),
        ({"type": "list", "delays_ms": [1, -1]}, "/backoff/delays_ms/1"),
        ({"base_ms": -1}, "/backoff/base_ms"),
        ({"max_ms": LONG_MS + 1}, "/backoff/max_ms"),
        ({"factor": 0.999}, "/backoff/factor"),
        ({"factor": 1000.001}, "/backoff/factor"),
        ({"factor": 1.0001}, "/backoff/factor"),
        ({"jitter": 1.001}, "/backoff/jitter"),
        ({"jitter": -0.001}, "/backoff/jitter"),
        ({"jitter": 0.0005}, "/backoff/jitter"),
        ({"factor": "2"}, "/backoff/factor"),
        (None, "/backoff"),
        ([], "/backoff"),
    ],
)
def test_wrong_backoffs(api: Api, q: Queue, backoff: Any, field: str) -> None:
    q.put(backoff=backoff).refused(400, "invalid_argument", field)


@pytest.mark.parametrize(
    ("given", "shown"), [(1, 1), (2.0, 2), (1.5, 1.5), (1000, 1000), (1.001, 1.001), (2.675, 2.675)]
)
def test_factors_come_back_as_numbers(q: Queue, given: float, shown: float) -> None:
    told = q.put(backoff={"factor": given, "jitter": 0.125, "type": "list", "delays_ms": [0] * 100}).ok()
    assert told["backoff"]["factor"] == shown
    assert isinstance(told["backoff"]["factor"], type(shown))
    assert told["backoff"]["jitter"] == 0.125


@pytest.mark.parametrize(
    "wrong", ["-a", ".a", "_a", "a%3A", ":b", "%C3%BC", "a%2Fb", "a" * 257, "%20", "a%00", "a%0A", "%FF"]
)
def test_bad_queue_names(api: Api, wrong: str) -> None:
    for method, path, body in (
        ("PUT", f"/v1/queues/{wrong}", {}),
        ("GET", f"/v1/queues/{wrong}", None),
        ("POST", f"/v1/queues/{wrong}/messages", {}),
        ("POST", f"/v1/queues/{wrong}/lease", {"consumer": "c"}),
    ):
        answer = api.call(method, path, body)
        if wrong == "%FF":
            answer.refused(404, "not_found")
        else:
            answer.refused(400, "invalid_argument", "/queue", 256)


@pytest.mark.parametrize("right", ["a", "9", "A.b_c-9", "a" * 256])
def test_good_queue_names(api: Api, right: str) -> None:
    assert api.put(f"/v1/queues/{right}", {}).status in (200, 201)
    assert api.get(f"/v1/queues/{right}").ok()["queue"] == right
    api.delete(f"/v1/queues/{right}").ok()


def test_numbers_keep_their_64_bits(api: Api, q: Queue) -> None:
    for number in (2**53 + 1, 2**63 - 1, -(2**63), 0.1, 1e300, 5e-324):
        message = q.send(number)
        raw = api.get(f"/v1/messages/{message}").ok().raw
        assert json.loads(raw)["body"] == number
