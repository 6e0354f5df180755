"""Removes what is old or too much from the folder of results, once a minute."""

from __future__ import annotations

import asyncio
import logging
import time

from storage.result_store import ResultStore
from utility import IOExecutor, wait_at_most

logger = logging.getLogger(__name__)

SWEEP_SECONDS = 60.0


async def sweep_until(stop: asyncio.Event, store: ResultStore, io: IOExecutor) -> None:
    """Sweep now and then, until `stop` is set. A folder that cannot be swept is logged and tried again."""
    while not stop.is_set():
        try:
            removed = await io.run(store.sweep, time.time())
        except OSError as exc:
            logger.error("OUTPUT_DIR cannot be swept: %s", exc)
        else:
            if removed:
                logger.info("removed %d old files from %s", removed, store.folder)
        await wait_at_most(SWEEP_SECONDS, stop)
