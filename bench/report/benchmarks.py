"""The benchmarks: how each is derived from the samples, and its target on a CPU and on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bench.compare.baselines import PRODUCT_FLOPS, PRODUCTS
from bench.report.arithmetic import Spread, log_log_slope, ratios
from bench.results import Record

X4PLUS_BLOCKS = 23
SAVING = 324 / 64  # multiplications of a direct 3×3 convolution over those of Winograd's F(6×6, 3×3), for 36 results


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


def _over(engine: str, other: str) -> Callable[[Record], list[float]]:
    """The time of one engine over that of another."""
    return lambda record: ratios(record.series(f"{engine}, s"), record.series(f"{other}, s"))


def _times(engine: str) -> Callable[[Record], list[float]]:
    return _over(engine, "ours")


def _http_times(record: Record) -> list[float]:
    return ratios(record.series("RealESRGANer, s"), record.series("end to end, s"))


def _pass_flops(record: Record) -> float:
    from models.engines.rrdbnet import flops_per_feature_px  # here, for it imports torch

    pixels = float(record.settings["width"]) * float(record.settings["height"])
    return flops_per_feature_px(X4PLUS_BLOCKS) * pixels


def _product_share(precision: str, saving: float = 1.0) -> Callable[[Record], list[float]]:
    """The rate of our pass, counted as direct convolutions, over that of the matrix product times what Winograd saves."""

    def share(record: Record) -> list[float]:
        factor = 100 * _pass_flops(record) / (PRODUCTS[precision] * PRODUCT_FLOPS * saving)
        products = record.series(f"{precision} matrix product, s")
        return [factor * ratio for ratio in ratios(products, record.series("ours, s"))]

    return share


def _rate(record: Record) -> list[float]:
    """Effective GFLOP/s a thread: of the operations that direct convolutions would take."""
    threads = record.context.get("threads", 1)
    return [_pass_flops(record) * 1e-9 / seconds / threads for seconds in record.series("ours, s")]


def _growth(engine: str, count: int) -> Callable[[Record], list[float]]:
    """Its time beside so many busy processes over its time alone."""
    return lambda record: ratios(record.series(f"{engine} beside {count}, s"), record.series(f"{engine} beside 0, s"))


def _growths(count: int) -> Callable[[Record], list[float]]:
    ours, shipped = _growth("ours", count), _growth("RealESRGANer", count)
    return lambda record: ratios(ours(record), shipped(record))


def _of_photographs(quantity: str) -> Callable[[Record], list[float]]:
    return lambda record: record.series(quantity)[: len(record.settings["photographs"])]


def _of_textures(quantity: str) -> Callable[[Record], list[float]]:
    return lambda record: record.series(quantity)[len(record.settings["photographs"]) :]


def _slopes(record: Record) -> list[float]:
    sides = record.settings["sides_px"]
    pixels = [float(side) ** 2 for side in sides]
    return [log_log_slope(pixels, [sample[f"{side}², s"] for side in sides]) for sample in record.samples]


def _scaled(quantity: str, factor: float) -> Callable[[Record], list[float]]:
    return lambda record: [value * factor for value in record.series(quantity)]


NONE = Target()
_GREY, _DB, _BESIDE = "grey levels", "dB", "{size} beside"


def _pass_rows(
    section: str, shipped: float | None, openvino: float | None = None, ncnn: float | None = None, *, has_avx2: bool = False
) -> list[Benchmark]:
    """Those of one size; the numbers are the targets on a CPU."""
    one = "x4plus, {size}: "
    on_gpu = section in ("pass128", "pass256", "pass512")
    rows = [
        Benchmark(one + "shipped `RealESRGANer` / ours", section, "×", _times("RealESRGANer"), Target(least=shipped), NONE)
    ]
    if has_avx2:
        avx2 = _over("RealESRGANer", "ours, AVX2")
        rows.append(Benchmark(one + "shipped `RealESRGANer` / ours, AVX2", section, "×", avx2, Target(least=3.5), NONE))
    if openvino:
        rows.append(
            Benchmark(one + "OpenVINO bf16 / ours", section, "×", _times("OpenVINO bf16"), Target(least=openvino), NONE)
        )
    if ncnn:
        rows.append(Benchmark(one + "ncnn fp32 / ours", section, "×", _times("ncnn fp32"), Target(least=ncnn), NONE))
    share = _product_share("fp32", SAVING)
    rows.append(Benchmark(one + "share of the ceiling", section, "%", share, NONE, NONE))
    if on_gpu:
        half, product = _times("RealESRGANer, half"), _product_share("bf16")
        rows += [
            Benchmark(one + "its `half=True` / ours", section, "×", half, NONE, Target(least=3.0)),
            Benchmark(one + "TensorRT / ours", section, "×", _times("TensorRT"), NONE, Target(least=1.2)),
            Benchmark(one + "share of the bf16 matrix product's rate", section, "%", product, NONE, Target(least=35)),
        ]
    return rows


BENCHMARKS = (
    *_pass_rows("pass128", None, openvino=1.8, ncnn=2.7),
    *_pass_rows("pass192x128", 4.5, has_avx2=True),
    *_pass_rows("pass256", 4.5, openvino=1.8, ncnn=2.7),
    *_pass_rows("pass512", 4.5),
    *_pass_rows("pass300x40", 4.0, has_avx2=True),
    Benchmark("effective GFLOP/s a core, {size}", "pass512", "", _rate, NONE, NONE),
    *(
        benchmark
        for count in (2, 4)
        for benchmark in (
            Benchmark(
                f"{_BESIDE} {count} busy processes: growth of our time", "busy", "×", _growth("ours", count), NONE, NONE
            ),
            Benchmark(
                f"{_BESIDE} {count}: growth of ours / `RealESRGANer`'s", "busy", "", _growths(count), Target(most=1.0), NONE
            ),
        )
    ),
    *(
        benchmark
        for text, of, psnr_db in (("photographs", _of_photographs, 50), ("textures", _of_textures, None))
        for benchmark in (
            Benchmark(f"largest error, {text}", "quality", _GREY, of(f"ours, {_GREY}"), Target(most=1), NONE, max),
            Benchmark(f"PSNR, {text}", "quality", _DB, of("ours, dB"), Target(least=75), Target(least=psnr_db), min),
            Benchmark(
                f"OpenVINO bf16's largest error, {text}", "quality", _GREY, of(f"OpenVINO bf16, {_GREY}"), NONE, NONE, max
            ),
        )
    ),
    Benchmark(
        "{size} at 2k: shipped `RealESRGANer` alone / ours over HTTP", "http", "×", _http_times, Target(least=4.2), NONE
    ),
    Benchmark(
        "end to end minus the models, {size} JPEG in and out, base64",
        "http",
        "ms",
        _scaled("base64, s", 1000),
        Target(most=55),
        Target(most=15),
    ),
    Benchmark(
        "the same, the files themselves as bodies", "http", "ms", _scaled("raw, s", 1000), Target(most=33), Target(most=8)
    ),
    Benchmark(
        "resident memory when idle, `photo` and `anime` loaded",
        "memory",
        "MB",
        _scaled("idle, B", 1e-6),
        Target(most=1300),
        NONE,
        max,
    ),
    Benchmark(
        "peak memory above the idle server, {size}, 4×",
        "memory",
        "MB",
        _scaled("peak above idle, B", 1e-6),
        Target(most=1000),
        NONE,
        max,
    ),
    Benchmark(
        "peak memory of the GPU above the idle server, {size}, 4×",
        "memory",
        "MB",
        _scaled("GPU peak above idle, B", 1e-6),
        NONE,
        Target(most=2500),
        max,
    ),
    Benchmark(
        "{faces} faces pasted at {size}: facexlib / ours", "paste", "×", _times("facexlib"), Target(least=20), Target(least=20)
    ),
    Benchmark("time against pixels, log-log slope", "sizes", "", _slopes, Target(0.95, 1.05), Target(0.95, 1.05)),
    Benchmark("start to ready", "start", "s", _scaled("ready, s", 1), Target(most=12), Target(most=12)),
    Benchmark("first response of `/health`", "start", "s", _scaled("first /health, s", 1), NONE, NONE),
    Benchmark("`/health` meanwhile, p99", "start", "ms", _scaled("/health p99, s", 1000), NONE, NONE, max),
)
