"""The benchmarks as Markdown tables."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

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
    fields = {"size": size_of(benchmark.section, settings), **settings}
    return re.sub(r"\{(\w+)\}", lambda found: str(fields.get(found[1], "…")), benchmark.text)


def size_of(section: str, settings: Mapping[str, Any]) -> str:
    """256² or 192×128: what was measured, or what the section is called after."""
    measured_size = [str(settings[side]) for side in ("width", "height") if side in settings]
    sides = measured_size or re.findall(r"\d+", section)
    return "…" if not sides else f"{sides[0]}²" if len(set(sides)) == 1 else "×".join(sides)


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


def passes_table(records: Records) -> str:
    """Every engine's seconds for each size, and how many times longer than ours they are, round by round."""
    passes = {name: record for name, record in records.items() if name.startswith("pass")}
    names = dict.fromkeys(engine for record in passes.values() for engine in record.settings["engines"])
    ordered = [*(name for name in names if name != "ours"), *(["ours"] if "ours" in names else [])]
    headings = [f"{size_of(name, record.settings)}, s (/ ours)" for name, record in passes.items()]
    lines = [f"| one pass of 4× | {' | '.join(headings)} | dB |", f"|---|{'---|' * len(passes)}---|"]
    for engine in ordered:
        cells = [_pass_cell(record, engine) for record in passes.values()]
        psnr = [found for record in passes.values() if (found := record.samples[0].get(f"{engine}, dB")) is not None]
        lines.append(
            f"| {engine} | {' | '.join(cells)} | {min(psnr):.1f} |" if psnr else f"| {engine} | {' | '.join(cells)} |  |"
        )
    return "\n".join(lines)


def _pass_cell(record: Record, engine: str) -> str:
    if f"{engine}, s" not in record.samples[0]:
        return ""
    seconds, ours = record.series(f"{engine}, s"), record.series("ours, s")
    ratio = "" if engine == "ours" else f" ({_rounded(Spread.of(ratios(seconds, ours)).median)})"
    return f"{_rounded(Spread.of(seconds).median)}{ratio}"


def pictures_table(record: Record) -> str:
    """Every picture's largest error and PSNR, by each engine."""
    names = [*record.settings["photographs"], *record.settings["textures"]]
    quantities = list(record.samples[0])
    lines = [f"| picture | {' | '.join(quantities)} |", f"|---|{'---|' * len(quantities)}"]
    for name, sample in zip(names, record.samples, strict=False):  # an interrupted section has fewer
        lines.append(f"| {name.replace('_', ' ')} | {' | '.join(_rounded(sample[quantity]) for quantity in quantities)} |")
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
        engine = context.get("engine") or context["precision"]
        machine = f"{context['cpu']}, {context['device']}, {engine}; Python {context['python']}, {versions}"
        lines.append(f"- {record.measured_at[:10]}, {machine}; commit {context['commit']}.")
    return "\n".join(dict.fromkeys(lines))
