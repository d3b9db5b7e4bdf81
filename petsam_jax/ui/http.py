"""What all routes of the page share: worker threads, bodies of limited size, and errors as JSON."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from petsam_jax.files.images import UnfitImage
from petsam_jax.ui.cache import Expired
from petsam_jax.ui.limits import MAX_REQUEST, MEGA
from petsam_jax.ui.request_fields import BadRequest

# Two: one runs the model while the other encodes masks.
WORKERS = 2
INTERNAL_ERROR = "something went wrong; see the terminal of demo.py"

log = logging.getLogger(__name__)


class TooLarge(ValueError):
    """The request has too many bytes."""


class Busy(RuntimeError):
    """Too many requests are waiting."""


class Workers:
    """Threads that compute, and a limit on how many requests may wait for them."""

    def __init__(self, max_waiting: int):
        self._max_waiting, self._waiting = max_waiting, 0
        self._threads = ThreadPoolExecutor(WORKERS, thread_name_prefix="petsam-page")
        self._turn = asyncio.Lock()

    async def run(self, work: Callable, *arguments, unless_busy: bool = False):
        """Raises Busy if the queue is full, or if there is any queue and `unless_busy`."""
        if self._waiting >= (1 if unless_busy else self._max_waiting):
            raise Busy("too many visitors are waiting; retrying automatically")
        self._waiting += 1
        try:
            return await self._run(work, *arguments)
        finally:
            self._waiting -= 1

    async def in_turn(self, work: Callable, *arguments):
        """A short step of a long task such as tracking; only one such step runs at a time.

        So long tasks take turns, and one thread is always free for clicks.
        """
        async with self._turn:
            return await self._run(work, *arguments)

    def submit(self, work: Callable) -> None:
        """Run it later, without a result."""
        self._threads.submit(work)

    async def _run(self, work: Callable, *arguments):
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The whole body; raises TooLarge."""
    body = bytearray()
    async for chunk in read_chunks(request, max_bytes):
        body += chunk
    return bytes(body)


async def read_chunks(request: Request, max_bytes: int) -> AsyncIterator[bytes]:
    """The body as it arrives; raises TooLarge."""

    def check(received: int) -> None:
        if received > max_bytes:
            raise TooLarge(f"larger than {max_bytes / MEGA:g} MB; make it smaller first")

    check(int(request.headers.get("content-length", 0)))
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        check(received)
        yield chunk


async def read_json(request: Request) -> object:
    """Raises BadRequest for a body that is too large or not JSON."""
    try:
        return json.loads(await read_body(request, MAX_REQUEST))
    except (ValueError, RecursionError) as error:
        raise BadRequest("request: not JSON, or too large") from error


def with_errors(handler: Callable) -> Callable:
    """The handler, with exceptions turned into a status and a message for the page."""

    async def handle(request: Request) -> Response:
        try:
            return await handler(request)
        except ClientDisconnect:
            return Response(status_code=499)
        except Expired as error:
            return _error(str(error), 410)
        except Busy as error:
            return _error(str(error), 503, {"Retry-After": "1"})
        except UnfitImage as error:
            return _error(error.reason, 400)
        except ValueError as error:
            return _error(str(error), 400)
        except Exception:
            log.exception("%s failed", request.url.path)
            return _error(INTERNAL_ERROR, 500)

    return handle


def _error(message: str, status: int, headers: Mapping[str, str] | None = None) -> JSONResponse:
    # A browser may cache a 410, and would then miss that the file is open again.
    headers = {"Cache-Control": "no-store", **(headers or {})}
    return JSONResponse({"error": message}, status, headers)
