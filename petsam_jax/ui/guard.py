"""Security checks for every request: its origin, its host name and its size.

Other sites' pages cannot send requests (browsers mark those). A server that only this machine can
reach accepts only this machine's names as host. And the page may load nothing from anywhere else.
"""

import ipaddress

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
        "frame-ancestors 'self'",
    ]
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Guard:
    """ASGI middleware; `host` is the address that the server is bound to.

    Requests may have `max_body` bytes, or more on the paths in `larger`.
    """

    def __init__(self, app: ASGIApp, host: str, max_body: int, larger: dict[str, int]):
        self.app, self._max_body, self._larger = app, max_body, larger
        self._hosts = {"localhost", "127.0.0.1", "[::1]", host} if is_local(host) else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        max_body = self._larger.get(scope["path"], self._max_body)
        refusal = self._refusal(scope["method"], Headers(scope=scope), max_body)
        if refusal:
            await refusal(scope, receive, send)
        else:
            await self.app(scope, _limited(receive, max_body), _with_headers(send))

    def _refusal(self, method: str, headers: Headers, max_body: int) -> JSONResponse | None:
        host = headers.get("host", "").rsplit(":", 1)[0]
        if self._hosts is not None and host not in self._hosts:
            names = ", ".join(sorted(self._hosts))
            return JSONResponse({"error": f"host {host[:80]!r}; expected one of {names}"}, 421)
        if method in ("GET", "HEAD", "OPTIONS"):
            return None
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return JSONResponse({"error": "requests from other sites are not allowed"}, 403)
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > max_body:
            message = f"this request is too large; the limit is {max_body / 1e6:g} MB"
            return JSONResponse({"error": message}, 413)
        return None


def _limited(receive: Receive, max_body: int) -> Receive:
    """Disconnects a chunked body, which has no length, once it is too large."""
    received = 0

    async def limited() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        return message if received <= max_body else {"type": "http.disconnect"}

    return limited


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(HEADERS)
        await send(message)

    return send_with_headers


def is_local(host: str) -> bool:
    """Whether only this machine can reach a server bound to that address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
