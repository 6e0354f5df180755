"""The benchmarks as Markdown tables."""

from __future__ import annotations

import re
from collections.abc import Mapping

from bench.report.arithmetic import Spread, ratios
from bench.report.benchmarks import BENCHMARKS, Benchmark, Target
from bench.results import Record

SIGNIFICANT_DIGITS = 3

Records = Mapping[str, Record]


def benchmarks_table(cpu: Records, cuda: Records) -> str:
    """Every benchmark with its target, on both kinds of device."""
    lines = [
        "| benchmark | target, CPU | measured | met | target, H200 | measured | met |",
        "|---|---|---|---|---|---|---|",
    ]
    for benchmark in BENCHMARKS:
        sides = ((benchmark.cpu, cpu), (benchmark.cuda, cuda))
        if any(target != Target() or benchmark.found(records) for target, records in sides):
            cells = [cell for target, records in sides for cell in _cells(benchmark, target, records)]
            lines.append(f"| {title(benchmark, cpu, cuda)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def title(benchmark: Benchmark, *kinds: Records) -> str:
    """The benchmark's text, with the sizes that were measured, or without where nothing was."""
    settings = next((records[benchmark.section].settings for records in kinds if benchmark.section in records), {})
    side = benchmark.section.removeprefix("pass")
    return re.sub(r"\{(\w+)\}", lambda found: str(settings.get(found[1], side if side.isdigit() else "…")), benchmark.text)


def _cells(benchmark: Benchmark, target: Target, records: Records) -> tuple[str, str, str]:
    return str(target), measured(benchmark, records), met(benchmark, target, records)


def measured(benchmark: Benchmark, records: Records) -> str:
    """The median and the extremes, with the unit."""
    values = benchmark.found(records)
    return f"{format_spread(values)} {benchmark.unit}".rstrip() if values else "not measured"


def met(benchmark: Benchmark, target: Target, records: Records) -> str:
    """`yes` or `no`; empty where there is no target or no value."""
    values = benchmark.found(records)
    if not values or target == Target():
        return ""
    return "yes" if target.is_met_by(benchmark.judged(values)) else "no"


def passes_table(record: Record) -> str:
    """Every engine's seconds and, round by round, how many times longer than ours they are."""
    side_px, ours = record.settings["side_px"], record.series("ours, s")
    lines = [f"| {side_px}² → {4 * side_px}², {len(record.samples)} rounds | s | / ours | dB |", "|---|---|---|---|"]
    for quantity in record.samples[0]:
        name, _, unit = quantity.rpartition(", ")
        psnr = record.samples[0].get(f"{name}, dB")
        if unit == "s" and psnr is not None:
            seconds = record.series(quantity)
            lines.append(f"| {name} | {format_spread(seconds)} | {format_spread(ratios(seconds, ours))} | {psnr:.1f} |")
    return "\n".join(lines)


def format_spread(values: list[float]) -> str:
    """`1.63 (1.60–1.76)`, or one number where all are the same."""
    found = Spread.of(values)
    median, least, most = (_rounded(value) for value in (found.median, found.least, found.most))
    return median if least == most else f"{median} ({least}–{most})"


def _rounded(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{float(f'{value:.{SIGNIFICANT_DIGITS}g}'):g}"


def contexts(records: Records) -> str:
    """On which machines, when, and with what: one line for each that is different."""
    lines = []
    for record in records.values():
        context = record.context
        versions = ", ".join(f"{name} {number}" for name, number in context["versions"].items())
        machine = f"{context['cpu']}, {context['device']}, {context['precision']}; Python {context['python']}, {versions}"
        lines.append(f"- {record.measured_at[:10]}, {machine}; commit {context['commit']}.")
    return "\n".join(dict.fromkeys(lines))
