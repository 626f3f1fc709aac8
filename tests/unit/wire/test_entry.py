"""Entry bytes: what goes in comes out; anything else is refused with its reason."""

from __future__ import annotations

import struct

import msgspec
import pytest

from trivet.machine.commands import (
    MACHINE_VERSION,
    Ack,
    AckItem,
    Backoff,
    Draft,
    EffectDone,
    Enqueue,
    Expire,
    Extras,
    PatchQueue,
    PurgeQueue,
    PutQueue,
    QueueConfig,
    Request,
    Token,
)
from trivet.wire.entry import (
    Entry,
    EntryReader,
    MalformedEntry,
    UnsupportedEntry,
    decode_entry,
    encode_command,
    encode_entry,
    encode_request,
    join_entry,
    join_request,
)

REQUESTS = (
    Request(Expire(7)),
    Request(
        Enqueue(
            "orders",
            (
                Draft(b"\x00\xff", 1, "image/png", {"a": "b", "ä": "☃"}, -5, key="k", ttl_ms=3),
                Draft(
                    extras=Extras(run_id="r", backoff=Backoff("list", delays_ms=(1, 2)), depends_on=(3, 4))
                ),
            ),
        ),
        "request-1",
        b"f" * 16,
    ),
    Request(PutQueue("q", QueueConfig(max_messages=3), 9)),
    Request(PatchQueue("q", {"ttl_ms": None, "backoff": {"base_ms": 2**40}}), "r2", b""),
    Request(Ack((AckItem(None), AckItem(Token(5, b"m" * 16), b"null", (EffectDone("e", b"1", None),))))),
)


@pytest.mark.parametrize("now_ms", [0, 1, -1, 2**63 - 1, -(2**63), 1_700_000_000_000])
def test_round_trip(now_ms: int) -> None:
    entry = decode_entry(encode_entry(MACHINE_VERSION, now_ms, REQUESTS))
    assert entry == Entry(MACHINE_VERSION, now_ms, REQUESTS)


def test_a_batch_is_its_requests_bytes_joined() -> None:
    pieces = [encode_request(request) for request in REQUESTS]
    joined = join_entry(MACHINE_VERSION, 12, pieces)
    assert joined == encode_entry(MACHINE_VERSION, 12, iter(REQUESTS))
    assert joined.endswith(b"".join(pieces))


def test_an_entry_without_requests_is_an_entry() -> None:
    assert decode_entry(encode_entry(MACHINE_VERSION, 5, ())) == Entry(MACHINE_VERSION, 5, ())


def test_reader_gives_requests_one_by_one_and_then_none() -> None:
    reader = EntryReader(encode_entry(MACHINE_VERSION, 99, REQUESTS))
    assert (reader.version, reader.now_ms, reader.left) == (MACHINE_VERSION, 99, len(REQUESTS))
    assert reader.count == len(REQUESTS)
    for number, request in enumerate(REQUESTS, start=1):
        assert reader.next() == request
        assert reader.left == len(REQUESTS) - number
    assert reader.next() is None
    assert reader.next() is None


@pytest.mark.parametrize("fmt", [0, 2, 255])
def test_unknown_format(fmt: int) -> None:
    data = bytearray(encode_entry(MACHINE_VERSION, 0, REQUESTS))
    data[0] = fmt
    with pytest.raises(UnsupportedEntry, match=f"entry format {fmt}"):
        decode_entry(bytes(data))


@pytest.mark.parametrize("version", [0, 1, MACHINE_VERSION - 1, MACHINE_VERSION + 1, 65535])
def test_unknown_machine_version(version: int) -> None:
    with pytest.raises(UnsupportedEntry, match=f"machine version {version}, this node knows only 3"):
        decode_entry(join_entry(version, 0, ()))


def test_version_out_of_the_header_is_the_callers_mistake() -> None:
    with pytest.raises(struct.error):
        join_entry(65536, 0, ())


def test_every_cut_is_refused() -> None:
    data = encode_entry(MACHINE_VERSION, 0, REQUESTS)
    for length in range(len(data)):
        with pytest.raises(MalformedEntry):
            decode_entry(data[:length])


def test_more_bytes_than_it_says() -> None:
    with pytest.raises(MalformedEntry, match="1 bytes after the last request"):
        decode_entry(encode_entry(MACHINE_VERSION, 0, REQUESTS) + b"\x00")


def test_reserved_byte() -> None:
    data = bytearray(encode_entry(MACHINE_VERSION, 0, ()))
    data[1] = 1
    with pytest.raises(MalformedEntry, match="reserved"):
        decode_entry(bytes(data))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",  # never used in msgpack
        msgspec.msgpack.encode(["not a request"]),
        msgspec.msgpack.encode([[999], None, b""]),  # no such command
        msgspec.msgpack.encode([[40, "ten"], None, b""]),  # Expire's limit is a number
        msgspec.msgpack.encode([[40, 10], None, b""]) + b"\x00",  # trailing bytes inside the piece
        b"\x93\x92\x28\x0a\xa1\xff\xc4\x00",  # a request id that is not UTF-8
    ],
)
def test_a_piece_that_is_no_request(body: bytes) -> None:
    with pytest.raises(MalformedEntry, match="request 0"):
        decode_entry(join_entry(MACHINE_VERSION, 0, [len(body).to_bytes(4, "little") + body]))


def test_fields_added_later_are_skipped_by_older_code() -> None:
    """A newer leader under the same machine version may send longer arrays (commands.py: only at the end)."""
    body = msgspec.msgpack.encode([[6, "q", "new"], None, b"", "newer"])
    entry = decode_entry(join_entry(MACHINE_VERSION, 0, [len(body).to_bytes(4, "little") + body]))
    assert entry.requests == (Request(PurgeQueue("q")),)


@pytest.mark.parametrize("fingerprint", [b"", b"f" * 16])
def test_a_command_encoded_before_joins_to_the_same_request(fingerprint: bytes) -> None:
    command = Ack((AckItem(Token(3, b"m" * 16)),))
    request = Request(command, "id", fingerprint)
    assert join_request(encode_command(command), request) == encode_request(request)
