"""The page that people see: the files of `web/`, as they are, for browsers to keep and to ask after."""

from __future__ import annotations

from pathlib import Path

from quart import Quart, Response, send_file

from core.config import PROJECT
from core.errors import FileNotFound

WEB = PROJECT / "web"
# By ending, and not as the machine's own table has it, which differs from system to system; no other file is given out.
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
# Nothing from another host, and no script or style inside the page; blob: is a picture before it is sent.
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; img-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'self'"
)


def add_page(app: Quart) -> None:
    """`GET /`, and what the page there loads from `/web/`."""

    @app.get("/")
    async def page() -> Response:
        return await _send("index.html")

    @app.get("/web/<name>")
    async def web(name: str) -> Response:
        return await _send(name)


async def _send(name: str) -> Response:
    if name not in {path.name for path in WEB.iterdir() if path.suffix in TYPES}:
        raise FileNotFound(f"The page has no file {name[:80]!r}.")
    response = await send_file(WEB / name, mimetype=TYPES[Path(name).suffix], cache_timeout=0, conditional=True)
    response.headers["Cache-Control"] = "no-cache"  # to be kept, and asked after each time: 304 while it is the same
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    return response
