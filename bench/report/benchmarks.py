"""The benchmarks: how each is derived from the samples, and its target on a CPU and on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bench.compare.baselines import PRODUCT_FLOPS
from bench.report.arithmetic import Spread, log_log_slope, ratios
from bench.results import Record

X4PLUS_BLOCKS = 23


@dataclass(frozen=True)
class Target:
    """Between two bounds, either of which may be missing; a benchmark without any is only reported."""

    least: float | None = None
    most: float | None = None

    def is_met_by(self, value: float) -> bool:
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)

    def __str__(self) -> str:
        if self.least is not None and self.most is not None:
            return f"{self.least:g}–{self.most:g}"
        return f"≥ {self.least:g}" if self.least is not None else f"≤ {self.most:g}" if self.most is not None else "reported"


@dataclass(frozen=True)
class Benchmark:
    """One row of the table; `values` derives one value a sample from the record of `section`."""

    text: str  # with the fields of the section's settings in braces
    section: str
    unit: str
    values: Callable[[Record], list[float]]
    cpu: Target
    cuda: Target
    worst: Callable[[list[float]], float] | None = None
    """Which of the values must meet the target; None: the median."""

    def found(self, records: Mapping[str, Record]) -> list[float]:
        """The values; none where nothing was measured."""
        record = records.get(self.section)
        try:
            return self.values(record) if record else []
        except KeyError:  # of an engine that does not run on this kind of device
            return []

    def judged(self, values: list[float]) -> float:
        return self.worst(values) if self.worst else Spread.of(values).median


def _times(engine: str) -> Callable[[Record], list[float]]:
    return lambda record: ratios(record.series(f"{engine}, s"), record.series("ours, s"))


def _product_share(record: Record) -> list[float]:
    from models.engines.rrdbnet import flops_per_feature_px  # here, for it imports torch

    flops = flops_per_feature_px(X4PLUS_BLOCKS) * record.settings["side_px"] ** 2
    products = record.series("bf16 matrix product, s")
    return [100 * ratio * flops / PRODUCT_FLOPS for ratio in ratios(products, record.series("ours, s"))]


def _slopes(record: Record) -> list[float]:
    sides = record.settings["sides_px"]
    pixels = [float(side) ** 2 for side in sides]
    return [log_log_slope(pixels, [sample[f"{side}², s"] for side in sides]) for sample in record.samples]


def _scaled(quantity: str, factor: float) -> Callable[[Record], list[float]]:
    return lambda record: [value * factor for value in record.series(quantity)]


def _paste_times(record: Record) -> list[float]:
    return ratios(record.series("facexlib, s"), record.series("ours, s"))


NONE = Target()
_ONE = "x4plus, {side_px}²: "

BENCHMARKS = (
    *(
        benchmark
        for section in ("pass128", "pass256", "pass512")
        for benchmark in (
            Benchmark(_ONE + "shipped `RealESRGANer` / ours", section, "×", _times("RealESRGANer"), Target(least=3.0), NONE),
            Benchmark(_ONE + "its `half=True` / ours", section, "×", _times("RealESRGANer, half"), NONE, Target(least=3.0)),
            Benchmark(_ONE + "OpenVINO bf16 / ours", section, "×", _times("OpenVINO bf16"), Target(least=1.1), NONE),
            Benchmark(_ONE + "ncnn fp32 / ours", section, "×", _times("ncnn fp32"), Target(least=1.6), NONE),
            Benchmark(_ONE + "TensorRT / ours", section, "×", _times("TensorRT"), NONE, Target(least=1.2)),
            Benchmark(_ONE + "share of the bf16 matrix product's rate", section, "%", _product_share, NONE, Target(least=35)),
        )
    ),
    Benchmark(
        "largest error against untiled, same precision, five photographs of {side_px}²",
        "quality",
        "grey levels",
        _scaled("against untiled, same precision, grey levels", 1),
        Target(most=0),
        Target(most=0),
        max,
    ),
    Benchmark(
        "PSNR against fp32 untiled, five photographs of {side_px}²",
        "quality",
        "dB",
        _scaled("against untiled fp32, dB", 1),
        Target(least=50),
        Target(least=50),
        min,
    ),
    Benchmark(
        "end to end minus the models, {width}×{height} JPEG in and out, base64",
        "http",
        "ms",
        _scaled("base64, s", 1000),
        Target(most=100),
        Target(most=15),
    ),
    Benchmark(
        "the same, the files themselves as bodies", "http", "ms", _scaled("raw, s", 1000), Target(most=60), Target(most=8)
    ),
    Benchmark(
        "peak memory above the idle server, {width}×{height}, 4×",
        "memory",
        "MB",
        _scaled("peak above idle, B", 1e-6),
        Target(most=1500),
        NONE,
        max,
    ),
    Benchmark(
        "peak memory of the GPU above the idle server, {width}×{height}, 4×",
        "memory",
        "MB",
        _scaled("GPU peak above idle, B", 1e-6),
        NONE,
        Target(most=2500),
        max,
    ),
    Benchmark(
        "{faces} faces pasted at {width}×{height}: facexlib / ours",
        "paste",
        "×",
        _paste_times,
        Target(least=20),
        Target(least=20),
    ),
    Benchmark("time against pixels, log-log slope", "sizes", "", _slopes, Target(0.95, 1.05), Target(0.95, 1.05)),
    Benchmark("start to ready", "start", "s", _scaled("ready, s", 1), Target(most=12), Target(most=12)),
    Benchmark("first response of `/health`", "start", "s", _scaled("first /health, s", 1), NONE, NONE),
    Benchmark("`/health` meanwhile, p99", "start", "ms", _scaled("/health p99, s", 1000), NONE, NONE, max),
)
