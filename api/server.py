"""The server's connections: hypercorn's `serve`, with connections that end when their clients have ended them."""

from __future__ import annotations

import hypercorn.asyncio.run
from hypercorn.asyncio import serve
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.events import Event, Updated

__all__ = ["serve"]


class _Connection(TCPServer):
    """A connection that is closed when its client has closed it.

    Hypercorn 0.18 keeps its socket until the idle timeout (https://github.com/pgjones/hypercorn/issues/241): with a new
    connection for each request, 14 requests a second were enough to use up a thousand open files.
    """

    async def _read_data(self) -> None:
        await super()._read_data()
        await self.idle_task.stop()

    async def protocol_send(self, event: Event) -> None:
        if not (isinstance(event, Updated) and self.reader.at_eof()):  # it is not idle but over
            await super().protocol_send(event)


hypercorn.asyncio.run.TCPServer = _Connection  # type: ignore[attr-defined]
