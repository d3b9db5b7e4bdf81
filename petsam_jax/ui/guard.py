"""Security checks for every request: its origin, its host name and its size.

Other sites' pages cannot send requests (browsers mark those). A server that only this machine can
reach accepts only this machine's names as host, and those that it is started with. The page may
load nothing from anywhere else, and no other site may show it, but for those that are named.
"""

import ipaddress
import re
from collections.abc import Sequence
from typing import NamedTuple

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PORT = re.compile(r":\d*$")
POLICY = "; ".join(
    [
        "default-src 'self'",
        # Gradio needs inline scripts, and compiles its templates in the browser.
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
    ]
)


class Access(NamedTuple):
    """Who may reach the page: the address that it is bound to, and what the flags add."""

    host: str
    allowed_hosts: Sequence[str] = ()  # host names, in lower case
    sites: Sequence[str] = ()  # that may show the page in a frame, as in a frame-ancestors header

    def host_names(self) -> set[str] | None:
        """The names that requests may use; None for any."""
        if not is_local(self.host):
            return None
        return {"localhost", "127.0.0.1", "[::1]", self.host.lower(), *self.allowed_hosts}

    def headers(self) -> dict[str, str]:
        """The headers of every response."""
        ancestors = " ".join(["frame-ancestors 'self'", *self.sites])
        headers = {
            "Content-Security-Policy": f"{POLICY}; {ancestors}",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
        }
        # For browsers that do not know frame-ancestors. It cannot name other sites.
        return headers if self.sites else headers | {"X-Frame-Options": "SAMEORIGIN"}


class Guard:
    """ASGI middleware.

    Requests may have `max_body` bytes, or more on the paths in `larger`.
    """

    def __init__(self, app: ASGIApp, access: Access, max_body: int, larger: dict[str, int]):
        self.app, self._max_body, self._larger = app, max_body, larger
        self._hosts, self._headers = access.host_names(), access.headers()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        max_body = self._larger.get(scope["path"], self._max_body)
        refusal = self._refusal(scope["method"], Headers(scope=scope), max_body)
        if refusal:
            await refusal(scope, receive, self._with_headers(send))
        else:
            await self.app(scope, _limited(receive, max_body), self._with_headers(send))

    def _refusal(self, method: str, headers: Headers, max_body: int) -> JSONResponse | None:
        host = PORT.sub("", headers.get("host", "").lower()).removesuffix(".")
        if self._hosts is not None and host not in self._hosts:
            names = ", ".join(sorted(self._hosts))
            message = (
                f"host {host[:80]!r}; expected one of {names}. For a proxy that passes on another "
                "name, start petsam demo with --allow-host NAME"
            )
            return JSONResponse({"error": message}, 421)
        if method in ("GET", "HEAD", "OPTIONS"):
            return None
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return JSONResponse({"error": "requests from other sites are not allowed"}, 403)
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > max_body:
            message = f"this request is too large; the limit is {max_body / 1e6:g} MB"
            return JSONResponse({"error": message}, 413)
        return None

    def _with_headers(self, send: Send) -> Send:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self._headers)
            await send(message)

        return send_with_headers


def _limited(receive: Receive, max_body: int) -> Receive:
    """Disconnects a chunked body, which has no length, once it is too large."""
    received = 0

    async def limited() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        return message if received <= max_body else {"type": "http.disconnect"}

    return limited


def is_local(host: str) -> bool:
    """Whether only this machine can reach a server bound to that address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
