"""The benchmarks as one plot: each over its target, one pass of each engine, and time over pixels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.report.arithmetic import Spread, ratios
from bench.report.benchmarks import BENCHMARKS, Benchmark, Target
from bench.report.tables import format_spread, title
from bench.results import Record

OURS, THEIRS, NOT_MET = "#1b7f4d", "#8a99a8", "#c0392b"


def draw(records: Mapping[str, Record], path: Path) -> None:
    """Write a PNG of all that was measured, legible at 900 px."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=(10, 10), layout="constrained")
    above, below = figure.subfigures(2, height_ratios=[2, 3])  # each with margins of its own: the targets' labels are long
    (engines, sizes), targets = above.subplots(1, 2), below.subplots()
    _draw_engines(engines, records)
    _draw_sizes(sizes, records)
    _draw_targets(targets, records)
    below.suptitle("each benchmark over its target (green: met, red: not met)")
    for axis in (engines, sizes, targets):
        axis.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _draw_engines(axis: Any, records: Mapping[str, Record]) -> None:
    """Seconds of each engine over ours, from the smallest picture, for which all are measured."""
    measured = [record for name, record in sorted(records.items()) if name.startswith("pass")]
    if not measured:
        _say_not_measured(axis, "one pass of each engine")
        return
    record, side_px = measured[0], measured[0].settings["side_px"]
    for name in record.settings["engines"]:
        times = Spread.of(ratios(record.series(f"{name}, s"), record.series("ours, s")))
        error = [[times.median - times.least], [times.most - times.median]]
        axis.barh(name, times.median, xerr=error, color=OURS if name == "ours" else THEIRS, ecolor="#444", capsize=3)
        axis.text(times.most, name, f"  {times.median:.2f}×", va="center")
    axis.margins(x=0.2)
    axis.set_title(f"x4plus, {side_px}²: time / ours", loc="left")


def _draw_sizes(axis: Any, records: Mapping[str, Record]) -> None:
    record = records.get("sizes")
    if record is None:
        _say_not_measured(axis, "time against pixels")
        return
    sides = record.settings["sides_px"]
    pixels = [side**2 for side in sides]
    spreads = [Spread.of(record.series(f"{side}², s")) for side in sides]
    medians = [found.median for found in spreads]
    errors = [[f.median - f.least for f in spreads], [f.most - f.median for f in spreads]]
    axis.errorbar(pixels, medians, yerr=errors, fmt="o", color=OURS, capsize=3, label="measured")
    axis.plot(pixels, [medians[0] * count / pixels[0] for count in pixels], ":", color=THEIRS, label="slope 1")
    axis.set(xscale="log", yscale="log", xlabel="pixels in", ylabel="seconds")
    axis.set_title("ours: time against pixels", loc="left")
    axis.set_xticks(pixels[::2], [f"{side}²" for side in sides[::2]])
    axis.set_yticks(medians[::2], [f"{median:.1f}" for median in medians[::2]])
    axis.minorticks_off()
    axis.legend(frameon=False)


def _draw_targets(axis: Any, records: Mapping[str, Record]) -> None:
    """Each benchmark over its target, so that 1 is the target and more is better."""
    kind = "cuda" if any("cuda" in record.context["device"] for record in records.values()) else "cpu"
    rows = [(benchmark, getattr(benchmark, kind), benchmark.found(records)) for benchmark in reversed(BENCHMARKS)]
    rows = [(benchmark, target, values) for benchmark, target, values in rows if values and target != Target()]
    for benchmark, target, values in rows:
        reached = _attainment(benchmark, target, values)
        color = OURS if target.is_met_by(benchmark.judged(values)) else NOT_MET
        label = f"{title(benchmark, records)}: {target} {benchmark.unit}".replace("`", "")
        axis.plot([1, reached], [label, label], color=color, linewidth=2)
        axis.plot(reached, label, "o", color=color)
        beside = (max(reached, 1), label)
        axis.annotate(f"{format_spread(values)} {benchmark.unit}", beside, (8, 0), textcoords="offset points", va="center")
    axis.axvline(1, color="#444", linewidth=1)
    axis.set_xscale("log")
    axis.set_xticks([0.5, 1, 2, 5, 10], ["½", "target", "2×", "5×", "10×"])
    axis.minorticks_off()
    axis.margins(y=0.03)
    axis.set_xlim(0.4, 8 * max([1.0, *(_attainment(*row) for row in rows)]))  # space for the words beside the last point


def _attainment(benchmark: Benchmark, target: Target, values: list[float]) -> float:
    """The judged value over its target, turned so that 1 or more meets it; a target of 0 is met (1) or not (a half)."""
    value = benchmark.judged(values)
    if (target.least is not None and target.most is not None) or (not target.most and target.least is None):
        return 1.0 if target.is_met_by(value) else 0.5
    return value / target.least if target.least is not None else (target.most or 0) / max(value, 1e-9)


def _say_not_measured(axis: Any, what: str) -> None:
    axis.set_axis_off()
    axis.text(0.5, 0.5, f"{what}: not measured", ha="center")
