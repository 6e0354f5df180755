"""The figures as Markdown; `python -m bench.report` writes them into the README, between two markers, and draws the plot."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping

from bench.report.arithmetic import Spread, ratios
from bench.report.benchmarks import FIGURES, Figure, Goal
from bench.results import FOLDER, Record, read_records
from bench.server import ROOT

README = ROOT / "README.md"
BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"
PLOT = "![How far each figure is beyond its goal, the peers, and time against pixels](docs/bench/figures.png)"
SIGNIFICANT_DIGITS = 3

Records = Mapping[str, Record]


def figures_table(cpu: Records, cuda: Records) -> str:
    """Every figure with its goal, on both kinds of device."""
    lines = ["| figure | goal, CPU | measured | goal, H200 | measured |", "|---|---|---|---|---|"]
    for figure in FIGURES:
        cells = [str(figure.cpu), measured(figure, figure.cpu, cpu), str(figure.cuda), measured(figure, figure.cuda, cuda)]
        if any(figure.found(records) for records in (cpu, cuda)) or any(
            bound != Goal() for bound in (figure.cpu, figure.cuda)
        ):
            lines.append(f"| {title(figure, cpu, cuda)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def title(figure: Figure, *kinds: Records) -> str:
    """The figure's text, with the sizes that were measured, or without where nothing was."""
    settings = next((records[figure.section].settings for records in kinds if figure.section in records), {})
    side = figure.section.removeprefix("pass")
    return re.sub(r"\{(\w+)\}", lambda found: str(settings.get(found[1], side if side.isdigit() else "…")), figure.text)


def measured(figure: Figure, goal: Goal, records: Records) -> str:
    """The median and the extremes, and whether the goal is met."""
    values = figure.found(records)
    if not values:
        return "not measured"
    shown = f"{spread(values)} {figure.unit}".rstrip()
    if goal == Goal():
        return shown
    return f"{shown}, met" if goal.is_met_by(figure.judged(values)) else f"{shown}, **missed**"


def passes_table(record: Record) -> str:
    """Every peer's seconds and, round by round, how many times longer than ours they are."""
    side_px, ours = record.settings["side_px"], record.series("ours, s")
    lines = [f"| {side_px}² → {4 * side_px}², {len(record.samples)} rounds | s | / ours | dB |", "|---|---|---|---|"]
    for quantity in record.samples[0]:
        name, _, unit = quantity.rpartition(", ")
        psnr = record.samples[0].get(f"{name}, dB")
        if unit == "s" and psnr is not None:
            seconds = record.series(quantity)
            lines.append(f"| {name} | {spread(seconds)} | {spread(ratios(seconds, ours))} | {psnr:.1f} |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """`1.63 (1.60–1.76)`, or one number where all are the same."""
    found = Spread.of(values)
    median, least, most = (_rounded(value) for value in (found.median, found.least, found.most))
    return median if least == most else f"{median} ({least}–{most})"


def _rounded(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{float(f'{value:.{SIGNIFICANT_DIGITS}g}'):g}"


def where(records: Records) -> str:
    """On which machines, when, and with what: one line for each that is different."""
    lines = []
    for record in records.values():
        context = record.context
        versions = ", ".join(f"{name} {number}" for name, number in context["versions"].items())
        machine = f"{context['cpu']}, {context['device']}, {context['precision']}; Python {context['python']}, {versions}"
        lines.append(f"{record.measured_at[:10]}, {machine}; commit {context['commit']}.")
    return "\n".join(dict.fromkeys(lines))


def readme_section(cpu: Records, cuda: Records) -> str:
    """What stands between the markers."""
    tables = [passes_table(record) for name, record in cpu.items() if name.startswith("pass")]
    plot = [PLOT] if cpu or cuda else []
    return "\n\n".join([*plot, figures_table(cpu, cuda), *tables, where({**cpu, **cuda})]).rstrip()


def with_figures(readme: str, section: str) -> str:
    """The README with that section between its markers.

    Raises:
        ValueError: it has no markers.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the README has no {BEGIN} … {END}")
    return f"{before}{BEGIN}\n{section}\n{END}{after}"


def main() -> int:
    from bench.report.plot import draw

    cpu, cuda = (read_records(FOLDER / f"{kind}.json") for kind in ("cpu", "cuda"))
    README.write_text(with_figures(README.read_text(encoding="utf-8"), readme_section(cpu, cuda)), encoding="utf-8")
    if cpu or cuda:
        draw(cpu or cuda, FOLDER / "figures.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
