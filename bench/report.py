"""The figures as a Markdown table, derived from the samples of `bench.results`."""

from __future__ import annotations

from bench.results import Record
from bench.rounds import Spread, ratios


def passes_table(record: Record) -> str:
    """Every peer's seconds and, round by round, how many times longer than ours they are."""
    side_px, ours = record.settings["side_px"], record.series("ours, s")
    lines = [f"| {side_px}² → {4 * side_px}², {len(record.samples)} rounds | s | × ours | dB |", "|---|---|---|---|"]
    for quantity in record.samples[0]:
        name, _, unit = quantity.rpartition(", ")
        if unit == "s":
            seconds = record.series(quantity)
            psnr = record.samples[0].get(f"{name}, dB")
            shown = [_shown(seconds), _shown(ratios(seconds, ours)), "" if psnr is None else f"{psnr:.1f}"]
            lines.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _shown(values: list[float]) -> str:
    spread = Spread.of(values)
    return f"{spread.median:.2f} ({spread.least:.2f}–{spread.most:.2f})"
