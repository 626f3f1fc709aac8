"""The API description, its page, and the page at the root. Any node answers; each text is made once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from trivet.http import page
from trivet.http.call import Call, Reply
from trivet.http.codec import JSON
from trivet.http.describing import Text, operation
from trivet.http.openapi import document
from trivet.http.render import encode
from trivet.http.routing import Router

HTML = "text/html"
_HTML_UTF8 = "text/html; charset=utf-8"
# What the pages hold is in them: nothing else may be loaded, framed or run.
_GUARDED = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src '{page.STYLE_HASH}'; script-src '{page.SCRIPT_HASH}'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class _Text:
    """Made once, and in a thread: it takes longer than the loop may be held (design 2, "One owner")."""

    def __init__(self, make: Callable[[Router], str]) -> None:
        self._make = make
        self._made: bytes | None = None

    async def of(self, router: Router) -> bytes:
        if self._made is None:
            text = await asyncio.get_running_loop().run_in_executor(None, self._make, router)
            self._made = text.encode()
        return self._made


_DESCRIPTION = _Text(lambda router: encode(document(router), JSON).decode())
_DOCS = _Text(lambda router: page.docs(document(router)))
_HOME = page.home().encode()


@operation("This description (OpenAPI 3.1)", gives=Text(JSON, "An OpenAPI 3.1 document"))
async def openapi(call: Call) -> Reply:
    return Reply(200, await _DESCRIPTION.of(call.services.router), JSON, {"Cache-Control": "no-cache"})


@operation("This description as a page", gives=Text(HTML, "A page that loads nothing else"))
async def docs(call: Call) -> Reply:
    return Reply(200, await _DOCS.of(call.services.router), _HTML_UTF8, dict(_GUARDED))


@operation("Where to go from here", gives=Text(HTML, "A page of links"))
async def home(call: Call) -> Reply:
    return Reply(200, _HOME, _HTML_UTF8, dict(_GUARDED))
