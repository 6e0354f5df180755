"""The benchmarks as one plot: one pass of each engine, errors, time beside other work and over pixels; and the targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.report.arithmetic import Spread, ratios
from bench.report.benchmarks import BENCHMARKS, Benchmark, Target
from bench.report.tables import format_spread, size_of, title
from bench.results import Record

OURS, THEIRS, NOT_MET = "#1b7f4d", "#8a99a8", "#c0392b"
ERROR = ", grey levels"


def draw(records: Mapping[str, Record], path: Path) -> None:
    """Write a PNG of all that was measured, legible at 900 px."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=(10, 15), layout="constrained")
    above, below = figure.subfigures(2, height_ratios=[7, 8])  # each with margins of its own: the targets' labels are long
    axes, targets = above.subplots(2, 2), below.subplots()
    _draw_engines(axes[0, 0], records)
    _draw_errors(axes[0, 1], records)
    _draw_busy(axes[1, 0], records)
    _draw_sizes(axes[1, 1], records)
    _draw_targets(targets, records)
    below.suptitle("each benchmark over its target (green: met, red: not met)")
    for axis in (*axes.flat, targets):
        axis.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _draw_engines(axis: Any, records: Mapping[str, Record]) -> None:
    """Seconds of each engine over ours, each from the first size that has it."""
    found: dict[str, tuple[Spread, str]] = {}
    for section, record in sorted(records.items()):
        for name in record.settings["engines"] if section.startswith("pass") else ():
            times = Spread.of(ratios(record.series(f"{name}, s"), record.series("ours, s")))
            found.setdefault(name, (times, size_of(section, record.settings)))
    if not found:
        _say_not_measured(axis, "one pass of each engine")
        return
    for name, (times, size) in sorted(found.items(), key=lambda item: item[1][0].median):
        label = f"{name}, {size}"
        axis.barh(
            label, times.median, xerr=_errors([times]), color=OURS if name == "ours" else THEIRS, ecolor="#444", capsize=3
        )
        axis.text(times.most, label, f"  {times.median:.2f}×", va="center")
    axis.margins(x=0.2)
    axis.set_title("one pass of x4plus: time / ours", loc="left")


def _errors(spreads: Sequence[Spread]) -> list[list[float]]:
    """What matplotlib wants of error bars: below the medians, and above."""
    return [[each.median - each.least for each in spreads], [each.most - each.median for each in spreads]]


def _draw_errors(axis: Any, records: Mapping[str, Record]) -> None:
    """The largest error of each picture, by each engine, on a scale on which 0 has its place."""
    record = records.get("quality")
    if record is None:
        _say_not_measured(axis, "largest errors")
        return
    names = [*record.settings["photographs"], *record.settings["textures"]][: len(record.samples)]
    engines = [quantity.removesuffix(ERROR) for quantity in record.samples[0] if quantity.endswith(ERROR)]
    height = 0.8 / len(engines)
    for index, engine in enumerate(engines):
        errors = record.series(f"{engine}{ERROR}")
        rows = [row + index * height for row in range(len(names))]
        axis.barh(rows, errors, height, color=OURS if engine == "ours" else THEIRS, label=engine)
        for row, error in zip(rows, errors, strict=True):
            axis.text(error, row, f" {error:.0f}", va="center", fontsize=8)
    axis.set_yticks([row + 0.4 - height / 2 for row in range(len(names))], [name.replace("_", " ") for name in names])
    axis.invert_yaxis()
    axis.set_xscale("symlog", linthresh=2)
    axis.set_xticks([0, 1, 2, 4, 8, 16, 32, 64], ["0", "1", "2", "4", "8", "16", "32", "64"])
    axis.minorticks_off()
    axis.legend(frameon=False, ncols=len(engines), loc="upper left", bbox_to_anchor=(0, -0.08))
    axis.set_title("largest error, grey levels", loc="left")


def _draw_busy(axis: Any, records: Mapping[str, Record]) -> None:
    record = records.get("busy")
    if record is None:
        _say_not_measured(axis, "time beside other work")
        return
    counts = record.settings["busy"]
    for engine, color in (("RealESRGANer", THEIRS), ("ours", OURS)):
        alone = record.series(f"{engine} beside 0, s")
        spreads = [Spread.of(ratios(record.series(f"{engine} beside {count}, s"), alone)) for count in counts]
        medians = [found.median for found in spreads]
        axis.errorbar(counts, medians, yerr=_errors(spreads), fmt="o-", color=color, capsize=3, label=engine)
    axis.set(xlabel="busy processes", ylim=(0, None))
    axis.set_xticks(counts)
    axis.legend(frameon=False)
    axis.set_title("time / time alone", loc="left")


def _draw_sizes(axis: Any, records: Mapping[str, Record]) -> None:
    record = records.get("sizes")
    if record is None:
        _say_not_measured(axis, "time against pixels")
        return
    sides = record.settings["sides_px"]
    pixels = [side**2 for side in sides]
    spreads = [Spread.of(record.series(f"{side}², s")) for side in sides]
    medians = [found.median for found in spreads]
    axis.errorbar(pixels, medians, yerr=_errors(spreads), fmt="o", color=OURS, capsize=3, label="measured")
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
