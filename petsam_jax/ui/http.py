"""What all of the page's requests share: threads that compute, bodies of limited size, and errors
that come back as words."""

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

# Two: while one waits for the model, the other packs masks.
WORKERS = 2
WENT_WRONG = "something went wrong in here; the terminal of demo.py says what"

log = logging.getLogger(__name__)


class TooLarge(ValueError):
    """A request of too many bytes."""


class Busy(RuntimeError):
    """Too many requests are waiting."""


class Workers:
    """Threads that do the computing, and how many may wait for them."""

    def __init__(self, waiting: int):
        self._most, self._waiting = waiting, 0
        self._threads = ThreadPoolExecutor(WORKERS, thread_name_prefix="studio")
        self._turn = asyncio.Lock()

    async def run(self, work: Callable, *arguments, unless_busy: bool = False):
        """Raises Busy instead of waiting in too long a row, or in any row if `unless_busy`."""
        if self._waiting >= (1 if unless_busy else self._most):
            raise Busy("too many visitors are waiting just now; this is tried again by itself")
        self._waiting += 1
        try:
            return await self._run(work, *arguments)
        finally:
            self._waiting -= 1

    async def in_turn(self, work: Callable, *arguments):
        """A short piece of something long, such as tracking: of all such work one at a time.

        Those who track take turns, and a thread is always left for clicks.
        """
        async with self._turn:
            return await self._run(work, *arguments)

    def begin(self, work: Callable) -> None:
        """Have it done some time soon."""
        self._threads.submit(work)

    async def _run(self, work: Callable, *arguments):
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)


async def body_of(request: Request, most: int) -> bytes:
    """At most so many bytes; raises TooLarge."""
    body = bytearray()
    async for piece in pieces_of(request, most):
        body += piece
    return bytes(body)


async def pieces_of(request: Request, most: int) -> AsyncIterator[bytes]:
    """A body as it comes; raises TooLarge beyond so many bytes."""

    def check(taken: int) -> None:
        if taken > most:
            raise TooLarge(f"more than {most / MEGA:g} MB; make it smaller first")

    check(int(request.headers.get("content-length", 0)))
    taken = 0
    async for piece in request.stream():
        taken += len(piece)
        check(taken)
        yield piece


async def json_of(request: Request) -> object:
    """Raises BadRequest for what is none, or too large."""
    try:
        return json.loads(await body_of(request, MAX_REQUEST))
    except (ValueError, RecursionError) as error:
        raise BadRequest("request: not JSON, or too large") from error


def in_words(handler: Callable) -> Callable:
    """The handler with every error as a status and words for the page."""

    async def handle(request: Request) -> Response:
        try:
            return await handler(request)
        except ClientDisconnect:
            return Response(status_code=499)
        except Expired as error:
            return _refused(str(error), 410)
        except Busy as error:
            return _refused(str(error), 503, {"Retry-After": "1"})
        except UnfitImage as error:
            return _refused(error.reason, 400)
        except ValueError as error:
            return _refused(str(error), 400)
        except Exception:
            log.exception("%s failed", request.url.path)
            return _refused(WENT_WRONG, 500)

    return handle


def _refused(words: str, status: int, headers: Mapping[str, str] | None = None) -> JSONResponse:
    # A browser may keep what is gone, and would not see that it is there again.
    return JSONResponse({"error": words}, status, {"Cache-Control": "no-store", **(headers or {})})
