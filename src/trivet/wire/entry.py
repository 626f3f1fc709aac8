"""The bytes of a log entry: one format byte, a fixed header, then the requests, each with its length.

    u8 format (1) · u8 reserved (0) · u16 machine version · u32 count · i64 now_ms
    then `count` times: u32 length · msgpack of `commands.Request`

All integers are little-endian. A request is encoded once, when it arrives (`encode_request`); a batch is
the header and those same bytes joined (`join_entry`), which are what the log stores, what peers receive
and what `EntryReader` takes apart. Each request stands alone, so that a big entry is decoded in slices
between the requests that are applied (R25).

Integrity is the log's concern (R3: a CRC per record); here only the structure is checked.
An empty byte string is no entry of this module: it is the consensus layer's no-op.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

import msgspec

from trivet.machine.commands import MACHINE_VERSION, Command, Request

ENTRY_FORMAT = 1

_HEADER = struct.Struct("<BBHIq")
_LENGTH = struct.Struct("<I")
_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Request)

NOW_MS_MIN = -(2**63)
NOW_MS_MAX = 2**63 - 1


class MalformedEntry(ValueError):
    """The bytes are no entry: cut, longer than they say, or not what a format 1 entry holds."""


class UnsupportedEntry(ValueError):
    """Written by another Trivet: the format or the machine version is unknown here (R32)."""


class Entry(msgspec.Struct, frozen=True):
    """A whole entry. `version`: the machine version it is applied under; `now_ms`: the leader's stamp."""

    version: int
    now_ms: int
    requests: tuple[Request, ...]


def encode_request(request: Request) -> bytes:
    """One request as it stands inside an entry, its length before it."""
    body = _ENCODER.encode(request)
    return _LENGTH.pack(len(body)) + body


def encode_command(command: Command) -> bytes:
    """The command as it stands in its request."""
    return _ENCODER.encode(command)


def join_request(command: bytes, request: Request) -> bytes:
    """`encode_request` with the command encoded before (`encode_command`)."""
    rest = _ENCODER.encode((request.request_id, request.fingerprint))
    # A list of two becomes the end of a list of three: its own head byte goes.
    return _LENGTH.pack(len(command) + len(rest)) + b"\x93" + command + rest[1:]


def join_entry(version: int, now_ms: int, pieces: Sequence[bytes]) -> bytes:
    """An entry of already encoded requests (`encode_request`), in this order.

    `now_ms` is any signed 64-bit number, `version` 0 to 65535; raises `struct.error` beyond.
    """
    header = _HEADER.pack(ENTRY_FORMAT, 0, version, len(pieces), now_ms)
    return b"".join((header, *pieces))


def encode_entry(version: int, now_ms: int, requests: Iterable[Request]) -> bytes:
    """`join_entry` of requests not encoded before."""
    return join_entry(version, now_ms, [encode_request(request) for request in requests])


class EntryReader:
    """Takes an entry apart, one request at a time.

    Raises `UnsupportedEntry` for a format or machine version this code does not know and
    `MalformedEntry` for anything else that is wrong; the header is judged at construction.
    """

    __slots__ = ("_at", "_data", "count", "left", "now_ms", "version")

    def __init__(self, data: bytes) -> None:
        if not data:
            raise MalformedEntry("an entry of no bytes")
        if data[0] != ENTRY_FORMAT:
            raise UnsupportedEntry(f"entry format {data[0]}, this node reads format {ENTRY_FORMAT}")
        if len(data) < _HEADER.size:
            raise MalformedEntry(f"an entry of {len(data)} bytes, its header needs {_HEADER.size}")
        _, reserved, self.version, self.count, self.now_ms = _HEADER.unpack_from(data)
        if reserved:
            raise MalformedEntry(f"reserved header byte is {reserved}")
        if self.version != MACHINE_VERSION:
            raise UnsupportedEntry(
                f"an entry of machine version {self.version}, this node knows only {MACHINE_VERSION}"
            )
        self.left: int = self.count
        self._data = memoryview(data)
        self._at = _HEADER.size

    def next(self) -> Request | None:
        """The next request; None after the last. The last one proves that nothing stands behind it."""
        if not self.left:
            if self._at != len(self._data):
                raise MalformedEntry(f"{len(self._data) - self._at} bytes after the last request")
            return None
        start = self._at + _LENGTH.size
        if start > len(self._data):
            raise MalformedEntry(f"cut before request {self.count - self.left} of {self.count}")
        (length,) = _LENGTH.unpack_from(self._data, self._at)
        end = start + length
        if end > len(self._data):
            raise MalformedEntry(f"cut inside request {self.count - self.left} of {self.count}")
        try:
            request: Request = _DECODER.decode(self._data[start:end])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:  # ValidationError is a DecodeError
            raise MalformedEntry(f"request {self.count - self.left}: {error}") from error
        self._at = end
        self.left -= 1
        return request


def decode_entry(data: bytes) -> Entry:
    """The whole entry at once. Raises as `EntryReader` does."""
    reader = EntryReader(data)
    requests = []
    while (request := reader.next()) is not None:
        requests.append(request)
    return Entry(reader.version, reader.now_ms, tuple(requests))
