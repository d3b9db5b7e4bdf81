"""The page: a Gradio app with the studio as its first tab, its routes, and the API `segment`.

What it looks like is in `browser`: `header.html`, `studio.html`, `studio.css`, and scripts that the
browser loads as modules from `studio/files/browser`.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

# Read when Gradio is imported.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.middleware import Middleware

from petsam_jax.ui.api import segment_function
from petsam_jax.ui.facts import Facts
from petsam_jax.ui.guard import Guard
from petsam_jax.ui.routes import Workers, studio_routes
from petsam_jax.ui.studio import Studio

SWEEP_SECONDS = 60
BROWSER = Path(__file__).parent / "browser"
# Imported when the page is shown; errors go to where the visitor sees them.
START = """
const base = new URL('studio/', document.baseURI).href;
import(base + 'files/browser/app.js').then((app) => app.start(element, base)).catch((error) => {
  element.querySelector('[data-words]').textContent = 'The page did not start: ' + error.message;
});
"""
SANS = ["ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]


def make_app(studio: Studio, facts: Facts, host: str = "127.0.0.1") -> FastAPI:
    """The whole server; `facts` about the weights are shown in the page's head."""
    workers = Workers(studio.limits.waiting)
    most = int(studio.limits.max_upload * 1.4) + 1_000_000  # A file in base64, and around it.
    app = FastAPI(
        openapi_url=None,
        lifespan=lambda _: _sweeping(studio),
        routes=studio_routes(studio, workers),
        middleware=[Middleware(Guard, host=host, max_body=most)],
    )
    return gr.mount_gradio_app(
        app,
        make_blocks(studio, facts),
        path="/",
        server_name=host,
        ssr_mode=False,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
        max_file_size=studio.limits.max_upload,
        favicon_path=str(BROWSER / "favicon.svg"),
        theme=gr.themes.Base(font=SANS, font_mono=["ui-monospace", "monospace"]),
        css_paths=[BROWSER / "studio.css"],
        app_kwargs={"openapi_url": None, "docs_url": None, "redoc_url": None},
    )


@contextlib.asynccontextmanager
async def _sweeping(studio: Studio) -> AsyncIterator[None]:
    async def sweep() -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            studio.pictures.sweep()

    task = asyncio.create_task(sweep())
    yield
    task.cancel()


def run(app: FastAPI, host: str, port: int, tell: Callable[[int], None]) -> None:
    """Serve until Ctrl-C; `tell` is called with the port, which is any if 0 was asked for.

    Raises OSError if the address is not to be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family, backlog=512) as listening:
        tell(listening.getsockname()[1])
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=3)
        uvicorn.Server(config).run([listening])


def make_blocks(studio: Studio, facts: Facts) -> gr.Blocks:
    """Gradio's part: the tabs and the API."""
    header, body = ((BROWSER / name).read_text("utf-8") for name in ("header.html", "studio.html"))
    with gr.Blocks(
        title="PetSAM", analytics_enabled=False, fill_width=True, delete_cache=(60, 600)
    ) as blocks:
        gr.HTML(
            html_template=header,
            js_on_load=None,
            apply_default_css=False,
            elem_id="header",
            facts=facts.quality or facts.size,
        )
        gr.HTML(html_template=body, js_on_load=START, apply_default_css=False, elem_id="studio")
        gr.api(segment_function(studio), api_name="segment", concurrency_limit=1)
    blocks.queue(max_size=studio.limits.waiting, api_open=False)
    return blocks
