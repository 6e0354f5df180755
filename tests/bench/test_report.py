"""The benchmarks: derived, compared with their targets and shown; those of docs/benchmarks.md are the stored ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.compare.baselines import PRODUCT_FLOPS, PRODUCTS
from bench.document import DOCUMENT, with_part
from bench.report.benchmarks import BENCHMARKS, Benchmark, Target
from bench.report.summary import PART, stored_summary
from bench.report.tables import benchmarks_table, contexts, format_spread, measured, met, passes_table, pictures_table, title
from bench.results import Record

CONTEXT: dict[str, Any] = {
    "cpu": "a CPU",
    "device": "cpu (2 threads)",
    "precision": "fp32",
    "engine": "winograd fp32 (avx2)",
    "threads": 2,
    "commit": "abc",
    "python": "3.11",
    "versions": {"torch": "2"},
}


def record(settings: dict[str, Any], *samples: dict[str, float]) -> Record:
    return Record(settings, CONTEXT, "2026-01-02T03:04:05+00:00", list(samples))


ENGINES = ["RealESRGANer", "OpenVINO bf16", "ours"]
RECORDS = {
    "pass256": record(
        {"width": 256, "height": 256, "engines": ENGINES},
        {"RealESRGANer, s": 8, "OpenVINO bf16, s": 3, "ours, s": 2, "fp32 matrix product, s": 4, "RealESRGANer, dB": 100.0},
        {"RealESRGANer, s": 30, "OpenVINO bf16, s": 3, "ours, s": 3, "fp32 matrix product, s": 4, "RealESRGANer, dB": 100.0},
        {"RealESRGANer, s": 7, "OpenVINO bf16, s": 1, "ours, s": 1, "fp32 matrix product, s": 4, "RealESRGANer, dB": 100.0},
    ),
    "pass300x40": record(
        {"width": 300, "height": 40, "engines": ["RealESRGANer", "ours"]},
        {"RealESRGANer, s": 9, "ours, AVX2, s": 3, "ours, s": 2, "fp32 matrix product, s": 4, "ours, dB": 90.0},
    ),
    "busy": record(
        {"width": 8, "height": 4, "busy": [0, 2]},
        {"RealESRGANer beside 0, s": 2, "RealESRGANer beside 2, s": 8, "ours beside 0, s": 1, "ours beside 2, s": 3},
    ),
    "sizes": record({"sides_px": [8, 16]}, {"8², s": 1.0, "16², s": 4.0}),
    "quality": record(
        {"width": 64, "height": 64, "photographs": ["rocket"], "textures": ["fur", "line art"]},
        {"ours, grey levels": 1, "ours, dB": 90.0, "OpenVINO bf16, grey levels": 5, "OpenVINO bf16, dB": 53.0},
        {"ours, grey levels": 2, "ours, dB": 70.0, "OpenVINO bf16, grey levels": 90, "OpenVINO bf16, dB": 31.0},
        {"ours, grey levels": 1, "ours, dB": 80.0, "OpenVINO bf16, grey levels": 6, "OpenVINO bf16, dB": 41.0},
    ),
    "http": record({"width": 480, "height": 300}, {"RealESRGANer, s": 30.0, "end to end, s": 6.0}),
}


def benchmark(section: str, start: str) -> Benchmark:
    (found,) = [each for each in BENCHMARKS if each.section == section and title(each, RECORDS).startswith(start)]
    return found


def test_ratios_are_those_of_each_round_and_the_median_is_judged() -> None:
    shipped = benchmark("pass256", "x4plus, 256²: shipped `RealESRGANer` / ours")
    assert shipped.found(RECORDS) == [4, 10, 7]
    assert measured(shipped, RECORDS) == "7 (4–10) ×"
    assert met(shipped, shipped.cpu, RECORDS) == "yes"
    openvino = benchmark("pass256", "x4plus, 256²: OpenVINO")
    assert measured(openvino, RECORDS) == "1 (1–1.5) ×"
    assert met(openvino, openvino.cpu, RECORDS) == "no"
    assert met(openvino, openvino.cuda, RECORDS) == "", "there is no target"


def test_the_share_of_the_ceiling_is_that_of_the_matrix_product_with_the_multiplications_saved() -> None:
    share = benchmark("pass256", "x4plus, 256²: share of the ceiling")
    ours, product = 35_860_000 * 256**2 / 2, PRODUCTS["fp32"] * PRODUCT_FLOPS / 4  # a second, in the first round
    assert share.found(RECORDS)[0] == pytest.approx(100 * ours / product / (324 / 64), rel=1e-3)


def test_growth_is_against_the_time_alone_and_against_the_shipped_engines_growth() -> None:
    ours, ratio = benchmark("busy", "8×4 beside 2 busy"), benchmark("busy", "8×4 beside 2: growth of ours / `RealESRGANer`")
    assert ours.found(RECORDS) == [3]
    assert ratio.found(RECORDS) == [0.75]
    assert met(ratio, ratio.cpu, RECORDS) == "yes"


def test_the_forced_build_is_held_against_the_shipped_engine() -> None:
    assert benchmark("pass300x40", "x4plus, 300×40: shipped `RealESRGANer` / ours, AVX2").found(RECORDS) == [3]


def test_a_request_is_held_against_the_shipped_engine_alone() -> None:
    assert measured(benchmark("http", "480×300 at 2k"), RECORDS) == "5 ×"


def test_the_slope_is_over_pixels() -> None:
    assert benchmark("sizes", "time").found(RECORDS) == [pytest.approx(1.0)]


@pytest.mark.parametrize(
    ("start", "shown", "is_met"),
    [
        ("largest error, photographs", "1 grey levels", "yes"),
        ("largest error, textures", "1.5 (1–2) grey levels", "no"),
        ("PSNR, photographs", "90 dB", "yes"),
        ("PSNR, textures", "75 (70–80) dB", "no"),
    ],
)
def test_quality_is_judged_by_the_worst_picture(start: str, shown: str, is_met: str) -> None:
    found = benchmark("quality", start)
    assert measured(found, RECORDS) == shown
    assert met(found, found.cpu, RECORDS) == is_met


def test_what_was_not_measured_is_said_to_be_so() -> None:
    table = benchmarks_table(RECORDS, {})
    assert "| start to ready | ≤ 12 | not measured |  | ≤ 12 | not measured |  |" in table
    assert "| x4plus, 512²: shipped `RealESRGANer` / ours | ≥ 4.5 | not measured |  | reported | not measured |  |" in table
    assert "| x4plus, 192×128: shipped `RealESRGANer` / ours, AVX2 | ≥ 3.5 |" in table
    assert "{" not in table


@pytest.mark.parametrize(
    ("target", "inside", "outside"),
    [(Target(least=3), 3.0, 2.99), (Target(most=0), 0.0, 1.0), (Target(0.95, 1.05), 1.05, 1.06)],
)
def test_targets(target: Target, inside: float, outside: float) -> None:
    assert target.is_met_by(inside)
    assert not target.is_met_by(outside)


def test_numbers_are_shown_with_three_digits() -> None:
    assert format_spread([1.23456, 1.2, 1234.5]) == "1.23 (1.2–1234)"
    assert format_spread([0.0, 0.0]) == "0"


def test_the_table_of_engines_has_every_size_and_leaves_the_yardstick_out() -> None:
    assert passes_table(RECORDS).splitlines() == [
        "| one pass of 4× | 256², s (/ ours) | 300×40, s (/ ours) | dB |",
        "|---|---|---|---|",
        "| RealESRGANer | 8 (7) | 9 (4.5) | 100.0 |",
        "| OpenVINO bf16 | 3 (1) |  |  |",
        "| ours | 2 | 2 | 90.0 |",
    ]


def test_the_table_of_pictures_has_each_with_its_errors() -> None:
    assert pictures_table(RECORDS["quality"]).splitlines()[2:4] == [
        "| rocket | 1 | 90 | 5 | 53 |",
        "| fur | 2 | 70 | 90 | 31 |",
    ]


def test_the_machine_is_named_with_the_engine() -> None:
    assert contexts(RECORDS) == "- 2026-01-02, a CPU, cpu (2 threads), winograd fp32 (avx2); Python 3.11, torch 2; commit abc."


def test_the_document_has_the_benchmarks_that_were_measured() -> None:
    document = DOCUMENT.read_text(encoding="utf-8")
    assert with_part(document, PART, stored_summary()) == document, "run `python -m bench.report`"


def test_only_what_is_between_the_markers_is_replaced() -> None:
    marked = "a\n<!-- soak -->\n{}\n<!-- end of soak -->\nb"
    assert with_part(marked.format("old"), "soak", "new") == marked.format("new")
    with pytest.raises(ValueError, match="has no <!-- soak -->"):
        with_part("a", "soak", "new")


@pytest.mark.parametrize("name", ["overload", "soak"])
def test_the_load_tests_have_their_parts_in_the_document(name: str) -> None:
    assert "new" in with_part(DOCUMENT.read_text(encoding="utf-8"), name, "new")


def test_the_plot_is_a_picture_with_something_in_it(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="make bench installs it")
    from bench.report.plot import draw

    draw(RECORDS, tmp_path / "benchmarks.png")
    draw({}, tmp_path / "nothing.png")
    with Image.open(tmp_path / "benchmarks.png") as drawn, Image.open(tmp_path / "nothing.png") as nothing:
        assert drawn.format == "PNG"
        assert 900 <= drawn.width <= 1200
        inked, empty = (float((np.asarray(image.convert("L")) < 250).mean()) for image in (drawn, nothing))
    assert inked > 2 * empty > 0
