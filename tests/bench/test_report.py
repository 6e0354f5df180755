"""The benchmarks: derived, compared with their targets and shown; those of docs/benchmarks.md are the stored ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.compare.baselines import PRODUCT_FLOPS
from bench.document import DOCUMENT, with_part
from bench.report.benchmarks import BENCHMARKS, Benchmark, Target
from bench.report.summary import PART, stored_summary
from bench.report.tables import benchmarks_table, format_spread, measured, met, passes_table, title
from bench.results import Record

CONTEXT: dict[str, Any] = {
    "cpu": "a CPU",
    "device": "cpu (2 threads)",
    "precision": "bf16",
    "commit": "abc",
    "python": "3.11",
    "versions": {"torch": "2"},
}


def record(settings: dict[str, Any], *samples: dict[str, float]) -> Record:
    return Record(settings, CONTEXT, "2026-01-02T03:04:05+00:00", list(samples))


RECORDS = {
    "pass256": record(
        {"side_px": 256, "engines": ["RealESRGANer", "OpenVINO bf16", "ours"]},
        {"RealESRGANer, s": 8, "OpenVINO bf16, s": 3, "ours, s": 2, "bf16 matrix product, s": 4, "RealESRGANer, dB": 100.0},
        {"RealESRGANer, s": 30, "OpenVINO bf16, s": 3, "ours, s": 3, "bf16 matrix product, s": 4, "RealESRGANer, dB": 100.0},
        {"RealESRGANer, s": 7, "OpenVINO bf16, s": 1, "ours, s": 1, "bf16 matrix product, s": 4, "RealESRGANer, dB": 100.0},
    ),
    "sizes": record({"sides_px": [8, 16]}, {"8², s": 1.0, "16², s": 4.0}),
    "quality": record(
        {"side_px": 64},
        {"against untiled, same precision, grey levels": 0, "against untiled fp32, dB": 53.0},
        {"against untiled, same precision, grey levels": 1, "against untiled fp32, dB": 49.0},
    ),
}


def benchmark(section: str, start: str) -> Benchmark:
    (found,) = [each for each in BENCHMARKS if each.section == section and title(each, RECORDS).startswith(start)]
    return found


def test_ratios_are_those_of_each_round_and_the_median_is_judged() -> None:
    shipped = benchmark("pass256", "x4plus, 256²: shipped")
    assert shipped.found(RECORDS) == [4, 10, 7]
    assert measured(shipped, RECORDS) == "7 (4–10) ×"
    assert met(shipped, shipped.cpu, RECORDS) == "yes"
    openvino = benchmark("pass256", "x4plus, 256²: OpenVINO")
    assert measured(openvino, RECORDS) == "1 (1–1.5) ×"
    assert met(openvino, openvino.cpu, RECORDS) == "no"
    assert met(openvino, openvino.cuda, RECORDS) == "", "there is no target"


def test_the_share_of_the_matrix_product_is_that_of_their_rates() -> None:
    share = benchmark("pass256", "x4plus, 256²: share")
    ours, product = 35_860_000 * 256**2 / 2, PRODUCT_FLOPS / 4  # a second, in the first round
    assert share.found(RECORDS)[0] == pytest.approx(100 * ours / product, rel=1e-3)


def test_the_slope_is_over_pixels() -> None:
    assert benchmark("sizes", "time").found(RECORDS) == [pytest.approx(1.0)]


@pytest.mark.parametrize(("start", "shown"), [("largest", "0.5 (0–1) grey levels"), ("PSNR", "51 (49–53) dB")])
def test_quality_is_judged_by_the_worst_photograph(start: str, shown: str) -> None:
    found = benchmark("quality", start)
    assert measured(found, RECORDS) == shown
    assert met(found, found.cpu, RECORDS) == "no"


def test_what_was_not_measured_is_said_to_be_so() -> None:
    table = benchmarks_table(RECORDS, {})
    assert "| start to ready | ≤ 12 | not measured |  | ≤ 12 | not measured |  |" in table
    assert "| x4plus, 512²: shipped `RealESRGANer` / ours | ≥ 3 | not measured |  | reported | not measured |  |" in table
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


def test_the_table_of_engines_leaves_the_yardstick_out() -> None:
    assert passes_table(RECORDS["pass256"]).splitlines()[2:] == ["| RealESRGANer | 8 (7–30) | 7 (4–10) | 100.0 |"]


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
