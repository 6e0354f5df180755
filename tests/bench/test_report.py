"""The figures that are promised: derived, judged and shown as they should be; the README's are those that were measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.compare.baselines import PRODUCT_FLOPS
from bench.report.benchmarks import FIGURES, Figure, Goal
from bench.report.tables import BEGIN, END, figures_table, measured, passes_table, readme_section, spread, title, with_figures
from bench.results import FOLDER, Record, read_records
from bench.server import ROOT

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
        {"side_px": 256, "peers": ["RealESRGANer", "OpenVINO bf16", "ours"]},
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


def figure(section: str, start: str) -> Figure:
    (found,) = [figure for figure in FIGURES if figure.section == section and title(figure, RECORDS).startswith(start)]
    return found


def test_ratios_are_those_of_each_round_and_the_median_is_judged() -> None:
    shipped = figure("pass256", "x4plus, 256²: shipped")
    assert shipped.found(RECORDS) == [4, 10, 7]
    assert measured(shipped, shipped.cpu, RECORDS) == "7 (4–10) ×, met"
    openvino = figure("pass256", "x4plus, 256²: OpenVINO")
    assert measured(openvino, openvino.cpu, RECORDS) == "1 (1–1.5) ×, **missed**"


def test_the_share_of_the_matrix_product_is_that_of_their_rates() -> None:
    share = figure("pass256", "x4plus, 256²: share")
    ours, product = 35_860_000 * 256**2 / 2, PRODUCT_FLOPS / 4  # a second, in the first round
    assert share.found(RECORDS)[0] == pytest.approx(100 * ours / product, rel=1e-3)


def test_the_slope_is_over_pixels() -> None:
    assert figure("sizes", "time").found(RECORDS) == [pytest.approx(1.0)]


@pytest.mark.parametrize(("start", "shown"), [("largest", "0.5 (0–1) grey levels"), ("PSNR", "51 (49–53) dB")])
def test_quality_is_judged_by_the_worst_photograph(start: str, shown: str) -> None:
    found = figure("quality", start)
    assert measured(found, found.cpu, RECORDS) == f"{shown}, **missed**"


def test_what_was_not_measured_is_said_to_be_so() -> None:
    table = figures_table(RECORDS, {})
    assert "| start to ready | ≤ 12 | not measured | ≤ 12 | not measured |" in table
    assert "| x4plus, 512²: shipped `RealESRGANer` / ours | ≥ 3 | not measured | reported | not measured |" in table
    assert "{" not in table


@pytest.mark.parametrize(
    ("goal", "inside", "outside"), [(Goal(least=3), 3.0, 2.99), (Goal(most=0), 0.0, 1.0), (Goal(0.95, 1.05), 1.05, 1.06)]
)
def test_goals(goal: Goal, inside: float, outside: float) -> None:
    assert goal.is_met_by(inside)
    assert not goal.is_met_by(outside)


def test_numbers_are_shown_with_three_digits() -> None:
    assert spread([1.23456, 1.2, 1234.5]) == "1.23 (1.2–1234)"
    assert spread([0.0, 0.0]) == "0"


def test_the_peers_table_leaves_the_yardstick_out() -> None:
    assert passes_table(RECORDS["pass256"]).splitlines()[2:] == ["| RealESRGANer | 8 (7–30) | 7 (4–10) | 100.0 |"]


def test_the_readme_has_the_figures_that_were_measured() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    cpu, cuda = (read_records(FOLDER / f"{kind}.json") for kind in ("cpu", "cuda"))
    assert with_figures(readme, readme_section(cpu, cuda)) == readme, "run `python -m bench.report`"


def test_only_what_is_between_the_markers_is_replaced() -> None:
    assert with_figures(f"a\n{BEGIN}\nold\n{END}\nb", "new") == f"a\n{BEGIN}\nnew\n{END}\nb"
    with pytest.raises(ValueError, match="has no <!-- figures -->"):
        with_figures("a", "new")


def test_the_plot_is_a_picture_with_something_in_it(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="make bench installs it")
    from bench.report.plot import draw

    draw(RECORDS, tmp_path / "figures.png")
    draw({}, tmp_path / "nothing.png")
    with Image.open(tmp_path / "figures.png") as drawn, Image.open(tmp_path / "nothing.png") as nothing:
        assert drawn.format == "PNG"
        assert 900 <= drawn.width <= 1200
        inked, empty = (float((np.asarray(image.convert("L")) < 250).mean()) for image in (drawn, nothing))
    assert inked > 2 * empty > 0
