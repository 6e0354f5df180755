"""`python -m bench.load.soak [SECONDS]`: everything at once, for long, at capacity; nothing may grow, get lost or mixed up.

A server process with the real weights; clients that send new requests, repeat them, send invalid ones, hang up, and start jobs
that they cancel. Every 200 is compared with its golden bytes. Exit status 1 if a limit is broken.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

from bench.load.command import QUEUE_LIMIT, Outcome, machine, run, table, tracebacks
from bench.load.goldens import make_golden_pictures
from bench.load.soak_clients import CLIENTS, SoakClients
from bench.server import Server, running_server
from core.config import MIB
from serving.dispatcher import KEPT_SECONDS

WARM_UP_SECONDS = KEPT_SECONDS  # after which as many pictures are kept in memory as ever will be
WATCH_SECONDS = 10.0
MAX_GROWTH = 0.05  # of resident memory
MAX_STOP_SECONDS = 60.0
SETTINGS = {"QUEUE_LIMIT": str(QUEUE_LIMIT), "BODY_TIMEOUT_SECONDS": "5", "RETENTION_SECONDS": "60"}


@dataclass(frozen=True)
class Usage:
    """What the server process holds."""

    resident_bytes: int
    threads: int
    files: int

    @classmethod
    def of(cls, server: Server) -> Usage:
        process = Path(f"/proc/{server.process.pid if server.process else 'self'}")
        pages = int((process / "statm").read_text().split()[1])
        threads, files = (len(list((process / name).iterdir())) for name in ("task", "fd"))
        return cls(pages * os.sysconf("SC_PAGE_SIZE"), threads, files)


def soak(seconds: float) -> Outcome:
    """Compare what the idle server holds after the warm-up with what it holds at the end."""
    pictures = make_golden_pictures()
    series_mib: list[float] = []
    ended = threading.Event()
    with tempfile.TemporaryDirectory() as outputs, running_server(Path(outputs), **SETTINGS) as server:
        clients = SoakClients(server, pictures)
        watcher = threading.Thread(target=_watch, args=(server, ended, series_mib))
        watcher.start()
        try:
            clients.burst()
            clients.run(min(WARM_UP_SECONDS, seconds / 2))
            first = Usage.of(server)
            clients.run(seconds - min(WARM_UP_SECONDS, seconds / 2))
            last = Usage.of(server)
        finally:
            ended.set()
            watcher.join()
        stopped = _stop(server)
        faults = clients.faults + growth(first, last) + tracebacks(server)
    if stopped != 0:
        faults.append(f"exit status {stopped} after SIGTERM")
    return Outcome(_report(seconds, clients, first, last, series_mib, faults), faults)


def _watch(server: Server, ended: threading.Event, series_mib: list[float]) -> None:
    while not ended.wait(WATCH_SECONDS):
        series_mib.append(Usage.of(server).resident_bytes / MIB)


def _stop(server: Server) -> int:
    if server.process is None:
        return 0
    server.process.send_signal(signal.SIGTERM)
    return server.process.wait(timeout=MAX_STOP_SECONDS)


def growth(first: Usage, last: Usage) -> list[str]:
    """What grew beyond its limit."""
    faults = []
    if last.resident_bytes > first.resident_bytes * (1 + MAX_GROWTH):
        faults.append(f"resident memory grew from {_mib(first)} to {_mib(last)} MiB")
    if last.threads > first.threads:
        faults.append(f"threads grew from {first.threads} to {last.threads}")
    if last.files > first.files:
        faults.append(f"open files grew from {first.files} to {last.files}")
    return faults


def _mib(usage: Usage) -> str:
    return f"{usage.resident_bytes / MIB:.0f}"


def _report(
    seconds: float, clients: SoakClients, first: Usage, last: Usage, series_mib: list[float], faults: list[str]
) -> str:
    relative = last.resident_bytes / first.resident_bytes - 1
    series_mib = series_mib[::3]
    lines = [
        f"`make soak SECONDS={seconds:.0f}` on {machine()}:",
        f"{CLIENTS} clients at once, a queue of {QUEUE_LIMIT}, small pictures of every format, the real weights.",
        f"Faults: {len(faults)}.",
        "",
        *table(
            ("when idle", "after the warm-up", "at the end", "limit"),
            (f"resident memory ({relative:+.1%}), MiB", _mib(first), _mib(last), f"+{MAX_GROWTH:.0%}"),
            ("threads", f"{first.threads}", f"{last.threads}", "+0"),
            ("open files and sockets", f"{first.files}", f"{last.files}", "+0"),
        ),
        "",
        "Events: " + "; ".join(f"{name} {times:,}" for name, times in sorted(clients.counts.items())) + ".",
        "",
        "Resident memory under load, every thirty seconds, in MiB:",
        "```",
        *(" ".join(f"{mib:5.0f}" for mib in series_mib[start : start + 12]) for start in range(0, len(series_mib), 12)),
        "```",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run("soak", "Keep a server under every kind of load, and see that nothing grows.", 600.0, soak))
