"""`python -m bench.load.overload [SECONDS]`: four times what the server can do; what becomes of the requests, and of /health.

First at capacity, to find the rate that the server can do; then at four times that rate, whatever becomes of earlier requests.
None is a cache hit. Every 200 is compared with its golden bytes. Another process watches /health. Exit status 1 if a limit is
broken.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from pathlib import Path

from bench.load.command import QUEUE_LIMIT, Outcome, machine, run, table, tracebacks
from bench.load.goldens import make_golden_pictures
from bench.load.overload_clients import OverloadClients, Phase, make_requests, p99, watched_health
from bench.server import running_server

TIMES = 4  # the capacity
ENLARGED_PX = 4  # the height of all results: of equal work, or their number a second would tell nothing
MAX_HEALTH_P99_SECONDS = 0.05
LEAST_THROUGHPUT = 0.9  # of that at capacity
MAX_LISTED_FAULTS = 20


def overload(seconds: float) -> Outcome:
    """Measure the capacity, then exceed it for `seconds`."""
    equal = [picture for picture in make_golden_pictures() if picture.enlarged.height == ENLARGED_PX]
    pictures = [picture for picture in equal if picture.file.startswith(b"\x89PNG")]
    with tempfile.TemporaryDirectory() as outputs, running_server(Path(outputs), QUEUE_LIMIT=str(QUEUE_LIMIT)) as server:
        with watched_health(server.url) as (begin, health):
            os.nice(19)  # clients are other machines; only here they want the same cores as the server
            clients = OverloadClients(server, make_requests(pictures))
            clients.at_capacity(min(seconds / 6, 5))  # warm-up
            capacity = clients.at_capacity(seconds / 3)
            begin.set()
            over = clients.at_rate(TIMES * capacity.throughput, seconds)
        for phase in (capacity, over):
            phase.check()
        faults = capacity.faults + over.faults + tracebacks(server)
    faults += _broken_limits(capacity, over, health)
    return Outcome(_report(seconds, capacity, over, health, faults), faults)


def _broken_limits(capacity: Phase, over: Phase, health: list[float]) -> list[str]:
    broken = []
    if p99(health) > MAX_HEALTH_P99_SECONDS:
        broken.append(f"/health took {1000 * p99(health):.0f} ms at p99")
    if over.throughput < LEAST_THROUGHPUT * capacity.throughput:
        broken.append(f"throughput fell from {capacity.throughput:.2f} to {over.throughput:.2f} a second")
    return broken


def _report(seconds: float, capacity: Phase, over: Phase, health: list[float], faults: list[str]) -> str:
    health_ms = [1000 * each for each in (statistics.median(health), p99(health), health[-1])]
    waits = (statistics.median(over.response_seconds), max(over.response_seconds))
    lines = [
        f"`make overload SECONDS={seconds:.0f}` on {machine()}:",
        f"bodies of 3 MiB, a queue of {QUEUE_LIMIT}, the real weights.",
        f"Faults: {len(faults)}.",
        "",
        *(f"- {fault}" for fault in faults[:MAX_LISTED_FAULTS]),
        *([""] if faults else []),
        *table(
            ("measurement", "limit", "measured"),
            ("results a second, at capacity", "", f"{capacity.throughput:.2f}"),
            (
                f"results a second, at {TIMES} times as many requests",
                f"≥ {LEAST_THROUGHPUT:.0%} of that",
                f"{over.throughput:.2f} ({over.throughput / capacity.throughput:.0%})",
            ),
            ("responses with 200, each with its golden bytes", "all", f"{over.statuses['200']}"),
            ("responses with 503 and `Retry-After`", "all others", f"{over.statuses['503']}"),
            ("seconds to a 200, median / longest", "", "{:.1f} / {:.1f}".format(*waits)),
            (
                "`/health` from another process, ms, median / p99 / longest",
                f"p99 ≤ {1000 * MAX_HEALTH_P99_SECONDS:.0f}",
                "{:.1f} / {:.1f} / {:.1f}".format(*health_ms),
            ),
        ),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run("overload", "Send four times as many requests as the server can handle.", 60.0, overload))
