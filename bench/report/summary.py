"""All benchmarks in one text, and the same from the stored results into docs/benchmarks.md."""

from __future__ import annotations

from bench.document import write_part
from bench.report.plot import draw
from bench.report.tables import Records, benchmarks_table, contexts, passes_table, pictures_table
from bench.results import FOLDER, read_records

PART = "benchmarks"
PLOT = "![Each benchmark over its target; one pass of each engine; errors; time beside other work](bench/benchmarks.png)"


def summary(cpu: Records, cuda: Records) -> str:
    """The plot, the tables, and on which machines they were measured."""
    plot = [PLOT] if cpu or cuda else []
    passes = [passes_table(records) for records in (cpu, cuda) if any(name.startswith("pass") for name in records)]
    pictures = [pictures_table(records["quality"]) for records in (cpu, cuda) if "quality" in records]
    return "\n\n".join([*plot, benchmarks_table(cpu, cuda), *passes, *pictures, contexts({**cpu, **cuda})]).rstrip()


def stored_summary() -> str:
    """The summary of the results in docs/bench/."""
    return summary(*(read_records(FOLDER / f"{kind}.json") for kind in ("cpu", "cuda")))


def write_summary() -> None:
    """Write the tables into the document, and draw the plot."""
    write_part(PART, stored_summary())
    records = read_records(FOLDER / "cpu.json") or read_records(FOLDER / "cuda.json")
    if records:
        draw(records, FOLDER / "benchmarks.png")
