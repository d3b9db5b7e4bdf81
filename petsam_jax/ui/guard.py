"""What every request passes first: where it comes from, how large it is, what a browser may do.

Pages of other sites cannot ask (a browser says when they try), a server that listens to this
machine alone answers to this machine's names alone, and the page itself may load nothing from
anywhere else.
"""

import ipaddress

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = "; ".join(
    [
        "default-src 'self'",
        # Gradio starts from inline scripts and compiles its templates in the browser.
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
    """ASGI middleware; `host` is what the server is bound to, `max_body` bytes of a request.

    `larger` are paths where more bytes may come.
    """

    def __init__(self, app: ASGIApp, host: str, max_body: int, larger: dict[str, int]):
        self.app, self._max_body, self._larger = app, max_body, larger
        self._hosts = {"localhost", "127.0.0.1", "[::1]", host} if is_local(host) else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        most = self._larger.get(scope["path"], self._max_body)
        refused = self._refuse(scope["method"], Headers(scope=scope), most)
        if refused:
            await refused(scope, receive, send)
        else:
            await self.app(scope, _counted(receive, most), _with_headers(send))

    def _refuse(self, method: str, headers: Headers, most: int) -> JSONResponse | None:
        host = headers.get("host", "").rsplit(":", 1)[0]
        if self._hosts is not None and host not in self._hosts:
            words = f"this server answers to {', '.join(sorted(self._hosts))}, not to {host[:80]!r}"
            return JSONResponse({"error": words}, 421)
        if method in ("GET", "HEAD", "OPTIONS"):
            return None
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return JSONResponse({"error": "pages of other sites may not ask this server"}, 403)
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > most:
            words = f"this request is too large; at most {most / 1e6:g} MB are taken"
            return JSONResponse({"error": words}, 413)
        return None


def _counted(receive: Receive, most: int) -> Receive:
    """A body that comes in pieces without a length ends where it gets too large."""
    taken = 0

    async def counted() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        return message if taken <= most else {"type": "http.disconnect"}

    return counted


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(HEADERS)
        await send(message)

    return sending


def is_local(host: str) -> bool:
    """Whether only this machine can reach what is bound to that address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
