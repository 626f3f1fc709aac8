"""One request on its way: what it says, and the ways to answer it (api.md, Manners)."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from aiohttp.web import BaseRequest
from msgspec import UNSET, UnsetType

from trivet.errors import TrivetError, invalid
from trivet.http import content, render
from trivet.http.codec import JSON, MSGPACK, Codec
from trivet.http.quick import QuickRequest
from trivet.http.routing import Route
from trivet.machine.commands import Command, Request

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from trivet.http.app import Services
    from trivet.machine.core import Machine
    from trivet.node.broker import Committed, Show

T = TypeVar("T")

_command_bytes = msgspec.msgpack.Encoder(order="deterministic").encode


@dataclass(slots=True)
class Reply:
    """An answer before it is put on the wire."""

    status: int
    body: bytes = b""
    media: str = JSON
    headers: dict[str, str] = field(default_factory=dict)
    pieces: AsyncGenerator[bytes, None] | None = None  # of a stream, instead of a body


@dataclass(frozen=True, slots=True)
class Plain:
    """A command of the common kind, ready for the log, and its answer."""

    request: Request
    piece: bytes  # of the log's entry
    answer: Callable[[Committed], Reply]
    own: str = ""  # what an error's field begins with because of how the command holds the request

    def refused(self, error: TrivetError) -> TrivetError:
        if self.own and error.field is not None:
            error.field = error.field.removeprefix(self.own)
        return error


@dataclass(slots=True)
class Call:
    """A request whose route is known. `body` is read whole before a write's handler runs."""

    request: BaseRequest | QuickRequest
    services: Services
    route: Route
    path: str
    params: tuple[str, ...]
    query: dict[str, str]
    accept: str
    media: str = JSON
    body: bytes = b""
    key: str | None = None  # the request id given by header, later also by body
    local: bool = False

    @property
    def typed(self) -> bool:
        """The request came as MessagePack, which can hold what JSON cannot."""
        return self.media == MSGPACK

    # --- what it says -----------------------------------------------------------------------------

    def decode(self, codec: Codec[T], *, optional: bool = False) -> T:
        """The body as a `T`, its `request_id` taken. `optional`: no body means no field given."""
        data = self.body
        if optional and not data:
            data = b"\x80" if self.typed else b"{}"
        given = codec.decode(data, self.media)
        self.take_key(getattr(given, "request_id", UNSET))
        return given

    def take_key(self, given: str | UnsetType) -> None:
        """Header and body may both name the request, but only by one name (R12)."""
        if given is UNSET:
            return
        content.text(given, "/request_id")
        if self.key is not None and self.key != given:
            raise invalid("Idempotency-Key and request_id differ", "/request_id")
        self.key = given

    def if_match(self) -> int | None:
        """The queue revision of `If-Match`, plain or as an entity tag."""
        text = self.request.headers.get("If-Match")
        if text is None:
            return None
        digits = text.strip().removeprefix("W/").strip('"')
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 18):
            raise invalid("must be a queue's revision", "/If-Match")
        return int(digits)

    def fingerprint(self, command: Command, *more: Any) -> bytes:
        """16 bytes of method, path and content: the same whatever the codec and whitespace (R12)."""
        return self._fingerprint(_command_bytes((command, *more)))

    def _fingerprint(self, content: bytes) -> bytes:
        told = sha256(f"{self.route.method} {self.path}\n".encode())
        told.update(content)
        return told.digest()[:16]

    def machine_request(self, command: Command) -> Request:
        if self.key is None:
            return Request(command)
        return Request(command, self.key, self.fingerprint(command))

    # --- through the broker -------------------------------------------------------------------------

    async def submit(self, command: Command, show: Show | None = None) -> Committed:
        return await self.services.broker.submit(self.machine_request(command), show)

    async def submit_step(self, command: Command, whole: bytes, step: int) -> Committed:
        """One of several bounded commands that are one request, `whole` its fingerprint: each has a request id made
        from the caller's, so that a repeat walks the same steps again (R12, R25)."""
        if self.key is None:
            return await self.services.broker.submit(Request(command))
        key = self.key if step == 0 else f"{self.key}\n{step}"
        return await self.services.broker.submit(Request(command, key, whole))

    def plain(self, command: Command, answer: Callable[[Committed], Reply], own: str = "") -> Plain:
        """`command` holds no map."""
        # A list of the command alone, as `fingerprint` makes it.
        request, piece = self.services.broker.encoded(
            command, self.key, lambda data: self._fingerprint(b"\x91" + data)
        )
        return Plain(request, piece, answer, own)

    async def finish(self, plain: Plain) -> Reply:
        """Submit it and wait."""
        try:
            committed = await self.services.broker.submit(plain.request, None, plain.piece)
        except TrivetError as error:
            raise plain.refused(error) from None
        return plain.answer(committed)

    async def look(self, view: Callable[[Machine], T]) -> T:
        """A read at the consistency asked for."""
        broker = self.services.broker
        return await (broker.read_local(view) if self.local else broker.read(view))

    # --- answers ------------------------------------------------------------------------------------

    def reply(self, status: int, told: dict[str, Any], headers: dict[str, str] | None = None) -> Reply:
        return Reply(status, render.encode(told, self.accept), self.accept, headers or {})

    def written(
        self,
        committed: Committed,
        told: dict[str, Any],
        status: int = 200,
        headers: dict[str, str] | None = None,
    ) -> Reply:
        """A write's answer: with its place in the log."""
        answer = committed.answer
        told["index"] = answer.index
        told["seq"] = answer.seq
        told["term"] = committed.term
        if answer.repeated:
            told["repeated"] = True
        return self.reply(status, told, headers)

    def seen(self, as_of: int, told: dict[str, Any], headers: dict[str, str] | None = None) -> Reply:
        """A read's answer: with the applied index it saw, and how old a local one may be."""
        told["as_of"] = as_of
        if self.local:
            told["leader_contact_age_ms"] = self.services.broker.host.leader_contact_age_ms()
        return self.reply(200, told, headers)


def not_yet(what: str) -> TrivetError:
    return TrivetError("not_implemented", f"{what} come with a later release")
