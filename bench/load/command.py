"""What the load tests have in common: they take seconds, find faults, and report in docs/benchmarks.md."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from bench.context import describe_context
from bench.document import write_part
from bench.server import Server

HANG_SECONDS = 60.0  # after which a server that does not respond is said to hang
QUEUE_LIMIT = 3
MAX_PRINTED_FAULTS = 50


@dataclass(frozen=True)
class Outcome:
    """A report in Markdown, and what should not have happened."""

    report: str
    faults: list[str]


def run(name: str, description: str, default_seconds: float, test: Callable[[float], Outcome]) -> int:
    """Run the test for the seconds that the command line names. Exit status 0 if there was no fault."""
    parser = argparse.ArgumentParser(prog=f"python -m bench.load.{name}", description=description)
    parser.add_argument("seconds", nargs="?", type=float, default=default_seconds)
    outcome = test(parser.parse_args().seconds)
    sys.stdout.write(f"{outcome.report}\n")
    write_part(name, outcome.report)
    sys.stderr.write("".join(f"{fault}\n" for fault in outcome.faults[:MAX_PRINTED_FAULTS]))
    return 1 if outcome.faults else 0


def machine() -> str:
    """The date, the commit, and the machine with its versions."""
    context = describe_context({})
    versions = ", ".join(f"{name} {version}" for name, version in context["versions"].items())
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, commit {context['commit']}, {os.cpu_count()} cores of {context['cpu']},\n"
        f"Python {context['python']}, {versions}"
    )


def table(*rows: tuple[str, ...]) -> list[str]:
    """Lines of a Markdown table; the first row is its head."""
    head, *body = [f"| {' | '.join(row)} |" for row in rows]
    return [head, "|---" * len(rows[0]) + "|", *body]


def tracebacks(server: Server) -> list[str]:
    """The lines of its log that tell of an internal error."""
    return [line for line in server.log if "Traceback" in line]
